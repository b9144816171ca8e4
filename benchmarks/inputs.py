"""Inputs that go wrong: is a result ever worse than its input, and how far is the estimated noise from the true one?

    python -m benchmarks.inputs [--quick]

Heads and radiographs of the test split, noise added to them. The scans' own noise counts as anatomy, as it did in the
training. A bar holds where no result is worse than its input by more than 0.05 dB, where each estimate is within 20 %
of the truth or said to be in doubt, and where block means that are promised are kept.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

import medldm
from benchmarks import protocol, record
from benchmarks.methods import BRAIN_MODEL, CHEST_MODEL
from medldm.errors import MedldmError
from medldm.evaluate.baselines import block_average

Image = NDArray[np.float64]
WORSE, WITHIN, BLOCKS = 0.05, 0.20, 1e-3
BRIGHT = 30.0  # of a marker, in ranges
DOUBT = "hard to tell"


@dataclass(frozen=True, eq=False)
class Input:
    """One scan: what was measured, what it should be, in units of `scale`; scale_by : of super-resolution."""

    name: str
    area: str
    y: Image
    truth: Image
    noise: float
    scale: float = 1.0
    refine: int = 1
    options: dict[str, Any] = field(default_factory=dict)


def _rician(x: Image, noise_std: float) -> Image:
    rng = np.random.default_rng(7)
    return np.hypot(x + noise_std * rng.standard_normal(x.shape), noise_std * rng.standard_normal(x.shape))


def _gaussian(x: Image, noise_std: float) -> Image:
    return x + noise_std * np.random.default_rng(7).standard_normal(x.shape)


def _head_inputs(head: Image, levels: Sequence[float]) -> Iterator[Input]:
    crop, wide = head[30:78, 30:78, 24:66], head[:80, 20:100, 10:80]
    for level in levels:
        yield Input(f"whole, noise {level:g}", "brain", _rician(head, level), head, level)
        yield Input(f"cropped, noise {level:g}", "brain", _rician(crop, level), crop, level)
    for slices in (2, 3):
        slab = crop[:, :, 10 : 10 + slices]
        yield Input(f"slab of {slices}", "brain", _rician(slab, 0.05), slab, 0.05)
    noisy = _rician(wide, 0.05)
    mean, std = wide.mean(), wide.std()
    yield Input("z-scores", "brain", (noisy - mean) / std, (wide - mean) / std, 0.05 / std, 1 / std)
    yield Input("from -1000", "brain", 1000 * noisy - 1000, 1000 * wide - 1000, 50.0, 1000.0)
    low, high = -mean / std, (1.2 - mean) / std
    given = {"value_range": (float(low), float(high))}
    z_crop, z_noisy = (crop - mean) / std, (_rician(crop, 0.05) - mean) / std
    yield Input("z-scores, range given", "brain", z_noisy, z_crop, 0.05 / std, 1 / std, options=given)
    metal, hot = np.zeros(crop.shape, dtype=bool), np.random.default_rng(1).random(crop.shape) < 0.002
    metal[20:28, 20:28, 18:26] = True
    for name, there in (("metal", metal), ("hot voxels", hot)):
        yield Input(name, "brain", *(np.where(there, BRIGHT, x) for x in (_rician(crop, 0.05), crop)), 0.05)
    coarse = block_average(crop, (1, 1, 2))
    yield Input("x2, clean", "brain", coarse, crop, 0.0, refine=2)


def _chest_inputs(x: Image, levels: Sequence[float]) -> Iterator[Input]:
    for level in levels:
        y = np.clip(np.rint(255 * _gaussian(x, level)), 0, 255)
        yield Input(f"8 bit, noise {level:g}", "chest", y, 255 * x, 255 * level, 255.0)
    marker, hot = np.zeros(x.shape, dtype=bool), np.random.default_rng(1).random(x.shape) < 0.005
    marker[30:38, 30:38] = True
    for name, there in (("marker", marker), ("hot pixels", hot)):
        yield Input(name, "chest", *(np.where(there, BRIGHT, z) for z in (_gaussian(x, 0.05), x)), 0.05)
    coarse = block_average(x, (2, 2))
    yield Input("x2, clean", "chest", coarse, x, 0.0, refine=2)
    yield Input("x2, noise 0.05", "chest", _gaussian(coarse, 0.05), x, 0.05, refine=2)


@cache
def _model(area: str) -> Any:
    return medldm.load_model(BRAIN_MODEL if area == "brain" else CHEST_MODEL)


def _psnr(image: Image, case: Input) -> float:
    return float(10 * np.log10(case.scale**2 / max(float(((image - case.truth) ** 2).mean()), 1e-20)))


def measure(case: Input) -> dict[str, Any]:
    """dB before and after, estimate over truth, and what was said."""
    options: dict[str, Any] = {"model": _model(case.area), **case.options}
    y, before = case.y.astype(np.float32), case.y
    if case.refine > 1:
        flat = case.y.ndim == 2
        before = np.kron(case.y, np.ones((case.refine,) * 2 if flat else (1, 1, case.refine)))
    row: dict[str, Any] = {"area": case.area, "case": case.name, "input_db": _psnr(before, case)}
    if case.area == "brain":
        options["spacing"] = (2.0, 2.0, 2.0 * case.refine)
    try:
        if case.refine > 1:
            result = medldm.super_resolve(y, scale=(1, 1, 2) if y.ndim == 3 else 2, **options)
        else:
            result = medldm.denoise(y, **options)
    except MedldmError as error:
        return row | {"refused": str(error)}
    report = result.report
    row |= {"result_db": _psnr(np.asarray(result.array, dtype=np.float64), case), "warnings": report["warnings"]}
    row |= {"estimate": report["noise_std"] / case.noise if case.noise else report["noise_std"] / case.scale}
    if case.refine > 1 and report["noise_std"] == 0:
        factor = (2, 2) if y.ndim == 2 else (1, 1, 2)
        means = block_average(np.asarray(result.array, dtype=np.float64), factor)
        row["blocks"] = float(np.abs(means - case.y).max() / case.scale)
    return row | {"noise": case.noise}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.inputs", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one head and one radiograph, fewer levels")
    quick = parser.parse_args(arguments).quick
    levels = (0.01, 0.05, 0.2) if quick else (0.01, 0.02, 0.05, 0.1, 0.2)
    count = 1 if quick else 3
    cases = [case for head in protocol.brain_cases(count) for case in _head_inputs(head.truth, levels)]
    cases += [case for film in protocol.chest_cases(count) for case in _chest_inputs(film.truth, levels)]
    rows = [measure(case) for case in cases]
    table = Table("images", "case", "input dB", "result dB", "estimate / true", "said")
    for row in rows:
        if "refused" in row:
            table.add_row(row["area"], row["case"], f"{row['input_db']:.2f}", "refused", "", row["refused"])
            continue
        ratio = f"{row['estimate']:.2f}" if row["noise"] else f"{row['estimate']:.4f} of 0"
        said = "; ".join(warning[:40] for warning in row["warnings"])
        table.add_row(row["area"], row["case"], f"{row['input_db']:.2f}", f"{row['result_db']:.2f}", ratio, said)
    console = Console(width=140)
    console.print(table)
    done = [row for row in rows if "refused" not in row]
    worst = min(row["result_db"] - row["input_db"] for row in done)
    doubted = [any(DOUBT in warning for warning in row["warnings"]) for row in done]
    off = [abs(r["estimate"] - 1) for r, doubt in zip(done, doubted, strict=True) if r["noise"] and not doubt]
    blocks = max(row.get("blocks", 0.0) for row in done)
    bars = [
        record.bar("worst gain, dB", worst, f">= -{WORSE}", worst >= -WORSE),
        record.bar("largest error of an estimate that is not doubted", max(off), f"<= {WITHIN}", max(off) <= WITHIN),
        record.bar("largest error of a block mean, of the range", blocks, f"<= {BLOCKS}", blocks <= BLOCKS),
        record.bar("refused", len(rows) - len(done), "0", len(done) == len(rows)),
    ]
    for entry in bars:
        verdict = "holds" if entry["holds"] else "FAILS"
        console.print(f"{verdict}  {entry['name']}: {entry['value']} (target {entry['target']})")
    console.print(f"estimates in doubt: {sum(doubted)} of {len(done)}")
    record.write("inputs-quick" if quick else "inputs", rows, bars)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
