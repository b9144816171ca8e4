"""Motion blur along an in-plane axis: an operator in a package of its own (one file, one entry point)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from medldm.geometry import Geometry


@dataclass(frozen=True)
class MotionBlur:
    """Mean over `length` neighbouring voxels along array axis `axis`; zeros outside the image.

    length : odd number of voxels that a point passes over during the exposure
    axis : 0, 1 or 2
    """

    length: int = 5
    axis: int = 0

    @classmethod
    def example(cls) -> MotionBlur:
        return cls(length=3, axis=1)

    def output_geometry(self, geometry: Geometry) -> Geometry:
        return geometry

    def forward(self, x: Tensor) -> Tensor:
        reach, dim = self.length // 2, self.axis + 2
        padded = torch.nn.functional.pad(x.movedim(dim, -1), (reach, reach))
        return padded.unfold(-1, self.length, 1).mean(-1).movedim(-1, dim)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.forward(y)  # a symmetric kernel with zeros outside is its own adjoint
