"""Random numbers that belong to a sample, not to a batch.

However samples are put together, among processes or into parts that fit the memory, each sees the same numbers.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

BLOCK = 8  # latent cells an axis that share a counter


def sample_generator(seed: int, index: int) -> torch.Generator:
    """A sample's own generator: it depends on (seed, index), not on what is sampled beside it."""
    mixed = int(np.random.SeedSequence([seed, index]).generate_state(1, np.uint64)[0])
    return torch.Generator().manual_seed(mixed >> 1)


def noise_of(generator: torch.Generator) -> Callable[[Tensor], Tensor]:
    """Standard normal numbers like a tensor, for a sampler of one sample; drawn on the CPU, whatever the device."""
    return lambda x: torch.randn(x.shape, generator=generator).to(x)


class FieldNoise:
    """Standard normal numbers by coordinate: a latent cell's own, whatever the batch, the size or the part asked for.

    Philox (Salmon et al. 2011) counts instead of remembering: a block of cells has a counter of its own.

    seeds : (seed, index) of each sample
    """

    def __init__(self, seeds: Sequence[tuple[int, int]], device: torch.device) -> None:
        self.device, self.draws = device, 0
        self._keys = [np.random.SeedSequence([seed, index]).generate_state(2, np.uint64) for seed, index in seeds]

    def __len__(self) -> int:
        return len(self._keys)

    def next(self, x: Tensor) -> Tensor:
        """The next draw, like a batch of whole fields: what samplers ask for."""
        drawn = self.draw(self.draws, x.shape[1], [slice(0, n) for n in x.shape[2:]])
        self.draws += 1
        return drawn.to(x)

    def draw(self, number: int, channels: int, box: Sequence[slice]) -> Tensor:
        """Draw `number` of the cells in a `box`: (B, channels, *box), float32."""
        first = [part.start // BLOCK for part in box]
        blocks = [range(a, -(-part.stop // BLOCK)) for a, part in zip(first, box, strict=True)]
        inside = tuple(slice(p.start - a * BLOCK, p.stop - a * BLOCK) for a, p in zip(first, box, strict=True))
        out = np.empty((len(self), channels, *(len(b) * BLOCK for b in blocks)), dtype=np.float32)
        for sample, key in enumerate(self._keys):
            for place in itertools.product(*blocks):
                at = [slice((b - a) * BLOCK, (b - a + 1) * BLOCK) for a, b in zip(first, place, strict=True)]
                i, j, k = (*place, 0)[:3]
                bits = np.random.Philox(key=key, counter=[0, number, (i << 32) | j, k])
                shape = (channels, *(BLOCK,) * len(place))
                cells = out[sample, :][(slice(None), *at)]
                cells[...] = np.random.Generator(bits).standard_normal(shape, dtype=np.float32)
        return torch.from_numpy(out[(slice(None), slice(None), *inside)].copy()).to(self.device)


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
