"""Metrics of a result against the truth. Images are (I, J), (I, J, 1) or (I, J, K) arrays of one unit."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medldm.errors import InputError

SSIM_SIGMA = 1.5
# scikit-image cuts the Gaussian at 3.5 sigma: the window is 11 wide, and an axis must hold one
SSIM_WINDOW = 2 * int(3.5 * SSIM_SIGMA + 0.5) + 1


def _pair(estimate: ArrayLike, truth: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    a, b = np.asarray(estimate, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    if a.shape != b.shape:
        raise InputError("metric", f"images of shapes {a.shape} and {b.shape}", "equal shapes")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise InputError("metric", "values that are not finite", "finite images")
    return a, b


def _foreground(mask: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    inside = np.asarray(mask, dtype=bool)
    if inside.shape != shape:
        raise InputError("metric", f"a mask of shape {inside.shape}", f"the images' shape {shape}")
    if not inside.any():
        raise InputError("metric", "an empty mask", "at least one voxel inside")
    return inside


def psnr(
    estimate: ArrayLike, truth: ArrayLike, *, data_range: float = 1.0, mask: ArrayLike | None = None
) -> float:
    """Peak signal-to-noise ratio in dB, over the voxels of `mask` (all voxels without one).

    data_range : what counts as the peak, in the images' unit
    mask : bool, shape of the images
    Returns inf for equal images. Raises InputError for shapes that differ or an empty mask.
    """
    a, b = _pair(estimate, truth)
    squared = (a - b) ** 2
    if mask is not None:
        squared = squared[_foreground(mask, squared.shape)]
    error = float(squared.mean())
    return math.inf if error == 0 else 10 * math.log10(data_range**2 / error)


def ssim(
    estimate: ArrayLike, truth: ArrayLike, *, data_range: float = 1.0, mask: ArrayLike | None = None
) -> float:
    """Structural similarity (Wang et al. 2004): Gaussian weights of sigma 1.5 voxels, population covariance.

    With `mask` both images are cut to its bounding box first. Axes of length one are dropped.
    Raises InputError where an axis is shorter than the window of 11 voxels.
    """
    from skimage.metrics import structural_similarity

    a, b = _pair(estimate, truth)
    if mask is not None:
        box = tuple(
            slice(int(where.min()), int(where.max()) + 1) for where in np.nonzero(_foreground(mask, a.shape))
        )
        a, b = a[box], b[box]
    a, b = a.squeeze(), b.squeeze()
    if a.ndim < 2 or min(a.shape) < SSIM_WINDOW:
        raise InputError(
            "ssim", f"an image of shape {a.shape}", f"at least {SSIM_WINDOW} voxels along each axis"
        )
    value = structural_similarity(
        a, b, data_range=data_range, gaussian_weights=True, sigma=SSIM_SIGMA, use_sample_covariance=False
    )
    return float(value)
