"""The training loop on Lightning Fabric: one for all stages, one process or many; and the weights' mean."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from lightning_fabric import Fabric
from lightning_fabric.wrappers import _FabricModule, _FabricOptimizer
from torch import Tensor, nn

from medldm.errors import RunError
from medldm.stage_tables import StageTable
from medldm.training.batches import Batch
from medldm.training.parallel import gathered, is_divided, make_whole, scatter_optimizer_state, scattered
from medldm.training.stages import Stage

Progress = Callable[[str, int, int], None]
REPORT_STEPS = 20
MOST_SKIPPED = 20
VALIDATIONS, VALIDATION_STEPS = 50, 100  # how often at most, and how many steps lie between at least


def learning_rate(step: int, table: StageTable) -> float:
    """Linear warm-up over 2 % of the steps, then a cosine down to 2 % of the peak."""
    warm = max(10, table.steps // 50)
    if step < warm:
        return table.lr * (step + 1) / warm
    return table.lr * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, table.steps - warm))))


@dataclass
class Hooks:
    """What the loop tells the outside: progress, scalars, checkpoints (at most so often), a smaller batch.

    look : called after a checkpoint, with the weights as they would be kept
    held_out : batches of held-out scans, always the same, for stages that are validated; none: the last weights count
    patience : the stage ends after so many looks at them without a better one; 0: never before its last step
    """

    progress: Progress | None
    scalars: Callable[[str, dict[str, float], int], None]
    checkpoint: Callable[[dict[str, Any]], None]
    checkpoint_seconds: float
    note: Callable[[str], None]
    look: Callable[[int], None] = lambda step: None
    held_out: Sequence[Batch] = ()
    patience: int = 0


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
    return "; ".join(names(n) for n in dict.fromkeys(bad or batch.scans))


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
    Returns the mean losses of the last tenth, or of the last steps where held-out scans ended it. Raises RunError,
    naming step and scans, at a loss or gradient that is not finite, before the step is taken.
    """
    first, skipped = 0, 0
    window, last, tail = Means(), Means(), Means()
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
    best = Best(stage, average, hooks.held_out, table.steps, hooks.patience)
    if resume is not None:
        average.load_state_dict(resume["average"])
        best.load_state_dict(resume["best"])
        bare.load_state_dict(resume["optimizer"])
        scatter_optimizer_state(bare)
        for group in bare.param_groups:
            group["fused"] = fused
        first = resume["step"]
        window, tail = Means(resume["window"]), Means(resume["tail"])
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
        window.add(losses)
        if step >= table.steps * 9 // 10:
            tail.add(losses)
        if (step + 1) % REPORT_STEPS == 0:
            hooks.scalars(name, window.over(fabric), step + 1)
            last, window = window, Means()
        if best.is_due(step + 1):
            hooks.scalars(name, {"validation": best.judge(fabric, step + 1)}, step + 1)
        if step + 1 == table.steps or _any_process(fabric, time.monotonic() - saved > hooks.checkpoint_seconds):
            state = {
                "step": step + 1,
                "weights": [learner.module.state_dict() for learner in stage.learners()],
                "average": average.state_dict(),
                "best": best.state_dict(),
                "optimizer": optimizer.state_dict(),
                "window": window.state(fabric),
                "tail": tail.state(fabric),
            }
            hooks.checkpoint(gathered(state))
            with average.in_place():  # what is looked at in between is what will be kept
                hooks.look(step + 1)
            saved = time.monotonic()
        if hooks.progress is not None:
            hooks.progress(name, step + 1, table.steps)
        if best.is_past:
            hooks.note(f"stage {name}: ended after step {step + 1}, since held-out scans did best at step {best.step}")
            break
    best.copy_to_average()
    average.copy_to_module()
    make_whole(stage)
    return (tail if tail.sums else last).over(fabric)


def _any_process(fabric: Fabric, due: bool) -> bool:
    """Whether it is due in any process: clocks differ, and all must save together."""
    if fabric.world_size == 1:
        return due
    return bool(fabric.all_reduce(torch.tensor(float(due), device=fabric.device), reduce_op="sum"))


