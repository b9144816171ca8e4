"""New scans from noise: sample the latents without a measurement, decode, give them a geometry."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch

from medldm import registry
from medldm.diffusion.noise import noise_of, sample_generator
from medldm.diffusion.predict import bind
from medldm.errors import InputError, ModelError
from medldm.model import Model
from medldm.pack import SynthesisTable
from medldm.restoration.restore import versions
from medldm.space import centred_geometry, to_array
from medldm.volume import AI_PROCESSED, RESEARCH_USE, Volume

Progress = Callable[[str, int, int], None]


def synthesize(
    model: Model,
    *,
    n: int,
    seed: int,
    steps: int,
    sampler: str,
    conditions: dict[str, object] | None,
    progress: Progress | None,
) -> Iterator[Volume]:
    """Yield `n` synthetic scans; the i-th depends on (seed, i) alone. Raises InputError for bad settings."""
    if n < 1 or steps < 2:
        raise InputError("synthesize", f"n={n}, steps={steps}", "n >= 1 and steps >= 2")
    if conditions:
        raise InputError("conditions", ", ".join(conditions), f"none: model {model.name} knows no conditions")
    if model.pack.synthesis is None:
        got = "no training for synthesis"
        raise ModelError(f"model {model.name}", got, "a model that synthesizes", "see medldm models")
    return _scans(model, model.pack.synthesis, n, seed, steps, sampler, progress)


@torch.inference_mode()
def _scans(
    model: Model, table: SynthesisTable, n: int, seed: int, steps: int, sampler: str, progress: Progress | None
) -> Iterator[Volume]:
    pack, networks = model.pack, model.networks
    run = registry.find("samplers", sampler)
    sizes = zip(table.shape[: pack.dims], pack.multiple, pack.latent_factor, strict=True)
    shape = (1, pack.autoencoder.channels, *(-(-s // m) * m // f for s, m, f in sizes))
    sigmas, predict_x0 = networks.denoiser.process.sigmas(steps), bind(networks.denoiser, None)
    low, high = 0.0, (255.0 if table.unit == "grey8" else np.inf)
    for index in range(n):
        noise = noise_of(sample_generator(seed, index))
        x_T = sigmas[0].item() * noise(torch.empty(shape, device=model.device))
        z = x_T
        for step in run(predict_x0, x_T, sigmas, noise=noise):
            z = step.x_t
            if progress is not None:
                progress("synthesize", index * step.total + step.index + 1, n * step.total)
        image = to_array(networks.autoencoder.decode(z), pack.dims)
        image = image[tuple(slice(0, s) for s in table.shape)] * table.scale
        history = {
            "step": "synthesize",
            "model": model.name,
            "weights_sha256": model.weights_sha256,
            "seed": seed,
            "index": index,
            "steps": steps,
            "version": versions()["medldm"],
            "synthetic": True,
            AI_PROCESSED: RESEARCH_USE,
        }
        scan, grid = np.clip(image, low, high).astype(np.float32), centred_geometry(pack, table.shape)
        yield Volume(scan, grid, table.unit, pack.trained_modality[0], (history,))
