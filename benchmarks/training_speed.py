"""How many radiographs a second does the autoencoder's training take in, beside the loop of MONAI's own tutorial?

    python -m benchmarks.training_speed [--quick]

Both programs train on crops of the same radiographs, as large and as many a step, and take turns: a step each in
every round, in processes of their own that stand still meanwhile. Times are medians over rounds, ratios medians of
those within a round, and beside them those of the fastest steps; the step to warm up is left out. With two threads on
two cores the machine must be idle: a thread that waits for another one's turn waits a whole time slice.

The other side is benchmarks/monai_loop.py. Ours is `medldm.training`'s own loop, with MONAI's network of the tutorial
and with the default one. Rows "fp32" are ours at the tutorial's precision; the bars are for each side as it comes, and
the row "bf16" of MONAI's loop, which does not offer it, says what of that is the precision's. The tutorial's batch of
13 takes about 20 GB; `--batch` makes it smaller on both sides.
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing as mp
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from rich.console import Console
from rich.table import Table
from torch.utils.tensorboard import SummaryWriter

from benchmarks import monai_loop, protocol, record
from benchmarks.monai_loop import Terms
from medldm.io.manifest import load_manifest
from medldm.networks import Networks
from medldm.recipe import parse_recipe
from medldm.training.batches import prefetch
from medldm.training.data import load_scans
from medldm.training.loop import Hooks, run_stage
from medldm.training.parallel import start_fabric
from medldm.training.stages import build_stage, stage_batches

RADIOGRAPHS = 64
MANY_STEPS = 10**6
TARGETS = {"same network": 2.0, "default network": 4.0}
TUTORIAL = {
    "kind": "monai",
    "channels": monai_loop.LATENT_CHANNELS,
    "widths": monai_loop.CHANNELS,
    "num_res_blocks": 2,
    "norm_groups": monai_loop.NORM_GROUPS,
    "middle_attention": True,
}
DEFAULT = {"factor": 4, "channels": 4}


@dataclass(frozen=True)
class Contestant:
    """A program and how it is to run. autoencoder : of ours; None for MONAI's loop."""

    name: str
    autoencoder: dict[str, Any] | None
    precision: str
    terms: Terms
    batch_size: int
    crop: int
    threads: int


def recipe_of(one: Contestant) -> dict[str, Any]:
    """The recipe of our side: the tutorial's losses and weights where they are on."""
    stage = {"steps": MANY_STEPS, "batch_size": one.batch_size, "crop": [one.crop] * 2, "lr": 1e-4}
    losses = {"l2": 0.0, "l1": 1.0, "kl": 1e-6, "perceptual": float(one.terms.perceptual)}
    return {
        "pack": {
            "name": "speed",
            "dims": 2,
            "modality": ["DX"],
            "spacing": [1.0, 1.0, 1.0],
            "spacing_range": [0.5, 3.0],
            "intensity": {"kind": "percentile", "low": 0.1, "high": 99.9},
            "noise": "gaussian",
            "autoencoder": one.autoencoder,
            "unet": {"channels": [32, 32], "attention_levels": [False, False]},
            "heads": {},
            "problems": {},
        },
        "precision": one.precision,
        "validation_fraction": 0.0,
        "source": [{"folder": "."}],
        "stage": [stage | {"train": "autoencoder", "reconstruction": losses}],
    }


def train_ours(one: Contestant, data: Path, log: Path, pace: Callable[[Iterator[Any]], Iterator[Any]]) -> None:
    recipe = parse_recipe(recipe_of(one))
    fabric, precision = start_fabric("cpu", recipe.precision, recipe.pack.dims)
    torch.manual_seed(0)
    networks, scans, table = Networks(recipe.pack), load_scans(recipe, data), recipe.stages[0]
    batches, stage = stage_batches(recipe, scans, 0, {}), build_stage(table, networks, {})
    writer = SummaryWriter(str(log))

    def scalars(_: str, values: dict[str, float], step: int) -> None:
        for key, value in values.items():
            writer.add_scalar(key, value, step)

    def from_step(first: int) -> Iterator[Any]:
        make = functools.partial(stage.batch, batches)
        return pace(prefetch(make, range(first, table.steps), 0, batches.scans_of, f"stage {table.name}"))

    hooks = Hooks(None, scalars, lambda _: None, 1e9, lambda _: None)
    run_stage(table.name, fabric, stage, from_step, str, table, hooks, precision, None)


class BfloatPace:
    """MONAI's loop in bf16: each batch is worked on within autocast, as the loop itself has no such switch."""

    def __init__(self, pace: Callable[[Iterator[Any]], Iterator[Any]]) -> None:
        self.pace, self.fabric = pace, Fabric(accelerator="cpu", precision="bf16-mixed")

    def __call__(self, batches: Iterator[Any]) -> Iterator[Any]:
        for batch in self.pace(batches):
            with self.fabric.autocast():
                yield batch


def compete(one: Contestant, data: str, turn: Connection) -> None:
    """Run a contestant in this process: a step for each message, answered by its seconds."""
    torch.set_num_threads(one.threads)

    def pace(batches: Iterator[Any]) -> Iterator[Any]:
        while turn.recv():
            start = time.perf_counter()
            yield next(batches)
            turn.send(time.perf_counter() - start)
        turn.send(record.peak_bytes() / 2**20)

    with tempfile.TemporaryDirectory() as log:
        if one.autoencoder is not None:
            train_ours(one, Path(data), Path(log), pace)
            return
        paced = BfloatPace(pace) if one.precision == "bf16" else pace
        files = sorted(Path(data).iterdir())
        monai_loop.run(files, one.terms, one.batch_size, one.crop, Path(log), paced)


