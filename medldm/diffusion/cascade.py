"""Whole images from noise: level by level of a cascade, each under the same conditions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from medldm.diffusion.generator import Coarse, Generator
from medldm.diffusion.noise import FieldNoise
from medldm.diffusion.predict import Box, bind, guided, tiled
from medldm.diffusion.samplers import PredictX0, Sampler
from medldm.nets.autoencoder import Autoencoder
from medldm.nets.conditioner import Conditions
from medldm.nets.unet import Condition

HALO = 2  # latent cells, at least, over which tiles are blended
OnStep = Callable[[int, int, "Callable[[], Tensor] | None"], None]


@dataclass(frozen=True)
class Guidance:
    """How much further than the conditional estimate to go, away from the one without conditions; 1 is not at all.

    scale : for all conditions together; each : for single ones, by name
    interval : noise levels that are guided; high ones lose diversity, low ones nothing (Kynkäänniemi et al. 2024)
    """

    scale: float = 1.0
    each: Mapping[str, float] = field(default_factory=dict)
    interval: tuple[float, float] = (0.0, float("inf"))


def sample_cascade(
    autoencoder: Autoencoder,
    generators: Sequence[Generator],
    asked: Conditions,
    noise: FieldNoise,
    size: Sequence[int],
    *,
    steps: int,
    sampler: Sampler,
    guidance: Guidance,
    on_step: OnStep,
    coarser: Tensor | None = None,
) -> Tensor:
    """Images (B, 1, *S) in the model's range, of `size` voxels; the i-th depends on the i-th of `noise` alone.

    coarser : the image of the level before the first of `generators`, if that is not the cascade's first
    on_step(done, total, preview) : within a step, too, where it is computed in parts; may raise to cancel
    """
    image = coarser
    for number, generator in enumerate(generators):
        coarse = None
        if image is not None:
            std = generator.table.sampled_noise
            coarse = Coarse(image + std * noise.next(image), torch.full((len(image),), std, device=image.device))
        cells = [n // (f * generator.table.coarsen) for n, f in zip(size, autoencoder.factor, strict=True)]

        def told(done: int, total: int, preview: Callable[[], Tensor] | None, before: int = number) -> None:
            on_step(before * total + done, len(generators) * total, preview)

        z = _sample_level(autoencoder, generator, asked, coarse, noise, cells, steps, sampler, guidance, told)
        image = autoencoder.decode(generator.of_autoencoder(z))
    assert image is not None
    return image


def _sample_level(
    autoencoder: Autoencoder,
    generator: Generator,
    asked: Conditions,
    coarse: Coarse | None,
    noise: FieldNoise,
    cells: Sequence[int],
    steps: int,
    sampler: Sampler,
    guidance: Guidance,
    on_step: OnStep,
) -> Tensor:
    """Latents in the level's units: (B, C, *cells)."""
    denoiser = generator.denoiser
    variants = [(asked, 0.0)]
    if guidance.scale != 1:
        variants.append((asked.without(), guidance.scale - 1))
    variants += [(asked.without(name), scale - 1) for name, scale in guidance.each.items() if scale != 1]
    told = [(generator.condition(which, coarse), by) for which, by in variants]

    def estimator(box: Box | None) -> PredictX0:
        inside = [bind(denoiser, c if box is None else _cut(c, box, cells)) for c, _ in told]
        pulls = [(predict, by) for predict, (_, by) in zip(inside[1:], told[1:], strict=True)]
        return guided(inside[0], pulls, guidance.interval)

    tile = generator.table.tile
    if tile is not None and any(n > t for n, t in zip(cells, tile, strict=True)):
        unit = generator.table.unet.multiple  # of which the network takes a multiple
        halo = -(-HALO // unit) * unit
        edge = [max(unit, (t - 2 * halo) // unit * unit) for t in tile]
        predict = tiled(estimator, cells, edge, [halo] * len(cells))
    else:
        predict = estimator(None)
    sigmas = denoiser.process.sigmas(steps)
    like = generator.latent_mean.new_empty(len(noise), autoencoder.channels, *cells)
    x = denoiser.process.first_std(sigmas[0].item()) * noise.next(like)
    for step in sampler(predict, x, sigmas, noise=noise.next):
        x = step.x_t

        def preview(x_0: Tensor = step.x_0) -> Tensor:
            return autoencoder.decode(generator.of_autoencoder(x_0))

        on_step(step.index + 1, step.total, preview)
    return x


def _cut(condition: Condition, box: Box, cells: Sequence[int]) -> Condition:
    """What of a condition belongs to a tile: parts that lie on the latent grid, or on a coarser one, are cut."""

    def cut(part: Tensor) -> Tensor:
        if part.ndim != 2 + len(cells):
            return part
        places = []
        for n, whole, at in zip(part.shape[2:], cells, box, strict=True):
            ratio = whole // n
            places.append(slice(at.start // ratio, -(-at.stop // ratio)))
        return part[(slice(None), slice(None), *places)]

    return condition.map(cut)
