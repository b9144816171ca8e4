"""Train a model: linear start, autoencoder, latent statistics, denoiser, heads, pack."""

from __future__ import annotations

import contextlib
import functools
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from medldm.io.array_cache import ArrayCache
from medldm.model import Model, load_model
from medldm.networks import Networks
from medldm.operators.problem import problems_of
from medldm.recipe import Recipe
from medldm.stage_tables import GeneratorStage, StageTable, TrajectoryStage
from medldm.training.batches import Batch, Batches, prefetch
from medldm.training.calibrate import calibrate
from medldm.training.checkpoint import load_checkpoint, save_checkpoint, sole_training, written_to
from medldm.training.data import check_whole_images, load_scans, seen_of
from medldm.training.distill import forget_guides
from medldm.training.gate import examine, refuse
from medldm.training.latents import begin_from_data, measure_latents, measure_level
from medldm.training.loop import Hooks, Progress, learning_rate, run_stage
from medldm.training.parallel import gathered, is_divided, run_launched
from medldm.training.pictures import drawn, restored, write_picture
from medldm.training.redrawn import Redrawn, check_redraws, redraw
from medldm.training.report import write_card
from medldm.training.stages import Stage, build_stage, stage_batches
from medldm.training.start import is_whole, start_from
from medldm.training.trajectories import TrajectoryStage as Trajectories
from medldm.training.trajectories import walk
from medldm.training.whole_images import whole_batch

VALIDATION_BATCHES = 4
THOROUGH = 1000  # steps of all stages; a shorter trial would take longer over its calibration than over itself


