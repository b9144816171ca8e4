"""How latents are distributed, a channel each, gathered over scans of any size."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class LatentStatistics:
    """Of white latents, whose mean is 0 and whose deviation is 1 over the scans that they were made white on.

    mean, std, kurtosis : of each channel; the kurtosis is the excess over a normal distribution's, nan where the
        channel is constant
    largest : magnitude of its most extreme latent
    noise : deviation that the encoder gives its own latents
    correlation : of all pairs of channels; nan where one is constant
    nonfinite : numbers that are none, which are left out of all this
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    kurtosis: tuple[float, ...]
    largest: tuple[float, ...]
    noise: tuple[float, ...]
    correlation: tuple[tuple[float, ...], ...]
    nonfinite: int = 0

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form; what is not a number is None."""
        rows = [[finite(value) for value in row] for row in self.correlation]
        names = ("mean", "std", "kurtosis", "largest", "noise")
        columns = {name: [finite(value) for value in getattr(self, name)] for name in names}
        return {**columns, "correlation": rows, "nonfinite": self.nonfinite}


def finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


class LatentMoments:
    """Sums that statistics are made of, in double precision."""

    def __init__(self, channels: int) -> None:
        self.count = self.nonfinite = 0
        self.powers = torch.zeros(4, channels, dtype=torch.float64)
        self.products = torch.zeros(channels, channels, dtype=torch.float64)
        self.largest = torch.zeros(channels, dtype=torch.float64)
        self.variance = torch.zeros(channels, dtype=torch.float64)

    def add(self, mean: Tensor, std: Tensor) -> None:
        """What `Autoencoder.encode` says of a batch: (B, channels, *S), and a deviation that can be broadcast to it."""
        z, noise = (t.detach().double().cpu().movedim(1, 0).flatten(1) for t in (mean, std.expand_as(mean)))
        sound = (torch.isfinite(z) & torch.isfinite(noise)).all(0)
        self.nonfinite += int((~torch.isfinite(z)).sum() + (~torch.isfinite(noise)).sum())
        z, noise = z[:, sound], noise[:, sound]
        if not z.shape[1]:
            return
        self.count += z.shape[1]
        self.powers += torch.stack([z.pow(n).sum(1) for n in (1, 2, 3, 4)])
        self.products += z @ z.T
        self.largest = torch.maximum(self.largest, z.abs().amax(1))
        self.variance += noise.square().sum(1)

    def statistics(self) -> LatentStatistics:
        count = max(self.count, 1)
        first, second, third, fourth = self.powers / count
        variance = (second - first.square()).clamp_min(0)
        variance = torch.where(variance > 1e-12 * second, variance, 0)  # a constant, but for rounding
        central = fourth - 4 * first * third + 6 * first.square() * second - 3 * first.pow(4)
        std = variance.sqrt()
        kurtosis = torch.where(variance > 0, central / variance.square() - 3, math.nan)
        correlation = (self.products / count - torch.outer(first, first)) / torch.outer(std, std)  # nan of a constant
        return LatentStatistics(
            tuple(first.tolist()),
            tuple(std.tolist()),
            tuple(kurtosis.tolist()),
            tuple(self.largest.tolist()),
            tuple((self.variance / count).sqrt().tolist()),
            tuple(tuple(row) for row in correlation.tolist()),
            self.nonfinite,
        )
