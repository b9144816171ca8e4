"""The denoiser: ``E[x_0 | x_t, cond]`` whatever the network's own parameterisation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medldm.diffusion.schedule import SIGMA_MAX, level_of
from medldm.nets.unet import LatentUNet


class Denoiser(nn.Module):
    """Preconditioning of Karras et al. 2022 (table 1, sigma_data = 1) around the latent UNet."""

    def __init__(self, net: LatentUNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, x_t: Tensor, sigma: Tensor, cond: Tensor | None) -> Tensor:
        """x_t : (B, C, *S); sigma : (B,); cond : (B, condition_channels, *S), None for synthesis -> x_0 like x_t."""
        s = sigma.to(x_t).view(-1, *(1,) * (x_t.ndim - 1))
        variance = s.square() + 1
        out: Tensor = self.net(x_t / variance.sqrt(), level_of(sigma), cond).to(x_t.dtype)
        return x_t / variance + out * s / variance.sqrt()

    def posterior_mean(self, cond: Tensor, latent_channels: int) -> Tensor:
        """``E[z_0 | measurement]`` in one evaluation.

        At sigma_max the state holds nothing of the image (signal to noise below 1e-3), so 0 stands in for
        it: deterministic, and without the noise that the network would have to ignore.
        """
        x_t = cond.new_zeros(cond.shape[0], latent_channels, *cond.shape[2:])
        mean: Tensor = self(x_t, torch.full((cond.shape[0],), SIGMA_MAX, device=cond.device), cond)
        return mean
