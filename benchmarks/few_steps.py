"""Does a distilled model draw as well as the one that it learned from, and how much sooner?

    python -m benchmarks.few_steps --teacher PACK --student PACK [--recipe RECIPE] [--count N] [--steps 20]
    python -m benchmarks.few_steps --toy [--count N]

The student with the steps that it was distilled for; the teacher with `--steps` at each level, as its pack says, and
with as few as the student. The same noise, and the conditions of the patients that the recipe holds out of its
training, in turn. KID (times 1000) of the images to those patients', and CPU seconds an image of one core, decoding
included, images one by one as a user draws them.

`--toy` trains both first: ellipses of 32 x 32 pixels, tall or wide, of a size, where a label map says.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
from collections.abc import Mapping, Sequence
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
from medldm.recipe import Recipe, load_recipe, parse_recipe
from medldm.space import centred_geometry
from medldm.training.data import load_scans
from medldm.training.scan import Scan
from tests.toys import ellipses_recipe, write_ellipses

WORSE, TIME = 1.25, 0.2
ROOT = Path(__file__).resolve().parents[1]
TOY_GUIDE = {"unet": {"channels": [16, 32], "attention_levels": [False, False]}, "scale": 1.75}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher")
    parser.add_argument("--student")
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--recipe", type=Path, default=ROOT / "configs" / "radiographs.toml")
    parser.add_argument("--data", type=Path, default=protocol.data_folder())
    parser.add_argument("--count", type=int, default=256)
    parser.add_argument("--steps", type=int, default=20, help="of the teacher, at each level")
    options = parser.parse_args()
    if options.toy == bool(options.teacher and options.student):
        parser.error("either --toy, or --teacher and --student")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        if options.toy:
            recipe, data, teacher, student = _toys(Path(name))
        else:
            recipe, data = load_recipe(options.recipe), options.data
            teacher, student = (medldm.load_model(name) for name in (options.teacher, options.student))
        rows = _compared(teacher, student, load_scans(recipe, data, part="validation"), options.count, options.steps)
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
    record.write("few-steps-toy" if options.toy else "few-steps", rows, bars)


def _toys(folder: Path) -> tuple[Recipe, Path, medldm.Model, medldm.Model]:
    write_ellipses(folder / "data", 768)
    table = ellipses_recipe(2000)
    table["validation_fraction"] = 0.33
    table["pack"]["synthesis"]["cascade"][0] |= {"guide": TOY_GUIDE, "last_sigma": 0.15}
    table["stage"][1] |= {"lr": 2e-3, "ema": 0.995}
    table["stage"].insert(1, copy.deepcopy(table["stage"][1]) | {"guide": True, "steps": 300})
    data = folder / "data"
    teacher = medldm.train(table, data=data, out=folder / "teacher", despite_gate=True, device="cpu")
    student = medldm.distill(folder / "teacher", data=data, out=folder / "student", device="cpu")
    return parse_recipe(table), data, teacher, student


def _compared(
    teacher: medldm.Model, student: medldm.Model, scans: Sequence[Scan], count: int, steps: int
) -> list[dict[str, Any]]:
    """KID and time of each way; the first is the teacher's in `steps`, the last the student's."""
    table = student.pack.synthesis
    assert table is not None
    few = [level.distilled.steps for level in table.cascade if level.distilled is not None]
    if not few:
        raise SystemExit("the student is not distilled")
    network = EfficientNetLite0.pretrained()
    real = image_features([scan.image.clamp(0, 1).numpy().T for scan in scans], network)
    patients = [scan.patient for scan in scans]
    asked = [_asked(student, scan) for scan in scans]
    with_few = copy.deepcopy(teacher)
    for number, wanted in enumerate(few):
        level = with_few.networks.generator(number)
        level.table = level.table.model_copy(update={"steps": max(2, wanted)})
    ways: dict[str, tuple[medldm.Model, int | None]] = {
        f"teacher, {steps} steps": (teacher, steps),
        "teacher, as its pack says": (teacher, None),
        f"teacher, {' and '.join(map(str, few))} steps": (with_few, None),
        f"student, {' and '.join(map(str, few))} steps": (student, None),
    }
    rows: list[dict[str, Any]] = []
    for name, (model, wanted_steps) in ways.items():
        conditions = [asked[number % len(asked)] for number in range(count)]
        began = time.process_time()
        drawn = list(medldm.synthesize(model=model, n=count, conditions=conditions, steps=wanted_steps))
        seconds = (time.process_time() - began) / count
        images = [
            np.clip((np.asarray(scan.array[..., 0]).T - table.offset) / table.scale, 0, 1).astype(np.float32)
            for scan in drawn
        ]
        found = kid(image_features(images, network), real, groups_b=patients)
        rows.append({"way": name, "kid": found.mean, "low": found.low, "high": found.high, "s": seconds})
        print(rows[-1], flush=True)
    return rows


def _asked(model: medldm.Model, scan: Scan) -> Mapping[str, object]:
    """What a held-out scan is, as it is asked for."""
    table = model.pack.synthesis
    assert table is not None
    said: dict[str, object] = {}
    for name, condition in table.conditions.items():
        if name not in scan.conditions:
            continue
        value = scan.conditions[name]
        if isinstance(condition, ClassCondition):
            said[name] = condition.values[int(str(value))]
        elif isinstance(value, torch.Tensor):
            array = value.numpy()[..., None].astype(np.float32)
            said[name] = medldm.Volume(array, centred_geometry(model.pack, table.shape))
        else:
            said[name] = value
    return said


if __name__ == "__main__":
    main()
