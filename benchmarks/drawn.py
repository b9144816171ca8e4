"""The pictures of drawn scans: docs/images/MODEL-drawn.webp, the first sixteen (seed 0), none chosen, above real ones.

    python -m benchmarks.drawn [--model radiographs]

Radiographs: adults and children in turn, beside the first test patients of both sets.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import medldm
from benchmarks import protocol

COUNT, COLUMNS, EDGE, GAP = 16, 8, 128, 12
IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
Picture = NDArray[Any]


def _radiographs() -> tuple[list[Picture], list[Picture]]:
    asked = [{"population": ("adult", "child")[number % 2]} for number in range(COUNT)]
    drawn = [scan.array[:, :, 0].T / 255 for scan in medldm.synthesize(model="radiographs", n=COUNT, conditions=asked)]
    sets = (protocol.chest_cases(COUNT // 2, name) for name in ("chest-xray-256", "chest-xray-children-256"))
    return drawn, [case.truth for case in chain.from_iterable(zip(*sets, strict=True))]


MODELS: dict[str, Callable[[], tuple[list[Picture], list[Picture]]]] = {"radiographs": _radiographs}


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
