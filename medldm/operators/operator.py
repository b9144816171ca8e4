"""What every measurement operator is, the identity, and the one check that proves any of them, ours or a plugin's."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from medldm.errors import InputError
from medldm.geometry import Geometry

PROJECTIONS = 3


class Operator(ABC):
    """A linear operator ``A`` on images; noise is a separate type (`medldm.operators.measurement`).

    Images are tensors (B, C, I, J, K), axes as in the volume; an image of two dimensions has K = 1. An operator of
    one's own fills in `example`, `forward` and `adjoint`, and of the rest what is not true of it. Every operator is
    proven by `check_operator`.
    """

    @classmethod
    @abstractmethod
    def example(cls) -> Operator:
        """A small instance, which the shared checks use."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """``A x``."""

    @abstractmethod
    def adjoint(self, y: Tensor) -> Tensor:
        """``A^T y``, with ``<A x, y> = <x, A^T y>``."""

    def output_geometry(self, geometry: Geometry) -> Geometry:
        """Grid of the measurement of an image on `geometry`: the same, unless an operator says otherwise."""
        return geometry

    def input_geometry(self, geometry: Geometry) -> Geometry:
        """Grid of the image that is measured on `geometry`: the reverse of `output_geometry`."""
        return geometry

    def first_guess(self, y: Tensor) -> Tensor:
        """An image whose measurement is about `y`, with no knowledge of images: ``A^T y``, unless there is better."""
        return self.adjoint(y)

    def blur(self) -> tuple[float, float, float]:
        """How many voxels of the image a measured value spreads over along I, J, K; 1 where none is lost.

        What the networks are told of the operator, beside the noise and `missing`.
        """
        return (1.0, 1.0, 1.0)

    def missing(self) -> Tensor | None:
        """(1, 1, I, J, K), 1 where nothing was measured and `first_guess` interpolates, else 0; None: nowhere."""
        return None

    def project(self, x: Tensor, y: Tensor) -> Tensor:
        """The image nearest to `x`, or nearly so, whose measurement is `y`."""
        for _ in range(PROJECTIONS):
            x = x + self.first_guess(y - self.forward(x))
        return x

    def project_above(self, x: Tensor, y: Tensor, floor: float | None) -> Tensor:
        """The same with no value below `floor`, as far as `y` allows; None: as `project`."""
        x = self.project(x, y)
        if floor is not None:
            for _ in range(PROJECTIONS):
                x = self.project(x.clamp_min(floor), y)
            x = x.clamp_min(floor)
        return x


@dataclass(frozen=True)
class Identity(Operator):
    """``A x = x``: every voxel is measured, only noise is added."""

    @classmethod
    def example(cls) -> Identity:
        return cls()

    def forward(self, x: Tensor) -> Tensor:
        return x

    def adjoint(self, y: Tensor) -> Tensor:
        return y

    def project(self, x: Tensor, y: Tensor) -> Tensor:
        return y


def check_operator(operator: Operator, shape: tuple[int, int, int] = (8, 12, 8), *, seed: int = 0) -> None:
    """Check linearity, ``<A x, y> = <x, A^T y>``, and that both geometries have the shapes of the tensors.

    Raises InputError with both numbers where they differ by more than 1e-6 of their size.
    """
    name = type(operator).__name__
    generator = torch.Generator().manual_seed(seed)
    u, v = torch.randn((2, 1, 1, *shape), generator=generator, dtype=torch.float64)
    y = operator.forward(u)
    w = torch.randn(y.shape, generator=generator, dtype=torch.float64)
    left, right = float((y * w).sum()), float((u * operator.adjoint(w)).sum())
    tolerance = 1e-6 * float(y.norm() * w.norm())
    if abs(left - right) > tolerance:
        raise InputError(name, f"<A x, y> = {left:.9g}, <x, A^T y> = {right:.9g}", "equal numbers", "fix adjoint()")
    if float((operator.forward(2 * u - 3 * v) - (2 * y - 3 * operator.forward(v))).abs().max()) > 1e-6:
        raise InputError(name, "A(2u - 3v) != 2 A(u) - 3 A(v)", "a linear operator")
    fine = Geometry.from_spacing(shape, (1.0, 1.0, 1.0))
    grid = operator.output_geometry(fine)
    if tuple(grid.shape) != tuple(y.shape[2:]):
        raise InputError(name, f"output_geometry {grid.shape}, forward {tuple(y.shape[2:])}", "equal shapes")
    if not operator.input_geometry(grid).isclose(fine):
        raise InputError(name, "input_geometry(output_geometry(g)) != g", "the same grid", "fix input_geometry()")
    if tuple(operator.first_guess(y).shape[2:]) != shape:
        raise InputError(name, f"a first guess of {tuple(operator.first_guess(y).shape[2:])}", f"{shape}")
