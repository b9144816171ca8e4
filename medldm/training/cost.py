"""What a training will take, measured on one batch of each stage before it begins."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from medldm.io.array_cache import ArrayCache
from medldm.networks import Networks
from medldm.operators.problem import problems_of
from medldm.recipe import Recipe
from medldm.stage_tables import StageTable, TrajectoryStage
from medldm.training.batches import Batch
from medldm.training.data import check_whole_images, load_scans
from medldm.training.parallel import alone
from medldm.training.stages import Stage, build_stage, stage_batches
from medldm.training.trajectories import TrajectoryStage as Trajectories

ADAM_BYTES = 4 * 4  # of a learning number: its gradient, two moments, its running mean


@dataclass(frozen=True)
class StageCost:
    """Of one stage: steps, seconds a step and in all, bytes at its peak (weights, optimiser, what backward needs)."""

    name: str
    steps: int
    step_seconds: float
    memory_bytes: int

    @property
    def seconds(self) -> float:
        return self.steps * self.step_seconds


def _activation_bytes(stage: Stage, batch: Batch) -> int:
    """Bytes that a forward keeps for backward; each storage is counted once, weights not at all."""
    weights = {p.untyped_storage().data_ptr() for p in stage.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        losses = stage(batch)
    del losses
    return sum(kept.values())


def _cost(name: str, stage: Stage, batch: Batch, table: StageTable) -> StageCost:
    stage.eval()  # nothing is learned here: a codebook would
    stage.step = table.steps - 1  # by then every term has set in
    activations = _activation_bytes(stage, batch)
    seconds = []
    for _ in range(2):  # the first pays for what is set up once
        start = time.perf_counter()
        stage(batch)["loss"].backward()
        seconds.append(time.perf_counter() - start)
    stage.zero_grad(set_to_none=True)
    weights = sum(p.numel() * p.element_size() for p in stage.parameters())
    learning = sum(p.numel() for learner in stage.learners() for p in learner.module.parameters())
    return StageCost(name, table.steps, seconds[-1], activations + weights + learning * ADAM_BYTES)


def estimate(recipe: Recipe, *, data: Path, device: str | None = None, cache: Path | None = None) -> list[StageCost]:
    """Time and memory of each stage that has steps, beside the scans themselves.

    One batch of each stage is computed; nothing is written but the scans, where a training has a `cache` for them.
    Raises what reading the scans raises.
    """
    fabric, _ = alone(device, recipe.precision, recipe.pack.dims)
    scans = load_scans(recipe, data, cache=None if cache is None else ArrayCache(cache))
    check_whole_images(recipe, scans)
    networks, problems = Networks(recipe.pack).to(fabric.device), problems_of(recipe.pack)
    costs = []
    for number, table in enumerate(recipe.stages):
        if table.steps == 0:
            continue
        if isinstance(table, TrajectoryStage):
            stage: Stage = Trajectories(networks, table, None)
        else:
            stage = build_stage(table, networks, problems)
        drawn = stage.batch(stage_batches(recipe, scans, number, problems), 0)
        with fabric.autocast():
            costs.append(_cost(table.name, stage, fabric.to_device(drawn), table))
    return costs
