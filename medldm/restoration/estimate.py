"""From the measurement to the estimate: the posterior mean, with grain where that is asked for; and posterior samples.

All of it follows from one identity. The head answers ``E[x | z, y]`` and the denoiser ``E[z | z_t, y]``:
asked at the highest level, where z_t knows nothing, their composition is the posterior mean; asked at the
end of sampling, it is a posterior sample, whose spread is what the measurement leaves open.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from medldm import registry
from medldm.diffusion.noise import noise_of, sample_generator
from medldm.diffusion.predict import bind
from medldm.diffusion.samplers import Sampler
from medldm.nets.collaborative import count_blocks
from medldm.nets.head import MeasurementHead
from medldm.nets.tiling import tiles
from medldm.networks import Networks
from medldm.operators.measurement import Measurement
from medldm.restoration.memory import MAX_VOXELS
from medldm.restoration.settings import Settings

HALO = 32  # voxels around a tile for the head; beyond, its influence is small (tests/test_restore.py)
GRAIN = 0.2  # share of the error's deviation that perceptual mode adds as noise (docs/decisions/0026-perceptual.md)
_WAYS = 2  # the image and its mirror image
OnStep = Callable[[int, int, "Tensor | None"], None]


def estimate(
    networks: Networks, head: MeasurementHead, measurement: Measurement, settings: Settings, on_step: OnStep
) -> tuple[Tensor, Tensor]:
    """Image and deviation of its error, (1, 1, *S) each; with several samples, their spread joins the deviation.

    In perceptual mode the posterior mean has white noise of a share of its error's deviation: a mean is smoother than a
    scan, most where it knows least, and this little noise of the same place and size looks more like one.

    `on_step(done, total, estimate)` may raise to cancel; it gets decoded estimates where there is a preview, else None.
    """
    sampler: Sampler = registry.find("samplers", settings.sampler)  # an unknown one is refused in any case
    if settings.samples == 1:
        image, std = posterior_mean(networks, head, measurement, on_step)
        return _with_grain(image, std, settings), std * math.hypot(1, GRAIN * settings.texture())
    images, variances = [], []
    for index in range(settings.samples):

        def counted(done: int, total: int, x: Tensor | None, before: int = index) -> None:
            on_step(before * total + done, settings.samples * total, x)

        image, std = posterior_sample(
            networks,
            head,
            measurement,
            steps=settings.steps,
            sampler=sampler,
            generator=sample_generator(settings.seed, index),
            on_step=counted,
            decode_steps=settings.preview is not None,
        )
        images.append(image)
        variances.append(std.square())
    spread = (torch.stack(variances).mean(0) + torch.stack(images).var(0)).sqrt()
    image, std = posterior_mean(networks, head, measurement, lambda done, total, x: None)
    return _with_grain(image, std, settings), spread * math.hypot(1, GRAIN * settings.texture())


def _with_grain(image: Tensor, std: Tensor, settings: Settings) -> Tensor:
    share = GRAIN * settings.texture()
    return image + share * std * noise_of(sample_generator(settings.seed, 0))(image) if share else image


def posterior_mean(
    networks: Networks, head: MeasurementHead, measurement: Measurement, on_step: OnStep
) -> tuple[Tensor, Tensor]:
    """``E[x | y]`` and the deviation of its error: (1, 1, *S) each; two evaluations of the denoiser.

    A head that comes after another one is given the other's mean, and what patches that look alike make of it
    (docs/decisions/0022-collaborative.md).

    The borders of the latents' blocks show in what is decoded. With blocks that lie half a block further on they are
    elsewhere, and in the mean of both they are faint (docs/decisions/0019-blocks.md).
    """
    decoded = _decoded(networks, measurement)
    half = [f // 2 for f in networks.autoencoder.factor]
    if any(half) and all(n > h for n, h in zip(decoded.shape[2:], half, strict=True)):
        further = _decoded(networks, measurement.on_image(lambda field: _moved(field, half)))
        whole = (slice(None), slice(None))
        first = tuple(slice(0, n - h) for n, h in zip(decoded.shape[2:], half, strict=True))
        last = tuple(slice(h, n) for n, h in zip(decoded.shape[2:], half, strict=True))
        decoded[(*whole, *first)] = (decoded[(*whole, *first)] + further[(*whole, *last)]) / 2
    level, total = torch.ones(len(decoded), device=decoded.device), 1 + _WAYS
    if head.after is not None:
        total += 1 + count_blocks(decoded.shape[2:]) + _WAYS
    done = itertools.count(1)
    on_step(next(done), total, decoded)

    def part() -> None:
        on_step(next(done), total, None)

    def pilot(first: MeasurementHead, decoded: Tensor, measurement: Measurement) -> Tensor:
        image, _ = merge_both_ways(first, decoded, measurement, level, part)
        on_step(next(done), total, image)
        return image

    decoded, measurement = networks.before(head.after, decoded, measurement, pilot, part)
    return merge_both_ways(head, decoded, measurement, level, part)


def _decoded(networks: Networks, measurement: Measurement) -> Tensor:
    z = networks.denoiser.posterior_mean(networks.condition(measurement), networks.autoencoder.channels)
    return networks.autoencoder.decode(z)


def _moved(field: Tensor, by: Sequence[int]) -> Tensor:
    """The image further on along each axis, what is in front of it mirrored; its far end is lost."""
    for axis, step in enumerate(by, start=2):
        front = field.narrow(axis, 0, step).flip(axis)
        field = torch.cat([front, field.narrow(axis, 0, field.shape[axis] - step)], dim=axis)
    return field


def merge_both_ways(
    head: MeasurementHead,
    decoded: Tensor,
    measurement: Measurement,
    level: Tensor,
    on_way: Callable[[], None],
) -> tuple[Tensor, Tensor]:
    """Mean of the head's answers for the image and its mirror image, which it was trained on alike.

    What it answers one way and not the other is its own error. The deviation is that of a single
    answer, so an upper bound for their mean's.
    """
    images, variances = torch.zeros_like(decoded), torch.zeros_like(decoded)
    flips: tuple[tuple[int, ...], ...] = ((), tuple(range(2, decoded.ndim)))
    for flip in flips:
        turned = measurement.on_image(lambda t, flip=flip: t.flip(flip))  # type: ignore[misc]
        image, std = merge_by_tiles(head, decoded.flip(flip), turned, level)
        images += image.flip(flip) / len(flips)
        variances += std.square().flip(flip) / len(flips)
        on_way()
    return images, variances.sqrt()


def posterior_sample(
    networks: Networks,
    head: MeasurementHead,
    measurement: Measurement,
    *,
    steps: int,
    sampler: Sampler,
    generator: torch.Generator,
    on_step: OnStep,
    decode_steps: bool,
) -> tuple[Tensor, Tensor]:
    """Sample the latents, then take the mean given them, by the first head.

    Returns the image and the deviation that is left, (1, 1, *S) each.
    """
    process, condition = networks.denoiser.process, networks.condition(measurement)
    assert condition.concat is not None
    told = condition.concat
    sigmas = process.sigmas(steps)
    shape = (1, networks.autoencoder.channels, *told.shape[2:])
    noise = noise_of(generator)
    x_T = sigmas[0].item() * noise(told.new_empty(shape))
    z, sigma = x_T, sigmas[0].item()
    for step in sampler(bind(networks.denoiser, condition), x_T, sigmas, noise=noise):
        z, sigma = step.x_0, step.sigma
        on_step(step.index + 1, steps, networks.autoencoder.decode(z) if decode_steps else None)
    level = process.level(torch.full((1,), sigma, device=told.device))
    if head.after is not None:
        head = networks.head(head.after)
    return merge_by_tiles(head, networks.autoencoder.decode(z), measurement, level)


def least_work(size: Sequence[int], multiple: int, halo: int, max_voxels: int) -> list[int]:
    """Length of a tile along each axis so that all tiles with their surroundings have the fewest voxels.

    Each axis is divided evenly, to a multiple of `multiple`; no tile with its surroundings has more than `max_voxels`,
    where that can be.
    """
    choices: list[list[tuple[int, int, int]]] = []
    for n in size:
        units = -(-n // multiple)
        edges = sorted({-(-units // count) * multiple for count in range(1, units + 1)})
        read = [[min(a + e + halo, n) - max(a - halo, 0) for a in range(0, n, e)] for e in edges]
        choices.append([(e, max(lengths), sum(lengths)) for e, lengths in zip(edges, read, strict=True)])
    plans = list(itertools.product(*choices))
    fitting = [plan for plan in plans if math.prod(largest for _, largest, _ in plan) <= max_voxels]
    best = min(fitting or plans[:1], key=lambda plan: math.prod(work for _, _, work in plan))
    return [edge for edge, _, _ in best]


def merge_by_tiles(
    head: MeasurementHead,
    decoded: Tensor,
    measurement: Measurement,
    level: Tensor,
    *,
    max_voxels: int = MAX_VOXELS,
) -> tuple[Tensor, Tensor]:
    """``head(decoded, measurement, level)``, in tiles where the image has more than `max_voxels`.

    The head has no norm, so a tile with its surroundings gives what the whole gives.
    """
    size = decoded.shape[2:]
    if decoded[0, 0].numel() <= max_voxels:
        image, std = head(decoded, measurement, level)
        return image, std
    halo = -(-HALO // head.multiple) * head.multiple
    edges = least_work(size, head.multiple, halo, max_voxels)
    image, std = torch.empty_like(decoded), torch.empty_like(decoded)
    every = (slice(None), slice(None))
    for outer, inner, within in tiles(size, edges, [halo] * len(size)):
        part = measurement.on_image(lambda t, at=(*every, *outer): t[at])  # type: ignore[misc]
        tile, tile_std = head(decoded[(*every, *outer)], part, level)
        image[(*every, *inner)] = tile[(*every, *within)]
        std[(*every, *inner)] = tile_std[(*every, *within)]
    return image, std
