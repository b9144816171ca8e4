"""What a scan looks like in a few hundred numbers: a small picture of it, and its grey values and texture.

Both are of averages over wide blocks, so that noise and coarse voxels, which are there to be restored, hardly count.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

FLAT_CELLS, DEEP_CELLS = 32, 20  # of the picture, along each axis
FLAT_FINE, DEEP_FINE = 2.0, 1.5  # the texture's cells are so many times smaller
DARK, BRIGHT = 2, 98  # percentiles that become 0 and 1, where values mean nothing by themselves
SHARES = np.append(np.linspace(-0.5, 1.4, 20) - 1e-4, 1.5)  # bins of grey values; none ends at 0, as air does
OBJECT = 0.25  # above it a cell belongs to what was scanned, and not to air
BANDS = (0.02, 0.06, 0.1, 0.14, 0.2, 0.3, 0.42, 0.6, 0.8, 1.0)  # edges, as shares of the highest frequency
WHITE = (0.7, 1.3)  # variance of block means over that of white noise; in between there is noise alone
LEAST_BLOCK, LEAST_BLOCKS = 16, 100  # voxels in one, and blocks; fewer say little about noise

FEW_VALUES = 12  # an image of four bits has more
SAMPLED = 200_000
SOFT_TISSUE_HU = (-150.0, 150.0)  # fat and soft tissue
AIR_HU, BELOW_AIR_HU = (-1100.0, -900.0), (-1900.0, -1150.0)  # what is still lower lies outside of the scanner's field
SHARES_OF_HU = (0.02, 0.05, 0.05)  # of air and tissue at least, of what is below air at most
LEAST_TISSUE = 0.015  # of a slice of a patient; of 310 slices of torsos the least has 0.05
FLAT_SHARE, FLAT_PLANES, FLAT_PAIRS = 0.6, 32, 1000  # maps of 149 labels have 0.77, volumes of 8 bits 0.15 at most

Turn = tuple[tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True, eq=False)
class Appearance:
    """picture : 32 x 32 of a single image, 20 x 20 x 20 of a volume about its middle, dark 0 and bright 1
    texture : shares of grey values, power by frequency, gradients, size
    """

    picture: Array
    texture: Array


def appearance_of(
    array: NDArray[Any], spacing: Sequence[float], dims: int, cell: float, levels: tuple[float, float] | None = None
) -> Appearance:
    """Of a scan (I, J, K) in the model's axes.

    spacing : mm an axis
    cell : mm, of the picture of a volume; a single image is divided evenly, since few pictures know their size
    levels : values that are dark and bright, where values mean something by themselves, as HU do; None: the scan's own
    """
    if dims == 2:
        flat = array[..., 0] if array.ndim == 3 else array
        cells = int(FLAT_CELLS * FLAT_FINE)
        fine = _levelled(_means(flat, [np.linspace(0, n, cells + 1) for n in flat.shape]), levels)
        edges = [np.linspace(0, n, FLAT_CELLS + 1) for n in fine.shape]
        return Appearance(_means(fine, edges), _texture(fine, float((fine > OBJECT).mean())))
    extent = np.multiply(array.shape, spacing)
    counts = np.maximum(1, np.round(extent / (cell / DEEP_FINE))).astype(int)
    bounds = [np.linspace(0, n, c + 1) for n, c in zip(array.shape, counts, strict=True)]
    fine = _levelled(_means(array, bounds), levels)
    size, edges = extent / counts, []
    for axis, middle in enumerate(_middle(fine)):
        edges.append(middle + (np.arange(DEEP_CELLS + 1) - DEEP_CELLS / 2) * cell / size[axis])
    litres = float((fine > OBJECT).sum() * np.prod(size)) / 1e6
    return Appearance(_means(fine, edges), _texture(fine, np.log(litres + 1e-3)))


def is_noise(array: NDArray[Any]) -> bool:
    """Whether a scan (I, J, K) is white noise and nothing else: means of blocks then differ by noise alone."""
    block = [max(1, min(8 if array.shape[-1] == 1 else 6, n // 4)) for n in array.shape]
    within = array[tuple(slice(0, n // b * b) for n, b in zip(array.shape, block, strict=True))]
    edges = [np.linspace(0, n, n // b + 1) for n, b in zip(within.shape, block, strict=True)]
    size, whole = int(np.prod(block)), _variance(within)
    if size < LEAST_BLOCK or within.size < LEAST_BLOCKS * size or not whole > 0:
        return False
    share = float(_means(within, edges).var()) * size / whole
    return WHITE[0] < share < WHITE[1]


def count_values(array: NDArray[Any]) -> int:
    """How many different values there are, if that is less than any scanner gives; else 0."""
    some = array.ravel(order="K")[:: max(1, array.size // SAMPLED)]  # as it lies: no copy of a large scan
    if len(np.unique(some)) > FEW_VALUES:
        return 0
    every = len(np.unique(array))
    return every if every <= FEW_VALUES else 0


def is_flat(array: NDArray[Any], *, in_hu: bool = False) -> bool:
    """Whether a volume (I, J, K) is of whole numbers, and most neighbours in it are the same one: no scanner gives
    that. Of what is neither least nor largest, as air and what is cut off may be all alike; never of single images,
    since those of 8 bits may be as smooth, but those in HU, which always have some noise."""
    if min(array.shape) == 1 and not in_hu:
        return False
    some = array[:: max(1, len(array) // FLAT_PLANES)]
    first, second = some[:, :-1], some[:, 1:]
    low, high = some.min(), some.max()
    inside = (first > low) & (first < high) & (second > low) & (second < high)
    if inside.sum() < FLAT_PAIRS:
        return False
    pairs = first[inside], second[inside]
    alike = np.mean(pairs[0] == pairs[1]) > FLAT_SHARE
    return bool(alike and (in_hu or all(np.array_equal(p, np.round(p)) for p in pairs)))


def has_tissue(hu: NDArray[Any]) -> bool:
    """Whether there is any fat or soft tissue to speak of in values in HU (I, J, K): there is in every patient."""
    some = hu.ravel(order="K")[:: max(1, hu.size // SAMPLED)]
    low, high = SOFT_TISSUE_HU
    return bool(((some > low) & (some < high)).mean() > LEAST_TISSUE)


def seem_hu(values: NDArray[Any]) -> bool:
    """Whether values (I, J, K) whose unit is not known, as no NIfTI file tells it, are HU: there is much at air's
    value, much at fat's and soft tissue's, and hardly anything below air."""
    some = values.ravel(order="K")[:: max(1, values.size // SAMPLED)]
    bands = (AIR_HU, SOFT_TISSUE_HU, BELOW_AIR_HU)
    air, tissue, below = (float(((some > low) & (some < high)).mean()) for low, high in bands)
    return air > SHARES_OF_HU[0] and tissue > SHARES_OF_HU[1] and below < SHARES_OF_HU[2]


def turns(dims: int) -> list[Turn]:
    """Every way to lie on a grid but the right one: an order of the axes, and 1 or -1 along each."""
    signs = itertools.product((1, -1), repeat=dims)
    return [(o, f) for f in signs for o in itertools.permutations(range(dims))][1:]


def turned(pictures: Array, turn: Turn) -> Array:
    """Pictures (N, ...) that lie otherwise."""
    order, signs = turn
    axes = pictures.transpose(0, *(1 + axis for axis in order))
    return axes[(slice(None), *(slice(None, None, sign) for sign in signs))]


def _means(array: NDArray[Any], edges: Sequence[NDArray[Any]]) -> Array:
    """Averages between edges (in voxels) along each axis; 0 outside."""
    found = np.asarray(array, dtype=np.float32)
    for bounds in edges:  # each takes the first axis and puts it last, so that they come round
        voxel = np.arange(found.shape[0])
        over = np.minimum(bounds[1:, None], voxel + 1) - np.maximum(bounds[:-1, None], voxel)
        weights = (np.maximum(over, 0) / np.diff(bounds)[:, None]).astype(np.float32)
        found = np.tensordot(found, weights, (0, 1))
    return found.astype(np.float64)


def _variance(array: NDArray[Any]) -> float:
    """Slice by slice: the squares of all at once take twice the memory of the scan, and as much time again."""
    mean = np.float32(array.mean(dtype=np.float64))
    squares = (np.square(each - mean).sum(dtype=np.float64) for each in array.T)
    return float(sum(squares)) / array.size


def _levelled(fine: Array, levels: tuple[float, float] | None) -> Array:
    low, high = np.percentile(fine, (DARK, BRIGHT)) if levels is None else levels
    least = -0.5 if levels is None else 0.0  # outside of a CT's field there is anything below air
    return np.asarray(np.clip((fine - low) / max(high - low, 1e-9), least, 1.5))


def _middle(fine: Array) -> list[float]:
    """Centre of mass of what is no air, in cells from the corner."""
    mass = np.clip(fine - OBJECT, 0, 1)
    whole, found = float(mass.sum()) or 1.0, []
    for axis, n in enumerate(fine.shape):
        along = mass.sum(tuple(other for other in range(fine.ndim) if other != axis))
        found.append(float((along * (np.arange(n) + 0.5)).sum()) / whole)
    return found


def _texture(fine: Array, size: float) -> Array:
    """(M,) numbers of one kind each: roots of shares, logarithms of power and of gradients."""
    shares = np.sqrt(np.histogram(fine, bins=SHARES)[0] / fine.size)
    windowed = fine - fine.mean()
    for axis, n in enumerate(fine.shape):
        windowed = windowed * np.hanning(n + 2)[1:-1].reshape([-1 if a == axis else 1 for a in range(fine.ndim)])
    grid = np.meshgrid(*(2 * np.abs(np.fft.fftfreq(n)) for n in fine.shape), indexing="ij")
    radius, power = np.sqrt(sum(g**2 for g in grid)), np.abs(np.fft.fftn(windowed)) ** 2 / fine.size
    bands = [power[(radius >= low) & (radius < high)] for low, high in itertools.pairwise(BANDS)]
    spectrum = [np.log((band.mean() if band.size else 0) + 1e-6) for band in bands]
    slopes = [np.gradient(fine, axis=axis) if n > 1 else np.zeros(fine.shape) for axis, n in enumerate(fine.shape)]
    steepness = np.log(np.percentile(np.sqrt(sum(s**2 for s in slopes)), (10, 50, 90, 99)) + 1e-3)
    rises = [np.maximum(sign * s, 0).mean() * 10 for s in slopes for sign in (1, -1)]
    return np.array([*shares, *spectrum, *steepness, *rises, size], dtype=np.float64)
