"""Motion blur along an axis: an operator and its problem in a package of their own (one file, one entry point)."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from medldm.operators.operator import Operator
from medldm.operators.problem import Draw, Problem


@dataclass(frozen=True)
class MotionBlur(Operator):
    """Mean over `length` neighbouring voxels along array axis `axis`; zeros outside the image.

    length : odd number of voxels that a point passes over during the exposure
    axis : 0, 1 or 2
    """

    length: Annotated[int, Field(ge=1)] = 5
    axis: Annotated[int, Field(ge=0, le=2)] = 0

    @classmethod
    def example(cls) -> MotionBlur:
        return cls(length=3, axis=1)

    def forward(self, x: Tensor) -> Tensor:
        reach, dim = self.length // 2, self.axis + 2
        padded = torch.nn.functional.pad(x.movedim(dim, -1), (reach, reach))
        return padded.unfold(-1, self.length, 1).mean(-1).movedim(-1, dim)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.forward(y)  # a symmetric kernel with zeros outside is its own adjoint

    def first_guess(self, y: Tensor) -> Tensor:
        return y  # better than the adjoint, which would blur again

    def blur(self) -> tuple[float, float, float]:
        i, j, k = (float(self.length if axis == self.axis else 1) for axis in range(3))
        return (i, j, k)


class Deblur(Problem):
    """Find again what the motion blurred. lengths : odd numbers of voxels that the training draws from."""

    lengths: tuple[int, ...] = (3, 5, 7)

    operator_type: ClassVar[type[Operator]] = MotionBlur

    def drawn_operator(self, shape: tuple[int, int, int], draw: Draw, dims: int) -> MotionBlur:
        """One axis for all examples of a step: the heads turn a batch so that it comes first."""
        return MotionBlur(int(draw.own.choice(self.lengths)), int(draw.step.integers(dims)))
