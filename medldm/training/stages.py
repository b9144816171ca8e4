"""What each stage minimises. A stage is a module whose forward takes a batch and returns its losses.

Each loss is a mean over examples, so that a batch may be divided among processes or into parts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from medldm.diffusion.schedule import SIGMA_MAX, SIGMA_MIN, level_of
from medldm.io.array_cache import ArrayCache
from medldm.model import Networks
from medldm.nets.conditioning import Measurement
from medldm.nets.head import MeasurementHead
from medldm.recipe import ReconstructionTable
from medldm.training.adversarial import Opponent
from medldm.training.batches import Batch, Batches
from medldm.training.draws import Draws
from medldm.training.kept_latents import KeptLatents
from medldm.training.losses import PerceptualDistance, lost_gradient, spectral_distance

MEAN_SHARE = 0.4
HEAD_MEAN_SHARE = 0.8
LOG_SIGMA_MEAN, LOG_SIGMA_STD = 0.0, 1.5
SYNTHESIS_EVERY = 2
DRIFT_WEIGHT = 0.1
ADVERSARIAL_BETAS = (0.5, 0.99)  # a game has no use for a long memory of gradients (Radford et al. 2016)


def _per_example(values: Tensor, like: Tensor) -> Tensor:
    """(B,) -> (B, 1, 1, ...)."""
    return values.view(-1, *(1,) * (like.ndim - 1))


def _log_normal_sigmas(draws: Draws) -> Tensor:
    return torch.exp(LOG_SIGMA_MEAN + LOG_SIGMA_STD * draws.normal()).clamp(SIGMA_MIN, SIGMA_MAX)


class Learner(NamedTuple):
    """A module that learns: its share of the stage's learning rate, and AdamW's betas for it."""

    module: nn.Module
    lr_scale: float = 1.0
    betas: tuple[float, float] = (0.9, 0.99)


class Stage(nn.Module, ABC):
    """A network in training.

    trained : what is kept, with its weights averaged
    step : number of the step, set by the loop
    """

    def __init__(self, trained: nn.Module) -> None:
        super().__init__()
        self.trained = trained
        self.step = 0

    def learners(self) -> list[Learner]:
        """The modules that learn."""
        return [Learner(self.trained)]

    @abstractmethod
    def batch(self, batches: Batches, step: int) -> Batch:
        """The batch of a step."""

    @abstractmethod
    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Losses, means over the examples; "loss" is what is minimised."""


class AutoencoderStage(Stage):
    """The reconstruction's error, with the latents' noise, in the terms that `table` weighs."""

    def __init__(self, networks: Networks, table: ReconstructionTable, steps: int) -> None:
        super().__init__(networks.autoencoder)
        self.code, self.table = networks.autoencoder, table
        self.perceptual = PerceptualDistance().requires_grad_(False) if table.perceptual else None
        rival = table.adversary
        self.opponent = (
            Opponent(networks.autoencoder.dims, rival, steps) if rival is not None and rival.weight else None
        )

    def learners(self) -> list[Learner]:
        if self.opponent is None:
            return super().learners()
        return [*super().learners(), Learner(self.opponent, self.opponent.table.lr, ADVERSARIAL_BETAS)]

    def batch(self, batches: Batches, step: int) -> Batch:
        return batches.images(step)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        draws = Draws(batch.seeds)
        mean, std = self.code.encode(batch.x)
        z = mean + std * draws.normal(mean.shape[1:])
        rounded, commitment = self.code.quantize(z)
        image = self.code.raw_decode(rounded)
        error = (image - batch.x).square().flatten(1).mean(1)
        drift = (mean.square().flatten(1).mean(1) - 1).clamp_min(0)
        terms = {"l2": error, "drift": drift} | self._further_terms(image, batch.x, mean, std, draws)
        weights = {"drift": DRIFT_WEIGHT} | self.table.model_dump()
        loss = torch.stack([weights[name] * term.mean() for name, term in terms.items()]).sum() + commitment
        shown = {name: term.detach().mean() for name, term in terms.items() if name not in ("l2", "drift")}
        if self.opponent is not None:
            against, more = self.opponent(self.step, loss, image, batch.x, self.code.last_weight)
            loss, shown = loss + against, shown | more
        return {"loss": loss, "psnr": -10 * torch.log10(error.detach().mean()), **shown}

    def _further_terms(self, image: Tensor, x: Tensor, mean: Tensor, std: Tensor, draws: Draws) -> dict[str, Tensor]:
        """Those that the table weighs, (B,) each."""
        table, terms = self.table, {}
        if table.l1:
            terms["l1"] = (image - x).abs().flatten(1).mean(1)
        if table.gradient:
            terms["gradient"] = lost_gradient(image, x)
        if table.spectral:
            terms["spectral"] = spectral_distance(image, x)
        if table.kl:
            divergence = 0.5 * (mean.square() + std.square() - 1 - 2 * torch.log(std))
            terms["kl"] = divergence.expand_as(mean).flatten(1).mean(1)
        if self.perceptual is not None:
            places = draws.uniform((3, table.slices)) if x.ndim == 5 else None
            terms["perceptual"] = self.perceptual(image, x, places)
        return terms


