"""Estimate of a CT's noise from what is soft tissue in it, where anatomy is calm, and whatever the noise's colour.

What separates noise from anatomy in any image is the finest detail (`medldm.restoration.noise_level`). Reconstruction
kernels leave little of their noise there, or nearly all of it, and the noise of a thorax differs from the lung to the
spine, as anatomy does. But values in HU tell what is soft tissue, as nothing else does in CT (after Christianson et al.
2015), and in that nearly all that is finer than a few millimetres is noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medldm.appearance import SOFT_TISSUE_HU
from medldm.pack import ModelPack
from medldm.restoration.noise_level import ALIKE, CALM, DOUBTFUL, MIDDLING, NoiseEstimate, estimate_noise

Array = NDArray[np.float64]

DETAIL_MM, WINDOW_MM = 2.0, 20.0  # what is coarser is anatomy; edge of the windows that are compared
LEAST_DETAIL, LEAST_WINDOW = 1.2, 7  # voxels
TEXTURE = 0.25  # of anatomy in tissue: variance of its calm windows over that of its middling ones
SMOOTH, MARGIN = 2.0, 3  # voxels: tissue is told from its mean; edges of it are left out
LEAST, MOST_PLANES = 60, 16  # windows, side by side or not; slices that are looked at
REFERENCE = 192  # voxels, edge of the white noise that windows are compared with
COLOURED = 1.3  # times what the finest detail says: more is noise of another colour
LEAST_HU = 15.0  # less is noise that any scan has; its finest detail, if that is calm, tells what was added to it


def noise_of(
    image: NDArray[np.floating],
    pack: ModelPack,
    spacing: Sequence[float],
    *,
    across: int = 2,
    ignore: NDArray[np.bool_] | None = None,
) -> NoiseEstimate:
    """Standard deviation of the noise, as a model's scans have it, in the scan's unit, and its doubt.

    image : (I, J, K), without negative values where the pack knows none
    spacing : (3,) mm; across : axis between slices; ignore : like `image`, voxels that were filled in
    """
    found = estimate_noise(image, noise=pack.noise, ignore=ignore)
    if not pack.in_hu:
        return found
    planes = [axis for axis in range(3) if axis != across]
    order = (*planes, across)
    hidden = None if ignore is None else ignore.transpose(order)
    tissue = estimate_in_tissue(image.transpose(order), [spacing[axis] for axis in order], hidden)
    if tissue is None or tissue.value < max(LEAST_HU, COLOURED * found.value):
        return found
    return tissue


def estimate_in_tissue(
    hu: NDArray[np.floating], spacing: Sequence[float], ignore: NDArray[np.bool_] | None = None
) -> NoiseEstimate | None:
    """Standard deviation of the noise in soft tissue, of whatever colour; None where there is too little tissue.

    hu : (I, J, K), whose planes are slices; spacing : (3,) mm; ignore : like `hu`, voxels that were filled in
    Rather too little than too much: a smooth kernel's noise is in part coarser than what is looked at.
    """
    some = slice(None, None, max(1, hu.shape[2] // MOST_PLANES))
    array, mm = np.asarray(hu[..., some], dtype=np.float64), float(max(spacing[0], spacing[1]))
    fine, edge = max(LEAST_DETAIL, DETAIL_MM / mm), max(LEAST_WINDOW, round(WINDOW_MM / mm))
    if min(array.shape[:2]) < 2 * edge:
        return None
    mean = ndimage.gaussian_filter(array, (SMOOTH, SMOOTH, 0))
    soft = (mean > SOFT_TISSUE_HU[0]) & (mean < SOFT_TISSUE_HU[1])
    soft = ndimage.binary_erosion(soft, np.ones((2 * MARGIN + 1, 2 * MARGIN + 1, 1)))
    if ignore is not None:
        soft &= ~ignore[..., some]
    deviation = _windows(np.abs(array - ndimage.gaussian_filter(array, (fine, fine, 0))), edge)
    within = _windows(soft.astype(np.float64), edge)
    found = deviation[within > 0.9]
    if found.size < LEAST:
        return None
    calm, middling = np.square(np.quantile(found, (CALM, MIDDLING)) / _of_white_noise(fine, edge))
    if not middling:  # drawn, not measured
        return NoiseEstimate(0.0, 0.0)
    value = math.sqrt(max(calm - TEXTURE * middling, 0.0) / (1 - TEXTURE))
    alike = calm / middling
    if alike < ALIKE:  # rather too little taken off than too much
        value *= max(alike - TEXTURE, 0.0) / (ALIKE - TEXTURE)
    doubt = "fine structure hides the noise" if alike < DOUBTFUL else ""
    return NoiseEstimate(value, math.sqrt(calm), doubt)


def _windows(image: Array, edge: int) -> Array:
    """Means of the windows that lie inside of every plane."""
    side = slice(edge // 2, -(edge // 2))
    return np.asarray(ndimage.uniform_filter(image, (edge, edge, 1))[side, side])


@lru_cache(maxsize=16)
def _of_white_noise(fine: float, edge: int) -> Array:
    """The two quantiles of noise of deviation 1 and nothing else."""
    noise = np.random.default_rng(0).standard_normal((max(REFERENCE, 8 * edge), max(REFERENCE, 8 * edge), 1))
    detail = np.abs(noise - ndimage.gaussian_filter(noise, (fine, fine, 0)))
    return np.asarray(np.quantile(_windows(detail, edge), (CALM, MIDDLING)))
