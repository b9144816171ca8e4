"""Gaps: voxels that were not measured, or not to be believed, and their interpolation from what surrounds them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from scipy import sparse

TOLERANCE = 1e-5
MOST_ITERATIONS = 400
MOST_DIRECT = 20_000  # unknowns of a plane's gap that are solved for exactly
MARGIN = 2  # known voxels around a gap that its filling depends on


def fill_harmonic(image: NDArray[np.floating], gap: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The image with every gap replaced by the membrane over its edge (the discrete Laplace equation).

    image, gap : the same shape, any number of axes; the image's outer border is free (Neumann)
    Outside the gap the values are those of `image`. A gap that is the whole image is filled with 0.
    """
    return _filled(image, gap, smooth=False)


def fill_smooth(image: NDArray[np.floating], gap: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The same with the mean of the membrane and of the thin plate, which goes on with the slopes at the edge.

    Of the two the plate is better where an image is smooth, the membrane where it is not: docs/decisions/0007.
    Of large gaps the plate is not solved to the end; what is left lies between the two.
    """
    return _filled(image, gap, smooth=True)


def _filled(image: NDArray[np.floating], gap: NDArray[np.bool_], *, smooth: bool) -> NDArray[np.float32]:
    filled = np.array(image, dtype=np.float32)
    if gap.all():
        return np.zeros_like(filled)
    if gap.any():
        box = tuple(slice(max(int(a.min()) - MARGIN, 0), int(a.max()) + MARGIN + 1) for a in np.nonzero(gap))
        filled[box] = _solved(filled[box], gap[box], smooth)
        if smooth:  # a plate over a large gap may swing far above and below all that is known
            filled[gap] = filled[gap].clip(filled[~gap].min(), filled[~gap].max())
    return filled


def _solved(known: NDArray[np.float32], gap: NDArray[np.bool_], smooth: bool) -> NDArray[np.float32]:
    from scipy import ndimage
    from scipy.sparse.linalg import spsolve

    laplacian, inside = _laplacian(known.shape), np.flatnonzero(gap)
    flat = np.where(gap, 0, known).ravel().astype(np.float64)
    rows = laplacian[inside]
    membrane, right = rows[:, inside], -(rows @ flat)
    nearest = ndimage.distance_transform_edt(gap, return_distances=False, return_indices=True)
    start = known[tuple(nearest)].ravel()[inside].astype(np.float64)
    solved = _conjugate_gradients(membrane, right, start)
    if smooth:
        near = np.flatnonzero(ndimage.binary_dilation(gap))
        rows = laplacian[near]
        bends = rows[:, inside]
        plate, right = (bends.T @ bends).tocsr(), -(bends.T @ (rows @ flat))
        direct = known.ndim == 2 and len(inside) <= MOST_DIRECT
        thin = spsolve(plate.tocsc(), right) if direct else _conjugate_gradients(plate, right, solved)
        solved = (solved + thin) / 2
    filled = known.copy()
    filled.ravel()[inside] = solved
    return filled


def _laplacian(shape: tuple[int, ...]) -> sparse.csr_matrix:
    """Of a grid with free borders: a voxel's number of neighbours times its value, less the neighbours'."""
    from scipy import sparse

    whole = sparse.csr_matrix((math.prod(shape),) * 2)
    for axis, n in enumerate(shape):
        step = sparse.diags([np.full(n - 1, -1.0)] * 2, [-1, 1], shape=(n, n))
        line = step - sparse.diags(np.asarray(step.sum(1)).ravel())
        before, after = (sparse.identity(math.prod(part)) for part in (shape[:axis], shape[axis + 1 :]))
        whole = whole + sparse.kron(sparse.kron(before, line), after)
    return whole.tocsr()


def _conjugate_gradients(
    matrix: sparse.csr_matrix, right: NDArray[np.float64], start: NDArray[np.float64]
) -> NDArray[np.float64]:
    from scipy import sparse
    from scipy.sparse.linalg import cg

    jacobi = sparse.diags(1 / np.maximum(matrix.diagonal(), 1))
    solved, _ = cg(matrix, right, x0=start, rtol=TOLERANCE, maxiter=MOST_ITERATIONS, M=jacobi)
    return np.asarray(solved)


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