class _Training:
    """One training: its networks, its data, its folder, and what has been done."""

    def __init__(
        self, recipe: Recipe, fabric: Fabric, precision: str, *, data: Path, out: Path, workers: int, cache: Path | None
    ) -> None:
        self.recipe, self.fabric, self.precision = recipe, fabric, precision
        self.out, self.workers = out, workers
        self.table = recipe.model_dump(mode="json")
        torch.manual_seed(recipe.seed)
        self.networks = Networks(recipe.pack)
        self.problems = problems_of(recipe.pack)
        self.done: dict[str, Any] = {"seconds": {}, "losses": {}}
        with contextlib.nullcontext() if cache is None else fabric.rank_zero_first(local=True):  # one fills the cache
            self.cache = None if cache is None else ArrayCache(cache)
            self.scans = load_scans(recipe, data, cache=self.cache)
            self.held_out = load_scans(recipe, data, part="validation", cache=self.cache) or self.scans
        check_whole_images(recipe, self.scans)
        self.writer: SummaryWriter | None = None
        self.told: dict[str, tuple[int, float]] = {}  # of each stage, the step of the last losses, and when
        self.state: dict[str, Any] | None = None

    def batches(self, number: int) -> Batches:
        """Of a stage, shared among the processes."""
        rank, world = self.fabric.global_rank, self.fabric.world_size
        batches = stage_batches(self.recipe, self.scans, number, self.problems, rank=rank, world=world)
        batches = self.with_redrawn(batches, number, "redrawn")
        self.fabric.barrier()
        return batches

    def with_redrawn(self, batches: Batches, number: int, folder: str) -> Batches:
        """With the coarser images that a stage is to see drawn again, if it is to."""
        table, count = self.recipe.stages[number], getattr(self.recipe.stages[number], "redraws", 0)
        if count and isinstance(table, GeneratorStage | TrajectoryStage):
            place = self.out / f"{folder}-{number}"
            redraw(self.networks, table.level, count, batches, place)
            batches.redrawn = Redrawn(count, place)
        return batches

    def save(self, stage: int, inside: dict[str, Any] | None) -> None:
        """A checkpoint: everything that was finished, and how far `stage` is (None: not begun)."""
        weights = gathered(self.networks.state_dict())
        if self.fabric.is_global_zero:
            state = {"recipe": self.table, "stage": stage, "inside": inside, "networks": weights, "done": self.done}
            save_checkpoint(self.out, state)

    def scalars(self, stage: str, values: dict[str, float], step: int) -> None:
        if self.writer is None:
            return
        for key, value in values.items():
            self.writer.add_scalar(f"{stage}/{key}", value, step)
        if "loss" in values:  # speed is of this machine and moment: for the eye alone
            table, now = next(t for t in self.recipe.stages if t.name == stage), time.monotonic()
            self.writer.add_scalar(f"{stage}/learning rate", learning_rate(step - 1, table), step)
            before, since = self.told.get(stage, (step, now))
            if now > since:
                speed = (step - before) * table.batch_size / (now - since)
                self.writer.add_scalar(f"{stage}/examples a second", speed, step)
            self.told[stage] = step, now
        with (self.out / "losses.jsonl").open("a", encoding="utf-8") as log:
            entry = {"stage": stage, "step": step, **{k: round(v, 6) for k, v in values.items()}}
            log.write(json.dumps(entry) + "\n")

    def pictures(self, stage: str, step: int) -> None:
        if self.writer is None or is_divided(self.networks):
            return
        number = next((i for i, table in enumerate(self.recipe.stages) if table.name == stage), 0)
        table = self.recipe.stages[number]
        if isinstance(table, GeneratorStage):
            for batch in self.held_out_batches(number)[:1]:
                self.picture(
                    stage, "samples", drawn(self.networks, self.recipe.pack, table, batch, self.recipe.seed), step
                )
            return
        last = next((table for table in reversed(self.recipe.stages) if getattr(table, "problems", None)), None)
        if last is None:
            return
        panel = Batches(self.held_out, self.recipe, last, self.problems, salt=999_000, all_flips=False)
        self.picture(stage, "measured, restored, truth", restored(self.networks, panel), step)

    def picture(self, stage: str, title: str, image: Tensor, step: int) -> None:
        """Into the log and, the last of each stage, a file. image : (1, H, W) in [0, 1]"""
        assert self.writer is not None
        self.writer.add_image(f"{stage}/{title}", image, step)
        write_picture(self.out / "pictures" / f"{stage}.png", image)

    def held_out_batches(self, number: int) -> list[Batch]:
        """Of a generator's stage, as they are: nothing is moved or mirrored."""
        still = {"shift": 0.0, "zoom": 0.0, "stretch": 0.0, "bend": 0.0, "flip": 0.0}
        table = self.recipe.stages[number].model_copy(update=still)
        assert isinstance(table, GeneratorStage)
        batches = Batches(self.held_out, self.recipe, table, {}, salt=998_000 + number, all_flips=False)
        batches = self.with_redrawn(batches, number, "redrawn-held-out")
        return [whole_batch(batches, step, table) for step in range(VALIDATION_BATCHES)] if batches.whole else []

    def stage(self, table: StageTable, number: int) -> Stage:
        """The stage of a table, all that it learns from made ready."""
        if not isinstance(table, TrajectoryStage):
            return build_stage(table, self.networks, self.problems, self.cache)
        folder = self.out / f"trajectories-{table.level}"
        autoencoder, teacher = self.networks.autoencoder, self.networks.generator(table.level)
        walk(teacher, autoencoder, table, self.batches(number), folder)
        self.fabric.barrier()
        self.networks.requires_grad_(True)
        return Trajectories(self.networks, table, folder)

    def run(self, number: int, progress: Progress | None, inside: dict[str, Any] | None) -> None:
        """Train one stage to its end."""
        table = self.recipe.stages[number]
        name = table.name
        started, before = time.monotonic(), self.done["seconds"].get(name, 0.0)

        def checkpoint(state: dict[str, Any]) -> None:
            self.done["seconds"][name] = before + time.monotonic() - started
            self.save(number, state)

        batches, stage = self.batches(number), self.stage(table, number)
        hooks = Hooks(
            progress if self.fabric.is_global_zero else None,
            self.scalars,
            checkpoint,
            self.recipe.checkpoint_seconds,
            self.note,
            lambda step: self.pictures(name, step),
            self.held_out_batches(number) if stage.validated and self.held_out is not self.scans else (),
            getattr(table, "patience", 0),
        )

        def from_step(first: int) -> Iterator[tuple[int, Batch]]:
            make = functools.partial(stage.batch, batches)
            return prefetch(make, range(first, table.steps), self.workers, batches.scans_of, f"stage {name}")

        self.done["losses"][name] = run_stage(
            name,
            self.fabric,
            stage,
            from_step,
            lambda scan: self.scans[scan].name,
            table,
            hooks,
            self.precision,
            inside,
        )
        self.done["seconds"][name] = before + time.monotonic() - started

    def begin(self, start: str | Path | None, *, autoencoder_alone: bool, resume: bool) -> None:
        """Take over the weights of a model, and then what a checkpoint says."""
        if start is not None:
            self.done["start"] = start_from(self.networks, self.recipe.pack, start, autoencoder_alone=autoencoder_alone)
        self.networks = self.networks.to(self.fabric.device)
        self.state = load_checkpoint(self.out, self.table) if resume else None
        if self.state is None:  # a checkpoint has the weights that it was started from
            check_redraws(self.recipe, started=is_whole(start, autoencoder_alone=autoencoder_alone))
        if self.state is None and self.fabric.is_global_zero:  # what another training drew here
            for folder in (*self.out.glob("redrawn-*"), *self.out.glob("trajectories-*")):
                shutil.rmtree(folder)
        if self.state is not None:
            self.networks.load_state_dict(self.state["networks"])
            self.done = self.state["done"]
        if self.fabric.is_global_zero:
            self.writer = SummaryWriter(str(self.out / "tensorboard"))

    def pass_gate(self, progress: Progress | None, *, despite: bool) -> None:
        """Measure the autoencoder, in one process while the others wait. Raises RunError where it is no-go.

        Where nothing is to be trained on it, a no-go is only said.
        """
        found = None
        if self.fabric.is_global_zero:
            held_out = self.held_out is not self.scans
            found = examine(
                self.recipe.pack,
                self.networks.autoencoder,
                self.held_out,
                self.scans,
                self.out,
                held_out=held_out,
                progress=progress,
            )
        found = self.fabric.broadcast(found)
        assert found is not None
        self.done["gate"] = found
        if not found["go"] and any(table.steps for table in self.recipe.stages[1:]):
            if not despite:
                raise refuse(found, self.out)
            found["despite"] = True

    def run_stages(self, progress: Progress | None, *, despite_gate: bool) -> None:
        """Every stage that is not finished, from where it was left."""
        at = 0 if self.state is None else self.state["stage"]
        for number, table in enumerate(self.recipe.stages[at:], start=at):
            inside = self.state["inside"] if self.state is not None and number == at else None
            first = number == 0
            fresh = first and inside is None and "start" not in self.done
            if fresh:
                batches = stage_batches(self.recipe, self.scans, number, self.problems)
                self.done["linear_variance"] = begin_from_data(self.networks.autoencoder, batches)
            if isinstance(table, GeneratorStage) and table.steps and inside is None:
                generator = self.networks.generator(table.level)
                measure_level(generator, self.networks.autoencoder, self.recipe.pack, self.scans)
            if table.steps:
                self.run(number, progress, inside)
            if first and (table.steps or fresh):
                measure_latents(self.networks.autoencoder, self.scans)
            if first:
                self.pass_gate(progress, despite=despite_gate)
            if number + 1 < len(self.recipe.stages):
                self.save(number + 1, None)

    def finish(self, command: str, progress: Progress | None) -> None:
        """Write the pack."""
        if self.cache is not None:
            self.cache.contents.save()
        if self.writer is not None:
            self.writer.close()
        if self.fabric.is_global_zero:
            pack = self.recipe.pack.model_copy(update={"seen": seen_of(self.scans, self.recipe)})
            pack = forget_guides(pack, self.networks)
            card = write_card(self.recipe, pack, self.done, command=command)
            parts = [self.scans] if self.held_out is self.scans else [self.scans, self.held_out]
            thorough = sum(table.steps for table in self.recipe.stages) >= THOROUGH
            calibration = calibrate(parts, pack, progress, thorough=thorough)
            model = Model(pack.name, self.networks, pack, card, "", calibration)
            model.save(self.out, self.recipe.training_table())
        self.fabric.barrier()

    def note(self, text: str) -> None:
        """Something that the user should know and that is no failure: it goes into the card."""
        self.done.setdefault("notes", []).append(text)


