"""Masks: voxels that were not measured, or not to be believed; their interpolation, and the problem of filling them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medldm.errors import InputError
from medldm.geometry import Geometry
from medldm.operators.measurement import Measurement
from medldm.operators.operator import Operator
from medldm.operators.problem import Array, Axes, Draw, Problem
from medldm.tables import PositiveRange

if TYPE_CHECKING:
    from scipy import sparse

TOLERANCE = 1e-5
MOST_ITERATIONS = 400
MOST_DIRECT = 20_000  # unknowns of a plane's masked part that are solved for exactly
MARGIN = 2  # known voxels around a mask that its filling depends on


def fill_harmonic(image: NDArray[np.floating], mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The image with every masked part replaced by the membrane over its edge (the discrete Laplace equation).

    image, mask : the same shape, any number of axes; the image's outer border is free (Neumann)
    Outside the mask the values are those of `image`. A mask that is the whole image is filled with 0.
    """
    return _filled(image, mask, smooth=False)


def fill_smooth(image: NDArray[np.floating], mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The same with the mean of the membrane and of the thin plate, which goes on with the slopes at the edge.

    Of the two the plate is better where an image is smooth, the membrane where it is not: docs/decisions/0007.
    Of large masked parts the plate is not solved to the end; what is left lies between the two.
    """
    return _filled(image, mask, smooth=True)


def _filled(image: NDArray[np.floating], mask: NDArray[np.bool_], *, smooth: bool) -> NDArray[np.float32]:
    filled = np.array(image, dtype=np.float32)
    if mask.all():
        return np.zeros_like(filled)
    if mask.any():
        box = tuple(slice(max(int(a.min()) - MARGIN, 0), int(a.max()) + MARGIN + 1) for a in np.nonzero(mask))
        filled[box] = _solved(filled[box], mask[box], smooth)
        if smooth:  # a plate over a large mask may swing far above and below all that is known
            filled[mask] = filled[mask].clip(filled[~mask].min(), filled[~mask].max())
    return filled


def _solved(known: NDArray[np.float32], mask: NDArray[np.bool_], smooth: bool) -> NDArray[np.float32]:
    from scipy import ndimage
    from scipy.sparse.linalg import spsolve

    laplacian, inside = _laplacian(known.shape), np.flatnonzero(mask)
    flat = np.where(mask, 0, known).ravel().astype(np.float64)
    rows = laplacian[inside]
    membrane, right = rows[:, inside], -(rows @ flat)
    nearest = ndimage.distance_transform_edt(mask, return_distances=False, return_indices=True)
    start = known[tuple(nearest)].ravel()[inside].astype(np.float64)
    solved = _conjugate_gradients(membrane, right, start)
    if smooth:
        near = np.flatnonzero(ndimage.binary_dilation(mask))
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


def random_mask(shape: tuple[int, ...], radius: tuple[float, float], rng: np.random.Generator) -> NDArray[np.bool_]:
    """One to three ellipsoids, or slabs: a mask that leaves at least half of the image known.

    radius : least and largest half-axis of an ellipsoid in voxels; slabs are a quarter as thick
    """
    grid = np.ogrid[tuple(slice(n) for n in shape)]
    mask = np.zeros(shape, dtype=bool)
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
        joined = mask | part
        if joined.mean() <= 0.5:
            mask = joined
    if not mask.any():
        mask[tuple(n // 2 for n in shape)] = True
    return mask


@dataclass(frozen=True, eq=False)
class Mask(Operator):
    """``A x`` = x where it was measured, 0 elsewhere.

    mask : (I, J, K), True where nothing was measured
    """

    mask: NDArray[np.bool_]

    @classmethod
    def example(cls) -> Mask:
        mask = np.zeros((8, 12, 8), dtype=bool)
        mask[2:5, 3:9, 1:6] = True
        return cls(mask)

    def missing(self) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(self.mask, dtype=np.float32))[None, None]

    def forward(self, x: Tensor) -> Tensor:
        return x * (1 - self.missing()).to(x)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.forward(y)

    def first_guess(self, y: Tensor) -> Tensor:
        """`fill_smooth`."""
        shape, flat = y.shape, self.mask.shape[2] == 1
        mask = self.mask[..., 0] if flat else self.mask
        images = [image.numpy() for image in (y[..., 0] if flat else y).detach().cpu().flatten(0, 1)]
        filled = np.stack([fill_smooth(image, mask) for image in images])
        return torch.from_numpy(filled).reshape(shape).to(y)

    def project(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.where(self.missing().to(x) > 0, x, y)


class Inpaint(Problem):
    """Parts that were not measured, or not well, are filled; outside them nothing is changed.

    radius : least and largest half-axis in voxels of the masks that are drawn in training (`random_mask`)
    """

    radius: PositiveRange = (3.0, 24.0)

    operator_type: ClassVar[type[Operator]] = Mask
    keeps_measured: ClassVar[bool] = True

    def operator(self, options: Mapping[str, Any], axes: Axes) -> Mask:
        """options : `mask`, an array on the scan's voxels, True where they are to be filled."""
        if set(options) != {"mask"}:
            raise InputError("inpaint", f"the options {', '.join(sorted(options)) or 'none'}", "a mask alone")
        mask = options["mask"]
        if not isinstance(mask, np.ndarray) or mask.shape != axes.geometry.shape:
            got = f"shape {mask.shape}" if isinstance(mask, np.ndarray) else type(mask).__name__
            raise InputError("mask", got, f"an array of the scan's {axes.geometry.shape}")
        return Mask(np.asarray(axes.turn(mask), dtype=bool))

    def of_slice(
        self, options: Mapping[str, Any], geometry: Geometry, order: tuple[int, int, int], number: int
    ) -> Mapping[str, Any] | None:
        """What of the mask lies in the slice. A whole slice is refused: the model would see nothing of the scan."""
        mask = options.get("mask")
        turned = mask.transpose(order) if isinstance(mask, np.ndarray) and mask.ndim == 3 else None
        if turned is None or turned.shape != geometry.shape:
            return options  # `operator` says what is wrong
        part = np.ascontiguousarray(turned[:, :, number : number + 1], dtype=bool)
        if part.all():
            do = "take another plane, or a model of volumes"
            raise InputError("mask", f"all of slice {number + 1}", "a part of each slice: it is seen alone", do)
        return {**options, "mask": part} if part.any() else None

    def drawn_operator(self, shape: tuple[int, int, int], draw: Draw, dims: int) -> Mask:
        mask = random_mask(shape[:dims], self.radius, draw.own)
        return Mask(mask.reshape(shape))

    def drawn_noise(self, draw: Draw) -> float:
        """Half of the images are free of noise."""
        return super().drawn_noise(draw) * (draw.own.random() < 0.5)

    def error_weight(self, x: Tensor, measurement: Measurement) -> Tensor:
        """Relative to the interpolation's error, as large masks would drown the small ones; the floor is 40 dB."""
        assert measurement.missing is not None
        inside = measurement.missing.flatten(1)
        error = (measurement.image - x).square().flatten(1)
        return 1 / ((inside * error).sum(1) / inside.sum(1).clamp_min(1) + 1e-4)

    def exact(self, noise_std: float) -> bool:
        return False  # `settle` keeps what was measured, to the bit

    def settle(self, result: Array, measured: Array, operator: Operator) -> Array:
        assert isinstance(operator, Mask)
        return np.where(operator.mask, result, measured).astype(np.float32)

    def checks(self, operator: Operator) -> dict[str, Any]:
        assert isinstance(operator, Mask)
        return {"voxels_filled": int(operator.mask.sum())}
