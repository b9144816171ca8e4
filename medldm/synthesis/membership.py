"""A model's own loss on scans: what it was trained on it may denoise better than what it never saw."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray

from medldm.diffusion.noise import noise_of, sample_generator
from medldm.diffusion.predict import bind
from medldm.errors import ModelError
from medldm.model import Model
from medldm.nets.patches import pad_to_multiple
from medldm.space import ModelSpace
from medldm.volume import Volume

SIGMAS = (0.3, 1.0, 3.0)  # between detail, which nobody remembers, and the mean image, which everybody shares
DRAWS = 2


@torch.inference_mode()
def denoising_losses(model: Model, scans: Iterable[Volume]) -> dict[str, NDArray[np.float64]]:
    """Mean squared error of the denoised latents of each scan (N,), at each of a few noise levels, by their names.

    Without any condition, as in synthesis; the noise is the same for every scan, and its `DRAWS` are averaged.
    Raises ModelError for a model that was not trained for synthesis or a scan that it does not take; InputError.
    """
    if model.pack.synthesis is None:
        raise ModelError(f"model {model.name}", "no training for synthesis", "a model that synthesizes")
    predict, networks = bind(model.networks.denoiser, None), model.networks
    found: dict[str, list[float]] = {f"noise {sigma:g}": [] for sigma in SIGMAS}
    for scan in scans:
        space = ModelSpace.of(model.pack, scan)
        turned = space.turned(scan)
        x = space.fitted(turned).image(turned)[None, None].to(model.device)
        z, _ = networks.autoencoder.encode(pad_to_multiple(x, model.pack.multiple)[0])
        for sigma, losses in zip(SIGMAS, found.values(), strict=True):
            noise = noise_of(sample_generator(0, 0))
            errors = [(predict(z + sigma * noise(z), sigma) - z).square().mean().item() for _ in range(DRAWS)]
            losses.append(float(np.mean(errors)))
    return {name: np.array(losses) for name, losses in found.items()}
