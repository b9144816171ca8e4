"""Restore scans: what a model was trained for, by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack, cast

from medldm.errors import InputError
from medldm.inputs import Scan, as_model, as_volume, mask_of, with_shape_of
from medldm.model import Model
from medldm.restoration.region import fill_region
from medldm.restoration.restore import restore as _restore
from medldm.restoration.result import Restoration
from medldm.restoration.settings import RestoreOptions, Settings
from medldm.volume import Volume

_PLACE = {"spacing", "affine", "series", "device"}


def _parts(scan: Scan, model: Model | str | Path, options: RestoreOptions) -> tuple[Volume, Model, Settings]:
    """The scan, the model and the settings that a restoring function was called with. Raises MedldmError, TypeError."""
    known = RestoreOptions.__annotations__
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise TypeError(f"unexpected keyword argument {unknown[0]!r}; there are {', '.join(known)}")
    settings = Settings(**cast(dict[str, Any], {key: value for key, value in options.items() if key not in _PLACE}))
    affine, series = options.get("affine"), options.get("series")
    volume = as_volume(scan, spacing=options.get("spacing"), affine=affine, series=series)
    return volume, as_model(model, options.get("device")), settings


def estimate_noise(
    scan: Scan,
    *,
    model: Model | str | Path,
    spacing: Sequence[float] | float | None = None,
    affine: Any = None,
    series: str | None = None,
) -> float:
    """Standard deviation of the scan's noise, in its own unit, as scans of `model` have it: what `denoise` takes.

    Of a CT series, each of whose slices is given its own, the middle one.

    scan, spacing, affine, series : as in `as_volume`
    model : name of a pack, its folder, or a loaded Model; it says whether noise is Gaussian or Rician, and whether
        values are HU: then what is soft tissue is looked at
    Raises InputError, ModelError.

    >>> medldm.estimate_noise(scan, model=model) > 0
    True
    """
    from medldm.restoration.intake import noise_of_scan
    from medldm.restoration.slices import is_stack, noise_of_stack

    volume = as_volume(scan, spacing=spacing, affine=affine, series=series)
    known = as_model(model, None)
    if is_stack(volume, known, Settings()):
        return noise_of_stack(volume, known.pack).value
    return noise_of_scan(volume, known.pack).value


def restore(
    scan: Scan,
    task: str,
    *,
    model: Model | str | Path,
    problem: Mapping[str, Any] | None = None,
    **options: Unpack[RestoreOptions],
) -> Restoration:
    """Solve a problem that the model was trained for: one of medldm's, or that of a plugin.

    scan : path, Volume, image of nibabel, SimpleITK, MONAI or xarray, or array with `spacing` or `affine`
        (see `as_volume`)
    task : name of the problem, as ``model.pack.problems`` lists them
    model : name of a pack, its folder, or a loaded Model
    problem : the problem's own options, e.g. ``{"scale": 2}``; default None: it has none, or needs none
    options : spacing, affine, series, device, noise_std, method, mode, samples, steps, sampler, seed, value_range,
        progress, preview; what each means, its unit and default: `medldm.RestoreOptions`
    Raises InputError, ModelError, RunError (`medldm.errors`).

    >>> medldm.restore(scan, "super_resolve", model=model, problem={"scale": 2}).volume.geometry
    Geometry(24 x 20 x 32, 2 x 2 x 1.5 mm, RAS)
    """
    given: object = task
    if not isinstance(given, str):
        raise InputError("task", f"a {type(given).__name__}", "a name", "see model.pack.problems")
    volume, loaded, settings = _parts(scan, model, options)
    return with_shape_of(scan, _restore(volume, loaded, task, problem or {}, settings))


def denoise(scan: Scan, *, model: Model | str | Path, **options: Unpack[RestoreOptions]) -> Restoration:
    """Remove the noise of a scan, on its own grid.

    scan, model, options : as in `restore`; `noise_std` is the one that matters most
    Raises what `restore` raises.

    >>> result = medldm.denoise(scan, model=model, noise_std=20.0)
    >>> result.volume
    Volume(24 x 20 x 16, 2 x 2 x 3 mm, RAS, arbitrary, MR)
    >>> result.report["noise_std"]
    20.0
    """
    return restore(scan, "denoise", model=model, **options)


def super_resolve(
    scan: Scan,
    *,
    model: Model | str | Path,
    scale: int | Sequence[int] | None = None,
    target_spacing: float | Sequence[float] | None = None,
    **options: Unpack[RestoreOptions],
) -> Restoration:
    """Refine a scan's grid by whole factors; the outer edges of the field of view stay.

    scale : a factor an axis of the scan; one number means every axis of an image, and the thickest axis of a
        volume (through plane). Default None: `target_spacing` says how far
    target_spacing : the voxel size to reach instead, in mm, one number or one an axis; default None
    scan, model, options : as in `restore`; `spacing` is, here as there, that of an array. `noise_std` (in the scan's
        unit) is 0 by default where it may be anatomy: then the result's block means equal the scan
    Raises what `restore` raises, InputError for both or neither of `scale` and `target_spacing`.

    >>> medldm.super_resolve(scan, model=model, target_spacing=(2, 2, 1.5)).volume.geometry.shape
    (24, 20, 32)
    """
    asked = {"scale": scale, "target_spacing": target_spacing}
    return restore(scan, "super_resolve", model=model, problem=asked, **options)


def inpaint(scan: Scan, mask: Scan, *, model: Model | str | Path, **options: Unpack[RestoreOptions]) -> Restoration:
    """Fill a region that was not measured, or not well: an implant, an artefact, lost slices.

    mask : path, Volume, image or array on the scan's grid; what is > 0 is filled, without a look at its values
    scan, model, options : as in `restore`; samples are refused

    Outside the mask the scan comes back bit for bit, and the uncertainty is 0. What is filled in is what the model
    holds likely, not what was there: the posterior mean. Raises what `restore` raises.

    >>> import numpy as np
    >>> mask = np.zeros(scan.array.shape, bool)
    >>> mask[10:14, 8:12, 6:9] = True
    >>> filled = medldm.inpaint(scan, mask, model=model)
    >>> bool((filled.array == scan.array)[~mask].all())
    True
    """
    volume, loaded, settings = _parts(scan, model, options)
    return with_shape_of(scan, fill_region(volume, mask_of(scan, mask, volume), loaded, settings))
