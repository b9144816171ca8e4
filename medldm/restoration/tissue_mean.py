"""What a restored CT leaves of the noise must have no mean in soft tissue: a density there is measured as a mean.

An estimate of least error takes what is calm a little towards what lies around it, soft tissue towards fat: by 1 to 3
HU in strong noise, with BM3D as well. The measurement knows better: its noise averages out. So what it has over the
result is averaged over the inside of tissue nearby of about the same value, and given back, twice. The means are taken
on a bilateral grid (Chen, Paris and Durand 2007): place and value, in coarse cells. Value is that of the smoothed
result: a voxel's own follows the noise, so that what is left of the noise has no mean of 0 among voxels of one value.
Figures: docs/decisions/0035-ct-trained-on.md.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Array = NDArray[np.float32]

NEARBY_MM, ALIKE_HU = 30.0, 40.0  # deviations of the Gaussian that averages
TISSUE_HU = (-60.0, 120.0)
SMOOTH, ROUNDS = 1.0, 2  # voxels; each round takes back two thirds of what is left
LEAST_WEIGHT = 1e-3


def with_tissue_means(result: Array, measured: Array, spacing: float) -> Array:
    """The result with the measurement's means inside of soft tissue.

    result, measured : (I, J) HU, of one slice; spacing : of its pixels, in mm
    """
    hu = result.astype(np.float64)
    for _ in range(ROUNDS):
        hu = _nearer(hu, measured, spacing)
    return hu.astype(np.float32)


def _nearer(hu: NDArray[np.float64], measured: Array, spacing: float) -> NDArray[np.float64]:
    smooth, (low, high) = ndimage.gaussian_filter(hu, SMOOTH), TISSUE_HU
    inside = ndimage.binary_erosion((smooth > low) & (smooth < high))
    if not inside.any():
        return hu
    share = ndimage.gaussian_filter(ndimage.binary_dilation(inside).astype(np.float64), SMOOTH)
    side = max(1, round(NEARBY_MM / 2 / spacing))
    i, j = np.mgrid[: hu.shape[0], : hu.shape[1]]
    at = np.stack([i / side, j / side, (smooth.clip(low - ALIKE_HU, high + ALIKE_HU) - low) / ALIKE_HU + 1])
    cells = tuple(int(n) + 2 for n in at.reshape(3, -1).max(axis=1))
    flat = np.ravel_multi_index(tuple(np.rint(at).astype(np.int64).reshape(3, -1)), cells)
    deviations = (NEARBY_MM / spacing / side, NEARBY_MM / spacing / side, 1.0)

    def averaged(values: NDArray[np.float64]) -> NDArray[np.float64]:
        grid = np.bincount(flat, values.ravel(), int(np.prod(cells))).reshape(cells)
        found: NDArray[np.float64] = ndimage.map_coordinates(ndimage.gaussian_filter(grid, deviations), at, order=1)
        return found

    left = averaged(inside * (measured - hu)) / np.maximum(averaged(inside.astype(np.float64)), LEAST_WEIGHT)
    return np.asarray(hu + share * left)
