"""How well are masks filled, beside interpolation, and is the uncertainty honest there?

    python -m benchmarks.inpainting [--quick] [--area chest|brain] [--model NAME_OR_FOLDER]

Test patients of benchmarks/protocol.py. Radiographs: one disc of radius 8, 16 or 24 pixels. Heads: six balls of
radius 3 or 6 voxels in the brain, or two neighbouring axial slices lost. Places are drawn with a generator an image.
PSNR over the voxels of the masks (in the brain), means over patients with 95 % bootstrap intervals; nothing is noisy.
The classical rows: membrane (harmonic), thin plate (biharmonic, scikit-image), the mean of both; for lost slices cubic
interpolation through them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.interpolate import CubicSpline

import medldm
from benchmarks import protocol, record
from benchmarks.methods import BRAIN_MODEL, CHEST_MODEL
from benchmarks.protocol import BRAIN_SUPERIOR_AXIS, Case, Image
from benchmarks.uncertainty import QUANTILE
from medldm.evaluate.intervals import interval, paired_difference
from medldm.evaluate.similarity import psnr
from medldm.model import Model
from medldm.operators.mask import fill_harmonic, fill_smooth

Mask = NDArray[np.bool_]
KINDS = {"chest": ("disc 8", "disc 16", "disc 24"), "brain": ("balls 3", "balls 6", "2 slices")}
BALLS = 6
MODEL = "medldm"


def mask_of(case: Case, kind: str) -> Mask:
    """Where nothing is known; drawn by (index of the case, size)."""
    name, size = kind.split()
    if size == "slices":
        mask = np.zeros(case.truth.shape, dtype=bool)
        rows = np.flatnonzero(case.mask.any(axis=(0, 2)))  # type: ignore[union-attr]
        start = int(rows[len(rows) // 2 + case.index])
        mask[:, start : start + int(name)] = True
        return mask
    radius = int(size)
    rng = np.random.default_rng([2000 + case.index, radius])
    allowed = (case.truth > 0) & (case.truth < 1) if case.mask is None else case.mask  # not beside the picture
    edge = tuple(slice(radius + 2, n - radius - 2) for n in case.truth.shape)
    inner = np.zeros_like(allowed)
    inner[edge] = allowed[edge]
    places = np.argwhere(inner)
    mask = np.zeros(case.truth.shape, dtype=bool)
    for centre in rng.choice(places, 1 if name == "disc" else BALLS, replace=False):
        grid = np.ogrid[tuple(slice(-c, n - c) for c, n in zip(centre, case.truth.shape, strict=True))]
        mask |= sum(g.astype(float) ** 2 for g in grid) <= radius**2
    return mask


def _biharmonic(image: Image, mask: Mask) -> Image:
    from skimage.restoration import inpaint_biharmonic

    return np.asarray(inpaint_biharmonic(np.where(mask, 0, image), mask, split_into_regions=True))


def _harmonic(image: Image, mask: Mask) -> Image:
    return fill_harmonic(image, mask).astype(np.float64)


def _both(image: Image, mask: Mask) -> Image:
    return fill_smooth(image, mask).astype(np.float64)


def _through(image: Image, mask: Mask) -> Image:
    known = ~mask.any(axis=(0, 2))
    at = np.arange(len(known))
    return np.asarray(CubicSpline(at[known], image[:, known], axis=BRAIN_SUPERIOR_AXIS)(at))


def classical(kind: str) -> dict[str, Callable[[Image, Mask], Image]]:
    if kind.endswith("slices"):
        return {"membrane": _harmonic, "cubic": _through, "mean of both": _both}
    return {"membrane": _harmonic, "thin plate": _biharmonic, "mean of both": _both}


def _score(case: Case, mask: Mask, result: Image) -> float:
    inside = mask if case.mask is None else mask & case.mask
    return psnr(np.clip(result, 0, 1) if case.mask is None else result, case.truth, mask=inside)


def fill(case: Case, mask: Mask, model: Model) -> Any:
    """The public API on an image whose masked part holds nothing of the truth."""
    options: dict[str, Any] = {"value_range": (0.0, 1.0)} if case.mask is None else {"affine": case.affine}
    return medldm.inpaint(np.where(mask, 0, case.truth), mask, model=model, **options)


def measure(kind: str, cases: Sequence[Case], model: Model) -> list[dict[str, Any]]:
    """Rows of one kind of mask."""
    found: dict[str, dict[str, float]] = {}
    inside, ratios = [], []
    for case in cases:
        mask = mask_of(case, kind)
        for name, method in classical(kind).items():
            found.setdefault(name, {})[case.patient] = _score(case, mask, method(case.truth, mask))
        result = fill(case, mask, model)
        found.setdefault(MODEL, {})[case.patient] = _score(case, mask, np.asarray(result.array, dtype=np.float64))
        where = mask if case.mask is None else mask & case.mask
        spread = result.uncertainty.array[..., 0].T if case.mask is None else result.uncertainty.array
        error = np.abs(result.array.astype(np.float64) - case.truth)[where]
        inside.append(float((error <= QUANTILE * spread[where]).mean()))
        ratios.append(float(np.sqrt((error**2).mean() / (spread[where].astype(np.float64) ** 2).mean())))
    rows: list[dict[str, Any]] = []
    for name, scores in found.items():
        row: dict[str, Any] = {"kind": kind, "method": name, "psnr": interval(list(scores.values())).to_dict()}
        if name == MODEL:
            row |= {"coverage": interval(inside).to_dict(), "error_ratio": float(np.mean(ratios))}
        else:
            row["medldm_minus_this"] = paired_difference(found[MODEL], scores).to_dict()
        rows.append(row)
    return rows


def _bars(area: str, kind: str, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    best = max((row for row in rows if row["method"] != MODEL), key=lambda row: row["psnr"]["mean"])
    gain, own = best["medldm_minus_this"], rows[-1]["coverage"]["mean"]
    label = f"{area}, {kind}: medldm - {best['method']} (dB [{gain['low']:+.2f}, {gain['high']:+.2f}])"
    return [
        record.bar(label, gain["mean"], "> 0, the whole interval", gain["low"] > 0),
        record.bar(f"{area}, {kind}: inside the 90 % interval", own, "0.85 to 0.95", 0.85 <= own <= 0.95),
    ]


def _print(area: str, rows: Sequence[dict[str, Any]], console: Console) -> None:
    table = Table(title=f"{area}: PSNR inside the masks")
    for title in ("mask", "method", "n", "PSNR dB [95 %]", "medldm minus this (dB)", "inside 90 %", "actual / claimed"):
        table.add_column(title)
    for row in rows:
        p, d, c = row["psnr"], row.get("medldm_minus_this"), row.get("coverage")
        table.add_row(
            row["kind"],
            row["method"],
            str(p["n"]),
            f"{p['mean']:.2f} [{p['low']:.2f}, {p['high']:.2f}]",
            f"{d['mean']:+.2f} [{d['low']:+.2f}, {d['high']:+.2f}]" if d else "",
            f"{c['mean']:.3f}" if c else "",
            f"{row['error_ratio']:.2f}" if c else "",
        )
    console.print(table)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.inpainting", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="24 radiographs instead of 80")
    parser.add_argument("--area", choices=tuple(KINDS), help="one of the two areas")
    parser.add_argument("--model", help="another model than the shipped one; nothing is recorded")
    chosen = parser.parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 130)
    rows: list[dict[str, Any]] = []
    bars: list[dict[str, Any]] = []
    for area in (chosen.area,) if chosen.area else tuple(KINDS):
        chest, count = area == "chest", protocol.QUICK_CHEST if chosen.quick else None
        cases = protocol.chest_cases(count) if chest else protocol.brain_cases()
        model = medldm.load_model(chosen.model or (CHEST_MODEL if chest else BRAIN_MODEL))
        own: list[dict[str, Any]] = []
        for kind in KINDS[area]:
            with console.status(f"{area}, {kind}"):
                found = measure(kind, cases, model)
            own += found
            bars += _bars(area, kind, found)
        _print(area, own, console)
        rows += [{"area": area} | row for row in own]
    for entry in bars:
        verdict = "holds" if entry["holds"] else "FAILS"
        console.print(f"{verdict}  {entry['name']}: {entry['value']:+.3f} (target {entry['target']})")
    if not chosen.model:
        name = "inpainting" if not chosen.area else f"inpainting-{chosen.area}"
        record.write(name + ("-quick" if chosen.quick else ""), rows, bars)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
