"""What a GPU is worth: all tests that need one, then training and drawing on it beside the CPU of the same machine.

    python -m benchmarks.gpu [--quick]

Rows are examples and scans a second of networks as large as the shipped ones, on images of noise: medians over rounds
after one to warm up. Without a GPU there are the rows of the CPU alone.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import medldm
from benchmarks import record
from medldm.model import Model
from medldm.networks import Networks
from medldm.operators.problem import problems_of
from medldm.recipe import Recipe, Source, parse_recipe
from medldm.training.parallel import alone
from medldm.training.scan import Scan
from medldm.training.stages import build_stage, stage_batches
from medldm.volume import Volume

SIZE = {2: (256, 256), 3: (96, 112, 96)}
CROP = {2: (128, 128), 3: (48, 48, 48)}
BATCH = {2: 16, 3: 2}


def _recipe(dims: int) -> Recipe:
    unet = {"channels": [64, 96, 128], "attention_levels": [False, True, True]}
    shape = (*SIZE[dims], *(1,) * (3 - dims))
    stage = {"steps": 10**6, "batch_size": BATCH[dims], "crop": list(CROP[dims]), "lr": 3e-4}
    generator = {"train": "generator", "steps": 10**6, "batch_size": BATCH[dims], "lr": 3e-4}
    pack = {
        "name": f"gpu-{dims}d",
        "dims": dims,
        "modality": ["OT"],
        "spacing": [1, 1, 1],
        "spacing_range": [0.5, 2],
        "noise": "gaussian",
        "intensity": {"kind": "window", "low": 0, "high": 1},
        "autoencoder": {"factor": 8 if dims == 2 else 4, "channels": 16 if dims == 2 else 8},
        "unet": unet,
        "heads": {"main": {"channels": [48, 96] if dims == 2 else [16, 32]}},
        "problems": {"denoise": {"head": "main", "noise_std": [0.01, 0.2]}},
        "synthesis": {"shape": shape, "cascade": [{"unet": unet}]},
    }
    stages = [
        {"train": "autoencoder", **stage},
        {"train": "denoiser", "problems": {"denoise": 1.0}, **stage},
        {"train": "head", "head": "main", "problems": {"denoise": 1.0}, **stage},
        generator,
    ]
    return parse_recipe({"pack": pack, "source": [{"folder": "."}], "stage": stages})


def _seconds(work: Callable[[], Any], rounds: int) -> float:
    """Median of so many calls, after one."""
    times = []
    for _ in range(rounds + 1):
        started = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


def _training(recipe: Recipe, device: str, number: int, rounds: int) -> float:
    """Examples a second of a stage, with AdamW, batches drawn before."""
    fabric, _ = alone(device, "auto", recipe.pack.dims)
    images = torch.rand(4, *SIZE[recipe.pack.dims], generator=torch.Generator().manual_seed(0))
    scans = [Scan(image, None, Source(), "noise") for image in images]
    problems, table = problems_of(recipe.pack), recipe.stages[number]
    stage = build_stage(table, Networks(recipe.pack).to(fabric.device), problems).to(fabric.device).train()
    optimizer = torch.optim.AdamW([p for one in stage.learners() for p in one.module.parameters()], lr=1e-4)
    module, optimizer = fabric.setup(stage, optimizer)
    batch = fabric.to_device(stage.batch(stage_batches(recipe, scans, number, problems), 0))

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        fabric.backward(module(batch)["loss"])
        optimizer.step()

    return table.batch_size / _seconds(step, rounds)


def _using(recipe: Recipe, device: str, rounds: int) -> dict[str, float]:
    """Scans a second, restored and drawn."""
    networks = Networks(recipe.pack).eval().requires_grad_(False)
    model = Model("gpu", networks, recipe.pack, "", "").on(device)
    shape = (*SIZE[recipe.pack.dims], *(1,) * (3 - recipe.pack.dims))
    scan = Volume(torch.rand(shape).numpy(), medldm.Geometry.from_spacing(shape, (1, 1, 1)))
    batch = BATCH[recipe.pack.dims]
    return {
        "denoise": 1 / _seconds(lambda: medldm.denoise(scan, model=model, noise_std=0.05), rounds),
        "synthesize, 20 steps": batch
        / _seconds(lambda: list(medldm.synthesize(model=model, n=batch, batch=batch, steps=20)), rounds),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round of each, in 2D")
    quick = parser.parse_args().quick
    tests = [sys.executable, "-m", "pytest", "-m", "gpu", "-rs"]
    passed = subprocess.run(tests, cwd=Path(__file__).parents[1]).returncode in (0, 5)  # 5: there is none
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    rows: list[dict[str, Any]] = []
    for dims in (2,) if quick else (2, 3):
        recipe = _recipe(dims)
        for device in devices:
            found = {}
            for number, stage in enumerate(recipe.stages):
                found[f"train {stage.name}"] = _training(recipe, device, number, 1 if quick else 5)
            found |= _using(recipe, device, 1 if quick else 5)
            rows += [{"dims": dims, "device": device, "what": k, "per_second": round(v, 3)} for k, v in found.items()]
    table = Table("dims", "what", *devices, title="examples or scans a second")
    for dims, what in dict.fromkeys((row["dims"], row["what"]) for row in rows):
        values = [row["per_second"] for row in rows if (row["dims"], row["what"]) == (dims, what)]
        table.add_row(str(dims), what, *(f"{value:.3g}" for value in values))
    Console().print(table)
    bars = [record.bar("tests that need a GPU pass", passed, "all", passed)] if torch.cuda.is_available() else []
    record.write("gpu", rows, bars)


if __name__ == "__main__":
    main()
