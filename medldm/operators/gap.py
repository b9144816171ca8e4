"""Gaps: voxels that were not measured, or not to be believed, and their interpolation from what surrounds them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse
from scipy.sparse.linalg import cg

TOLERANCE = 1e-5
MOST_ITERATIONS = 2000


def fill_harmonic(image: NDArray[np.floating], gap: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The image with every gap replaced by the membrane over its edge (the discrete Laplace equation).

    image, gap : the same shape, any number of axes; the image's outer border is free (Neumann)
    Outside the gap the values are those of `image`. A gap that is the whole image is filled with 0.
    """
    if not gap.any() or gap.all():
        return np.asarray(image, dtype=np.float32).copy() if not gap.any() else np.zeros(gap.shape, np.float32)
    filled = np.array(image, dtype=np.float32)
    box = tuple(slice(max(int(a.min()) - 1, 0), int(a.max()) + 2) for a in np.nonzero(gap))
    filled[box] = _solved(filled[box], gap[box])
    return filled


def _solved(known: NDArray[np.float32], gap: NDArray[np.bool_]) -> NDArray[np.float32]:
    inside = np.flatnonzero(gap)
    number = np.full(known.size, -1)
    number[inside] = np.arange(len(inside))
    flat, places = known.ravel().astype(np.float64), np.arange(known.size).reshape(known.shape)
    degree, right = np.zeros(len(inside)), np.zeros(len(inside))
    rows, columns = [], []
    for axis in range(known.ndim):
        near, far = (np.take(places, range(a, known.shape[axis] - 1 + a), axis).ravel() for a in (0, 1))
        for here, there in ((near, far), (far, near)):
            one = number[here] >= 0
            here, there = number[here[one]], there[one]
            np.add.at(degree, here, 1.0)
            free = number[there] >= 0
            np.add.at(right, here[~free], flat[there[~free]])
            rows.append(here[free])
            columns.append(number[there[free]])
    at, to = np.concatenate(rows), np.concatenate(columns)
    laplacian = sparse.csr_matrix((-np.ones(len(at)), (at, to)), shape=(len(inside),) * 2) + sparse.diags(degree)
    nearest = ndimage.distance_transform_edt(gap, return_distances=False, return_indices=True)
    start = known[tuple(nearest)].ravel()[inside].astype(np.float64)
    jacobi = sparse.diags(1 / np.maximum(degree, 1))
    solved, _ = cg(laplacian, right, x0=start, rtol=TOLERANCE, maxiter=MOST_ITERATIONS, M=jacobi)
    filled = known.copy()
    filled.ravel()[inside] = solved
    return filled


def random_gap(
    shape: tuple[int, ...], radius: tuple[float, float], rng: np.random.Generator
) -> NDArray[np.bool_]:
    """One to three ellipsoids, or slabs: a mask that leaves at least half of the image known.

    radius : least and largest half-axis of an ellipsoid in voxels; slabs are a quarter as thick
    """
    grid = np.ogrid[tuple(slice(n) for n in shape)]
    gap = np.zeros(shape, dtype=bool)
    slabs = rng.random() < 0.2
    for _ in range(int(rng.integers(1, 4))):
        low, high = np.log(radius)
        if slabs:
            axis, half = int(rng.integers(len(shape))), np.exp(rng.uniform(low, high)) / 4
            part = np.abs(grid[axis] - rng.uniform(0, shape[axis])) <= max(half, 0.5)
        else:
            base, turns = np.exp(rng.uniform(low, high)), np.exp(rng.uniform(-0.4, 0.4, len(shape)))
            axes = np.clip(base * turns, *radius)
            part = sum(((g - rng.uniform(0, n)) / a) ** 2 for g, n, a in zip(grid, shape, axes, strict=True)) <= 1
        joined = gap | part
        if joined.mean() <= 0.5:
            gap = joined
    if not gap.any():
        gap[tuple(n // 2 for n in shape)] = True
    return gap
