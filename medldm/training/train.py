"""Train a model: linear start, autoencoder, latent statistics, denoiser, heads, pack."""

from __future__ import annotations

import contextlib
import functools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from medldm.diffusion.schedule import SIGMA_MAX, level_of
from medldm.io.array_cache import ArrayCache
from medldm.model import Model, Networks, load_model
from medldm.recipe import Recipe, StageTable
from medldm.training.batches import Batch, Batches
from medldm.training.card import write_card
from medldm.training.checkpoint import load_checkpoint, save_checkpoint, sole_training, written_to
from medldm.training.devices import run_launched
from medldm.training.feed import feed
from medldm.training.gate import examine, refuse
from medldm.training.latents import begin_from_data, measure_latents
from medldm.training.loop import Hooks, Progress, run_stage
from medldm.training.plan import STAGES, build_stage, stage_batches
from medldm.training.scans import load_scans
from medldm.training.sharding import gathered, is_divided
from medldm.training.start import start_from


@torch.no_grad()
def _panel(networks: Networks, validation: Batches) -> Tensor:
    """(1, H, W * 3) one validation crop: measurement, posterior mean, truth (middle plane)."""
    x, measurement, _, _ = validation.restoration(0)
    assert measurement is not None
    device = networks.autoencoder.latent_mean.device
    moved = measurement.map(lambda part: part.to(device))
    cond = moved.to_latent_condition(networks.autoencoder)
    z = networks.denoiser.posterior_mean(cond, networks.autoencoder.channels)
    level = level_of(torch.full((len(x),), SIGMA_MAX, device=device))
    image, _ = networks.head_for(moved)(networks.autoencoder.decode(z), moved, level)
    row = [t[0, 0].float().cpu() for t in (measurement.image, image, x)]
    planes = [t if t.ndim == 2 else t[:, :, t.shape[2] // 2] for t in row]
    return torch.cat(planes, dim=1).clamp(0, 1)[None]


class _Training:
    """One training: its networks, its data, its folder, and what has been done."""

    def __init__(
        self, recipe: Recipe, fabric: Fabric, precision: str, *, data: Path, out: Path, workers: int, cache: Path | None
    ) -> None:
        self.recipe, self.fabric, self.precision = recipe, fabric, precision
        self.out, self.workers = out, workers
        self.table = recipe.model_dump(mode="json")
        torch.manual_seed(recipe.seed)
        self.networks = Networks(recipe)
        self.done: dict[str, Any] = {"seconds": {}, "losses": {}}
        with contextlib.nullcontext() if cache is None else fabric.rank_zero_first(local=True):  # one fills the cache
            self.cache = None if cache is None else ArrayCache(cache)
            self.scans = load_scans(recipe, data, cache=self.cache)
            self.held_out = load_scans(recipe, data, part="validation", cache=self.cache) or self.scans
        self.writer: SummaryWriter | None = None
        self.state: dict[str, Any] | None = None

    def batches(self, name: str, table: StageTable) -> Batches:
        """Of a stage, shared among the processes."""
        fabric = self.fabric
        return stage_batches(self.recipe, self.scans, name, table, rank=fabric.global_rank, world=fabric.world_size)

    def save(self, stage: str, inside: dict[str, Any] | None) -> None:
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
        with (self.out / "losses.jsonl").open("a", encoding="utf-8") as log:
            entry = {"stage": stage, "step": step, **{k: round(v, 6) for k, v in values.items()}}
            log.write(json.dumps(entry) + "\n")

    def pictures(self, stage: str, step: int) -> None:
        if self.writer is None or is_divided(self.networks):
            return
        share = self.recipe.degradation.super_resolution_share
        table = self.recipe.stage_head
        panel = Batches(
            self.held_out, self.recipe, table, salt=999_000, all_flips=False, super_resolution_share=share
        )
        self.writer.add_image(f"{stage}/measured, restored, truth", _panel(self.networks, panel), step)

    def run(
        self, name: str, table: StageTable, progress: Progress | None, inside: dict[str, Any] | None
    ) -> None:
        """Train one stage to its end."""
        started, before = time.monotonic(), self.done["seconds"].get(name, 0.0)

        def checkpoint(state: dict[str, Any]) -> None:
            self.done["seconds"][name] = before + time.monotonic() - started
            self.save(name, state)
            self.pictures(name, state["step"])

        hooks = Hooks(
            progress if self.fabric.is_global_zero else None,
            self.scalars,
            checkpoint,
            self.recipe.checkpoint_seconds,
            self.note,
        )
        batches, stage = self.batches(name, table), build_stage(name, self.networks, self.recipe, self.cache)

        def from_step(first: int) -> Iterator[tuple[int, Batch]]:
            make = functools.partial(stage.batch, batches)
            return feed(make, range(first, table.steps), self.workers, batches.scans_of, f"stage {name}")

        self.done["losses"][name] = run_stage(
            name,
            self.fabric,
            stage,
            from_step,
            lambda number: self.scans[number].name,
            table,
            hooks,
            self.precision,
            inside,
        )
        self.done["seconds"][name] = before + time.monotonic() - started

    def begin(self, start: str | Path | None, *, code_alone: bool, resume: bool) -> None:
        """Take over the weights of a model, and then what a checkpoint says."""
        if start is not None:
            self.done["start"] = start_from(self.networks, self.recipe, start, code_alone=code_alone)
        self.networks = self.networks.to(self.fabric.device)
        self.state = load_checkpoint(self.out, self.table) if resume else None
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
            code = self.networks.autoencoder
            found = examine(
                self.recipe, code, self.held_out, self.scans, self.out, held_out=held_out, progress=progress
            )
        found = self.fabric.broadcast(found)
        assert found is not None
        self.done["gate"] = found
        later = [getattr(self.recipe, f"stage_{name}") for name in STAGES[1:]]
        if not found["go"] and any(table is not None and table.steps for table in later):
            if not despite:
                raise refuse(found, self.out)
            found["despite"] = True

    def run_stages(self, progress: Progress | None, *, despite_gate: bool) -> None:
        """Every stage that is not finished, from where it was left."""
        at = STAGES.index(self.state["stage"]) if self.state is not None else 0
        for index, name in enumerate(STAGES[at:], start=at):
            table: StageTable | None = getattr(self.recipe, f"stage_{name}")
            if table is None:
                continue
            inside = self.state["inside"] if self.state is not None and self.state["stage"] == name else None
            fresh = name == "autoencoder" and inside is None and "start" not in self.done
            if fresh:
                batches = stage_batches(self.recipe, self.scans, name, table)
                self.done["linear_variance"] = begin_from_data(self.networks.autoencoder, batches)
            if table.steps:
                self.run(name, table, progress, inside)
            if name == "autoencoder" and (table.steps or fresh):
                measure_latents(self.networks.autoencoder, self.scans)
            if name == "autoencoder":
                self.pass_gate(progress, despite=despite_gate)
            following = STAGES[index + 1 : index + 2]
            if following:
                self.save(following[0], None)

    def finish(self, command: str) -> None:
        """Write the pack."""
        if self.cache is not None:
            self.cache.contents.save()
        if self.writer is not None:
            self.writer.close()
        if self.fabric.is_global_zero:
            card = write_card(self.recipe, self.done, scans=len(self.scans), command=command)
            Model(self.recipe.name, self.networks, self.recipe, card, "").save(self.out)
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
    code_alone: bool = False,
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

    With `start`, a model of the same networks, its weights are gone on from instead of the linear code; of a pack of an
    autoencoder, or with `code_alone`, the autoencoder's.

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
            this.begin(start, code_alone=code_alone, resume=resume)
            this.run_stages(progress, despite_gate=despite_gate)
            this.finish(command)

    with written_to(out):
        run_launched(work, device, recipe.precision, strategy)
    return load_model(out, device)