def race(contestants: list[Contestant], data: Path, rounds: int, warm_up: int) -> list[dict[str, Any]]:
    """A step each, in turn, `rounds` times: one row a contestant."""
    context, running = mp.get_context("spawn"), []
    for one in contestants:
        mine, theirs = context.Pipe()
        process = context.Process(target=compete, args=(one, str(data), theirs), daemon=True)
        process.start()
        theirs.close()
        running.append((one, mine, process))
    seconds: list[list[float]] = [[] for _ in running]
    for number in range(warm_up + rounds):
        for (_, turn, _), taken in zip(running, seconds, strict=True):
            turn.send(True)
            took = turn.recv()
            if number >= warm_up:
                taken.append(took)
    rows = []
    for (one, turn, process), taken in zip(running, seconds, strict=True):
        turn.send(False)
        peak = turn.recv()
        process.join()
        median = statistics.median(taken)
        speed = one.batch_size / median
        row = {
            "program": one.name,
            "precision": one.precision,
            "threads": one.threads,
            "perceptual": one.terms.perceptual,
            "adversary": one.terms.adversary,
            "batch_size": one.batch_size,
            "crop": one.crop,
            "rounds": rounds,
            "step_seconds": round(median, 4),
            "fastest": round(min(taken), 4),
            "slowest": round(max(taken), 4),
            "images_per_second": round(speed, 3),
            "megavoxels_per_second": round(speed * one.crop**2 / 1e6, 4),
            "peak_memory_mb": round(peak),
        }
        rows.append(row)
    for row, taken in zip(rows, seconds, strict=True):
        ratios = [theirs / ours for theirs, ours in zip(seconds[0], taken, strict=True)]
        row["times_monai"] = round(statistics.median(ratios), 2)  # within rounds: what else runs slows both
        row["times_monai_fastest"] = round(min(seconds[0]) / min(taken), 2)
    return rows


def choose_data(folder: Path) -> Path:
    """A folder with copies of the first radiographs of the training set."""
    chest = protocol.data_folder() / "chest-xray-256"
    rows = load_manifest(chest / "index.csv", root=chest, file_pattern="images/{file}")
    for row in [row for row in rows if row.split == "train"][:RADIOGRAPHS]:
        shutil.copy(row.path, folder)
    return folder


def lineup(terms: Terms, batch_size: int, crop: int, threads: int) -> list[Contestant]:
    programs = [
        ("MONAI's loop", None, "fp32"),
        ("MONAI's loop", None, "bf16"),
        ("same network", TUTORIAL, "auto"),
        ("same network", TUTORIAL, "fp32"),
        ("default network", DEFAULT, "auto"),
        ("default network", DEFAULT, "fp32"),
    ]
    return [Contestant(name, table, how, terms, batch_size, crop, threads) for name, table, how in programs]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer examples a step, fewer rounds, one thread")
    parser.add_argument("--batch", type=int, default=None, help="examples a step (the tutorial's 13; quick: 2)")
    parser.add_argument("--rounds", type=int, default=None)
    parser.add_argument("--threads", type=int, nargs="+", default=None, help="(1 and 2; quick: 1)")
    arguments = parser.parse_args()
    batch = arguments.batch or (2 if arguments.quick else monai_loop.BATCH_SIZE)
    rounds, crop = arguments.rounds or (3 if arguments.quick else 5), monai_loop.CROP
    console, rows, bars = Console(), [], []
    with tempfile.TemporaryDirectory() as name:
        data = choose_data(Path(name))
        for terms in (Terms(perceptual=False, adversary=False), Terms(perceptual=True, adversary=False)):
            for threads in arguments.threads or ([1] if arguments.quick else [1, 2]):
                found = race(lineup(terms, batch, crop, threads), data, rounds, warm_up=1)
                rows += found
                losses = "L1, KL and perceptual" if terms.perceptual else "L1 and KL"
                table = Table(title=f"{losses}, {threads} thread(s), {batch} crops of {crop} x {crop} a step")
                titles = ("program", "precision", "s a step [range]", "images/s", "times MONAI's loop (of the fastest)")
                for title in (*titles, "peak MB"):
                    table.add_column(title)
                for one in found:
                    span = f"{one['step_seconds']:.2f} [{one['fastest']:.2f}, {one['slowest']:.2f}]"
                    speed = f"{one['images_per_second']:.2f}"
                    times = f"{one['times_monai']:.2f} ({one['times_monai_fastest']:.2f})"
                    table.add_row(one["program"], one["precision"], span, speed, times, str(one["peak_memory_mb"]))
                    if one["program"] in TARGETS and one["precision"] == "auto":
                        least = TARGETS[one["program"]]
                        title = f"{one['program']}, {losses}, {threads} thread(s): times MONAI's loop"
                        bars.append(record.bar(title, one["times_monai"], f">= {least:g}", one["times_monai"] >= least))
                console.print(table)
    for one in bars:
        print(f"{'holds ' if one['holds'] else 'MISSED'} {one['name']}: {one['value']:g} ({one['target']})")
    record.write("training-speed-quick" if arguments.quick else "training-speed", rows, bars)


if __name__ == "__main__":
    main()
