"""Few steps: a level learns to reach in one what its teacher reached in several (Salimans and Ho 2022, in one leap).

The teacher walks from noise to an image in many steps, and where it is at the student's few noise levels is kept. From
each of these the student learns to step right onto the next: an Euler step with its estimate leads there. It begins
with the teacher's weights, which are nearly right for such steps already, and errors count by a pseudo-Huber distance
(Lee et al. 2024).
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from medldm.diffusion.cascade import Guidance, levels_of, sample_level
from medldm.diffusion.generator import Coarse, Generator
from medldm.diffusion.noise import PerSample
from medldm.diffusion.samplers import Step, dpmpp_2m
from medldm.io.atomic import write_whole
from medldm.nets.autoencoder import Autoencoder
from medldm.networks import Networks
from medldm.stage_tables import TrajectoryStage as TrajectoryTable
from medldm.training.batches import Batch, Batches
from medldm.training.losses import pseudo_huber
from medldm.training.stages import Stage, some_dropped
from medldm.training.whole_images import whole_batch

STEP_SEED, DROP_SEED = 1 << 40, 1 << 41  # tell the numbers of a step, and of what is not said, from a trajectory's own


class TrajectoryStage(Stage):
    """A level of the cascade on the ways of its teacher, which is the level as it was.

    Those of a batch lie in a file of `folder`; their conditions, coarser images and noise follow from its number.
    """

    def __init__(self, networks: Networks, table: TrajectoryTable, folder: Path | None) -> None:
        super().__init__(networks.generator(table.level))
        self.table, self.folder = table, folder
        self.autoencoder = networks.autoencoder.requires_grad_(False)

    @property
    def generator(self) -> Generator:
        return cast(Generator, self.trained)

    def batch(self, batches: Batches, step: int) -> Batch:
        """The ways of a file, each file once before any comes again; `x` are the states, (B, steps, C, *S)."""
        files = self.table.files
        turn = np.random.default_rng([batches.recipe.seed, batches.salt, step // files])
        number = int(turn.permutation(files)[step % files])
        drawn = _asked(batches, number, self.table)
        if self.folder is None:  # a look at what a step costs
            few = len(levels_of(self.generator, None)) - 1
            x = drawn.x.to(self.autoencoder.latent_mean)
            return drawn._replace(x=torch.stack([self.autoencoder.encode(x)[0]] * few, dim=1))
        states = np.load(_file(self.folder, number))[batches.rank :: batches.world]
        return drawn._replace(x=torch.from_numpy(states))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        x_T, coarse = _noise(self.generator, batch, batch.x[:, 0])
        states = torch.cat([x_T[:, None], batch.x], dim=1)
        sigmas = levels_of(self.generator, None).to(states)
        own = PerSample([seed ^ (STEP_SEED + self.step) for seed in batch.seeds], states.device)
        at = (own.uniform() * (len(sigmas) - 1)).long()
        each = torch.arange(len(states), device=states.device)
        here, there = states[each, at], states[each, at + 1]
        sigma, after = (s.view(-1, *(1,) * (here.ndim - 1)) for s in (sigmas[at], sigmas[at + 1]))
        goal = (sigma * there - after * here) / (sigma - after)  # an Euler step with it leads there
        assert batch.conditions is not None
        estimate = self.trained(here, sigmas[at], batch.conditions, coarse, batch.where)
        return {"loss": pseudo_huber((estimate - goal) * (1 + sigma) / sigma).mean()}


def _asked(batches: Batches, number: int, table: TrajectoryTable) -> Batch:
    """Images of the training set, for their conditions, of which some are not said, and their coarser images."""
    drawn = whole_batch(batches, number, table.as_generator())
    assert drawn.conditions is not None
    own = PerSample([seed ^ DROP_SEED for seed in drawn.seeds], drawn.x.device)
    return drawn._replace(conditions=some_dropped(drawn.conditions, own, table.drop))


def _noise(generator: Generator, batch: Batch, like: Tensor) -> tuple[Tensor, Coarse | None]:
    """What a way begins with: noise at the highest level, and the coarser image as sampling spoils it."""
    own = PerSample(batch.seeds, like.device)
    x_T = generator.denoiser.process.sigma_max * own.normal(like.shape[1:])
    if batch.coarse is None:
        return x_T, None
    std = torch.full((len(batch.coarse),), generator.table.sampled_noise, device=like.device)
    noise = own.normal(batch.coarse.shape[1:])
    return x_T, Coarse(batch.coarse + generator.table.sampled_noise * noise, std)


def _file(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}.npy"


def between(sigmas: Tensor, substeps: int, last: float) -> tuple[Tensor, list[int]]:
    """A teacher's levels for a student's, and which of its steps end at the student's.

    sigmas : (n + 1,) falling to 0; each step is divided into `substeps`, evenly in the logarithm, the last one down to
        the level `last` before 0
    """
    levels: list[float] = []
    ends = []
    for a, b in zip(sigmas.tolist(), sigmas.tolist()[1:], strict=False):
        low = b or min(last, a)
        parts = substeps if b else substeps - 1
        ramp = [a * (low / a) ** (part / max(parts, 1)) for part in range(parts + (not b))]
        levels += ramp if low < a else [a]
        ends.append(len(levels) - 1)
    return torch.tensor([*levels, 0.0], dtype=sigmas.dtype), ends


@torch.inference_mode()
def walk(
    generator: Generator, autoencoder: Autoencoder, table: TrajectoryTable, batches: Batches, folder: Path
) -> None:
    """Let the teacher walk what is not in `folder` yet, a file a batch; processes share the files. Raises OutputError.

    batches : of this process, which say its number among them; a file holds a whole batch
    """
    folder.mkdir(parents=True, exist_ok=True)
    rank, world = batches.rank, batches.world
    whole = batches.of_one_process()
    device, training = autoencoder.latent_mean.device, generator.training
    generator.eval()
    lowest = generator.table.last_sigma or generator.denoiser.process.sigma_min
    sigmas, ends = between(levels_of(generator, None), table.substeps, lowest)
    for number in range(rank, table.files, world):
        path = _file(folder, number)
        if path.exists():
            continue
        batch = _asked(whole, number, table)
        moved = batch._replace(
            x=batch.x.to(device),
            coarse=None if batch.coarse is None else batch.coarse.to(device),
        )
        assert batch.conditions is not None
        x_T, coarse = _noise(generator, moved, autoencoder.encode(moved.x)[0])
        states: list[Tensor] = []

        def keep(step: Step, states: list[Tensor] = states) -> None:
            if step.index in ends:
                states.append(step.x_t.float().cpu())

        sample_level(
            generator,
            batch.conditions.map(lambda part: part.to(device)),
            coarse,
            x_T,
            sigmas=sigmas,
            sampler=dpmpp_2m,
            guidance=Guidance(table.guidance),
            where=None if batch.where is None else batch.where.to(device),
            on_step=keep,
        )
        write_whole(path, functools.partial(np.save, arr=torch.stack(states, dim=1).numpy()))
    generator.train(training)
