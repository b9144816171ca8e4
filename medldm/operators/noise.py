"""Noise of the measurement, in image units (never to be mixed with ``sigma``, the diffusion level)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

NoiseName = Literal["gaussian", "rician"]
MOST_NOISE_AROUND_GAPS = 0.05  # of the range: a head for gaps was shown no more


@dataclass(frozen=True)
class Gaussian:
    """``y = x + noise_std n``."""

    def sample(self, x: Tensor, noise_std: Tensor, generator: torch.Generator) -> Tensor:
        """`noise_std` broadcasts against `x`; returns a tensor like `x`."""
        return x + noise_std * torch.randn(x.shape, generator=generator)


@dataclass(frozen=True)
class Rician:
    """Magnitude of a complex signal with Gaussian noise in both parts (Gudbjartsson and Patz 1995)."""

    def sample(self, x: Tensor, noise_std: Tensor, generator: torch.Generator) -> Tensor:
        """`noise_std` is that of either part; it broadcasts against `x`; returns a tensor like `x`."""
        real = x + noise_std * torch.randn(x.shape, generator=generator)
        imaginary = noise_std * torch.randn(x.shape, generator=generator)
        return torch.sqrt(real.square() + imaginary.square())


def noise_model(name: NoiseName) -> Gaussian | Rician:
    return Rician() if name == "rician" else Gaussian()
