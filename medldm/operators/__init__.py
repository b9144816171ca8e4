"""Measurement operators: what was lost on the way from the image to the measurement, ``y = N(A(x))``."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

from medldm.geometry import Geometry

__all__ = ["Operator"]


@runtime_checkable
class Operator(Protocol):
    """A linear operator ``A`` on images; noise is a separate type (`medldm.operators.noise`).

    Images are tensors (B, C, I, J, K), axes as in the volume. Every operator is proven by
    `medldm.operators.check.check_operator`.
    """

    @classmethod
    def example(cls) -> Operator:
        """A small instance, which the shared checks use."""
        ...

    def output_geometry(self, geometry: Geometry) -> Geometry:
        """Grid of the measurement of an image on `geometry`."""
        ...

    def forward(self, x: Tensor) -> Tensor:
        """``A x``."""
        ...

    def adjoint(self, y: Tensor) -> Tensor:
        """``A^T y``, with ``<A x, y> = <x, A^T y>``."""
        ...