class DenoiserStage(Stage):
    """Denoising in the latent space, with the measurement, and every second step without (synthesis).

    White latents count alike what is plain to see and what is hardly there; each channel's error is therefore
    weighted by its deviation in the image.

    A share of the examples asks for the posterior mean: nothing of the image in x_t, which is 0.

    cache : keeps the latents of the whole images, which come again and again; a crop of a restoration batch, of
        random place, size and gain, and with it its measurement, never comes twice, so keeping it would be waste
    """

    def __init__(self, networks: Networks, cache: ArrayCache | None = None) -> None:
        super().__init__(networks.denoiser)
        self.autoencoder = networks.autoencoder.requires_grad_(False)
        self.whole_images = KeptLatents(cache, networks.autoencoder)

    def batch(self, batches: Batches, step: int) -> Batch:
        if step % SYNTHESIS_EVERY == SYNTHESIS_EVERY - 1 and batches.synthesis:
            return batches.whole(step)
        return batches.restoration(step)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        draws = Draws(batch.seeds)
        with torch.no_grad():
            encoder = self.whole_images if batch.measurement is None else self.autoencoder
            mean, std = encoder.encode(batch.x)
            z = mean + std * draws.normal(mean.shape[1:])
            cond = None if batch.measurement is None else batch.measurement.to_latent_condition(self.autoencoder)
        sigma = _log_normal_sigmas(draws)
        noise = draws.normal(z.shape[1:])
        x_t = z + _per_example(sigma, z) * noise
        if cond is not None:
            asks_mean = draws.uniform() < MEAN_SHARE
            sigma = torch.where(asks_mean, torch.full_like(sigma, SIGMA_MAX), sigma)
            x_t = torch.where(_per_example(asks_mean, z), torch.zeros_like(x_t), x_t)
        error = (self.trained(x_t, sigma, cond) - z).square()
        spread = _per_example(sigma, z)
        weight = (spread.square() + 1) / spread.square()
        name = "synthesis" if cond is None else "restoration"
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


class HeadStage(Stage):
    """Merging: squared error of the image, and likelihood of the predicted deviation of that error."""

    def __init__(self, networks: Networks, head: MeasurementHead) -> None:
        super().__init__(head)
        self.autoencoder = networks.autoencoder.requires_grad_(False)
        self.denoiser = networks.denoiser.requires_grad_(False)

    def batch(self, batches: Batches, step: int) -> Batch:
        return batches.restoration(step)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        x, measurement, draws = batch.x, batch.measurement, Draws(batch.seeds)
        assert measurement is not None
        with torch.no_grad():
            cond = measurement.to_latent_condition(self.autoencoder)
            z, _ = self.autoencoder.encode(x)
            sigma = _log_normal_sigmas(draws)
            x_t = z + _per_example(sigma, z) * draws.normal(z.shape[1:])
            asks_mean = draws.uniform() < HEAD_MEAN_SHARE
            sigma = torch.where(asks_mean, torch.full_like(sigma, SIGMA_MAX), sigma)
            x_t = torch.where(_per_example(asks_mean, z), torch.zeros_like(x_t), x_t)
            decoded = self.autoencoder.decode(self.denoiser(x_t, sigma, cond))
        image, std = self.trained(decoded, measurement, level_of(sigma))
        error = (image - x).square()
        fidelity = self.fidelity(error, batch)
        variance = std.square() + 1e-8
        likelihood = self.mean(error.detach() / variance + torch.log(variance), measurement).mean()
        return {
            "loss": fidelity + 0.02 * likelihood,
            "fidelity": fidelity.detach(),
            "likelihood": likelihood.detach(),
        }

    def mean(self, values: Tensor, measurement: Measurement) -> Tensor:
        """Over the voxels of each example that count: (B,)."""
        return values.flatten(1).mean(1)

    def fidelity(self, error: Tensor, batch: Batch) -> Tensor:
        """What is minimised of the squared error (B, 1, *S)."""
        assert batch.measurement is not None
        return 2000 * (error_weight(batch.measurement) * self.mean(error, batch.measurement)).mean()


class GapHeadStage(HeadStage):
    """Filling gaps: what counts lies inside them, beside the error of their interpolation."""

    def __init__(self, networks: Networks) -> None:
        assert networks.gap_head is not None
        super().__init__(networks, networks.gap_head)

    def batch(self, batches: Batches, step: int) -> Batch:
        return batches.gaps(step)

    def mean(self, values: Tensor, measurement: Measurement) -> Tensor:
        assert measurement.gap is not None
        inside = measurement.gap.flatten(1)
        return (inside * values.flatten(1)).sum(1) / inside.sum(1).clamp_min(1)

    def fidelity(self, error: Tensor, batch: Batch) -> Tensor:
        """Relative, as large gaps would drown the small ones; the floor is 40 dB."""
        assert batch.measurement is not None
        interpolated = self.mean((batch.measurement.image - batch.x).square(), batch.measurement)
        return (self.mean(error, batch.measurement) / (interpolated + 1e-4)).mean()
