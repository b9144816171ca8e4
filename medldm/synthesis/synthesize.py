"""New scans from noise: sample the latents without a measurement, decode, give them a geometry."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from medldm import registry
from medldm.diffusion.schedule import log_uniform_sigmas
from medldm.errors import InputError
from medldm.geometry import Geometry
from medldm.model import Model
from medldm.restore.estimate import sample_generator
from medldm.restore.restore import versions
from medldm.volume import AI_PROCESSED, RESEARCH_USE, Volume

Progress = Callable[[str, int, int], None]
_DIRECTIONS = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}


def synthesis_geometry(model: Model) -> Geometry:
    """The grid of synthetic scans, its centre at the world's origin."""
    recipe = model.recipe
    affine = np.eye(4)
    if recipe.dims == 2:
        affine[:3, :3] = np.diag([-recipe.spacing[0], -recipe.spacing[1], recipe.spacing[2]])
    else:
        affine[:3, :3] = 0
        for axis, code in enumerate(recipe.axcodes or "RAS"):
            world, sign = _DIRECTIONS[code]
            affine[world, axis] = sign * recipe.spacing[axis]
    affine[:3, 3] = -affine[:3, :3] @ (np.array(recipe.synthesis_shape) - 1) / 2
    return Geometry(affine, recipe.synthesis_shape)


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
    return _scans(model, n, seed, steps, sampler, progress)


@torch.inference_mode()
def _scans(
    model: Model, n: int, seed: int, steps: int, sampler: str, progress: Progress | None
) -> Iterator[Volume]:
    recipe, networks = model.recipe, model.networks
    run = registry.find("samplers", sampler)
    sizes = zip(recipe.synthesis_shape[: recipe.dims], recipe.multiple, recipe.latent_factor, strict=True)
    shape = (1, recipe.autoencoder.channels, *(-(-s // m) * m // f for s, m, f in sizes))
    sigmas = log_uniform_sigmas(steps)
    low, high = 0.0, (255.0 if recipe.synthesis_unit == "grey8" else np.inf)

    def predict_x0(x_t: Tensor, sigma: float) -> Tensor:
        x_0: Tensor = networks.denoiser(x_t, torch.full((1,), sigma, device=model.device), None)
        return x_0

    for index in range(n):
        x_T = sigmas[0].item() * torch.randn(shape, generator=sample_generator(seed, index)).to(model.device)
        z = x_T
        for step in run(predict_x0, x_T, sigmas):
            z = step.x_t
            if progress is not None:
                progress("synthesize", index * step.total + step.index + 1, n * step.total)
        image = networks.autoencoder.decode(z)[0, 0].float().cpu().numpy()
        image = image[..., None] if recipe.dims == 2 else image
        image = image[tuple(slice(0, s) for s in recipe.synthesis_shape)] * recipe.synthesis_scale
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
        yield Volume(
            np.clip(image, low, high).astype(np.float32),
            synthesis_geometry(model),
            recipe.synthesis_unit,
            recipe.modality[0],
            (history,),
        )
