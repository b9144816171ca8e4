"""Random numbers that belong to a sample, not to a batch.

However samples are put together, among processes or into parts that fit the memory, each sees the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor


def sample_generator(seed: int, index: int) -> torch.Generator:
    """A sample's own generator: it depends on (seed, index), not on what is sampled beside it."""
    mixed = int(np.random.SeedSequence([seed, index]).generate_state(1, np.uint64)[0])
    return torch.Generator().manual_seed(mixed >> 1)


def noise_of(generator: torch.Generator) -> Callable[[Tensor], Tensor]:
    """Standard normal numbers like a tensor, for a sampler of one sample; drawn on the CPU, whatever the device."""
    return lambda x: torch.randn(x.shape, generator=generator).to(x)


class PerSample:
    """Numbers for a batch, each sample's from its own generator, drawn in the order in which they are asked for.

    seeds : one a sample
    device : where the numbers are wanted; they are drawn on the CPU, so that they are the same everywhere
    """

    def __init__(self, seeds: Sequence[int], device: torch.device) -> None:
        self.device = device
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def normal(self, shape: Sequence[int] = ()) -> Tensor:
        """Standard normal numbers (B, *shape), float32."""
        drawn = [torch.randn(tuple(shape), generator=generator) for generator in self._generators]
        return torch.stack(drawn).to(self.device)

    def like(self, x: Tensor) -> Tensor:
        """Standard normal numbers like a batch, for a sampler."""
        return self.normal(x.shape[1:]).to(x)

    def uniform(self, shape: Sequence[int] = ()) -> Tensor:
        """Numbers from 0 to 1: (B, *shape), float32."""
        drawn = [torch.rand(tuple(shape), generator=generator) for generator in self._generators]
        return torch.stack(drawn).to(self.device)
