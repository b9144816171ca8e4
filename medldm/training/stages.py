"""What each stage trains and minimises. A stage is a module whose forward takes a batch and returns its losses.

Each loss is a mean over examples, so that a batch may be divided among processes or into parts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from medldm.diffusion.generator import Coarse, Generator
from medldm.diffusion.noise import PerSample
from medldm.errors import RecipeError
from medldm.io.array_cache import ArrayCache
from medldm.nets.blocks import channels_last
from medldm.nets.conditioner import Conditions
from medldm.networks import Networks
from medldm.operators.measurement import Measurement
from medldm.operators.problem import Problem
from medldm.recipe import Recipe
from medldm.stage_tables import AutoencoderStage as AutoencoderTable
from medldm.stage_tables import DenoiserStage as DenoiserTable
from medldm.stage_tables import GeneratorStage as GeneratorTable
from medldm.stage_tables import HeadStage as HeadTable
from medldm.stage_tables import StageTable
from medldm.training.batches import Batch, Batches
from medldm.training.latents import KeptLatents
from medldm.training.losses import Adversary, PerceptualDistance, lost_gradient, spectral_distance
from medldm.training.scan import Scan
from medldm.training.whole_images import whole_batch

ADVERSARIAL_BETAS = (0.5, 0.99)  # a game has no use for a long memory of gradients (Radford et al. 2016)


def _per_example(values: Tensor, like: Tensor) -> Tensor:
    """(B,) -> (B, 1, 1, ...)."""
    return values.view(-1, *(1,) * (like.ndim - 1))


class Learner(NamedTuple):
    """A module that learns: its share of the stage's learning rate, and AdamW's betas for it."""

    module: nn.Module
    lr_scale: float = 1.0
    betas: tuple[float, float] = (0.9, 0.99)


class Stage(nn.Module, ABC):
    """A network in training. What else it needs is its module only where it computes: processes share each module's
    gradients, and one that has none would keep them waiting.

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

    validated = False  # whether the weights that do best on held-out scans are kept, not the last ones


class AutoencoderStage(Stage):
    """The reconstruction's error, with the latents' noise, in the terms that `table` weighs."""

    def __init__(self, networks: Networks, table: AutoencoderTable) -> None:
        super().__init__(networks.autoencoder)
        self.autoencoder, self.table = networks.autoencoder, table.reconstruction
        self.perceptual = PerceptualDistance().requires_grad_(False) if self.table.perceptual else None
        rival = self.table.adversary
        self.adversary = (
            Adversary(networks.autoencoder.dims, rival, table.steps) if rival is not None and rival.weight else None
        )

    def learners(self) -> list[Learner]:
        if self.adversary is None:
            return super().learners()
        return [*super().learners(), Learner(self.adversary, self.adversary.table.lr, ADVERSARIAL_BETAS)]

    def batch(self, batches: Batches, step: int) -> Batch:
        return batches.images(step)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        own = PerSample(batch.seeds, batch.x.device)
        mean, std = self.autoencoder.encode(batch.x)
        z = mean + std * own.normal(mean.shape[1:])
        rounded, commitment = self.autoencoder.quantize(z)
        image = self.autoencoder.raw_decode(rounded)
        error = (image - batch.x).square().flatten(1).mean(1)
        drift = (mean.square().flatten(1).mean(1) - 1).clamp_min(0)
        terms = {"l2": error, "drift": drift} | self._further_terms(image, batch.x, mean, std, own)
        weights = self.table.model_dump()
        loss = torch.stack([weights[name] * term.mean() for name, term in terms.items()]).sum() + commitment
        shown = {name: term.detach().mean() for name, term in terms.items() if name not in ("l2", "drift")}
        if self.adversary is not None:
            against, more = self.adversary(self.step, loss, image, batch.x, self.autoencoder.last_weight)
            loss, shown = loss + against, shown | more
        return {"loss": loss, "psnr": -10 * torch.log10(error.detach().mean()), **shown}

    def _further_terms(self, image: Tensor, x: Tensor, mean: Tensor, std: Tensor, own: PerSample) -> dict[str, Tensor]:
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
            places = own.uniform((3, table.slices)) if x.ndim == 5 else None
            terms["perceptual"] = self.perceptual(image, x, places)
        return terms


