"""Restoration by a model that was trained to synthesize alone: samples of it that agree with the measurement.

At every step of every level the estimate is decoded, moved towards what was measured, and encoded again. Any operator
will do, since nothing was trained for it. Steps draw noise of their own: without it a sample keeps what its first steps
got wrong.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from medldm import registry
from medldm.diffusion.cascade import Guidance, sample_cascade
from medldm.diffusion.generator import Generator, coarsened, padded_shape
from medldm.diffusion.noise import FieldNoise
from medldm.diffusion.predict import agreement, consistent
from medldm.diffusion.samplers import PredictX0
from medldm.errors import ModelError
from medldm.model import Model
from medldm.nets.conditioner import Conditions
from medldm.operators.operator import Operator
from medldm.restoration.settings import Settings

FEWEST = 2  # samples, so that there is a spread
OnStep = Callable[[int, int, "Tensor | None"], None]


def estimate_with_prior(
    model: Model, operator: Operator, y: Tensor, guess: Tensor, noise_std: float, settings: Settings, on_step: OnStep
) -> tuple[Tensor, Tensor]:
    """Image and deviation of its error, (1, 1, *S) each: mean and spread of posterior samples, or a sample's.

    y : (1, 1, I, J, K), what was measured, in the model's range; noise_std of it
    guess : (1, 1, *S) on the result's grid; on_step : see `medldm.restoration.estimate`
    Raises ModelError for a model that was not trained to synthesize.
    """
    pack, networks = model.pack, model.networks
    if pack.synthesis is None:
        raise ModelError(f"model {model.name}", "no training for synthesis", "a model that knows what is likely")
    shape, device = guess.shape[2:], model.device
    size = padded_shape(pack, shape)
    inside = tuple(slice((n - s) // 2, (n - s) // 2 + s) for n, s in zip(size, shape, strict=True))
    count = max(FEWEST, settings.samples)

    def towards(image: Tensor, sigma: float, coarsen: int) -> Tensor:
        fine = image
        for axis in range(2, image.ndim):
            fine = fine.repeat_interleave(coarsen, dim=axis)
        at = (slice(None), slice(None), *inside)
        part = fine[at] if image.ndim == 5 else fine[at][..., None]
        nearest = operator.project(part.cpu(), y.expand(len(part), *y.shape[1:]).cpu()).to(part)
        moved = part + agreement(sigma, noise_std) * (nearest - part)
        fine = fine.clone()
        fine[at] = moved if image.ndim == 5 else moved[..., 0]
        return coarsened(fine, coarsen)

    def wrap(generator: Generator, guess: Tensor | None, predict: PredictX0) -> PredictX0:
        return consistent(
            predict,
            lambda z: networks.autoencoder.decode(generator.of_autoencoder(z, guess)),
            lambda x: generator.own(networks.autoencoder.encode(x)[0], guess),
            lambda x, sigma: towards(x, sigma, generator.table.coarsen),
        )

    images = []
    for index in range(count):

        def told(done: int, total: int, preview: object, before: int = index) -> None:
            on_step(before * total + done, count * total, None)

        drawn = sample_cascade(
            networks.autoencoder,
            [networks.generator(number) for number in range(len(networks.generators))],
            Conditions.of(pack.synthesis.conditions, {}, size).map(lambda part: part.to(device)),
            FieldNoise([(settings.seed, index)], device),
            size,
            steps=settings.steps,
            sampler=registry.find("samplers", settings.sampler),
            guidance=Guidance(own=False),
            on_step=told,
            wrap=wrap,
        )
        images.append(drawn[(slice(None), slice(None), *inside)])
    spread = torch.cat(images).std(0, keepdim=True)
    chosen = images[0] if settings.texture() == 1 else torch.cat(images).mean(0, keepdim=True)
    return chosen, spread
