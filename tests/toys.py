"""Toy images that a generator learns in seconds, and whose attributes can be measured."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIZE = 32
ROW, COLUMN = np.mgrid[:SIZE, :SIZE]
UNET = {"channels": [32, 64], "attention_levels": [False, False]}
CONDITIONS = {
    "shape": {"kind": "class", "values": ["tall", "wide"]},
    "radius": {"kind": "number", "low": 3.0, "high": 7.0},
    "place": {"kind": "label_map", "labels": {"here": [1]}},
}


def recipe_of(
    name: str, synthesis: dict[str, Any], source: dict[str, Any], generator: dict[str, Any]
) -> dict[str, Any]:
    """A recipe for images of SIZE x SIZE pixels; the last two say more of the source and of the generator's stage."""
    pack = {
        "name": name,
        "dims": 2,
        "modality": ["OT"],
        "spacing": [1.0, 1.0, 1.0],
        "spacing_range": [0.5, 2.0],
        "noise": "gaussian",
        "intensity": {"kind": "window", "low": 0, "high": 255},
        "autoencoder": {"factor": 4, "channels": 8, "width": 8, "encoder_depth": 1, "decoder_depth": 1},
        "synthesis": {"shape": [SIZE, SIZE, 1], "unit": "grey8", "scale": 255.0, **synthesis},
    }
    start = {"train": "autoencoder", "steps": 0, "batch_size": 8, "crop": [32, 32], "lr": 1e-3}
    learned = {"train": "generator", "batch_size": 16, "lr": 4e-3, "ema": 0.98, **generator}
    return {"pack": pack, "seed": 3, "source": [source], "stage": [start, learned], "validation_fraction": 0.1}


def ellipses_recipe(steps: int) -> dict[str, Any]:
    source = {
        "index": "shapes.csv",
        "conditions": {"shape": "{shape}", "radius": "{radius}", "place": "{patient}-place.png"},
    }
    return recipe_of("shapes", {"conditions": CONDITIONS, "cascade": [{"unet": UNET}]}, source, {"steps": steps})


def ellipse(kind: str, radius: float, column: float) -> np.ndarray:
    """Of the area of a circle of that radius, twice as long as it is wide."""
    di, dj = (ROW - 16) / radius, (COLUMN - column) / radius
    longer, shorter = (di, dj) if kind == "tall" else (dj, di)
    inside: np.ndarray = longer**2 / 2 + shorter**2 * 2 <= 1
    return inside


def place(column: int) -> np.ndarray:
    square: np.ndarray = (abs(COLUMN - column) < 3) & (abs(ROW - 16) < 3)
    return square.astype(np.uint8)


def write_ellipses(folder: Path, count: int) -> None:
    """An ellipse an image, tall or wide, of a size, on the left or on the right as its label map says."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    with (folder / "shapes.csv").open("w", newline="") as handle:
        table = csv.writer(handle)
        table.writerow(["file", "patient", "shape", "radius"])
        for number in range(count):
            kind, radius, column = ["tall", "wide"][number % 2], rng.uniform(3, 7), int(rng.integers(10, 23))
            grey = 40 + 160 * ellipse(kind, radius, column) + rng.integers(0, 10, (SIZE, SIZE))
            Image.fromarray(grey.astype(np.uint8)).save(folder / f"{number}.png")
            Image.fromarray(place(column)).save(folder / f"{number}-place.png")
            table.writerow([f"{number}.png", number, kind, f"{radius:.3f}"])
