"""Classical methods, each with the settings that its row of the benchmark states.

Images are (I, J) or (I, J, K) arrays without axes of length one, any unit; `noise_std` is in that unit.
BM3D and BM4D are licensed for non-commercial research and run in benchmarks only, where they are installed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medldm.errors import InputError

Image = NDArray[np.float64]


def debias(image: Image, noise_std: float) -> Image:
    """Remove the Rician bias of a denoised magnitude: ``sqrt(max(m^2 - noise_std^2, 0))``."""
    return np.sqrt(np.maximum(image**2 - noise_std**2, 0))


def non_local_means(image: Image, noise_std: float, *, rician: bool = False, subtract: bool = True) -> Image:
    """Non-local means (Buades et al. 2005).

    2D: patches of 5, reach 6, h = 0.8 s. 3D: patches of 3, reach 3, h = 0.7 s.

    subtract : whether the noise's share of the patch distances (2 s^2) is taken off
    rician : whether the result is debiased
    """
    from skimage.restoration import denoise_nl_means

    flat = image.ndim == 2
    result = denoise_nl_means(
        image,
        patch_size=5 if flat else 3,
        patch_distance=6 if flat else 3,
        h=(0.8 if flat else 0.7) * noise_std,
        sigma=noise_std if subtract else 0.0,
        fast_mode=True,
    )
    return debias(result, noise_std) if rician else result


def wavelet(image: Image, noise_std: float) -> Image:
    """Soft wavelet shrinkage with BayesShrink thresholds (Chang et al. 2000). Needs PyWavelets."""
    from skimage.restoration import denoise_wavelet

    result: Image = denoise_wavelet(image, sigma=noise_std, method="BayesShrink", mode="soft", rescale_sigma=True)
    return result


def total_variation(image: Image, noise_std: float) -> Image:
    """Total variation (Rudin et al. 1992, Chambolle's projection), weight 1.2 s."""
    from skimage.restoration import denoise_tv_chambolle

    result: Image = denoise_tv_chambolle(image, weight=1.2 * noise_std)
    return result


def bm3d(image: Image, noise_std: float | Image) -> Image:
    """BM3D (Dabov et al. 2007) by its authors' package; noise_std: or, of coloured noise, its power at the frequencies
    of `numpy.fft.fft2`, a like array (Mäkinen et al. 2020). Raises ImportError where it is not installed."""
    import bm3d as package

    return np.asarray(package.bm3d(image, sigma_psd=noise_std), dtype=np.float64)


def bm4d(image: Image, noise_std: float, *, rician: bool = False) -> Image:
    """BM4D (Maggioni et al. 2013) by its authors' package. Raises ImportError where it is not installed."""
    import bm4d as package

    result = np.asarray(package.bm4d(image, noise_std), dtype=np.float64)
    return debias(result, noise_std) if rician else result


def block_average(image: Image, factor: Sequence[int]) -> Image:
    """Mean over blocks of `factor` voxels, one integer an axis. Raises InputError."""
    if len(factor) != image.ndim or any(n % f for n, f in zip(image.shape, factor, strict=False)):
        raise InputError("block_average", f"shape {image.shape}, factor {tuple(factor)}", "whole blocks", "crop")
    shape = [size for n, f in zip(image.shape, factor, strict=True) for size in (n // f, f)]
    averaged: Image = image.reshape(shape).mean(axis=tuple(range(1, 2 * image.ndim, 2)))
    return averaged


def interpolate(image: Image, factor: Sequence[int], *, order: int = 3) -> Image:
    """Spline interpolation to `factor` times as many voxels; outer edges of both grids agree.

    order : 1 linear, 3 cubic
    """
    from skimage.transform import resize

    shape = tuple(n * f for n, f in zip(image.shape, factor, strict=True))
    result: Image = resize(image, shape, order=order, mode="edge", anti_aliasing=False)
    return result


def back_projected(image: Image, factor: Sequence[int], *, rounds: int = 10) -> Image:
    """Cubic interpolation, then `rounds` times ``u += up(image - down(u))`` (Irani and Peleg 1991)."""
    fine = interpolate(image, factor)
    for _ in range(rounds):
        fine = fine + interpolate(image - block_average(fine, factor), factor)
    return fine
