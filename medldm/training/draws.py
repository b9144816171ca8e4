"""Random numbers that belong to an example, not to a batch.

However a batch is divided, among processes or into parts that fit the memory, each example sees the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Draws:
    """Numbers for a batch of examples, each from its own generator, drawn in the order in which they are asked for.

    seeds : (B,) int64
    """

    def __init__(self, seeds: Tensor) -> None:
        self.device = seeds.device
        self._generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]

    def normal(self, shape: Sequence[int] = ()) -> Tensor:
        """Standard normal numbers (B, *shape), float32."""
        drawn = [torch.randn(tuple(shape), generator=generator) for generator in self._generators]
        return torch.stack(drawn).to(self.device)

    def uniform(self, shape: Sequence[int] = ()) -> Tensor:
        """Numbers from 0 to 1: (B, *shape), float32."""
        drawn = [torch.rand(tuple(shape), generator=generator) for generator in self._generators]
        return torch.stack(drawn).to(self.device)
