"""Estimate of the scanner's noise, on the scan's own grid (resampling correlates noise and hides it)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

BLOCK = 8
MIN_BLOCKS = 20
MAD_TO_STD = 1.4826
RAYLEIGH_MEDIAN = float(np.sqrt(2 * np.log(2)))
RAYLEIGH_MAD = 0.4485  # median absolute deviation of a Rayleigh distribution of sigma 1


def _diagonal_detail(image: NDArray[np.float64], axes: tuple[int, int]) -> NDArray[np.float64]:
    """Difference of Laplacians (Immerkaer 1996): unit gain for white noise, blind to planes and edges along axes."""
    for axis in axes:
        image = ndimage.correlate1d(image, [1.0, -2.0, 1.0], axis=axis, mode="reflect") / np.sqrt(6.0)
    return image


def _block_deviations(detail: NDArray[np.float64], signal: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Robust deviation of `detail` in each block that is all `signal`."""
    axes = [a for a in range(3) if detail.shape[a] >= BLOCK]
    size = [BLOCK if a in axes else 1 for a in range(3)]
    counts = [n // s for n, s in zip(detail.shape, size, strict=True)]
    cut = tuple(slice(0, c * s) for c, s in zip(counts, size, strict=True))
    split = [n for c, s in zip(counts, size, strict=True) for n in (c, s)]

    def blocks(array: NDArray[np.generic]) -> NDArray[np.generic]:
        return array[cut].reshape(split).transpose(0, 2, 4, 1, 3, 5).reshape(int(np.prod(counts)), -1)

    keep = blocks(signal).mean(1) > 0.9
    values = blocks(detail)[keep].astype(np.float64)
    return MAD_TO_STD * np.median(np.abs(values), axis=1) if len(values) else np.empty(0)


def _from_texture(image: NDArray[np.float64], *, tissue_only: bool) -> float:
    """Lowest decile of the block deviations over what is not constant: anatomy only ever adds to them.

    tissue_only : leave out what is dark; scanners suppress the air of magnitude images, and its noise with it
    """
    order = np.argsort([-n for n in image.shape], kind="stable")[:2]
    axes = (int(order[0]), int(order[1]))
    if image.shape[axes[1]] < 3:
        return 0.0
    detail = _diagonal_detail(image, axes)
    flat = ndimage.uniform_filter(np.abs(detail), 3) <= 1e-9 * max(float(np.ptp(image)), 1e-30)
    signal = ~flat
    if tissue_only:
        signal &= ndimage.uniform_filter(image, 3) > 0.15 * float(np.percentile(image, 99.5))
    deviations = _block_deviations(detail, signal)
    if len(deviations) < MIN_BLOCKS:
        deviations = _block_deviations(detail, ~flat)
    block_voxels = BLOCK ** sum(n >= BLOCK for n in image.shape)
    if not len(deviations):
        return 0.0
    low = 1 - 1.5 * float(np.sqrt(1.3 / block_voxels))  # how low the decile of a MAD lies, by simulation
    return float(np.quantile(deviations, 0.1)) / low


def _from_air(image: NDArray[np.float64]) -> float | None:
    """Noise from the air around a magnitude image, where it is Rayleigh distributed (Gudbjartsson and Patz 1995).

    None where there is no air, or where its values do not look like Rayleigh noise (masked or filtered scans).
    """
    scale = float(np.percentile(image, 99.5))
    smooth = ndimage.uniform_filter(image, 3)
    low = smooth < max(0.12 * scale, 1.5 * float(np.percentile(smooth, 10)))
    air = ndimage.binary_erosion(low, iterations=2) if min(image.shape) > 4 else low
    if air.mean() < 0.02 or air.sum() < 500:
        return None
    values = image[air]
    if float((values <= 1e-6 * scale).mean()) > 0.2:
        return None
    mean = float(np.median(values)) / RAYLEIGH_MEDIAN
    spread = float(np.median(np.abs(values - np.median(values)))) / RAYLEIGH_MAD
    return mean if 0.7 < spread / max(mean, 1e-30) < 1.4 else None


def estimate_noise_std(image: NDArray[np.floating], *, noise: str = "gaussian") -> float:
    """Standard deviation of the noise.

    image : (I, J, K), any unit
    noise : "gaussian", or "rician" for magnitude images, whose air is looked at first
    Returns noise_std in the unit of `image`. Fine texture is taken for noise where there is no flat block, so
    the estimate of a clean image is an upper bound.
    """
    array = np.asarray(image, dtype=np.float64)
    if noise == "rician":
        from_air = _from_air(array)
        if from_air is not None:
            return from_air
    return _from_texture(array, tissue_only=noise == "rician")
