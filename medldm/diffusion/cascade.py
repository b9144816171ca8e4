"""Whole images from noise: level by level of a cascade, each under the same conditions."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from medldm.diffusion.generator import Coarse, Generator, coarsened
from medldm.diffusion.noise import FieldNoise
from medldm.diffusion.predict import Box, bind, guided, tiled
from medldm.diffusion.process import Denoiser
from medldm.diffusion.samplers import Noise, PredictX0, Sampler, Step, ddim
from medldm.nets.autoencoder import Autoencoder
from medldm.nets.conditioner import Conditions
from medldm.nets.unet import Condition

HALO = 4  # latent cells around a tile, at least: half are blended, half are context alone
Wrap = Callable[[Generator, Tensor | None, PredictX0], PredictX0]
OnStep = Callable[[int, int, "Callable[[], Tensor] | None"], None]


@dataclass(frozen=True)
class Guidance:
    """How much further than the conditional estimate to go, away from the one without conditions; 1 is not at all.

    scale : for all conditions together; each : for single ones, by name
    interval : noise levels that are guided; high ones lose diversity, low ones nothing (Kynkäänniemi et al. 2024)
    own : whether levels are guided by what their packs bring for it, too
    """

    scale: float = 1.0
    each: Mapping[str, float] = field(default_factory=dict)
    interval: tuple[float, float] = (0.0, float("inf"))
    own: bool = True


@dataclass(frozen=True)
class Like:
    """Images (B, 1, *S) in the model's range that are varied: hidden in noise of deviation `sigma`, which leaves what
    is coarse, and sampled from there (SDEdit: Meng et al. 2022)."""

    image: Tensor
    sigma: float


def sample_cascade(
    autoencoder: Autoencoder,
    generators: Sequence[Generator],
    asked: Conditions,
    noise: FieldNoise,
    size: Sequence[int],
    *,
    steps: int | None,
    sampler: Sampler,
    guidance: Guidance,
    on_step: OnStep,
    coarser: Tensor | None = None,
    where: Tensor | None = None,
    wrap: Wrap = lambda generator, guess, predict: predict,
    like: Like | None = None,
) -> Tensor:
    """Images (B, 1, *S) in the model's range, of `size` voxels; the i-th depends on the i-th of `noise` alone.

    coarser : the image of the level before the first of `generators`, if that is not the cascade's first
    where : of parts of images, and a single level, where their cells lie (`Generator.where`)
    wrap : what else is to be true of each level's estimates
    like : what every level begins with, instead of noise alone
    on_step(done, total, preview) : within a step, too, where it is computed in parts; may raise to cancel
    """
    image = coarser
    for number, generator in enumerate(generators):
        coarse = None
        if image is not None:
            std = generator.table.sampled_noise
            coarse = Coarse(image + std * noise.next(image), torch.full((len(image),), std, device=image.device))
        cells = [n // (f * generator.table.coarsen) for n, f in zip(size, autoencoder.factor, strict=True)]
        process, highest = generator.denoiser.process, None if like is None else like.sigma
        first = levels_of(generator, steps, highest)[0].item()
        x_T = noise.next(generator.latent_mean.new_empty(len(noise), autoencoder.channels, *cells))
        x_T = x_T * (process.first_std(first) if like is None else first)
        guess = generator.guess(autoencoder, coarse)
        if like is not None:
            z = autoencoder.encode(coarsened(like.image, generator.table.coarsen))[0]
            x_T = x_T + generator.own(z, guess)

        def told(step: Step, before: int = number, level: Generator = generator, guess: Tensor | None = guess) -> None:
            def preview() -> Tensor:
                return autoencoder.decode(level.of_autoencoder(step.x_0, guess))

            on_step(before * step.total + step.index + 1, len(generators) * step.total, preview)

        z = sample_level(
            generator,
            asked,
            coarse,
            x_T,
            steps=steps,
            sampler=sampler,
            guidance=guidance,
            noise=noise.next,
            on_step=told,
            wrap=functools.partial(wrap, generator, guess),
            highest=highest,
            where=where,
        )
        image = autoencoder.decode(generator.of_autoencoder(z, guess))
    assert image is not None
    return image


def sample_level(
    generator: Generator,
    asked: Conditions,
    coarse: Coarse | None,
    x_T: Tensor,
    *,
    steps: int | None = None,
    sampler: Sampler,
    guidance: Guidance,
    noise: Noise = torch.randn_like,
    on_step: Callable[[Step], None] = lambda step: None,
    wrap: Callable[[PredictX0], PredictX0] = lambda predict: predict,
    highest: float | None = None,
    where: Tensor | None = None,
    sigmas: Tensor | None = None,
) -> Tensor:
    """Latents in the level's units, from noise x_T at the highest level, alike (B, C, *S).

    steps : None: as many as the level was distilled for, without guidance, which its teacher had; else as the pack says
    highest : the level at which x_T is, and what is above is left out; None: the process's
    where : of parts of images, where their cells lie (`Generator.where`)
    sigmas : other levels than those of the steps
    """
    cells, denoiser = x_T.shape[2:], generator.denoiser
    few = generator.table.distilled if steps is None and sigmas is None else None
    variants = [(asked, 0.0)]
    if guidance.scale != 1:
        variants.append((asked.without(), guidance.scale - 1))
    variants += [(asked.without(name), scale - 1) for name, scale in guidance.each.items() if scale != 1]
    where = generator.where(cells) if where is None else where
    told = [(generator.condition(which, coarse, where), by) for which, by in variants]

    guide = generator.guide if guidance.own and few is None else None
    weak, own = None if guide is None else guide.condition(asked, coarse, where), generator.table.guide

    def estimator(box: Box | None) -> PredictX0:
        def of(network: Denoiser, condition: Condition) -> PredictX0:
            return bind(network, condition if box is None else _cut(condition, box, cells))

        inside = [of(denoiser, condition) for condition, _ in told]
        pulls = [(predict, by) for predict, (_, by) in zip(inside[1:], told[1:], strict=True)]
        predict = guided(inside[0], pulls, guidance.interval)
        if guide is None or weak is None or own is None:
            return predict
        return guided(predict, [(of(guide.denoiser, weak), own.scale - 1)], (own.lowest_sigma, math.inf))

    tile = generator.table.tile
    if tile is not None and any(n > t for n, t in zip(cells, tile, strict=True)):
        unit = generator.table.unet.multiple  # of which the network takes a multiple
        halo = -(-HALO // unit) * unit
        edge = [max(unit, (t - 2 * halo) // unit * unit) for t in tile]
        predict = tiled(estimator, cells, edge, [halo] * len(cells))
    else:
        predict = estimator(None)
    x, levels = x_T, levels_of(generator, steps, highest) if sigmas is None else sigmas
    for step in (sampler if few is None else ddim)(wrap(predict), x_T, levels, noise=noise):
        x = step.x_t
        on_step(step)
    return x


def levels_of(generator: Generator, steps: int | None, highest: float | None = None) -> Tensor:
    """The noise levels of a level's steps, falling to 0 from the `highest`, at most.

    Where `steps` are not said, they are those that it was distilled for.
    """
    process, distilled, last = generator.denoiser.process, generator.table.distilled, generator.table.last_sigma
    if steps is None and distilled is not None:
        sigmas = process.sigmas(distilled.steps, "time_uniform")
    else:
        sampled = process if last is None else replace(process, sigma_min=last)
        sigmas = sampled.sigmas(steps or generator.table.steps)
    if highest is None or highest >= sigmas[0]:
        return sigmas
    return torch.cat([sigmas.new_tensor([highest]), sigmas[sigmas < highest]])


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
