"""Metrics of a result against the truth. Images are (I, J), (I, J, 1) or (I, J, K) arrays of one unit."""

from __future__ import annotations

import itertools
import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medldm.errors import InputError

SSIM_SIGMA = 1.5
# scikit-image cuts the Gaussian at 3.5 sigma: the window is 11 wide, and an axis must hold one
SSIM_WINDOW = 2 * int(3.5 * SSIM_SIGMA + 0.5) + 1
# Reisenhofer et al. 2018, fitted to grey levels up to 255; the widest wavelet is 8 pixels of the halved image
HAAR_C, HAAR_ALPHA, HAAR_PEAK, HAAR_SMALLEST = 30.0, 4.2, 255.0, 16


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


def _boxed(
    a: NDArray[np.float64], b: NDArray[np.float64], mask: ArrayLike | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both images cut to the bounding box of the mask, axes of length one dropped."""
    if mask is not None:
        box = tuple(slice(int(where.min()), int(where.max()) + 1) for where in np.nonzero(_foreground(mask, a.shape)))
        a, b = a[box], b[box]
    return a.squeeze(), b.squeeze()


def psnr(estimate: ArrayLike, truth: ArrayLike, *, data_range: float = 1.0, mask: ArrayLike | None = None) -> float:
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


def ssim(estimate: ArrayLike, truth: ArrayLike, *, data_range: float = 1.0, mask: ArrayLike | None = None) -> float:
    """Structural similarity (Wang et al. 2004): Gaussian weights of sigma 1.5 voxels, population covariance.

    With `mask` both images are cut to its bounding box first. Axes of length one are dropped.
    Raises InputError where an axis is shorter than the window of 11 voxels.
    """
    from skimage.metrics import structural_similarity

    a, b = _boxed(*_pair(estimate, truth), mask)
    if a.ndim < 2 or min(a.shape) < SSIM_WINDOW:
        raise InputError("ssim", f"an image of shape {a.shape}", f"at least {SSIM_WINDOW} voxels along each axis")
    value = structural_similarity(
        a, b, data_range=data_range, gaussian_weights=True, sigma=SSIM_SIGMA, use_sample_covariance=False
    )
    return float(value)


def haarpsi(estimate: ArrayLike, truth: ArrayLike, *, data_range: float = 1.0, mask: ArrayLike | None = None) -> float:
    """Haar wavelet-based perceptual similarity (Reisenhofer et al. 2018) of grey images: 1 for equal ones, else less.

    Images lie in [0, data_range]. A volume is taken as the slices across each of its axes, all weighted together as
    the pixels of one image are; slices narrower than 16 voxels are left out. With `mask` both images are cut to its
    bounding box first. Raises InputError where nothing is 16 voxels wide both ways.
    """
    a, b = _boxed(*_pair(estimate, truth), mask)
    if a.ndim < 2 or sorted(a.shape)[-2] < HAAR_SMALLEST:
        raise InputError("haarpsi", f"an image of shape {a.shape}", f"a plane of {HAAR_SMALLEST} voxels both ways")
    a, b = (HAAR_PEAK / data_range * image for image in (a, b))
    similar = total = 0.0
    for first, second in itertools.combinations(range(a.ndim), 2):
        if min(a.shape[first], a.shape[second]) >= HAAR_SMALLEST:
            x, y = (_halved(np.moveaxis(image, (first, second), (-2, -1))) for image in (a, b))
            for axis in (-2, -1):
                fine = [(_haar(x, axis, size), _haar(y, axis, size)) for size in (2, 4)]
                local = np.mean([(2 * u * v + HAAR_C) / (u**2 + v**2 + HAAR_C) for u, v in fine], 0)
                weight = np.maximum(_haar(x, axis, 8), _haar(y, axis, 8))
                similar += float((weight / (1 + np.exp(-HAAR_ALPHA * local))).sum())
                total += float(weight.sum())
    if total == 0:
        return 1.0  # both are 0 throughout
    share = similar / total
    return (math.log(share / (1 - share)) / HAAR_ALPHA) ** 2


def _halved(image: NDArray[np.float64]) -> NDArray[np.float64]:
    """(..., H, W) averaged over blocks of 2 x 2; beyond the far edges are zeros."""
    odd = [(0, 0)] * (image.ndim - 2) + [(0, size % 2) for size in image.shape[-2:]]
    padded = np.pad(image, odd)
    rows, columns = padded.shape[-2:]
    halved: NDArray[np.float64] = padded.reshape(*image.shape[:-2], rows // 2, 2, columns // 2, 2).mean((-3, -1))
    return halved


def _haar(image: NDArray[np.float64], axis: int, size: int) -> NDArray[np.float64]:
    """Magnitude of the Haar wavelet of `size` pixels that differs along `axis`, at each pixel of (..., H, W)."""
    from scipy.ndimage import correlate1d

    step = np.repeat((-1.0, 1.0), size // 2)
    # an even window has no centre: as the authors' code, it reaches one pixel further towards the far edge
    out = correlate1d(image, step, axis=axis, mode="constant", origin=-1)
    out = correlate1d(out, np.ones(size), axis=-3 - axis, mode="constant", origin=-1)
    magnitude: NDArray[np.float64] = np.abs(out) / size
    return magnitude
