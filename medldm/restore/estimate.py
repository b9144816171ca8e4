"""From the measurement to the estimate: posterior mean, posterior sample, or a point between them.

All of it follows from one identity. The head answers ``E[x | z, y]`` and the denoiser ``E[z | z_t, y]``:
asked at the highest level, where z_t knows nothing, their composition is the posterior mean; asked at the
end of sampling, it is a posterior sample; and the mean over samples is the posterior mean again.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from medldm.diffusion.samplers import Sampler
from medldm.diffusion.schedule import SIGMA_MAX, level_of, log_uniform_sigmas
from medldm.model import Networks
from medldm.nets.conditioning import Measurement
from medldm.nets.head import MeasurementHead
from medldm.restore.tiles import merge_by_tiles

_WAYS = 2  # the image and its mirror image


def sample_generator(seed: int, index: int) -> torch.Generator:
    """A sample's own generator: it depends on (seed, index), not on what is sampled beside it."""
    return torch.Generator().manual_seed((seed * 1_000_003 + index * 7_919 + 17) % 2**63)


OnStep = Callable[[int, int, "Tensor | None"], None]


def posterior_mean(networks: Networks, measurement: Measurement, on_step: OnStep) -> tuple[Tensor, Tensor]:
    """``E[x | y]`` and the deviation of its error: (1, 1, *S) each; one evaluation of the denoiser."""
    cond = measurement.to_latent_condition(networks.autoencoder)
    z = networks.denoiser.posterior_mean(cond, networks.autoencoder.channels)
    decoded = networks.autoencoder.decode(z)
    on_step(1, 1 + _WAYS, decoded)
    level = level_of(torch.full((len(z),), SIGMA_MAX, device=z.device))
    return merge_both_ways(networks.head_for(measurement), decoded, measurement, level, on_step)


def merge_both_ways(
    head: MeasurementHead, decoded: Tensor, measurement: Measurement, level: Tensor, on_step: OnStep
) -> tuple[Tensor, Tensor]:
    """Mean of the head's answers for the image and its mirror image, which it was trained on alike.

    What it answers one way and not the other is its own error. The deviation is that of a single
    answer, so an upper bound for their mean's.
    """
    images, variances = torch.zeros_like(decoded), torch.zeros_like(decoded)
    flips: tuple[tuple[int, ...], ...] = ((), tuple(range(2, decoded.ndim)))
    for done, flip in enumerate(flips, start=2):
        turned = measurement.on_image(lambda t, flip=flip: t.flip(flip))  # type: ignore[misc]
        image, std = merge_by_tiles(head, decoded.flip(flip), turned, level)
        images += image.flip(flip) / len(flips)
        variances += std.square().flip(flip) / len(flips)
        on_step(done, 1 + _WAYS, None)
    return images, variances.sqrt()


def posterior_sample(
    networks: Networks,
    measurement: Measurement,
    *,
    depth: float,
    steps: int,
    sampler: Sampler,
    generator: torch.Generator,
    on_step: OnStep,
    decode_steps: bool,
) -> tuple[Tensor, Tensor]:
    """Sample the latents down to the share `depth` (0..1) of the way, then take the mean given them.

    Returns the image and the deviation that is left, (1, 1, *S) each. `on_step(done, total, estimate)` may raise
    to cancel; it gets the decoded estimate of each step with `decode_steps`, else None.
    """
    cond = measurement.to_latent_condition(networks.autoencoder)
    sigmas = log_uniform_sigmas(steps)
    shape = (1, networks.autoencoder.channels, *cond.shape[2:])
    x_T = sigmas[0].item() * torch.randn(shape, generator=generator).to(cond)

    def predict_x0(x_t: Tensor, sigma: float) -> Tensor:
        x_0: Tensor = networks.denoiser(x_t, torch.full((1,), sigma, device=x_t.device), cond)
        return x_0

    stop = 1.0 - depth
    z, level = x_T, torch.ones(1, device=cond.device)
    for step in sampler(predict_x0, x_T, sigmas, generator=generator):
        on_step(step.index + 1, step.total, networks.autoencoder.decode(step.x_0) if decode_steps else None)
        z, level = step.x_0, level_of(torch.full((1,), step.sigma, device=cond.device))
        if float(level) <= stop:
            break
    return merge_by_tiles(networks.head_for(measurement), networks.autoencoder.decode(z), measurement, level)
