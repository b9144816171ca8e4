"""Is the uncertainty honest? How often the truth lies inside the interval that is claimed, by patient.

    python -m benchmarks.uncertainty [--quick]

For the posterior mean, the interval of nominal coverage 90 % is the result +- 1.645 times its uncertainty. A bar
holds where the mean coverage over patients is between 85 % and 95 %.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import medldm
from benchmarks import protocol, record
from benchmarks.methods import BRAIN_MODEL, CHEST_MODEL
from medldm.evaluate.intervals import interval

NOMINAL, QUANTILE = 0.90, 1.645
ALLOWED = (0.85, 0.95)


def coverage(case: protocol.Case, result: Any) -> tuple[float, float]:
    """Share of the voxels (of the brain, if any) whose truth is inside, and actual over claimed error."""
    spread = result.uncertainty.array[..., 0].T if case.truth.ndim == 2 else result.uncertainty.array
    where = case.mask if case.mask is not None else np.ones(case.truth.shape, dtype=bool)
    error = (np.asarray(result.array, dtype=np.float64) - case.truth)[where]
    claimed = spread[where].astype(np.float64)
    ratio = float(np.sqrt((error**2).mean() / (claimed**2).mean()))
    return float((np.abs(error) <= QUANTILE * claimed).mean()), ratio


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.uncertainty", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="24 radiographs instead of 80")
    quick = parser.parse_args(arguments).quick
    console = Console(width=100)
    table = Table("images", "noise", "n", "inside 90 % interval [95 %]", "actual / claimed error")
    rows, bars = [], []
    for area, levels in (("chest", protocol.CHEST_NOISE), ("brain", protocol.BRAIN_NOISE)):
        name = CHEST_MODEL if area == "chest" else BRAIN_MODEL
        model = medldm.load_model(name)
        cases = (
            protocol.chest_cases(protocol.QUICK_CHEST if quick else None) if area == "chest" else protocol.brain_cases()
        )
        for level in levels:
            shares, ratios = [], []
            for case in cases:
                if area == "chest":
                    y = protocol.gaussian(case, level)
                    result = medldm.denoise(y, model=model, noise_std=level, value_range=(0.0, 1.0))
                else:
                    y = protocol.rician(case, level)
                    result = medldm.denoise(y, model=model, noise_std=level, affine=case.affine)
                share, ratio = coverage(case, result)
                shares.append(share)
                ratios.append(ratio)
            found = interval(shares)
            rows.append(
                {"area": area, "level": level, "coverage": found.to_dict(), "error_ratio": float(np.mean(ratios))}
            )
            inside = ALLOWED[0] <= found.mean <= ALLOWED[1]
            bars.append(record.bar(f"{area}, noise {level:g}: coverage", found.mean, "0.85 to 0.95", inside))
            text = f"{found.mean:.3f} [{found.low:.3f}, {found.high:.3f}]"
            table.add_row(area, f"{level:g}", str(len(cases)), text, f"{np.mean(ratios):.2f}")
    console.print(table)
    for entry in bars:
        verdict = "holds" if entry["holds"] else "FAILS"
        console.print(f"{verdict}  {entry['name']}: {entry['value']:.3f} (target {entry['target']})")
    record.write("uncertainty-quick" if quick else "uncertainty", rows, bars)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
