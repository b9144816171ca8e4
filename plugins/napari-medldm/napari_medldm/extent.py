"""Which part of a scan is restored: all of it, the slice that is shown, or what is drawn; and how large it is."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medldm import LazyScan, Volume
from medldm.restoration.memory import bytes_of
from napari_medldm.layers import entry_of
from napari_medldm.request import Request, context, region_of_slice

PLACES = WHOLE, SLICE, DRAWN = "whole scan", "current slice", "drawn region"


class Extent(NamedTuple):
    """A grid of `shape` (I, J, K), by a model of `dims` axes; slice by slice `across` an axis, or all at once."""

    shape: tuple[int, int, int]
    dims: int
    across: int | None

    @property
    def voxels(self) -> int:
        return math.prod(self.shape)

    @property
    def memory(self) -> int:
        """Bytes."""
        return bytes_of(self.shape, self.dims, across=self.across)


NOTHING = Extent((0, 0, 0), 3, None)  # that is known before, as of scans that are drawn


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


def extent_of(
    viewer: Any, source: Any, scan: Volume | LazyScan, request: Request, place: str, across: int | None
) -> Extent:
    """What is computed at most; of a slice with what the model sees around it.

    across : axis of a model of single images, None for one of volumes
    """
    shape = [n * factor for n, factor in zip(scan.geometry.shape, request.scale, strict=True)]
    if request.task == "denoise" and place == SLICE:
        axis = entry_of(source).display.axes[viewer.dims.order[0]]
        shape[axis] = min(2 * context(across)[axis] + 1, shape[axis])
    return Extent((shape[0], shape[1], shape[2]), 3 if across is None else 2, across)
