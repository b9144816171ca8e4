"""The pictures of drawn scans: docs/images/MODEL-drawn.webp, the first sixteen (seed 0), none chosen, above real ones.

    python -m benchmarks.drawn [--model radiographs|heads]

Radiographs: adults and children in turn, beside the first test patients of both sets. Heads: by the label maps of the
test split in turn, middle sagittal and axial planes.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import medldm
from benchmarks import protocol
from medldm.report.pictures import planes

COUNT, COLUMNS, EDGE, GAP = 16, 8, 128, 12
IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
Picture = NDArray[Any]


def _radiographs() -> tuple[list[Picture], list[Picture]]:
    asked = [{"population": ("adult", "child")[number % 2]} for number in range(COUNT)]
    drawn = [scan.array[:, :, 0].T / 255 for scan in medldm.synthesize(model="radiographs", n=COUNT, conditions=asked)]
    sets = (protocol.chest_cases(COUNT // 2, name) for name in ("chest-xray-256", "chest-xray-children-256"))
    return drawn, [case.truth for case in chain.from_iterable(zip(*sets, strict=True))]


def _views(volume: medldm.Volume) -> list[Picture]:
    """Middle sagittal and axial plane, upright and square."""
    array = volume.array / np.percentile(volume.array, 99.5)
    found = {name: cut for name, cut, *_ in planes(medldm.Volume(array, volume.geometry), at=(0.52, 0.5, 0.62))}
    views = []
    for cut in (found["sagittal"], found["axial"]):
        more = [max(cut.shape) - n for n in cut.shape]
        views.append(np.pad(cut, [(n // 2, n - n // 2) for n in more]))
    return views


def _heads() -> tuple[list[Picture], list[Picture]]:
    """By the maps of the test split's heads in turn, beside those and heads of the train split."""
    folder = protocol.data_folder() / "brain-t1-2mm"
    with (folder / "participants.csv").open(newline="") as handle:
        rows = sorted(csv.DictReader(handle), key=lambda row: (row["split"] != "test", row["participant"]))
    test = [row["participant"] for row in rows if row["split"] == "test"]
    asked = [{"tissue": folder / "labels" / f"{test[n % len(test)]}.nii.gz"} for n in range(COUNT)]
    real = [medldm.read(folder / "t1" / f"{row['participant']}.nii.gz") for row in rows[:COUNT]]
    drawn = [_views(scan) for scan in medldm.synthesize(model="heads", n=COUNT, conditions=asked)]
    by_plane = [list(chain.from_iterable(zip(*views, strict=True))) for views in (drawn, map(_views, real))]
    return by_plane[0], by_plane[1]


MODELS: dict[str, Callable[[], tuple[list[Picture], list[Picture]]]] = {
    "radiographs": _radiographs,
    "heads": _heads,
}


def sheet(pictures: list[Picture]) -> NDArray[np.uint8]:
    """Side by side, COLUMNS a row."""
    grey = [(255 * np.clip(picture, 0, 1)).astype(np.uint8) for picture in pictures]
    small = [np.asarray(Image.fromarray(each).resize((EDGE, EDGE), Image.Resampling.LANCZOS)) for each in grey]
    return np.vstack([np.hstack(small[at : at + COLUMNS]) for at in range(0, len(small), COLUMNS)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, help="without: each")
    options = parser.parse_args()
    for name in (options.model,) if options.model else MODELS:
        drawn, real = (sheet(pictures) for pictures in MODELS[name]())
        path = IMAGES / f"{name}-drawn.webp"
        between = np.full((GAP, drawn.shape[1]), 255, np.uint8)
        Image.fromarray(np.vstack([drawn, between, real])).save(path, quality=80, method=6)
        print(path)


if __name__ == "__main__":
    main()