class Means:
    """Running means of losses: a sum and a count each, however many steps. The same in all processes once reduced."""

    def __init__(self, state: dict[str, Tensor] | None = None) -> None:
        self.sums: dict[str, Tensor] = dict(state or {})  # (2,) float64 each: sum and count

    def add(self, losses: dict[str, Tensor]) -> None:
        for key, value in losses.items():
            entry = torch.stack([value.double(), value.new_ones((), dtype=torch.float64)])
            self.sums[key] = entry + self.sums[key].to(entry) if key in self.sums else entry

    def state(self, fabric: Fabric) -> dict[str, Tensor]:
        """Mean over the processes of sums and counts."""
        return cast(dict[str, Tensor], fabric.all_reduce(dict(self.sums), reduce_op="mean"))

    def over(self, fabric: Fabric) -> dict[str, float]:
        """Mean over steps and processes."""
        return {key: float(total[0] / total[1]) for key, total in self.state(fabric).items()}


class WeightAverage:
    """Running mean of a module's parameters over the last tenth of the run, up to ``1 / (1 - decay)`` steps.

    With the full memory from the start, the average of a short run is mostly what it began with. Buffers are
    not averaged.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module, self.decay, self.count = module, decay, 0
        self.mean = {name: p.detach().clone() for name, p in module.named_parameters()}

    @torch.no_grad()
    def update(self) -> None:
        share = max(1 - self.decay, 9 / (10 + self.count)) if self.count else 1.0
        for name, parameter in self.module.named_parameters():
            self.mean[name].lerp_(parameter.detach(), share)
        self.count += 1

    @torch.no_grad()
    def copy_to_module(self) -> None:
        for name, parameter in self.module.named_parameters():
            parameter.copy_(self.mean[name])

    def state_dict(self) -> dict[str, Tensor | int]:
        return {**self.mean, "count": self.count}

    def load_state_dict(self, state: dict[str, Tensor | int]) -> None:
        self.count = int(state["count"])
        for name, mean in self.mean.items():
            mean.copy_(scattered(cast(Tensor, state[name]), mean))

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """The module with the averaged weights, for a while."""
        own = {name: p.detach().clone() for name, p in self.module.named_parameters()}
        self.copy_to_module()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in self.module.named_parameters():
                    parameter.copy_(own[name])


class Best:
    """The averaged weights that did best on held-out scans, looked at `VALIDATIONS` times in a stage, at most.

    On a small set a generator begins to learn its scans by heart long before its training is over; what it loses on
    others shows it. Held-out batches have the same levels and noise each time.
    """

    def __init__(
        self, stage: Stage, average: WeightAverage, held_out: Sequence[Batch], steps: int, patience: int
    ) -> None:
        self.stage, self.average, self.held_out, self.patience = stage, average, held_out, patience
        self.steps, self.every, self.loss = steps, max(VALIDATION_STEPS, steps // VALIDATIONS), math.inf
        self.weights: dict[str, Tensor] = {}
        self.step, self.looked = 0, 0  # when it was best, and last looked at

    def is_due(self, step: int) -> bool:
        return bool(self.held_out) and (step % self.every == 0 or step == self.steps)

    @torch.no_grad()
    def judge(self, fabric: Fabric, step: int) -> float:
        """Mean loss on the held-out batches; the weights are kept where none did better."""
        training = self.stage.training
        self.stage.eval()
        with self.average.in_place():
            found = Means()
            for batch in self.held_out:
                found.add(self.stage(fabric.to_device(batch)))
            loss = found.over(fabric)["loss"]
        self.stage.train(training)
        self.looked = step
        if loss < self.loss:
            self.loss, self.step = loss, step
            self.weights = {name: mean.clone() for name, mean in self.average.mean.items()}
        return loss

    @property
    def is_past(self) -> bool:
        """Whether it was best longer ago than there is patience."""
        return bool(self.patience) and self.looked - self.step >= self.patience * self.every

    def copy_to_average(self) -> None:
        """What was best becomes the average."""
        for name, mean in self.weights.items():
            self.average.mean[name].copy_(mean)

    def state_dict(self) -> dict[str, Any]:
        return {"loss": self.loss, "step": self.step, "looked": self.looked, "weights": dict(self.weights)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.loss, self.step, self.looked = float(state["loss"]), int(state["step"]), int(state["looked"])
        mine = self.average.mean
        self.weights = {name: scattered(value, mine[name]).clone() for name, value in state["weights"].items()}
