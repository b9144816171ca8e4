"""Train an autoencoder alone for so many CPU seconds, by the loop of `medldm train` itself.

The clock is the processor time of this process, so that what else runs on the machine takes nothing of the budget. It
begins before the linear start and stops with the last step; building the network and a few steps of warm-up on a copy
that is thrown away come before.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from medldm.model import Model
from medldm.networks import Networks
from medldm.recipe import Recipe
from medldm.training.batches import Batch
from medldm.training.latents import begin_from_data
from medldm.training.loop import Hooks, run_stage
from medldm.training.parallel import start_fabric
from medldm.training.scan import Scan
from medldm.training.stages import build_stage, stage_batches

WARM_UP_STEPS = 3
WHOLE = 10_000  # what the loop is told to be the number of steps

Clock = Callable[[], float]


@dataclass(frozen=True, eq=False)
class Trained:
    """A model whose autoencoder was trained; its latents have no statistics yet (reconstructions need none).

    steps : taken; seconds : of CPU, linear start included; start_seconds : of the linear start alone
    """

    model: Model
    steps: int
    seconds: float
    start_seconds: float


def train_autoencoder(
    recipe: Recipe, scans: Sequence[Scan], seconds: float, clock: Clock = time.process_time
) -> Trained:
    """Train the recipe's autoencoder for `seconds` of CPU; 0 leaves it as the data set it.

    The last step is the one that the budget ends in. The learning rate follows the share of the budget that is spent:
    the loop is told that, in units of a `WHOLE`-th, in place of the number of the step.
    """
    if seconds > 0:
        _train(recipe, scans, None, clock)
    return _train(recipe, scans, seconds, clock)


def _train(recipe: Recipe, scans: Sequence[Scan], seconds: float | None, clock: Clock) -> Trained:
    """seconds : None for the warm-up"""
    fabric, precision = start_fabric("cpu", recipe.precision, recipe.pack.dims)
    torch.manual_seed(recipe.seed)
    networks = Networks(recipe.pack)
    table = recipe.stages[0].model_copy(update={"steps": WHOLE})
    begun, steps = clock(), 0
    batches = stage_batches(recipe, scans, 0, {})
    begin_from_data(networks.autoencoder, batches)
    start_seconds = clock() - begun
    stage = build_stage(table, networks, {})

    def spent() -> float:
        """Share of what the linear start left."""
        if seconds is None:
            return steps / WARM_UP_STEPS
        left = seconds - start_seconds
        return (clock() - begun - start_seconds) / left if left > 0 else 1.0

    def until_spent(_: int) -> Iterator[tuple[int, Batch]]:
        nonlocal steps
        while (share := spent()) < 1:
            yield int(WHOLE * share), stage.batch(batches, steps)
            steps += 1

    hooks = Hooks(None, lambda *_: None, lambda _: None, float("inf"), lambda _: None)
    run_stage(table.name, fabric, stage, until_spent, str, table, hooks, precision, None)
    taken = clock() - begun
    networks.eval()
    return Trained(Model(recipe.pack.name, networks, recipe.pack, "", ""), steps, taken, start_seconds)
