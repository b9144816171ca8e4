"""The identity: denoising measures every voxel, only noise is added."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from medldm.geometry import Geometry


@dataclass(frozen=True)
class Identity:
    """``A x = x``."""

    @classmethod
    def example(cls) -> Identity:
        return cls()

    def output_geometry(self, geometry: Geometry) -> Geometry:
        return geometry

    def forward(self, x: Tensor) -> Tensor:
        return x

    def adjoint(self, y: Tensor) -> Tensor:
        return y