class DenoiserStage(Stage):
    """Denoising in the latent space, with the measurement.

    White latents count alike what is plain to see and what is hardly there; each channel's error is therefore
    weighted by its deviation in the image.
    """

    def __init__(self, networks: Networks, table: DenoiserTable) -> None:
        super().__init__(networks.denoiser)
        self.table, self.condition, self.process = table, networks.condition, networks.denoiser.process
        self.autoencoder = networks.autoencoder.requires_grad_(False)

    def batch(self, batches: Batches, step: int) -> Batch:
        return batches.restoration(step)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        own, process = PerSample(batch.seeds, batch.x.device), self.process
        assert batch.measurement is not None
        with torch.no_grad():
            mean, std = self.autoencoder.encode(batch.x)
            z = mean + std * own.normal(mean.shape[1:])
            condition = self.condition(batch.measurement)
        sigma = process.draw(own.normal())
        noise = own.normal(z.shape[1:])
        x_t = z + _per_example(sigma, z) * noise
        x_t, sigma = _some_ask_the_mean(x_t, sigma, own, self.table.mean_share, process.sigma_max)
        error = (self.trained(x_t, sigma, condition) - z).square()
        weight = process.weight(_per_example(sigma, z))
        loss = (self.autoencoder.channel_weights() * weight * error).mean()
        return {"loss": loss, batch.problem: loss.detach()}


class GeneratorStage(Stage):
    """A level of the cascade on the latents of whole images, their mean; conditions are dropped example by example, so
    that the network knows what is likely with and without each. Channels count by what they carry, as in restoration.

    cache : keeps the latents of images that come again and again, as those that nothing moves do
    """

    validated = True

    def __init__(self, networks: Networks, table: GeneratorTable, cache: ArrayCache | None = None) -> None:
        generator = networks.generator(table.level)
        guide = generator.guide if table.guide else None
        super().__init__(generator if guide is None else guide)
        self.table, self.level, self.process = table, generator.table, generator.denoiser.process
        self.own, self.guess = generator.own, generator.guess
        self.autoencoder = networks.autoencoder.requires_grad_(False)
        still = not (table.shift or table.zoom or table.stretch or table.bend or table.crop)
        self.encoder = KeptLatents(cache, networks.autoencoder) if still else networks.autoencoder

    def batch(self, batches: Batches, step: int) -> Batch:
        return whole_batch(batches, step, self.table)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        own, process = PerSample(batch.seeds, batch.x.device), self.process
        assert batch.conditions is not None
        coarse = None
        if batch.coarse is not None:
            low, high = self.level.coarse_noise
            noise_std = low + (high - low) * own.uniform()
            noise = own.normal(batch.coarse.shape[1:])
            coarse = Coarse(batch.coarse + _per_example(noise_std, noise) * noise, noise_std)
        with torch.no_grad():
            z = self.own(self.encoder.encode(batch.x)[0], self.guess(self.autoencoder, coarse))
        asked = some_dropped(batch.conditions, own, self.table.drop) if self.training else batch.conditions
        sigma = process.draw(own.normal())
        x_t = z + _per_example(sigma, z) * own.normal(z.shape[1:])
        error = (self.trained(x_t, sigma, asked, coarse, batch.where) - z).square()
        return {"loss": (self._channel_weights() * process.weight(_per_example(sigma, z)) * error).mean()}

    def _channel_weights(self) -> Tensor:
        """Deviation of the image that a channel of the level's latents carries, of mean 1."""
        own = cast(Generator, self.trained).latent_std
        carried = self.autoencoder.channel_weights() * self.autoencoder.per_channel(own)
        return carried / carried.mean()


def some_dropped(asked: Conditions, own: PerSample, share: float) -> Conditions:
    """Each condition by itself, and all of them, are not said of a share of the examples."""
    every = own.uniform() >= share
    return asked.dropped({name: every & (own.uniform() >= share) for name in asked.present})


