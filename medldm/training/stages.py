"""What each stage minimises. A stage is a module whose forward takes a batch and returns its losses."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from medldm.diffusion.schedule import SIGMA_MAX, SIGMA_MIN, level_of
from medldm.model import Networks
from medldm.nets.conditioning import Measurement
from medldm.nets.head import MeasurementHead
from medldm.training.data import Batches

MEAN_SHARE = 0.4
HEAD_MEAN_SHARE = 0.8
LOG_SIGMA_MEAN, LOG_SIGMA_STD = 0.0, 1.5
SYNTHESIS_EVERY = 2


def _log_normal_sigmas(count: int, generator: torch.Generator, device: torch.device) -> Tensor:
    sigma = torch.exp(LOG_SIGMA_MEAN + LOG_SIGMA_STD * torch.randn(count, generator=generator))
    return sigma.clamp(SIGMA_MIN, SIGMA_MAX).to(device)


class AutoencoderStage(nn.Module):
    """Mean squared error of the reconstruction, with the latents' noise."""

    def __init__(self, networks: Networks) -> None:
        super().__init__()
        self.trained = networks.autoencoder

    def batch(self, batches: Batches, step: int) -> tuple[Tensor]:
        return (batches.images(step),)

    def forward(self, generator: torch.Generator, x: Tensor) -> dict[str, Tensor]:
        mean, std = self.trained.encode(x)
        z = mean + std * torch.randn(mean.shape, generator=generator).to(mean)
        error = (self.trained.decode(z) - x).square().mean()
        drift = (mean.square().mean() - 1).clamp_min(0)
        return {"loss": 1000 * (error + 1e-4 * drift), "psnr": -10 * torch.log10(error.detach())}


class DenoiserStage(nn.Module):
    """Denoising in the latent space, with the measurement, and every second step without (synthesis).

    White latents count alike what is plain to see and what is hardly there; each channel's error is therefore
    weighted by its deviation in the image.

    A share of the examples asks for the posterior mean: nothing of the image in x_t, which is 0.
    """

    def __init__(self, networks: Networks) -> None:
        super().__init__()
        self.trained = networks.denoiser
        self.autoencoder = networks.autoencoder.requires_grad_(False)

    def batch(self, batches: Batches, step: int) -> tuple[Tensor, Measurement | None]:
        if step % SYNTHESIS_EVERY == SYNTHESIS_EVERY - 1 and batches.synthesis:
            voxels = batches.stage.batch_size * math.prod(batches.stage.crop)
            size = math.prod(batches.recipe.synthesis_shape)
            return batches.whole(step, max(1, round(voxels / size))), None
        return batches.restoration(step)

    def forward(self, generator: torch.Generator, x: Tensor, measurement: Measurement | None) -> dict[str, Tensor]:
        with torch.no_grad():
            mean, std = self.autoencoder.encode(x)
            z = mean + std * torch.randn(mean.shape, generator=generator).to(mean)
            cond = None if measurement is None else measurement.to_latent_condition(self.autoencoder)
        sigma = _log_normal_sigmas(len(z), generator, z.device)
        noise = torch.randn(z.shape, generator=generator).to(z)
        spread = sigma.view(-1, *(1,) * (z.ndim - 1))
        x_t = z + spread * noise
        if measurement is not None:
            asks_mean = (torch.rand(len(z), generator=generator) < MEAN_SHARE).to(z.device)
            sigma = torch.where(asks_mean, torch.full_like(sigma, SIGMA_MAX), sigma)
            spread = sigma.view(spread.shape)
            x_t = torch.where(asks_mean.view(spread.shape), torch.zeros_like(x_t), x_t)
        error = (self.trained(x_t, sigma, cond) - z).square()
        weight = (spread.square() + 1) / spread.square()
        name = "synthesis" if measurement is None else "restoration"
        loss = (self.autoencoder.channel_weights() * weight * error).mean()
        return {"loss": loss, name: loss.detach()}


def error_weight(measurement: Measurement) -> Tensor:
    """Inverse of the mean squared error to expect, so that each noise level counts alike: (B,).

    The exponent is that of block-matching denoisers on chest radiographs: error ~ noise_std^0.58.
    """
    denoising = (measurement.noise_std.clamp_min(0.004) / 0.1) ** -1.16
    coarsest = measurement.factor.amax(1)
    interpolation = torch.where(coarsest > 2.5, 1.0, 2.0) / (1 + measurement.noise_std / 0.05)
    return torch.where(coarsest > 1, interpolation, denoising)


class HeadStage(nn.Module):
    """Merging: squared error of the image, and likelihood of the predicted deviation of that error."""

    def __init__(self, networks: Networks, head: MeasurementHead) -> None:
        super().__init__()
        self.trained = head
        self.autoencoder = networks.autoencoder.requires_grad_(False)
        self.denoiser = networks.denoiser.requires_grad_(False)

    def batch(self, batches: Batches, step: int) -> tuple[Tensor, Measurement]:
        return batches.restoration(step)

    def forward(self, generator: torch.Generator, x: Tensor, measurement: Measurement) -> dict[str, Tensor]:
        with torch.no_grad():
            cond = measurement.to_latent_condition(self.autoencoder)
            z, _ = self.autoencoder.encode(x)
            sigma = _log_normal_sigmas(len(z), generator, z.device)
            x_t = z + sigma.view(-1, *(1,) * (z.ndim - 1)) * torch.randn(z.shape, generator=generator).to(z)
            asks_mean = torch.rand(len(z), generator=generator).to(z.device) < HEAD_MEAN_SHARE
            sigma = torch.where(asks_mean, torch.full_like(sigma, SIGMA_MAX), sigma)
            x_t = torch.where(asks_mean.view(-1, *(1,) * (z.ndim - 1)), torch.zeros_like(x_t), x_t)
            decoded = self.autoencoder.decode(self.denoiser(x_t, sigma, cond))
        image, std = self.trained(decoded, measurement, level_of(sigma))
        error = (image - x).square()
        weight = error_weight(measurement).view(-1, *(1,) * (x.ndim - 1))
        fidelity = (weight * error).mean() * 2000
        variance = std.square() + 1e-8
        likelihood = (error.detach() / variance + torch.log(variance)).mean()
        return {
            "loss": fidelity + 0.02 * likelihood,
            "fidelity": fidelity.detach(),
            "likelihood": likelihood.detach(),
        }


Stage = AutoencoderStage | DenoiserStage | HeadStage
