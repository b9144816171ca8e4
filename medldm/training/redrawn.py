"""Coarser images as the level before draws them: a finer level learns to mend what sampling gets wrong.

A finer level that has seen real coarse images alone, with noise at most, takes over every fault of drawn ones. So real
ones are hidden in some noise, from which the level before draws them again: they keep their anatomy and get its faults.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medldm.diffusion.cascade import Guidance, sample_level
from medldm.diffusion.generator import Coarse, coarsened, padded_shape
from medldm.diffusion.noise import PerSample
from medldm.diffusion.samplers import dpmpp_2m
from medldm.errors import RecipeError
from medldm.io.atomic import write_whole
from medldm.nets.conditioner import Conditions
from medldm.networks import Networks
from medldm.recipe import Recipe
from medldm.space import centred
from medldm.stage_tables import GeneratorStage
from medldm.training.batches import Batches

LEAST, MOST = 0.15, 1.2  # noise that hides them, in deviations of the latents: details to ribs of a radiograph
TOGETHER = 16  # images that are drawn at once, from one noise level


class Redrawn:
    """What `redraw` left in a folder: versions of the coarser images of those that teach synthesis.

    A version is read when every process has drawn its share.
    """

    def __init__(self, count: int, folder: Path) -> None:
        self.count, self.folder = count, folder

    def of(self, position: int, rng: np.random.Generator) -> Tensor:
        """A version, any of them, of the image at a position of `Batches.whole`, (*S)."""
        version = np.load(_file(self.folder, int(rng.integers(self.count))), mmap_mode="r")
        return torch.from_numpy(np.asarray(version[position], dtype=np.float32))


def check_redraws(recipe: Recipe, *, started: bool) -> None:
    """Raises RecipeError for a level that is to be shown what an untrained level before it draws.

    started : whether the training starts from all networks of a model
    """
    trained: set[int] = set()
    for number, table in enumerate(recipe.stages):
        if not isinstance(table, GeneratorStage) or table.guide or not table.steps:
            continue
        if table.level and table.redraws and not started and table.level - 1 not in trained:
            got = f"{table.redraws}, and level {table.level - 1} is untrained"
            do = 'or --start MODEL, with the autoencoder\'s table (kind = "start" takes the autoencoder alone)'
            raise RecipeError(f"stage.{number}.redraws", got, "a stage before that trains it", do)
        trained.add(table.level)


@torch.inference_mode()
def redraw(networks: Networks, level: int, count: int, batches: Batches, folder: Path) -> None:
    """Draw what is not in `folder` yet of `count` versions of what the level before `level` is about; the processes of
    a training share them. Raises OutputError."""
    folder.mkdir(parents=True, exist_ok=True)
    training = networks.training
    networks.eval()
    for version in range(batches.rank, count, batches.world):
        path = _file(folder, version)
        if not path.exists():
            write_whole(path, functools.partial(np.save, arr=_version(networks, level - 1, version, batches)))
    networks.train(training)


def _file(folder: Path, version: int) -> Path:
    return folder / f"{version:03d}.npy"


def _version(networks: Networks, level: int, version: int, batches: Batches) -> NDArray[np.float16]:
    """Each image of those that teach synthesis once, hidden in noise and drawn again."""
    pack, autoencoder, generator = batches.pack, networks.autoencoder, networks.generator(level)
    assert pack.synthesis is not None
    size, table = padded_shape(pack, pack.synthesis.shape[: pack.dims]), generator.table
    device = autoencoder.latent_mean.device
    rng = np.random.default_rng([batches.recipe.seed, batches.salt, version])
    out: NDArray[Any] = np.zeros((len(batches.whole), *(n // table.coarsen for n in size)), np.float16)
    for at in np.array_split(rng.permutation(len(out)), -(-len(out) // TOGETHER)):
        scans = [batches.scans[batches.whole[position]] for position in at]
        image = torch.stack([centred(scan.image, size)[None] for scan in scans]).to(device)
        asked = Conditions.together(
            [
                Conditions.of(
                    pack.synthesis.conditions,
                    {k: centred(v, size) if isinstance(v, Tensor) else v for k, v in scan.conditions.items()},
                    size,
                )
                for scan in scans
            ]
        ).map(lambda part: part.to(device))
        own = PerSample([int(seed) for seed in rng.integers(1 << 62, size=len(at))], device)
        coarse = None
        if level:
            std = torch.full((len(at),), table.sampled_noise, device=device)
            small = coarsened(image, table.coarsen * generator.ratio)
            coarse = Coarse(small + table.sampled_noise * own.like(small), std)
        guess = generator.guess(autoencoder, coarse)
        z = generator.own(autoencoder.encode(coarsened(image, table.coarsen))[0], guess)
        sigma = float(LEAST * (MOST / LEAST) ** rng.random())
        drawn = sample_level(
            generator,
            asked,
            coarse,
            z + sigma * own.like(z),
            steps=table.steps,
            sampler=dpmpp_2m,
            guidance=Guidance(),
            highest=sigma,
        )
        out[at] = autoencoder.decode(generator.of_autoencoder(drawn, guess))[:, 0].float().cpu().numpy()
    return out
