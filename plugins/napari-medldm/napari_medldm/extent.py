"""Which part of a scan is restored: all of it, the slice that is shown, or what is drawn; and how large it is."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medldm import LazyScan, Volume
from napari_medldm.layers import entry_of
from napari_medldm.request import Request, context, region_of_slice

PLACES = WHOLE, SLICE, DRAWN = "whole scan", "current slice", "drawn region"


def mask_of(viewer: Any, source: Any, scan: Volume | LazyScan, task: str, place: str) -> NDArray[np.bool_] | None:
    """(I, J, K) mask of the slice or region of the layer `source` and its scan; None for the whole scan.

    place : one of `PLACES`, which only denoising asks for
    Raises MedldmError where nothing is drawn.
    """
    if task == "super-resolve" or (task == "denoise" and place == WHOLE):
        return None
    display = entry_of(source).display
    if task == "denoise" and place == SLICE:
        shown = viewer.dims.order[0]
        index = round(float(source.world_to_data(viewer.dims.point)[shown]))
        index = int(np.clip(index, 0, source.data.shape[shown] - 1))
        return region_of_slice(scan, display.axes[shown], index)
    from napari_medldm.regions import drawn_mask

    return display.backward(drawn_mask(viewer, source))


def voxels_in(viewer: Any, source: Any, scan: Volume | LazyScan, request: Request, place: str, dims: int) -> int:
    """How many voxels are computed, at most; of a slice with what the model sees around it. None are for synthesis.

    dims : of the model
    """
    if request.task == "synthesize":
        return 0
    count = int(np.prod(scan.geometry.shape))
    if request.task == "denoise" and place == SLICE:
        axis = entry_of(source).display.axes[viewer.dims.order[0]]
        thickness, around = scan.geometry.shape[axis], context(scan, dims)[axis]
        count = count * min(2 * around + 1, thickness) // thickness
    return count * int(np.prod(request.scale))
