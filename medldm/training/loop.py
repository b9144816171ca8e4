"""The training loop on Lightning Fabric: one for all stages, one process or many."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from medldm.errors import RunError
from medldm.recipe import StageTable
from medldm.training.data import Batches
from medldm.training.stages import Stage

Progress = Callable[[str, int, int], None]
REPORT_STEPS = 20


def fastest_precision(device: torch.device) -> str:
    """bf16 where the hardware multiplies it, fp32 elsewhere."""
    if device.type == "cuda":
        return "bf16-mixed" if torch.cuda.is_bf16_supported() else "32-true"
    return "bf16-mixed" if device.type == "cpu" and torch.cpu._is_avx512_bf16_supported() else "32-true"


def learning_rate(step: int, table: StageTable) -> float:
    """Linear warm-up over 2 % of the steps, then a cosine down to 2 % of the peak."""
    warm = max(10, table.steps // 50)
    if step < warm:
        return table.lr * (step + 1) / warm
    return table.lr * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, table.steps - warm))))


def warming_average(decay: float) -> Callable[[Sequence[Tensor], Sequence[Tensor], Tensor | int], None]:
    """Exponential average whose memory grows with the run, a tenth of it, up to ``1 / (1 - decay)`` steps.

    With the full memory from the start, the average of a short run is mostly what it began with.
    """

    def average(averaged: Sequence[Tensor], current: Sequence[Tensor], count: Tensor | int) -> None:
        share = max(1 - decay, 9 / (10 + int(count)))
        for mean, value in zip(averaged, current, strict=True):
            mean.lerp_(value, share)

    return average


@dataclass
class Hooks:
    """What the loop tells the outside: progress, scalars, checkpoints, pictures."""

    progress: Progress | None
    scalars: Callable[[str, dict[str, float], int], None]
    checkpoint: Callable[[dict[str, Any]], None]
    pictures: Callable[[str, int], None]


def run_stage(
    name: str,
    fabric: Fabric,
    stage: Stage,
    batches: Batches,
    table: StageTable,
    hooks: Hooks,
    resume: dict[str, Any] | None,
) -> dict[str, float]:
    """Train `stage.trained` for `table.steps` steps, then give it its averaged weights.

    Returns the mean losses of the last tenth. Raises RunError at a loss or gradient that is not finite,
    before the step is taken.
    """
    fresh = dict(stage.trained.named_parameters())
    optimizer = torch.optim.AdamW(list(fresh.values()), lr=table.lr, weight_decay=1e-3, betas=(0.9, 0.99))
    ema = AveragedModel(stage.trained, multi_avg_fn=warming_average(table.ema), device=fabric.device)
    first = 0
    if resume is not None:
        stage.trained.load_state_dict(resume["weights"])
        ema.load_state_dict(resume["ema"])
        optimizer.load_state_dict(resume["optimizer"])
        first = resume["step"]
    wrapped, optimizer = fabric.setup(stage, optimizer)
    wrapped.train()
    tail: dict[str, list[float]] = {}
    window: dict[str, list[float]] = {}
    saved = time.monotonic()
    for step in range(first, table.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, table)
        generator = torch.Generator().manual_seed(step * 1_000_003 + batches.salt)
        batch = fabric.to_device(stage.batch(batches, step))
        losses = wrapped(generator, *batch)
        fabric.backward(losses["loss"])
        norm = torch.nn.utils.clip_grad_norm_(stage.trained.parameters(), table.clip)
        if not (torch.isfinite(losses["loss"]) and torch.isfinite(norm)):
            raise RunError(
                f"stage {name}, step {step}",
                "a loss or gradient that is not finite",
                "finite numbers",
                "lower lr in the recipe; the last checkpoint is intact",
            )
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        ema.update_parameters(stage.trained)
        for key, value in losses.items():
            window.setdefault(key, []).append(float(value.detach()))
            if step >= table.steps * 9 // 10:
                tail.setdefault(key, []).append(float(value.detach()))
        if (step + 1) % REPORT_STEPS == 0:
            hooks.scalars(name, {k: sum(v) / len(v) for k, v in window.items()}, step + 1)
            window.clear()
        if hooks.progress is not None:
            hooks.progress(name, step + 1, table.steps)
        if time.monotonic() - saved > batches.recipe.checkpoint_seconds or step + 1 == table.steps:
            hooks.checkpoint(
                {
                    "step": step + 1,
                    "weights": stage.trained.state_dict(),
                    "ema": ema.state_dict(),
                    "optimizer": optimizer.state_dict(),
                }
            )
            hooks.pictures(name, step + 1)
            saved = time.monotonic()
    stage.trained.load_state_dict(ema.module.state_dict())
    return {key: sum(values) / len(values) for key, values in tail.items()}
