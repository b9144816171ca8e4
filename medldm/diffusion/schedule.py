"""Noise levels: tensors, nothing else."""

from __future__ import annotations

import math

import torch
from torch import Tensor

SIGMA_MIN, SIGMA_MAX = 0.008, 40.0


def karras_sigmas(
    steps: int, *, sigma_min: float = SIGMA_MIN, sigma_max: float = SIGMA_MAX, rho: float = 7.0
) -> Tensor:
    """`steps` levels from sigma_max to sigma_min and a final 0: (steps + 1,), float64 (Karras et al. 2022, eq. 5)."""
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return torch.cat([(high + ramp * (low - high)) ** rho, torch.zeros(1, dtype=torch.float64)])


def log_uniform_sigmas(steps: int, *, sigma_min: float = SIGMA_MIN, sigma_max: float = SIGMA_MAX) -> Tensor:
    """`steps` levels evenly spaced in log sigma and a final 0: (steps + 1,), float64."""
    ramp = torch.linspace(math.log(sigma_max), math.log(sigma_min), steps, dtype=torch.float64)
    return torch.cat([ramp.exp(), torch.zeros(1, dtype=torch.float64)])


def level_of(sigma: Tensor) -> Tensor:
    """Position of `sigma` between SIGMA_MIN (0) and SIGMA_MAX (1) on a log scale, as the networks take it."""
    span = math.log(SIGMA_MAX / SIGMA_MIN)
    return (torch.log(sigma.clamp_min(SIGMA_MIN) / SIGMA_MIN) / span).clamp(0, 1)