def _some_ask_the_mean(
    x_t: Tensor, sigma: Tensor, own: PerSample, share: float, sigma_max: float
) -> tuple[Tensor, Tensor]:
    """A share of the examples asks for the posterior mean: nothing of the image in x_t, which is 0, at sigma_max."""
    asks = own.uniform() < share
    sigma = torch.where(asks, torch.full_like(sigma, sigma_max), sigma)
    return torch.where(_per_example(asks, x_t), torch.zeros_like(x_t), x_t), sigma


class HeadStage(Stage):
    """Merging: squared error of the image, and likelihood of the predicted deviation of that error.

    Where a part was not measured, what counts lies in it. A head that comes after another one learns from its posterior
    means.
    """

    def __init__(self, networks: Networks, table: HeadTable, problems: Mapping[str, Problem]) -> None:
        super().__init__(networks.head(table.head))
        self.table, self.problems, self.condition = table, problems, networks.condition
        self.autoencoder = networks.autoencoder.requires_grad_(False)
        self.denoiser = networks.denoiser.requires_grad_(False)
        self.after, self.before = networks.head(table.head).after, networks.before
        if self.after is not None:
            networks.head(self.after).requires_grad_(False)

    def batch(self, batches: Batches, step: int) -> Batch:
        return batches.restoration(step)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        x, measurement, own = batch.x, batch.measurement, PerSample(batch.seeds, batch.x.device)
        assert measurement is not None
        process = self.denoiser.process
        with torch.no_grad():
            condition = self.condition(measurement)
            z, _ = self.autoencoder.encode(x)
            sigma = process.draw(own.normal())
            x_t = z + _per_example(sigma, z) * own.normal(z.shape[1:])
            share = self.table.mean_share if self.after is None else 1.0
            x_t, sigma = _some_ask_the_mean(x_t, sigma, own, share, process.sigma_max)
            level = process.level(sigma)
            decoded = self.autoencoder.decode(self.denoiser(x_t, sigma, condition))
            decoded, measurement = self.before(
                self.after, decoded, measurement, lambda first, image, told: first(image, told, level)[0]
            )
        image, std = self.trained(decoded, measurement, level)
        error = (image - x).square()
        weight = self.problems[batch.problem].error_weight(x, measurement)
        fidelity = (weight * _mean(error, measurement)).mean()
        variance = std.square() + 1e-8
        likelihood = _mean(error.detach() / variance + torch.log(variance), measurement).mean()
        return {
            "loss": fidelity + self.table.likelihood * likelihood,
            "fidelity": fidelity.detach(),
            "likelihood": likelihood.detach(),
        }


def _mean(values: Tensor, measurement: Measurement) -> Tensor:
    """Over the voxels of each example that count: (B,)."""
    if measurement.missing is None:
        return values.flatten(1).mean(1)
    inside = measurement.missing.flatten(1)
    return (inside * values.flatten(1)).sum(1) / inside.sum(1).clamp_min(1)


def stage_batches(
    recipe: Recipe,
    scans: Sequence[Scan],
    number: int,
    problems: Mapping[str, Problem],
    *,
    rank: int = 0,
    world: int = 1,
) -> Batches:
    """The batches of a recipe's stage, or this process's share. Raises RecipeError where they cannot be shared."""
    table = recipe.stages[number]
    if table.batch_size % world:
        where = f"stage.{number}.batch_size"
        raise RecipeError(where, str(table.batch_size), f"a multiple of {world} processes")
    flips = table.train not in ("denoiser", "generator")
    return Batches(scans, recipe, table, problems, salt=100 * number, all_flips=flips, rank=rank, world=world)


def build_stage(
    table: StageTable, networks: Networks, problems: Mapping[str, Problem], cache: ArrayCache | None = None
) -> Stage:
    """The stage with everything else frozen, laid out in memory for a fast training; `cache` keeps latents."""
    networks.requires_grad_(True)
    for part in (networks.autoencoder, networks.heads):
        channels_last(part, networks.autoencoder.dims)
    if isinstance(table, AutoencoderTable):
        return AutoencoderStage(networks, table)
    if isinstance(table, DenoiserTable):
        return DenoiserStage(networks, table)
    if isinstance(table, GeneratorTable):
        return GeneratorStage(networks, table, cache)
    if isinstance(table, HeadTable):
        return HeadStage(networks, table, problems)
    raise TypeError(f"{table.name} is built by medldm.training.trajectories")
