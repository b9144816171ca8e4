"""The gate before stage two: an autoencoder is measured on held-out scans before hours go into diffusing its latents.

It costs seconds to a minute: at most so many scans, and of a large one the middle. It draws no random number that a
training would see, so a training ends with the same weights with or without it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medldm.errors import RunError
from medldm.geometry import Geometry
from medldm.io.atomic import write_whole
from medldm.metrics.code_quality import Progress, measure_code
from medldm.nets.autoencoder import Autoencoder
from medldm.recipe import CodeRecipe
from medldm.training.code_report import MeasuredCode, code_page, one_line
from medldm.training.code_verdict import judge
from medldm.training.scans import Scan

REPORT, FIGURES = "gate.html", "gate.json"
MOST_SCANS = {2: 64, 3: 8}  # by dimensions: enough images for a KID; eight heads hold millions of voxels
MOST_VOXELS = {2: 1024, 3: 128}  # along each axis: what a network without tiles takes


def examine(
    recipe: CodeRecipe,
    code: Autoencoder,
    scans: Sequence[Scan],
    learned_from: Sequence[Scan],
    out: Path,
    *,
    held_out: bool,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure `code`, whose latents are white already, on `scans`, and write `gate.html` and `gate.json` into `out`.

    learned_from : training scans; the block PCA beside it is fitted to some of them
    held_out : whether `scans` were never trained on; the report says so
    Returns what a checkpoint and a card keep: "go", "reasons", "doubts", "cases", "held_out"; "psnr", "line" as text.
    Raises RunError for scans that the network cannot take or memory cannot hold, OutputError.
    """
    numbers = _spread(len(scans), MOST_SCANS[recipe.dims])
    images = [_middle(scans[n].image, recipe.dims) for n in numbers]
    others = [_middle(learned_from[n].image, recipe.dims) for n in _spread(len(learned_from), MOST_SCANS[recipe.dims])]
    names = [f"case {n + 1}" for n in numbers]
    try:
        with torch.random.fork_rng(devices=[]):
            quality = measure_code(code, images, names, progress, stage="gate", fitted_to=others)
    except RuntimeError as failure:  # torch.OutOfMemoryError among them
        reason = (str(failure).splitlines() or [""])[0][:100]
        raise RunError("gate", f"a failure on the held-out scans ({reason})", "", "look at the recipe") from None
    verdict = judge(quality)
    geometries = [_geometry(image, recipe) for image in images]
    shown = MeasuredCode(recipe, code, quality, verdict, images, geometries)
    of_what = f"{len(scans)} held-out scans" if held_out else f"{len(scans)} training scans, as none are held out"
    basis = f"{len(numbers)} of {of_what}; of each axis at most the middle {MOST_VOXELS[recipe.dims]} voxels"
    text = "Is this autoencoder worth diffusing in? Cases are numbered in the order in which the scans are read."
    page = code_page(shown, title="Reconstruction gate", text=text, facts={"measured on": basis})
    write_whole(out / REPORT, lambda path: path.write_text(page, encoding="utf-8"))
    kept = {**verdict.to_dict(), "cases": len(numbers), "held_out": held_out}
    figures = json.dumps({**kept, "measured_on": basis, **quality.to_dict()}, indent=2)
    write_whole(out / FIGURES, lambda path: path.write_text(figures + "\n", encoding="utf-8"))
    return kept | {"psnr": f"{quality.psnr:.2f}", "line": one_line(verdict)}


def refuse(found: dict[str, Any], out: Path) -> RunError:
    """The error that ends a training whose autoencoder did not pass."""
    got = f"no-go: {'; '.join(found['reasons'])}"
    return RunError("autoencoder", got, "one worth diffusing in", f"see {out / REPORT}; go on with --despite-gate")


def _spread(count: int, most: int) -> list[int]:
    """Numbers of at most so many out of `count`, evenly spaced."""
    taken = min(count, most)
    return [n * count // taken for n in range(taken)]


def _middle(image: Tensor, dims: int) -> Tensor:
    most = MOST_VOXELS[dims]
    starts = [max(size - most, 0) // 2 for size in image.shape]
    return image[tuple(slice(a, a + most) for a in starts)]


def _geometry(image: Tensor, recipe: CodeRecipe) -> Geometry:
    """Where a scan in the model's orientation lies, for pictures: the recipe's spacing, at no place in particular."""
    towards = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}
    codes = recipe.axcodes or ("LPS" if recipe.dims == 2 else "RAS")
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, (letter, step) in enumerate(zip(codes, recipe.spacing, strict=True)):
        row, sign = towards[letter]
        affine[row, axis] = sign * step
    return Geometry(affine, (*image.shape, 1)[:3])
