"""Is a model that learned its scans by heart found out, and are copies that were planted?

    python -m benchmarks.privacy [--quick]

Radiographs of 64 x 64 (block means). A generator is trained on 20 patients until it can do nothing else, by recipe, on
the command line, with no scans held out; 64 scans are drawn; `medldm evaluate` is told the 20 and 141 images of other
patients. Then 32 of the 20's images are planted among 32 held-out ones: exact, shifted by a pixel, of another contrast,
with noise of 2 %. Bars: AUC (nearer to training than to held-out) >= 0.9, 90 % of what the model draws is flagged, each
planted copy is, and at most 5 % of held-out images are.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks import protocol, record

PATIENTS, DRAWN, SIZE = 20, 64, 64
RECIPE = """
validation_fraction = 0.0
seed = 1

[pack]
name = "by-heart"
dims = 2
modality = ["DX"]
spacing = [1.0, 1.0, 1.0]
spacing_range = [0.5, 3.0]
noise = "gaussian"
intensity = {{ kind = "window", low = 0.0, high = 255.0 }}
autoencoder = {{ factor = 4, channels = 8, width = 32, encoder_depth = 1, decoder_depth = 1 }}

[pack.synthesis]
shape = [64, 64, 1]
unit = "grey8"
scale = 255.0
cascade = [{{ last_sigma = 0.1, unet = {{ channels = [64, 96, 128], attention_levels = [false, true, true] }} }}]

[[source]]
index = "index.csv"

[[stage]]
train = "autoencoder"
steps = 300
batch_size = 8
crop = [32, 32]
lr = 1e-3

[[stage]]
train = "generator"
level = 0
steps = {steps}
batch_size = 8
lr = 8e-4
ema = 0.999
"""
Picture = NDArray[np.float64]


def load() -> tuple[list[Picture], list[Picture]]:
    """One image of each of 20 patients of the train split; the images of the test split. In [0, 255], 64 x 64."""
    folder = protocol.data_folder() / "chest-xray-256"
    with (folder / "index.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    first = {row["patient"]: row["file"] for row in reversed(rows) if row["split"] == "train"}
    held = [row["file"] for row in rows if row["split"] == "test"]

    def small(name: str) -> Picture:
        full = np.asarray(Image.open(folder / "images" / name).convert("L"), np.float64)
        return np.asarray(full.reshape(SIZE, 256 // SIZE, SIZE, 256 // SIZE).mean((1, 3)))

    return [small(name) for name in list(first.values())[:PATIENTS]], [small(name) for name in held]


def keep(folder: Path, pictures: Sequence[Picture]) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{number:03d}.png" for number in range(len(pictures))]
    for name, picture in zip(names, pictures, strict=True):
        Image.fromarray(picture.round().clip(0, 255).astype(np.uint8)).save(folder / name)
    return names


def planted(picture: Picture, number: int) -> Picture:
    """A copy: exact, shifted, of another contrast, or noisy."""
    kind = number % 4
    if kind == 1:
        return np.roll(np.pad(picture, 1, mode="edge"), 1, axis=1)[1:-1, 1:-1]
    if kind == 2:
        return 255 * (picture / 255) ** 1.4 * 0.8 + 20
    if kind == 3:
        return picture + 0.02 * 255 * np.random.default_rng(number).standard_normal(picture.shape)
    return picture


def medldm(*words: object) -> None:
    program = Path(sys.executable).with_name("medldm")
    done = subprocess.run(
        [str(program), *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)


def evaluated(synthetic: Path, real: Path, out: Path) -> dict[str, Any]:
    medldm("evaluate", synthetic, "--real", real, "-o", out)
    found: dict[str, Any] = json.loads((out / "evaluation.json").read_text())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="planted copies alone; nothing is written")
    quick = parser.parse_args().quick
    training, held = load()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        real = root / "real"
        names = keep(real, [*training, *held])
        with (real / "index.csv").open("w", newline="") as handle:
            table = csv.writer(handle)
            table.writerow(["file", "patient", "split"])
            table.writerows([n, f"p{i}", "train" if i < len(training) else "test"] for i, n in enumerate(names))
        copies = [planted(training[number % PATIENTS], number) for number in range(32)]
        keep(root / "planted", [*copies, *held[:32]])
        # the other half of the held-out images speaks for real scans here
        found = evaluated(root / "planted", real, root / "of-planted")
        flagged = [scan["copy"] for scan in sorted(found["scans"], key=lambda scan: str(scan["file"]))]
        caught, alarms = np.mean(flagged[:32]), found["privacy"]["held_out_flagged_share"]
        rows: list[dict[str, Any]] = [{"scans": "planted", "privacy": found["privacy"]}]
        bars = [
            record.bar("planted copies found", caught, "1", caught == 1),
            record.bar("held-out images flagged", alarms, "<= 0.05", alarms <= 0.05),
        ]
        if not quick:
            recipe = root / "recipe.toml"
            recipe.write_text(RECIPE.format(steps=4000))
            medldm(
                "train", recipe, "--data", real, "--out", root / "model", "--device", "cpu", "--despite-gate", "--quiet"
            )
            medldm("synthesize", "--model", root / "model", "-n", DRAWN, "--batch", 16, "-o", root / "drawn", "--quiet")
            found = evaluated(root / "drawn", real, root / "of-drawn")["privacy"]
            rows.append({"scans": "by heart", "privacy": found})
            auc = found["auc"]["image"]["closer_to_training"]["mean"]
            bars.append(record.bar("by heart: AUC, nearer to training", auc, ">= 0.9", auc >= 0.9))
            share = found["copies_share"]
            bars.append(record.bar("by heart: share flagged as copies", share, ">= 0.9", share >= 0.9))
    for one in bars:
        print(f"{'holds' if one['holds'] else 'MISSED'}: {one['name']} {one['value']} ({one['target']})")
    if not quick:
        record.write("privacy", rows, bars)


if __name__ == "__main__":
    main()
