"""The noise process: which levels there are, what is asked of a network at each; and the denoiser made of both."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from medldm.nets.unet import Condition

Parameterisation = Literal["edm", "noise", "clean", "velocity", "flow"]
MIN_SNR = 5.0  # Hang et al. 2023
SIGMOID_SHIFT = 2.0  # of the logarithm of the signal to noise ratio: Kingma and Gao 2023, Hoogeboom et al. 2024


@dataclass(frozen=True)
class NoiseProcess:
    """``x_t = x_0 + sigma n``, and what a denoiser was trained for; in the pack a `medldm.net_tables.ProcessTable`.

    parameterisation : what the network says, of data brought to deviation 1:
        "edm", the mixture of x_0 and noise that is best at each level (Karras et al. 2022, table 1); "noise", n (Ho et
        al. 2020); "clean", x_0; "velocity", of the variance preserving circle (Salimans and Ho 2022); "flow", n - x_0
        along the straight line ``(1 - t) x_0 + t n``, ``t = sigma / (1 + sigma)`` (rectified flow: Liu et al. 2023)
    sigma_min, sigma_max : the levels that there are, in units of the latents; beyond, nothing was learned
    sigma_data : standard deviation of the latents, one number or one a channel
    levels : how levels are drawn in training. "log_normal": log sigma is normal (log_mean, log_std), which is the
        logit-normal time of a flow (Esser et al. 2024); "log_uniform" from sigma_min to sigma_max; "time_uniform": t is
    weighting : of the loss. "even": the network's own error counts alike at all levels (EDM's); "min_snr": the error of
        x_0 counts by the signal to noise ratio, 5 at most (Hang et al. 2023); "sigmoid": of Kingma and Gao 2023
    Every network becomes the same ``E[x_0 | x_t]`` by `scalings`: samplers know nothing of its parameterisation.
    """

    parameterisation: Parameterisation = "edm"
    sigma_min: float = 0.008
    sigma_max: float = 40.0
    sigma_data: float | tuple[float, ...] = 1.0
    levels: Literal["log_normal", "log_uniform", "time_uniform"] = "log_normal"
    log_mean: float = 0.0
    log_std: float = 1.5
    weighting: Literal["even", "min_snr", "sigmoid"] = "even"

    def _data(self, sigma: Tensor) -> Tensor | float:
        """sigma_data, along the channels of a `sigma` (B, 1, ...)."""
        if isinstance(self.sigma_data, float | int):
            return float(self.sigma_data)
        return sigma.new_tensor(self.sigma_data).view(1, -1, *(1,) * (sigma.ndim - 2))

    def scalings(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """c_skip, c_out, c_in: ``E[x_0 | x_t] = c_skip x_t + c_out net(c_in x_t)``. sigma : (B, 1, ...)."""
        data = self._data(sigma)
        s = sigma / data  # of data brought to deviation 1
        norm = (s.square() + 1).sqrt()
        one = torch.ones_like(s)
        skip, out, scale = {
            "edm": (1 / norm.square(), s / norm, 1 / norm),
            "noise": (one, -s, 1 / norm),
            "clean": (0 * one, one, 1 / norm),
            "velocity": (1 / norm.square(), -s / norm, 1 / norm),
            "flow": (1 / (1 + s), -s / (1 + s), 1 / (1 + s)),
        }[self.parameterisation]
        return skip, out * data, scale / data

    def weight(self, sigma: Tensor) -> Tensor:
        """Of the squared error of x_0 in the loss, (B, 1, ...) or a number a channel."""
        data = self._data(sigma)
        ratio = (data / sigma).square()  # signal to noise
        if self.weighting == "min_snr":
            return ratio.clamp(max=MIN_SNR) / (data * torch.ones_like(sigma)).square()
        if self.weighting == "sigmoid":  # of the noise's error, which is x_0's by the ratio
            return torch.sigmoid(SIGMOID_SHIFT - torch.log(ratio)) / sigma.square()
        return 1 / self.scalings(sigma)[1].square()

    def draw(self, normal: Tensor) -> Tensor:
        """Levels for training, of standard normal numbers."""
        if self.levels == "log_normal":
            sigma = torch.exp(self.log_mean + self.log_std * normal)
        else:
            even = 0.5 * (1 + torch.erf(normal / math.sqrt(2)))
            span = math.log(self.sigma_max / self.sigma_min)
            by_log = self.sigma_min * torch.exp(span * even)
            sigma = by_log if self.levels == "log_uniform" else even / (1 - even).clamp_min(1e-6)
        return sigma.clamp(self.sigma_min, self.sigma_max)

    def level(self, sigma: Tensor) -> Tensor:
        """Position of `sigma` between sigma_min (0) and sigma_max (1) on a log scale, as the networks take it."""
        span = math.log(self.sigma_max / self.sigma_min)
        return (torch.log(sigma.clamp_min(self.sigma_min) / self.sigma_min) / span).clamp(0, 1)

    def first_std(self, sigma: float) -> float:
        """Deviation of the state that sampling begins with at `sigma`, of noise alone."""
        return sigma

    def sigmas(self, steps: int, kind: Literal["log_uniform", "karras", "time_uniform"] = "log_uniform") -> Tensor:
        """`steps` levels from sigma_max to sigma_min and a final 0: (steps + 1,), float64.

        log_uniform : evenly spaced in log sigma; karras : Karras et al. 2022, eq. 5, rho = 7; time_uniform : in a
        flow's time, down to 0, as straight ways are walked in equal steps
        """
        ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
        if kind == "karras":
            low, high = self.sigma_min ** (1 / 7), self.sigma_max ** (1 / 7)
            levels = (high + ramp * (low - high)) ** 7
        elif kind == "time_uniform":
            time = self.sigma_max / (1 + self.sigma_max) * torch.linspace(1, 0, steps + 1, dtype=torch.float64)[:-1]
            levels = time / (1 - time)
        else:
            low, high = math.log(self.sigma_min), math.log(self.sigma_max)
            levels = torch.linspace(high, low, steps, dtype=torch.float64).exp()
        return torch.cat([levels, torch.zeros(1, dtype=torch.float64)])


class Denoiser(nn.Module):
    """``E[x_0 | x_t, condition]``, whatever the network's own parameterisation."""

    def __init__(self, net: nn.Module, process: NoiseProcess) -> None:
        super().__init__()
        self.net, self.process = net, process

    def forward(self, x_t: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """x_t : (B, C, *S); sigma : (B,) -> x_0 like x_t."""
        c_skip, c_out, c_in = self.process.scalings(sigma.to(x_t).view(-1, *(1,) * (x_t.ndim - 1)))
        out: Tensor = self.net(c_in * x_t, self.process.level(sigma), condition).to(x_t.dtype)
        return c_skip * x_t + c_out * out

    def posterior_mean(self, condition: Condition, latent_channels: int) -> Tensor:
        """``E[z_0 | measurement]`` in one evaluation; the measurement is what is concatenated.

        At sigma_max the state holds nothing of the image (signal to noise below 1e-3), so 0 stands in for
        it: deterministic, and without the noise that the network would have to ignore.
        """
        told = condition.concat
        assert told is not None
        x_t = told.new_zeros(told.shape[0], latent_channels, *told.shape[2:])
        sigma = torch.full((told.shape[0],), self.process.sigma_max, device=told.device)
        mean: Tensor = self(x_t, sigma, condition)
        return mean
