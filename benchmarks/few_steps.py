"""Does a distilled model draw as well as the one that it learned from, and how much sooner?

    python -m benchmarks.few_steps --teacher PACK --student PACK [--recipe RECIPE] [--count N] [--steps 20]

The student with the steps that it was distilled for; the teacher with `--steps` at each level, as its pack says, and
with as few as the student. The same noise, and the conditions of the patients that the recipe holds out of its
training, in turn. KID (times 1000) of the images to those patients', and CPU seconds an image of one core, decoding
included, images one by one as a user draws them.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import medldm
from benchmarks import protocol, record
from medldm.conditions import ClassCondition
from medldm.evaluate.features import image_features
from medldm.evaluate.kid import kid
from medldm.nets.efficientnet import EfficientNetLite0
from medldm.recipe import load_recipe
from medldm.training.data import load_scans

WORSE, TIME = 1.25, 0.2
ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--student", required=True)
    parser.add_argument("--recipe", type=Path, default=ROOT / "configs" / "radiographs.toml")
    parser.add_argument("--data", type=Path, default=protocol.data_folder())
    parser.add_argument("--count", type=int, default=256)
    parser.add_argument("--steps", type=int, default=20, help="of the teacher, at each level")
    options = parser.parse_args()
    torch.set_num_threads(1)
    teacher, student = (medldm.load_model(name) for name in (options.teacher, options.student))
    recipe, table = load_recipe(options.recipe), student.pack.synthesis
    assert table is not None
    distilled = table.cascade[0].distilled
    if distilled is None:
        raise SystemExit(f"{options.student} is not distilled")
    scans = load_scans(recipe, options.data, part="validation")
    network = EfficientNetLite0.pretrained()
    real = image_features([scan.image.clamp(0, 1).numpy().T for scan in scans], network)
    patients = [scan.patient for scan in scans]
    asked = [
        {
            name: condition.values[int(str(scan.conditions[name]))]
            for name, condition in table.conditions.items()
            if isinstance(condition, ClassCondition) and name in scan.conditions
        }
        for scan in scans
    ]
    ways: dict[str, tuple[medldm.Model, int | None]] = {
        f"teacher, {options.steps} steps": (teacher, options.steps),
        "teacher, as its pack says": (teacher, None),
        f"teacher, {distilled.steps} steps": (teacher, distilled.steps),
        f"student, {distilled.steps} steps": (student, None),
    }
    rows: list[dict[str, Any]] = []
    for name, (model, steps) in ways.items():
        conditions = [asked[number % len(asked)] for number in range(options.count)]
        began = time.process_time()
        drawn = list(medldm.synthesize(model=model, n=options.count, conditions=conditions, steps=steps))
        seconds = (time.process_time() - began) / options.count
        images = [
            np.clip((np.asarray(scan.array[..., 0]).T - table.offset) / table.scale, 0, 1).astype(np.float32)
            for scan in drawn
        ]
        found = kid(image_features(images, network), real, groups_b=patients)
        rows.append({"way": name, "kid": found.mean, "low": found.low, "high": found.high, "s": seconds})
        print(rows[-1], flush=True)
    first, last = rows[0], rows[-1]
    shown = Table("", "KID", "95 % interval", "CPU s an image", "share of the time")
    for row in rows:
        row["time"] = row["s"] / first["s"]
        between = f"{row['low']:.0f} to {row['high']:.0f}"
        shown.add_row(row["way"], f"{row['kid']:.0f}", between, f"{row['s']:.3f}", f"{row['time']:.2f}")
    worse = last["kid"] / first["kid"]
    bars = [
        record.bar("KID of the student to its teacher's", worse, f"<= {WORSE:g}", worse <= WORSE),
        record.bar("time of the student to its teacher's", last["time"], f"<= {TIME:g}", last["time"] <= TIME),
    ]
    console = Console()
    console.print(shown)
    for one in bars:
        console.print(f"{'holds' if one['holds'] else 'MISSED'}: {one['name']} {one['value']} ({one['target']})")
    record.write("few-steps", rows, bars)


if __name__ == "__main__":
    main()