def train(
    recipe: Recipe,
    *,
    data: Path,
    out: Path,
    start: str | Path | None = None,
    autoencoder_alone: bool = False,
    resume: bool = True,
    despite_gate: bool = False,
    device: str | None = None,
    workers: int = 0,
    strategy: str = "ddp",
    cache: Path | None = None,
    progress: Progress | None = None,
    command: str = "",
) -> Model:
    """Train every stage of `recipe` on the scans below `data`; the pack is written to `out`.

    With `start`, a model of the same networks, its weights are gone on from instead of the block PCA; of a pack of an
    autoencoder, or with `autoencoder_alone`, the autoencoder's.

    Between autoencoder and denoiser stands a gate (`medldm.training.gate`): what does not pass it is not trained on,
    unless `despite_gate`.

    With `cache`, a folder, the scans are kept there as they are trained on, and mapped into memory from there.

    A checkpoint is kept in `out` and, with `resume`, gone on from; `workers` processes draw the batches. Several
    processes (torchrun, SLURM) share each batch through Lightning Fabric. Raises InputError for data that cannot
    be read, RunError for a training that fails, OutputError where `out` cannot be written.
    """

    def work(fabric: Fabric, precision: str) -> None:
        with sole_training(out) if fabric.is_global_zero else contextlib.nullcontext():
            this = _Training(recipe, fabric, precision, data=data, out=out, workers=workers, cache=cache)
            this.begin(start, autoencoder_alone=autoencoder_alone, resume=resume)
            this.run_stages(progress, despite_gate=despite_gate)
            this.finish(command, progress)

    with written_to(out):
        run_launched(work, device, recipe.precision, recipe.pack.dims, strategy)
    return load_model(out, device)
