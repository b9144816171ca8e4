"""Fill a region: the model sees the scan around it, and nothing outside it is touched."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medldm.calibration import CUT
from medldm.errors import InputError
from medldm.model import Model
from medldm.operators.mask import fill_harmonic
from medldm.restoration.restore import restore
from medldm.restoration.result import Restoration
from medldm.restoration.settings import Settings
from medldm.restoration.slices import is_stack, restore_slices
from medldm.volume import Volume

AROUND = 48  # voxels of the scan around a mask that the model sees; more tells it nothing


def fill_region(volume: Volume, mask: NDArray[np.bool_], model: Model, settings: Settings) -> Restoration:
    """Fill `mask` (I, J, K); outside it the scan comes back bit for bit, with an uncertainty of 0.

    Values are scaled as in the whole scan, the mask left out. Raises what `restore` raises, and InputError for
    samples: no denoiser has been trained on masks yet (docs/decisions/0007).
    """
    if settings.method == "posterior":
        return restore(volume, model, "inpaint", {"mask": mask}, settings)
    for name, asked in (("mode", settings.texture() > 0), ("samples", settings.samples > 1)):
        if asked:
            got, do = f"{getattr(settings, name)} to fill a region", "the uncertainty says what else it could be"
            raise InputError(name, got, "fidelity and one sample: what is likely, not one draw of it", do)
    model.problem("inpaint")
    if is_stack(volume, model, settings):

        def one(part: Volume, own: Mapping[str, Any], told: Settings) -> Restoration:
            return fill_region(part, own["mask"], model, told)

        return restore_slices(volume, model, "inpaint", {"mask": mask}, settings, one)
    from scipy import ndimage

    box = ndimage.find_objects(mask.astype(np.uint8))[0]
    start = [max(part.start - AROUND, 0) for part in box]
    stop = [min(part.stop + AROUND, n) for part, n in zip(box, mask.shape, strict=True)]
    window = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    if settings.value_range is None:
        around = dataclasses.replace(volume, array=fill_harmonic(volume.array, mask))
        settings = dataclasses.replace(settings, value_range=model.value_range(around))
    if settings.preview is not None:
        shown = settings.preview
        settings = dataclasses.replace(
            settings, preview=lambda part: shown(_pasted(volume, volume.array, part, window))
        )
    part = restore(
        volume.crop(start, stop).with_step({"step": CUT}), model, "inpaint", {"mask": mask[window]}, settings
    )
    nothing = np.zeros_like(volume.array)
    result = _pasted(volume, volume.array, part.volume, window)
    residual, spread = (_pasted(volume, nothing, each, window) for each in (part.residual, part.uncertainty))
    return dataclasses.replace(part, volume=result, array=result.array, residual=residual, uncertainty=spread)


def _pasted(volume: Volume, around: NDArray[np.float32], part: Volume, window: tuple[slice, ...]) -> Volume:
    """The part within the whole's grid."""
    whole = around.copy()
    whole[window] = part.array
    history = tuple(step for step in part.history if step.get("step") != CUT)
    return dataclasses.replace(part, array=whole, geometry=volume.geometry, history=history, source=volume.source)
