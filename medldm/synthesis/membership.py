"""A model's own loss on scans: what it was trained on it may denoise better than what it never saw."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray

from medldm.diffusion.generator import coarsened, padded_shape
from medldm.diffusion.noise import noise_of, sample_generator
from medldm.diffusion.predict import bind
from medldm.errors import ModelError
from medldm.model import Model
from medldm.nets.conditioner import Conditions
from medldm.space import ModelSpace, centred
from medldm.volume import Volume

SIGMAS = (0.3, 1.0, 3.0)  # between detail, which nobody remembers, and the mean image, which everybody shares
DRAWS = 2


@torch.inference_mode()
def denoising_losses(model: Model, scans: Iterable[Volume]) -> dict[str, NDArray[np.float64]]:
    """Mean squared error of the denoised latents of each scan (N,), at each of a few noise levels, by their names.

    Of the cascade's first level, where anatomy is decided, without any condition; the noise is the same for every
    scan, and its `DRAWS` are averaged.
    Raises ModelError for a model that was not trained for synthesis or a scan that it does not take; InputError.
    """
    pack, networks = model.pack, model.networks
    if pack.synthesis is None:
        raise ModelError(f"model {model.name}", "no training for synthesis", "a model that synthesizes")
    generator, tables = networks.generator(0), pack.synthesis.conditions
    size = padded_shape(pack, pack.synthesis.shape[: pack.dims])
    said = Conditions.of(tables, {}, size).map(lambda part: part.to(model.device))
    predict = bind(generator.denoiser, generator.condition(said, None, generator.where(generator.cells)))
    found: dict[str, list[float]] = {f"noise {sigma:g}": [] for sigma in SIGMAS}
    for scan in scans:
        space = ModelSpace.of(pack, scan)
        turned = space.turned(scan)
        x = centred(space.fitted(turned).image(turned), size)[None, None].to(model.device)
        z = generator.own(networks.autoencoder.encode(coarsened(x, generator.table.coarsen))[0], None)
        for sigma, losses in zip(SIGMAS, found.values(), strict=True):
            noise = noise_of(sample_generator(0, 0))
            errors = [(predict(z + sigma * noise(z), sigma) - z).square().mean().item() for _ in range(DRAWS)]
            losses.append(float(np.mean(errors)))
    return {name: np.array(losses) for name, losses in found.items()}
