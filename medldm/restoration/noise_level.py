"""Estimate of the scanner's noise, on the scan's own grid (resampling correlates noise and hides it)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, special

Array = NDArray[np.float64]

WINDOW, WIDE, LARGE = 7, 11, 3000  # edge of the windows that are compared; of those in plane, if the plane is large
CALM, MIDDLING = 0.05, 0.35  # of the windows, quantiles of the deviation
TEXTURE = 0.4  # of anatomy: variance of its calm windows over that of its middling ones (heads of the training split)
ALIKE, DOUBTFUL = 0.9, 0.8  # ratios of the two variances below which detail is anatomy in part, for a good part
OF_TWO, SURE_OF_TWO = 0.03, 2.0  # anatomy in the detail of two slices, of the range (0.026 to 0.05 in heads of the
# training split); noise of so many times that is told from it
TISSUE_SNR = 3.0
FEW = 4  # windows that do not overlap
SATURATED = 0.01  # of a window's voxels; more narrows its noise
MEAN_TO_STD = math.sqrt(math.pi / 2)
MAD_TO_STD = 1.4826
RAYLEIGH_MEDIAN = math.sqrt(2 * math.log(2))
RAYLEIGH_MAD = 0.4485  # median absolute deviation of a Rayleigh distribution of sigma 1
RAYLEIGH_STD = math.sqrt(2 - math.pi / 2)
UNEVEN = 2.0  # ratio of a volume's noisy slices to its calm ones that a person has to hear of
TOO_FEW = "too few voxels to tell it from structure"
_KERNELS = ((12, (1.0, -4.0, 6.0, -4.0, 1.0)), (5, (1.0, -2.0, 1.0)), (2, (1.0, -1.0)))  # by the least size


class NoiseEstimate(NamedTuple):
    """An estimate, and how far to trust it.

    value : standard deviation, in the unit of the image
    most : what it cannot exceed: the detail of the calmest parts, anatomy included
    doubt : why it may be wrong, for a person; empty where it is sound
    """

    value: float
    most: float
    doubt: str = ""

    @property
    def sure(self) -> bool:
        """Whether it is noise for the most part, and not fine anatomy."""
        return self.value > 0 and not self.doubt


class _Air(NamedTuple):
    """Noise in what is dark, None where it does not look like air; whether it looks like nothing else; what the noise
    is at least: that of air which a scanner has pushed to 0 for the most part."""

    noise: float | None = None
    pure: bool = False
    least: float = 0.0


def estimate_noise(
    image: NDArray[np.floating], *, noise: str = "gaussian", ignore: NDArray[np.bool_] | None = None
) -> NoiseEstimate:
    """Standard deviation of the noise, and its doubt.

    image : (I, J, K), any unit
    noise : "gaussian", or "rician" for magnitude images, whose air is looked at first
    ignore : like `image`, voxels that were filled in
    Anatomy only ever adds to the detail of a window, so noise that is read in the air and exceeds that of the
    calmest tissue was read in dark tissue.
    """
    array = np.asarray(image, dtype=np.float64)
    inside = _from_windows(array, ignore, rician=noise == "rician")
    if noise != "rician":
        return inside
    air = _from_air(array)
    limit = (1.35 if air.pure else 1.05) * inside.value if inside.sure else inside.most
    if air.noise is not None and (air.noise <= limit or inside.most == 0):
        return NoiseEstimate(air.noise, max(air.noise, inside.most))
    return inside if inside.value >= air.least else NoiseEstimate(air.least, inside.most, inside.doubt)


def estimate_over_slices(found: Sequence[NoiseEstimate], *, followed: bool = False) -> NoiseEstimate:
    """The level of a volume of that of its slices: their median, of those that are sure where these are the most.

    Slices without any detail (blank ones) say nothing. followed : each slice is restored with its own level, or one
    between those of sure ones; then a quarter of these is enough
    """
    told = [one for one in found if one.most > 0]
    if not told:
        return NoiseEstimate(0.0, 0.0, next((one.doubt for one in found if one.doubt), ""))
    sure = [one for one in told if one.sure]
    if (4 if followed else 2) * len(sure) < len(told):
        doubt = Counter(one.doubt for one in told if one.doubt).most_common(1)
        sure, why = told, doubt[0][0] if doubt else ""
    else:
        low, high = (float(q) for q in np.quantile([one.value for one in sure], (0.1, 0.9)))
        why = f"it differs from slice to slice, {low:.3g} to {high:.3g}" if high > UNEVEN * low and not followed else ""
    value, most = (float(np.median([getattr(one, name) for one in sure])) for name in ("value", "most"))
    return NoiseEstimate(value, max(value, most), why)


def estimate_noise_std(image: NDArray[np.floating], *, noise: str = "gaussian") -> float:
    """`estimate_noise` without its doubt."""
    return estimate_noise(image, noise=noise).value


def _detail(image: Array) -> Array:
    """Differences of the fourth order along every axis (lower where it is short): unit gain for white noise, blind to
    what is smooth and to edges along an axis. Smaller than the image, as nothing is made up at its border."""
    for axis, n in enumerate(image.shape):
        taps = next((taps for least, taps in _KERNELS if n >= least), None)
        if taps is None:
            continue
        size, norm = n - len(taps) + 1, math.sqrt(sum(t * t for t in taps))
        parts = (t / norm * image.take(range(i, i + size), axis) for i, t in enumerate(taps))
        image = sum(parts, np.zeros(1))
    return image


def _within(image: NDArray[np.generic], shape: tuple[int, ...]) -> NDArray[np.generic]:
    """The middle of an image."""
    starts = [(n - m) // 2 for n, m in zip(image.shape, shape, strict=True)]
    return image[tuple(slice(s, s + m) for s, m in zip(starts, shape, strict=True))]


def _means(image: NDArray[np.generic]) -> Array:
    """Of all windows that lie inside the image."""
    edge = WIDE if min(image.shape) == 1 and image.size > LARGE else WINDOW
    size = [min(n, edge) for n in image.shape]
    inner = tuple(slice(s // 2, n - (s - 1) // 2) for n, s in zip(image.shape, size, strict=True))
    return np.asarray(ndimage.uniform_filter(image.astype(np.float64), size)[inner])


@lru_cache(maxsize=16)
def _of_pure_noise(shape: tuple[int, ...]) -> tuple[float, float]:
    """The two quantiles for an image of this size that is noise of deviation 1 and nothing else."""
    noise = np.random.default_rng(0).standard_normal(shape)
    calm, middling = np.quantile(_means(np.abs(_detail(noise))), (CALM, MIDDLING))
    return float(calm), float(middling)


def _from_windows(image: Array, ignore: NDArray[np.bool_] | None, *, rician: bool) -> NoiseEstimate:
    """From the spread between windows: they would all be alike if there was noise alone.

    The variance of a window is that of the noise and of its anatomy. How these differ between the calm and the
    middling windows of anatomy is about known, so that two quantiles give both.
    """
    if sorted(image.shape)[1] < 5:
        return NoiseEstimate(0.0, 0.0, TOO_FEW)
    detail = _detail(image)
    values, deviation = _within(image, detail.shape).astype(np.float64), _means(np.abs(detail))
    still = ndimage.uniform_filter(np.abs(detail), 3) <= 1e-9 * max(float(np.ptp(image)), 1e-30)
    used = ~still if ignore is None else ~still & ~_within(ignore, detail.shape).astype(bool)
    if rician:  # scanners suppress the air of magnitude images, and its noise with it
        tissue = ndimage.uniform_filter(values, 3) > 0.15 * float(np.percentile(image, 99.5))
        used = used & tissue if tissue.mean() > 0.02 else used
    keep = _means(used) > 0.9
    if not keep.any():
        keep = _means(~still) > 0.5
    if not keep.any():
        return NoiseEstimate(0.0, 0.0)
    saturated = _means(_saturated(values, image))
    allowed = max(SATURATED, float(np.quantile(saturated[keep], 0.1)))
    keep &= saturated <= allowed
    deviation = deviation[keep]
    if rician:
        deviation = _unbiased(deviation, _means(values)[keep])
    most = 64 if min(image.shape) > 1 else 192  # the quantiles of pure noise hardly change beyond
    pure = _of_pure_noise(tuple(min(n, most) for n in image.shape))
    found = np.quantile(deviation, (CALM, MIDDLING))
    calm, middling = (float(q / p) ** 2 for q, p in zip(found, pure, strict=True))
    value = math.sqrt(max(calm - TEXTURE * middling, 0.0) / (1 - TEXTURE))
    alike, doubt = calm / middling, ""
    # one difference across takes little of the anatomy away, however alike the windows are
    bottom = 0.0 if rician else float(image.min())
    thin = OF_TWO * (float(np.percentile(image, 99.5)) - bottom) if 2 in image.shape else 0.0
    value = math.sqrt(max(value**2 - thin**2, 0.0))
    if alike < ALIKE:  # rather too little taken off than too much
        value *= max(alike - TEXTURE, 0.0) / (ALIKE - TEXTURE)
    if alike < DOUBTFUL:
        value *= max(alike - TEXTURE, 0.0) / (DOUBTFUL - TEXTURE)
        doubt = "fine structure hides the noise"
    elif keep.sum() < FEW * math.prod(min(n, WINDOW) for n in detail.shape):
        doubt = TOO_FEW
    elif thin and value < SURE_OF_TWO * thin:
        doubt = "two slices"
    elif allowed > 0.05:
        doubt = "most of the image is saturated, which hides the noise"
    return NoiseEstimate(value, math.sqrt(calm), doubt)


def _saturated(values: Array, image: Array) -> NDArray[np.bool_]:
    """Where the lowest or highest value stands, if it is that of many voxels."""
    found = np.zeros(values.shape, dtype=bool)
    for end in (image.min(), image.max()):
        if float((image == end).mean()) > 1e-3:
            found |= values == end
    return found


def _unbiased(deviation: Array, mean: Array) -> Array:
    """Mean detail of magnitudes -> what it would be without the magnitude, which narrows noise in the dark (Koay and
    Basser 2006); of windows whose signal stands out of the noise where there are enough of them."""
    level = float(np.quantile(deviation, MIDDLING)) * MEAN_TO_STD
    bright = mean > TISSUE_SNR * level
    if bright.mean() > 0.05:
        deviation, mean = deviation[bright], mean[bright]
    ratios, shares = _koay()
    return np.asarray(deviation / np.interp(mean / np.maximum(deviation * MEAN_TO_STD, 1e-30), ratios, shares))


@lru_cache(maxsize=1)
def _koay() -> tuple[Array, Array]:
    """Mean over deviation of magnitudes, and that deviation over the noise's, for rising signal."""
    signal = np.linspace(0, 12, 600)
    x = signal**2 / 4
    mean = np.sqrt(np.pi / 2) * ((1 + 2 * x) * special.ive(0, x) + 2 * x * special.ive(1, x))
    share = np.sqrt(2 + signal**2 - mean**2)
    return mean / share, share


