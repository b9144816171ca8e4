"""The gate before stage two: an autoencoder is measured on held-out scans before hours go into diffusing its latents.

It costs seconds to a minute: at most so many scans, and of a large one the middle. It draws no random number that a
training would see, so a training ends with the same weights with or without it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medldm.errors import RunError
from medldm.evaluate.autoencoder import Progress, measure_autoencoder
from medldm.io.atomic import write_whole
from medldm.nets.autoencoder import Autoencoder
from medldm.pack import AutoencoderPack
from medldm.space import centred_geometry
from medldm.training.report import MeasuredAutoencoder, autoencoder_page, one_line
from medldm.training.scan import Scan
from medldm.training.verdict import judge

REPORT, FIGURES = "gate.html", "gate.json"
MOST_SCANS = {2: 64, 3: 8}  # by dimensions: enough images for a KID; eight heads hold millions of voxels
MOST_VOXELS = {2: 1024, 3: 128}  # along each axis: what a network without tiles takes


def examine(
    pack: AutoencoderPack,
    autoencoder: Autoencoder,
    scans: Sequence[Scan],
    learned_from: Sequence[Scan],
    out: Path,
    *,
    held_out: bool,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure an autoencoder, whose latents are white already, on `scans`; write `gate.html`, `gate.json` into `out`.

    learned_from : training scans; the block PCA beside it is fitted to some of them
    held_out : whether `scans` were never trained on; the report says so
    Returns what a checkpoint and a card keep: "go", "reasons", "doubts", "cases", "held_out"; "psnr", "line" as text.
    Raises RunError for scans that the network cannot take or memory cannot hold, OutputError.
    """
    numbers = _spread(len(scans), MOST_SCANS[pack.dims])
    images = [_middle(scans[n].image, pack.dims) for n in numbers]
    others = [_middle(learned_from[n].image, pack.dims) for n in _spread(len(learned_from), MOST_SCANS[pack.dims])]
    names = [f"case {n + 1}" for n in numbers]
    try:
        with torch.random.fork_rng(devices=[]):
            quality = measure_autoencoder(autoencoder, images, names, progress, stage="gate", fitted_to=others)
    except RuntimeError as failure:  # torch.OutOfMemoryError among them
        reason = (str(failure).splitlines() or [""])[0][:100]
        raise RunError("gate", f"a failure on the held-out scans ({reason})", "", "look at the recipe") from None
    verdict = judge(quality)
    geometries = [centred_geometry(pack, image.shape) for image in images]
    shown = MeasuredAutoencoder(pack, autoencoder, quality, verdict, images, geometries)
    of_what = f"{len(scans)} held-out scans" if held_out else f"{len(scans)} training scans, as none are held out"
    basis = f"{len(numbers)} of {of_what}; of each axis at most the middle {MOST_VOXELS[pack.dims]} voxels"
    text = "Is this autoencoder worth diffusing in? Cases are numbered in the order in which the scans are read."
    page = autoencoder_page(shown, title="Reconstruction gate", text=text, facts={"measured on": basis})
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
