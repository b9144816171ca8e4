"""The noise process: which levels there are, what is asked of a network at each; and the denoiser made of both."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class NoiseProcess:
    """``x_t = x_0 + sigma n``, and what a denoiser was trained for; stored in the pack (`medldm.pack.ProcessTable`).

    parameterisation : "edm" (Karras et al. 2022, table 1)
    sigma_min, sigma_max : the levels that there are, in units of the latents; beyond, nothing was learned
    sigma_data : standard deviation of the latents
    log_mean, log_std : of log sigma as it is drawn in training
    """

    parameterisation: Literal["edm"] = "edm"
    sigma_min: float = 0.008
    sigma_max: float = 40.0
    sigma_data: float = 1.0
    log_mean: float = 0.0
    log_std: float = 1.5

    def scalings(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """c_skip, c_out, c_in: ``E[x_0 | x_t] = c_skip x_t + c_out net(c_in x_t)``."""
        variance = sigma.square() + self.sigma_data**2
        return self.sigma_data**2 / variance, sigma * self.sigma_data / variance.sqrt(), 1 / variance.sqrt()

    def weight(self, sigma: Tensor) -> Tensor:
        """Of the squared error of x_0 in the loss: that of the network's own output is then even over the levels."""
        return (sigma.square() + self.sigma_data**2) / (sigma * self.sigma_data).square()

    def draw(self, normal: Tensor) -> Tensor:
        """Levels for training, of standard normal numbers."""
        return torch.exp(self.log_mean + self.log_std * normal).clamp(self.sigma_min, self.sigma_max)

    def level(self, sigma: Tensor) -> Tensor:
        """Position of `sigma` between sigma_min (0) and sigma_max (1) on a log scale, as the networks take it."""
        span = math.log(self.sigma_max / self.sigma_min)
        return (torch.log(sigma.clamp_min(self.sigma_min) / self.sigma_min) / span).clamp(0, 1)

    def sigmas(self, steps: int, kind: Literal["log_uniform", "karras"] = "log_uniform") -> Tensor:
        """`steps` levels from sigma_max to sigma_min and a final 0: (steps + 1,), float64.

        log_uniform : evenly spaced in log sigma; karras : Karras et al. 2022, eq. 5, rho = 7
        """
        ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
        if kind == "karras":
            low, high = self.sigma_min ** (1 / 7), self.sigma_max ** (1 / 7)
            levels = (high + ramp * (low - high)) ** 7
        else:
            low, high = math.log(self.sigma_min), math.log(self.sigma_max)
            levels = torch.linspace(high, low, steps, dtype=torch.float64).exp()
        return torch.cat([levels, torch.zeros(1, dtype=torch.float64)])


class Denoiser(nn.Module):
    """``E[x_0 | x_t, condition]``, whatever the network's own parameterisation."""

    def __init__(self, net: nn.Module, process: NoiseProcess) -> None:
        super().__init__()
        self.net, self.process = net, process

    def forward(self, x_t: Tensor, sigma: Tensor, condition: Tensor | None) -> Tensor:
        """x_t : (B, C, *S); sigma : (B,); condition : (B, channels, *S), None for synthesis -> x_0 like x_t."""
        c_skip, c_out, c_in = self.process.scalings(sigma.to(x_t).view(-1, *(1,) * (x_t.ndim - 1)))
        out: Tensor = self.net(c_in * x_t, self.process.level(sigma), condition).to(x_t.dtype)
        return c_skip * x_t + c_out * out

    def posterior_mean(self, condition: Tensor, latent_channels: int) -> Tensor:
        """``E[z_0 | measurement]`` in one evaluation.

        At sigma_max the state holds nothing of the image (signal to noise below 1e-3), so 0 stands in for
        it: deterministic, and without the noise that the network would have to ignore.
        """
        x_t = condition.new_zeros(condition.shape[0], latent_channels, *condition.shape[2:])
        sigma = torch.full((condition.shape[0],), self.process.sigma_max, device=condition.device)
        mean: Tensor = self(x_t, sigma, condition)
        return mean