def _from_air(image: Array) -> _Air:
    """Noise from the air around a magnitude image, where it is Rayleigh distributed (Gudbjartsson and Patz 1995).

    None where there is no air, or where its values do not look like Rayleigh noise (masked or filtered scans, dark
    tissue).
    """
    scale = float(np.percentile(image, 99.5))
    smooth = ndimage.uniform_filter(image, 3)
    low = smooth < max(0.12 * scale, 1.5 * float(np.percentile(smooth, 10)))
    air = ndimage.binary_erosion(low, iterations=2) if min(image.shape) > 4 else low
    if air.mean() < 0.02 or air.sum() < 500:
        return _Air()
    values = image[air]
    if float((values <= 1e-6 * scale).mean()) > 0.2:
        calm = values[values <= np.percentile(values, 95)]
        return _Air(least=float(np.sqrt(np.mean(calm**2) / 2)) if float(np.median(calm)) >= 0 else 0.0)
    mean = float(np.median(values)) / RAYLEIGH_MEDIAN
    spread = float(np.median(np.abs(values - np.median(values)))) / RAYLEIGH_MAD
    detail = _detail(image)
    fine = detail[_within(air, detail.shape).astype(bool)]
    white = MAD_TO_STD * float(np.median(np.abs(fine))) / RAYLEIGH_STD if fine.size > 100 else 0.0
    spread, white = spread / max(mean, 1e-30), white / max(mean, 1e-30)
    alike = 0.7 < spread < 1.15 and 0.85 < white < 1.15
    return _Air(mean if alike else None, pure=abs(spread - 1) < 0.02)
