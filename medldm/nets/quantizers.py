"""Rounding of latents to a finite set of codes (VQ-regularised latent diffusion, Rombach et al. 2022).

MONAI's codebook dies (its unused entries are thrown far away by the first step and never come back), so there are
two of our own: levels that need no codebook, and a codebook whose unused entries are put back where the data are.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Quantizer(nn.Module, ABC):
    """Latents (B, C, *S) -> what they are rounded to, and a loss (a number); gradients pass straight through."""

    size: int  # how many codes there are

    @abstractmethod
    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]: ...

    @abstractmethod
    def codes(self, z: Tensor) -> Tensor:
        """Number of the code of each cell: (B, *S), 0 to size - 1."""


class FiniteLevels(Quantizer):
    """Finite scalar quantisation (Mentzer et al. 2023): each channel is squashed and rounded to its own levels.

    levels : how many a channel, each >= 2; their product is the number of codes
    The squashing is the normal distribution's, so that white latents use all levels alike.
    """

    def __init__(self, levels: Sequence[int]) -> None:
        super().__init__()
        self.levels = tuple(levels)
        self.size = math.prod(self.levels)

    def _grid(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Uniform position in (0, levels) and the level that it falls into."""
        levels = torch.tensor(self.levels, device=z.device, dtype=torch.float32).view(1, -1, *(1,) * (z.ndim - 2))
        place = torch.special.ndtr(z.float()) * levels
        return place, torch.minimum(place.floor(), levels - 1), levels

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        _, level, levels = self._grid(z)
        rounded = torch.special.ndtri((level + 0.5) / levels)
        bound = torch.special.ndtri(1 - 0.5 / levels)  # beyond the outermost codes there is nothing to learn from
        inside = torch.minimum(torch.maximum(z.float(), -bound), bound)
        return rounded.detach() + (inside - inside.detach()), z.new_zeros(())

    def codes(self, z: Tensor) -> Tensor:
        _, level, _ = self._grid(z)
        number = torch.zeros_like(level[:, 0])
        for channel, count in enumerate(self.levels):
            number = number * count + level[:, channel]
        return number.long()


class Codebook(Quantizer):
    """A codebook learned by running means (van den Oord et al. 2017, appendix A), with restarts.

    An entry used less than `restart_below` times a step on average is put where a latent of the batch is. The
    commitment loss keeps the encoder near its code. Begins at the first batch's latents.
    """

    entries: Tensor
    usage: Tensor
    total: Tensor
    begun: Tensor

    def __init__(
        self,
        channels: int,
        size: int,
        *,
        decay: float = 0.99,
        commitment: float = 0.25,
        restart_below: float = 0.05,
    ) -> None:
        super().__init__()
        self.size, self.decay, self.commitment, self.restart_below = size, decay, commitment, restart_below
        self.register_buffer("entries", torch.zeros(size, channels))
        self.register_buffer("usage", torch.ones(size))
        self.register_buffer("total", torch.zeros(size, channels))
        self.register_buffer("begun", torch.zeros(()))

    def _nearest(self, flat: Tensor) -> Tensor:
        parts = flat.split(16384)  # a distance to every code, for so many cells at once
        return torch.cat([torch.cdist(part, self.entries).argmin(1) for part in parts])

    def codes(self, z: Tensor) -> Tensor:
        flat = z.float().movedim(1, -1)
        return self._nearest(flat.reshape(-1, flat.shape[-1])).view(flat.shape[:-1])

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(z.device.type, enabled=False):  # distances in half precision choose wrongly
            cells = z.float().movedim(1, -1)
            flat = cells.reshape(-1, cells.shape[-1])
            if self.training:
                self._begin(flat.detach())
            index = self._nearest(flat.detach())
            rounded = self.entries[index].view(cells.shape).movedim(-1, 1)
            loss = self.commitment * (z.float() - rounded).square().mean()
            out = rounded + (z.float() - z.float().detach())  # exactly the code, with the gradient of z
            if self.training:
                self._update(flat.detach(), index)
        return out, loss

    @torch.no_grad()
    def _begin(self, flat: Tensor) -> None:
        if self.begun.item():
            return
        self.entries.copy_(self._drawn(flat, self.size))
        self.total.copy_(self.entries)
        self.begun.fill_(1)

    @torch.no_grad()
    def _update(self, flat: Tensor, index: Tensor) -> None:
        count = torch.bincount(index, minlength=self.size).to(flat)
        summed = torch.zeros_like(self.entries).index_add_(0, index, flat)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(count)
            torch.distributed.all_reduce(summed)
        self.usage.lerp_(count, 1 - self.decay)
        self.total.lerp_(summed, 1 - self.decay)
        dead = (self.usage < self.restart_below).nonzero().flatten()
        if len(dead):
            self.total[dead] = self._drawn(flat, len(dead))
            self.usage[dead] = 1
        self.entries.copy_(self.total / self.usage.unsqueeze(1))

    def _drawn(self, flat: Tensor, count: int) -> Tensor:
        """`count` latents of the batch, the same on every rank."""
        generator = torch.Generator().manual_seed(int(flat.shape[0]) * 7919 + count)
        chosen = torch.randint(len(flat), (count,), generator=generator).to(flat.device)
        drawn = flat[chosen].contiguous()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.broadcast(drawn, 0)
        return drawn
