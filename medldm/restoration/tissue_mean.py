"""What a restored CT leaves of the noise must have no mean in soft tissue: a density there is measured as a mean.

An estimate of least error takes what is calm a little towards what lies around it, soft tissue towards fat: by 1 to 3
HU in strong noise, with BM3D as well. The measurement knows better: its noise averages out. So what it has over the
result is averaged over calm tissue nearby of about the same value, and given back. The means are taken on a bilateral
grid (Chen, Paris and Durand 2007): place and value, in coarse cells. Figures: docs/decisions/0035-ct-trained-on.md.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Array = NDArray[np.float32]

NEARBY_MM, ALIKE_HU = 30.0, 40.0  # deviations of the Gaussian that averages
TISSUE_HU, BESIDE_HU = (-80.0, 100.0), 30.0  # full weight in this range; and how it falls beyond
STEEP_HU = 30.0  # a mm: where the result is as steep, its residual is an edge's, and hardly counts
LEAST_WEIGHT = 1e-3


def with_tissue_means(result: Array, measured: Array, spacing: float) -> Array:
    """The result with the measurement's means in calm soft tissue.

    result, measured : (I, J) HU, of one slice; spacing : of its pixels, in mm
    """
    hu = result.astype(np.float64)
    smooth = ndimage.gaussian_filter(hu, 1.0)
    steep = np.hypot(*np.gradient(smooth)) / spacing if min(hu.shape) > 1 else np.zeros_like(hu)
    low, high = TISSUE_HU
    beside = np.maximum(low - smooth, 0) + np.maximum(smooth - high, 0)
    weight = ndimage.minimum_filter(np.exp(-((steep / STEEP_HU) ** 2)), 3) * np.exp(-((beside / BESIDE_HU) ** 2) / 2)
    side = max(1, round(NEARBY_MM / 2 / spacing))
    first, last = low - 4 * BESIDE_HU, high + 4 * BESIDE_HU
    i, j = np.mgrid[: hu.shape[0], : hu.shape[1]]
    at = np.stack([i / side, j / side, (hu.clip(first, last) - first) / ALIKE_HU])
    cells = tuple(int(n) + 2 for n in at.reshape(3, -1).max(axis=1))
    flat = np.ravel_multi_index(tuple(np.rint(at).astype(np.int64).reshape(3, -1)), cells)
    deviations = (NEARBY_MM / spacing / side, NEARBY_MM / spacing / side, 1.0)

    def averaged(values: NDArray[np.float64]) -> NDArray[np.float64]:
        grid = np.bincount(flat, values.ravel(), int(np.prod(cells))).reshape(cells)
        found: NDArray[np.float64] = ndimage.map_coordinates(ndimage.gaussian_filter(grid, deviations), at, order=1)
        return found

    left = averaged(weight * (measured - hu)) / np.maximum(averaged(weight), LEAST_WEIGHT)
    return np.asarray(hu + weight * left, dtype=np.float32)
