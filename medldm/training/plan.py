"""From a data set to a recipe: each choice follows from what the scans are, or from what this machine can do in time.

The recipe says why above each key; it is a start that trains, to be changed by whoever knows better.
"""

from __future__ import annotations

import math
import os
import tempfile
import tomllib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from medldm.errors import InputError
from medldm.io.manifest import write_manifest
from medldm.recipe import parse_recipe
from medldm.training.cost import estimate
from medldm.training.fingerprint import Kind
from medldm.training.labels import conditions_of
from medldm.training.plan_grid import SIZES
from medldm.training.plan_page import LEAST_STEPS, PARTS, Plan, Purpose, part_of

MOST_EPOCHS = 1000
ENOUGH = {"autoencoder": 400, "generator-0": 2000, "head-alike": 200}  # steps; of other stages 600
GUIDE_SHARE = 0.06  # of the time of its level, beside it
SHARES = {
    "restore": {"autoencoder": 0.2, "denoiser": 0.3, "head-main": 0.35, "head-alike": 0.15},
    "synthesize": {"autoencoder": 0.15, "generator-0": 0.55, "finer": 0.3},
    "both": {
        "autoencoder": 0.15,
        "denoiser": 0.15,
        "head-main": 0.15,
        "head-alike": 0.05,
        "generator-0": 0.3,
        "finer": 0.2,
    },
}


def make_plan(
    kind: Kind,
    root: Path,
    *,
    purpose: Purpose = "both",
    minutes: float = 120.0,
    conditions: Sequence[str] | None = None,
    device: str | None = None,
) -> Plan:
    """A plan whose training takes about so many minutes on this machine, which is measured by some batches.

    conditions : columns that synthesis can be asked for; None: all that fit
    Raises InputError for an unknown column, or scans that cannot be trained on.
    """
    if not 0 < minutes < math.inf:
        raise InputError("minutes", f"{minutes:g}", "a number > 0")
    tables, said = ({}, {}) if purpose == "restore" else conditions_of(kind, root, conditions)
    levels, settled = dict.fromkeys(PARTS, 0), set[str]()
    while True:  # a step of the next size takes two to four times as long
        plan = _timed(Plan(kind, purpose, minutes, tables, said, dict(levels)), root, device)
        for part in PARTS - settled:
            if levels[part] and not _enough(plan, part, 1):
                levels[part] -= 1
                settled.add(part)
            elif levels[part] + 1 < len(SIZES) and _enough(plan, part, 3):
                levels[part] += 1
            else:
                settled.add(part)
        if levels == plan.levels:
            return plan


def _enough(plan: Plan, part: str, times: float) -> bool:
    """Whether every stage of a part has time for so many times the steps that it needs."""
    each = {name: seconds for name, seconds in plan.seconds.items() if part_of(name) == part}
    return bool(each) and all(
        plan.minutes * 60 * _share(plan, name) / seconds >= times * ENOUGH.get(name, 600)
        for name, seconds in each.items()
        if not name.startswith("guide")  # it is to be worse
    )


def _share(plan: Plan, stage: str) -> float:
    if stage.startswith("guide-"):
        return GUIDE_SHARE * _share(plan, stage.replace("guide", "generator"))
    shares, finer = SHARES[plan.purpose], len(plan.grid.cascade) - 1
    if stage.startswith("generator-") and stage != "generator-0":
        return shares["finer"] / finer
    alone = 0.0 if finer else shares.get("finer", 0.0)
    return shares[stage] + (alone if stage == "generator-0" else 0.0)


def _timed(plan: Plan, root: Path, device: str | None) -> Plan:
    """The same with batches that the memory holds and steps that the time allows."""
    records = plan.kind.training
    with tempfile.TemporaryDirectory() as folder:
        some = Path(folder) / "some.csv"
        write_manifest(some, records[:: -(-len(records) // 3)])
        trial = parse_recipe(tomllib.loads(plan.recipe("trial", some.as_posix())))
        costs = estimate(trial.model_copy(update={"validation_fraction": 0.0}), data=root, device=device)
    memory, batches, steps, seconds, capped = _memory(device), {}, {}, {}, set()
    for cost, stage in zip(costs, trial.stages, strict=True):
        batch = stage.batch_size
        fits = batch if memory is None else max(1, min(batch, int(batch * 0.7 * memory / cost.memory_bytes)))
        each = cost.step_seconds * fits / batch
        wanted = plan.minutes * 60 * _share(plan, cost.name) / max(each, 1e-9)
        draws = cost.name.startswith(("generator", "guide"))
        most = MOST_EPOCHS * len(records) / fits if draws else math.inf
        batches[cost.name], seconds[cost.name] = fits, each
        steps[cost.name] = max(LEAST_STEPS, _rounded(min(wanted, most)))
        if wanted > most:
            capped.add(cost.name)
    return replace(
        plan, batches=batches, steps=steps, seconds=seconds, capped=frozenset(capped), free_bytes=_memory("cpu")
    )


def _memory(device: str | None) -> int | None:
    """Bytes that are free where it is computed; None where nobody says."""
    if torch.cuda.is_available() and device != "cpu":
        return int(torch.cuda.mem_get_info()[0])
    try:
        return int(os.sysconf("SC_AVPHYS_PAGES")) * int(os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):
        return None


def _rounded(number: float) -> int:
    """To two digits, downwards."""
    unit = int(10 ** max(0, int(math.log10(max(number, 1))) - 1))
    return int(number // unit) * unit
