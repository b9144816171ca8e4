"""Few steps: a generator learns the straight way from the noise to what it makes of it (reflow: Liu et al. 2023).

A teacher's samples are pairs of noise and latents. On the straight line between the two of a pair there is one answer
at each point, not a mean over many, so that a few large steps arrive where many small ones did. Times near both ends of
the line are drawn more often, and errors count by a pseudo-Huber distance (Lee et al. 2024).
"""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medldm.diffusion.cascade import Guidance, sample_level
from medldm.diffusion.generator import Coarse, Generator
from medldm.diffusion.noise import PerSample
from medldm.diffusion.samplers import dpmpp_2m
from medldm.errors import OutputError
from medldm.io.atomic import write_whole
from medldm.nets.autoencoder import Autoencoder
from medldm.networks import Networks
from medldm.stage_tables import ReflowStage as ReflowTable
from medldm.training.batches import Batch, Batches
from medldm.training.losses import pseudo_huber
from medldm.training.stages import Stage
from medldm.training.whole_images import whole_batch

U_SHAPE = 4.0  # density of times: exp(4 t) + exp(-4 t) about the middle
STEP_SEED = 1 << 40  # tells the numbers of a pair's steps from those of the pair


class ReflowStage(Stage):
    """A level of the cascade on pairs of noise and what the level, as it was, made of it.

    The pairs of a batch lie in a file of `folder`; their conditions, coarser images and noise follow from its number.
    """

    def __init__(self, networks: Networks, table: ReflowTable, folder: Path | None) -> None:
        super().__init__(networks.generator(table.level))
        self.table, self.folder = table, folder
        self.autoencoder = networks.autoencoder.requires_grad_(False)

    @property
    def generator(self) -> Generator:
        return cast(Generator, self.trained)

    def batch(self, batches: Batches, step: int) -> Batch:
        """The pairs of a file, each file once before any comes again; the latents are `x`."""
        files = self.table.files
        turn = np.random.default_rng([batches.recipe.seed, batches.salt, step // files])
        number = int(turn.permutation(files)[step % files])
        drawn = whole_batch(batches, number, self.table.as_generator())
        if self.folder is None:  # a look at what a step costs
            return drawn._replace(x=self.autoencoder.encode(drawn.x)[0])
        made = np.load(_file(self.folder, number))[batches.rank :: batches.world]
        return drawn._replace(x=torch.from_numpy(made))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        x_0 = batch.x
        x_T, coarse = _noise(self.generator, batch, x_0)
        own = PerSample([seed ^ (STEP_SEED + self.step) for seed in batch.seeds], x_0.device)
        process = self.generator.denoiser.process
        least, most = (sigma / (1 + sigma) for sigma in (process.sigma_min, process.sigma_max))
        time = (least + (most - least) * _u_shaped(own.uniform())).view(-1, *(1,) * (x_0.ndim - 1))
        noise = x_T / process.sigma_max
        x_t = x_0 + time / (1 - time) * noise
        assert batch.conditions is not None
        sigma = (time / (1 - time)).flatten()
        velocity_error = (self.trained(x_t, sigma, batch.conditions, coarse, batch.where) - x_0) / time
        return {"loss": pseudo_huber(velocity_error).mean()}


def _u_shaped(even: Tensor) -> Tensor:
    """Numbers from 0 to 1, even ones turned into those of the density exp(a t) + exp(-a t) about the middle."""
    a = U_SHAPE
    return 0.5 + torch.asinh((2 * even - 1) * math.sinh(a / 2)) / a


def _noise(generator: Generator, batch: Batch, like: Tensor) -> tuple[Tensor, Coarse | None]:
    """What a pair begins with: noise at the highest level, and the coarser image as sampling spoils it."""
    own = PerSample(batch.seeds, like.device)
    x_T = generator.denoiser.process.sigma_max * own.normal(like.shape[1:])
    if batch.coarse is None:
        return x_T, None
    std = torch.full((len(batch.coarse),), generator.table.sampled_noise, device=like.device)
    noise = own.normal(batch.coarse.shape[1:])
    return x_T, Coarse(batch.coarse + generator.table.sampled_noise * noise, std)


def _file(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}.npy"


@torch.inference_mode()
def make_pairs(
    generator: Generator, autoencoder: Autoencoder, table: ReflowTable, batches: Batches, folder: Path
) -> None:
    """Let the teacher draw what is not in `folder` yet, a file a batch; processes share the files. Raises OutputError.

    batches : of this process, which say its number among them; a file holds a whole batch
    """
    folder.mkdir(parents=True, exist_ok=True)
    rank, world = batches.rank, batches.world
    whole = batches.of_one_process()
    device, training = autoencoder.latent_mean.device, generator.training
    generator.eval()
    for number in range(rank, table.files, world):
        path = _file(folder, number)
        if path.exists():
            continue
        batch = whole_batch(whole, number, table.as_generator())
        moved = batch._replace(
            x=batch.x.to(device),
            coarse=None if batch.coarse is None else batch.coarse.to(device),
        )
        assert batch.conditions is not None
        x_T, coarse = _noise(generator, moved, autoencoder.encode(moved.x)[0])
        made = sample_level(
            generator,
            batch.conditions.map(lambda part: part.to(device)),
            coarse,
            x_T,
            steps=table.teacher_steps,
            sampler=dpmpp_2m,
            guidance=Guidance(table.guidance),
            where=None if batch.where is None else batch.where.to(device),
        )
        array = made.float().cpu().numpy()
        write_whole(path, functools.partial(_save, array))
    generator.train(training)


def _save(array: NDArray[np.float32], path: Path) -> None:
    try:
        with path.open("wb") as handle:
            np.save(handle, array)
    except OSError as failure:
        raise OutputError(path.name, failure.strerror or "not writable", "room for the pairs") from None
