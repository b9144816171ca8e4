"""In-plane truncation of k-space, zero-filled: a restoration task of its own in one file and one entry point."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from medldm.operators.operator import Operator
from medldm.operators.problem import Draw, Problem


@dataclass(frozen=True)
class Truncation(Operator):
    """Of the frequencies along I and J the lowest `kept` share is measured, the others are filled with zeros.

    kept : 0..1, along each of the two axes
    """

    kept: Annotated[float, Field(gt=0, le=1)]

    @classmethod
    def example(cls) -> Truncation:
        return cls(0.6)

    def forward(self, x: Tensor) -> Tensor:
        spectrum = torch.fft.fft2(x, dim=(2, 3))
        for axis in (2, 3):
            measured = torch.fft.fftfreq(x.shape[axis], device=x.device).abs() <= self.kept / 2
            spectrum = spectrum * measured.view(-1, *(1,) * (4 - axis))
        return torch.fft.ifft2(spectrum, dim=(2, 3)).real

    def adjoint(self, y: Tensor) -> Tensor:
        return self.forward(y)  # an orthogonal projection is its own adjoint

    def blur(self) -> tuple[float, float, float]:
        return (1 / self.kept, 1 / self.kept, 1.0)


class SharpenTruncated(Problem):
    """Find again what the truncation lost. kept : least and most of it that the training draws."""

    kept: tuple[float, float] = (0.4, 0.9)

    operator_type: ClassVar[type[Operator]] = Truncation

    def drawn_operator(self, shape: tuple[int, int, int], draw: Draw, dims: int) -> Truncation:
        return Truncation(float(draw.own.uniform(*self.kept)))
