"""Block average: thick slices and large pixels, each the mean over the voxels that it covers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from medldm.errors import InputError
from medldm.geometry import Geometry


@lru_cache(maxsize=64)
def _upsampling_matrix(n: int, factor: int) -> Tensor:
    """Cubic interpolation of `n` block means to ``n * factor`` voxels, back-projected ten times.

    Returns (n * factor, n). Back-projection (Irani and Peleg 1991) makes the block means of the
    result equal the measurement; both steps are linear, so along an axis they are one matrix.
    """
    centres = (np.arange(n * factor) + 0.5) / factor - 0.5
    order = 3 if n > 1 else 0
    cubic = np.stack(
        [ndimage.map_coordinates(row, [centres], order=order, mode="nearest") for row in np.eye(n)]
    )
    up = cubic.T
    down = np.kron(np.eye(n), np.full((1, factor), 1.0 / factor))
    result = up.copy()
    for _ in range(10):
        result += up @ (np.eye(n) - down @ result)
    return torch.from_numpy(result).float()


def _along(matrix: Tensor, x: Tensor, axis: int) -> Tensor:
    return torch.movedim(torch.movedim(x, axis, -1) @ matrix.T.to(x), -1, axis)


@dataclass(frozen=True)
class BlockAverage:
    """``A`` = mean over blocks of ``factor`` voxels along I, J, K (a box slice profile).

    factor : three integers >= 1
    """

    factor: tuple[int, int, int]

    def __post_init__(self) -> None:
        if len(self.factor) != 3 or any(int(f) != f or f < 1 for f in self.factor):
            raise InputError("BlockAverage", f"factor {self.factor}", "three integers >= 1")

    @classmethod
    def example(cls) -> BlockAverage:
        return cls((2, 1, 4))

    def output_geometry(self, geometry: Geometry) -> Geometry:
        i, j, k = (1.0 / f for f in self.factor)
        return geometry.zoom((i, j, k))

    def forward(self, x: Tensor) -> Tensor:
        for axis, f in enumerate(self.factor, start=2):
            if x.shape[axis] % f:
                raise InputError(
                    "BlockAverage",
                    f"size {x.shape[axis]} on axis {axis - 2}",
                    f"a multiple of {f}",
                    "crop or pad",
                )
            x = x.unflatten(axis, (-1, f)).mean(axis + 1)
        return x

    def adjoint(self, y: Tensor) -> Tensor:
        for axis, f in enumerate(self.factor, start=2):
            y = y.repeat_interleave(f, dim=axis) / f
        return y

    def upsample(self, y: Tensor) -> Tensor:
        """Cubic interpolation to the fine grid with ``A upsample(y) = y`` (to 1e-3 of the range or better)."""
        for axis, f in enumerate(self.factor, start=2):
            if f > 1:
                y = _along(_upsampling_matrix(y.shape[axis], f), y, axis)
        return y
