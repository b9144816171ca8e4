"""The training loop on Lightning Fabric: one for all stages, one process or many."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, cast

import torch
from lightning_fabric import Fabric
from lightning_fabric.wrappers import _FabricModule, _FabricOptimizer
from torch import Tensor

from medldm.errors import RunError
from medldm.recipe import StageTable
from medldm.training.average import WeightAverage
from medldm.training.batches import Batch
from medldm.training.sharding import gathered, is_divided, make_whole, scatter_optimizer_state
from medldm.training.stages import Stage

Progress = Callable[[str, int, int], None]
REPORT_STEPS = 20
MOST_SKIPPED = 20


def learning_rate(step: int, table: StageTable) -> float:
    """Linear warm-up over 2 % of the steps, then a cosine down to 2 % of the peak."""
    warm = max(10, table.steps // 50)
    if step < warm:
        return table.lr * (step + 1) / warm
    return table.lr * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, table.steps - warm))))


@dataclass
class Hooks:
    """What the loop tells the outside: progress, scalars, checkpoints (at most so often), a smaller batch."""

    progress: Progress | None
    scalars: Callable[[str, dict[str, float], int], None]
    checkpoint: Callable[[dict[str, Any]], None]
    checkpoint_seconds: float
    note: Callable[[str], None]


def _out_of_memory(failure: RuntimeError) -> bool:
    text = str(failure)
    return isinstance(failure, torch.OutOfMemoryError) or "DefaultCPUAllocator" in text or "not enough memory" in text


class PartwiseGradients:
    """Gradients of a batch, in parts that fit the memory: a part is halved until it does."""

    def __init__(self, name: str, fabric: Fabric, module: _FabricModule, note: Callable[[str], None]) -> None:
        self.name, self.fabric, self.module, self.note = name, fabric, module, note
        self.part: int | None = None

    def of(self, batch: Batch, clear: Callable[[], None]) -> dict[str, Tensor]:
        """Accumulate the gradients of the batch's mean losses, which are returned, detached. Raises RunError."""
        while True:
            clear()
            try:
                return self._accumulate(batch)
            except RuntimeError as failure:
                if not _out_of_memory(failure):
                    raise
                size = self.part or len(batch.x)
                if size == 1 or self.fabric.world_size > 1:
                    do = "a smaller crop or network" if size == 1 else "a smaller batch_size, or more processes"
                    raise RunError(f"stage {self.name}", "out of memory", do) from None
                self.part = -(-size // 2)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            self.note(f"stage {self.name}: out of memory; going on with {self.part} examples at a time")

    def _accumulate(self, batch: Batch) -> dict[str, Tensor]:
        parts = batch.split(self.part or len(batch.x))
        total: dict[str, Tensor] = {}
        for number, part in enumerate(parts, start=1):
            share = len(part.x) / len(batch.x)
            with self.fabric.no_backward_sync(self.module, enabled=number < len(parts)):
                losses = self.module(part)
                self.fabric.backward(losses["loss"] * share)
            for key, value in losses.items():
                total[key] = total.get(key, torch.zeros_like(value.detach())) + share * value.detach()
        return total


def _culprits(stage: Stage, batch: Batch, names: Callable[[int], str]) -> str:
    """The scans whose own loss is not finite; all of the batch's where no single one is to blame."""
    with torch.no_grad():
        bad = [
            int(part.scans[0]) for part in batch.split(1) if not bool(torch.isfinite(cast(Tensor, stage(part)["loss"])))
        ]
    return "; ".join(names(n) for n in dict.fromkeys(bad or batch.scans.tolist()))


def run_stage(
    name: str,
    fabric: Fabric,
    stage: Stage,
    batches: Callable[[int], Iterable[tuple[int, Batch]]],
    scan_name: Callable[[int], str],
    table: StageTable,
    hooks: Hooks,
    precision: str,
    resume: dict[str, Any] | None,
) -> dict[str, float]:
    """Train `stage` for `table.steps` steps, then give `stage.trained` its averaged weights.

    batches : given the first step, yields (step, batch) to the last
    Returns the mean losses of the last tenth. Raises RunError, naming step and scans, at a loss or gradient that
    is not finite, before the step is taken.
    """
    first, skipped = 0, 0
    tail: dict[str, list[Tensor]] = {}
    window: dict[str, list[Tensor]] = {}
    if resume is not None:
        for learner, weights in zip(stage.learners(), resume["weights"], strict=True):
            learner.module.load_state_dict(weights)
    wrapped = fabric.setup_module(stage)  # may divide the weights: what follows is made of the divided ones
    groups = [
        {"params": list(module.parameters()), "lr_scale": scale, "betas": betas}
        for module, scale, betas in stage.learners()
    ]
    # one pass over each weight in place of ten; not where the loss scale is inside the step, or weights are divided
    fused = precision != "16-mixed" and not is_divided(stage)
    bare = torch.optim.AdamW(groups, lr=table.lr, weight_decay=1e-3, fused=fused)
    average = WeightAverage(stage.trained, table.ema)
    if resume is not None:
        average.load_state_dict(resume["average"])
        bare.load_state_dict(resume["optimizer"])
        scatter_optimizer_state(bare)
        for group in bare.param_groups:
            group["fused"] = fused
        first = resume["step"]
        window, tail = ({key: list(values) for key, values in resume[part].items()} for part in ("window", "tail"))
    optimizer = cast(_FabricOptimizer, fabric.setup_optimizers(bare))
    wrapped.train()
    partwise = PartwiseGradients(name, fabric, wrapped, hooks.note)
    saved = time.monotonic()
    for step, drawn in batches(first):
        for group in optimizer.param_groups:
            group["lr"] = group["lr_scale"] * learning_rate(step, table)
        stage.step = step
        batch = fabric.to_device(drawn)
        losses = partwise.of(batch, lambda: optimizer.zero_grad(set_to_none=True))
        norms = [
            fabric.clip_gradients(learner.module, optimizer, max_norm=table.clip, error_if_nonfinite=False)
            for learner in stage.learners()
        ]
        finite_loss = bool(torch.isfinite(losses["loss"]))
        finite = finite_loss and all(bool(torch.isfinite(cast(Tensor, norm))) for norm in norms)
        skipped = 0 if finite else skipped + 1
        may_skip = finite_loss and precision == "16-mixed" and skipped < MOST_SKIPPED  # the loss scale is too large
        if not finite and not may_skip:
            raise RunError(
                f"stage {name}, step {step}, {_culprits(stage, batch, scan_name)}",
                f"a {'gradient' if finite_loss else 'loss'} that is not finite",
                "finite numbers",
                "look at these scans, or lower lr in the recipe; the last checkpoint is intact",
            )
        optimizer.step()
        average.update()
        for key, value in losses.items():
            window.setdefault(key, []).append(value)
            if step >= table.steps * 9 // 10:
                tail.setdefault(key, []).append(value)
        if (step + 1) % REPORT_STEPS == 0:
            hooks.scalars(name, _means(fabric, window), step + 1)
            window.clear()
        if hooks.progress is not None:
            hooks.progress(name, step + 1, table.steps)
        if step + 1 == table.steps or _any_process(fabric, time.monotonic() - saved > hooks.checkpoint_seconds):
            state = {
                "step": step + 1,
                "weights": [learner.module.state_dict() for learner in stage.learners()],
                "average": average.state_dict(),
                "optimizer": optimizer.state_dict(),
                "window": _over_processes(fabric, window),
                "tail": _over_processes(fabric, tail),
            }
            hooks.checkpoint(gathered(state))
            saved = time.monotonic()
    average.copy_to_module()
    make_whole(stage)
    return _means(fabric, tail)


def _any_process(fabric: Fabric, due: bool) -> bool:
    """Whether it is due in any process: clocks differ, and all must save together."""
    if fabric.world_size == 1:
        return due
    return bool(fabric.all_reduce(torch.tensor(float(due), device=fabric.device), reduce_op="sum"))


def _means(fabric: Fabric, losses: dict[str, list[Tensor]]) -> dict[str, float]:
    """Mean over steps and processes."""
    return {key: float(values.mean()) for key, values in _over_processes(fabric, losses).items()}


def _over_processes(fabric: Fabric, losses: dict[str, list[Tensor]]) -> dict[str, Tensor]:
    """Mean over processes of each step's losses."""
    stacked = {key: torch.stack(values).float() for key, values in losses.items()}
    return cast(dict[str, Tensor], fabric.all_reduce(stacked, reduce_op="mean"))
