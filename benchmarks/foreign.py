"""Does a model say when a scan is none of its kind, and keep still when it is?

    python -m benchmarks.foreign [--split train] [--only chest|brain|ct]

About seventy kinds of foreign inputs a pack; a kind counts by the share of its examples that `model.fits` warns of or
`denoise` refuses. Beside them scans of the model's kind in the states that it is there to restore: clean, noisy,
coarse, cut off. A bar holds where at least 95 % of the foreign and at most 5 % of the native ones are warned of; the
third bar is of the worst native state alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import medldm
from benchmarks import ct, foreign_ct, foreign_inputs, record
from benchmarks.foreign_inputs import Kinds
from benchmarks.methods import BRAIN_MODEL, CHEST_MODEL
from medldm.errors import MedldmError
from medldm.volume import Volume

FOREIGN, NATIVE = 0.95, 0.05
AREAS: dict[str, tuple[str, Callable[[str], Kinds], Callable[[str], Kinds]]] = {
    "chest": (CHEST_MODEL, foreign_inputs.native_films, foreign_inputs.foreign_films),
    "brain": (BRAIN_MODEL, foreign_inputs.native_heads, foreign_inputs.foreign_heads),
    "ct": (ct.MODEL, foreign_ct.native_slices, foreign_ct.foreign_slices),
}


def judged(model: Any, scan: Volume) -> str:
    """What is said against a scan, "" for nothing."""
    try:
        doubts = model.fits(scan)
        if doubts:
            return "; ".join(doubts)
        medldm.denoise(scan, model=model, noise_std=0.0)
    except MedldmError as failure:
        return f"refused: {failure}"
    return ""


def rows_of(area: str, split: str) -> list[dict[str, Any]]:
    name, of_native, of_foreign = AREAS[area]
    model, native, foreign = medldm.load_model(name), of_native(split), of_foreign(split)
    if area == "brain":
        foreign |= {name: [scan] for name, scan in foreign_inputs.dicom_heads()}
    rows = []
    for kind, scans in foreign.items():
        said = [judged(model, scan) for scan in scans]
        rows.append({"area": area, "of": "foreign", "kind": kind, "n": len(said), "said": next(filter(None, said), "")})
        rows[-1]["warned"] = float(np.mean([bool(text) for text in said]))
    for kind, scans in native.items():
        factor = foreign_inputs.factor_of(kind)  # coarse ones are there to be refined
        doubts = [model.fits(scan, factor) for scan in scans]
        said = ["; ".join(each) for each in doubts]
        rows.append({"area": area, "of": "native", "kind": kind, "n": len(said), "said": next(filter(None, said), "")})
        rows[-1]["warned"] = float(np.mean([bool(text) for text in said]))
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.foreign", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--split", choices=("train", "test"), default="test")
    parser.add_argument("--only", choices=AREAS, help="CT has slices of the test split alone")
    given = parser.parse_args(arguments)
    areas = tuple(AREAS) if given.only is None else (given.only,)
    rows, bars, console = [], [], Console(width=150)
    for area in areas:
        found = rows_of(area, given.split)
        rows += found
        table = Table("images", "of", "kind", "n", "warned", "what is said")
        for row in found:
            table.add_row(area, row["of"], row["kind"], str(row["n"]), f"{row['warned']:.2f}", row["said"][:90])
        console.print(table)
        foreign = [row for row in found if row["of"] == "foreign"]
        share = float(np.mean([row["warned"] for row in foreign]))
        native = [row for row in found if row["of"] == "native"]
        alarms = sum(row["warned"] * row["n"] for row in native) / sum(row["n"] for row in native)
        worst = max(row["warned"] for row in native)
        bars += [
            record.bar(f"{area}: {len(foreign)} foreign kinds, warned of", share, f">= {FOREIGN}", share >= FOREIGN),
            record.bar(f"{area}: native scans, warned of", alarms, f"<= {NATIVE}", alarms <= NATIVE),
            record.bar(f"{area}: the worst native state", worst, f"<= {NATIVE}", worst <= NATIVE),
        ]
    for entry in bars:
        verdict = "holds" if entry["holds"] else "FAILS"
        console.print(f"{verdict}  {entry['name']}: {entry['value']:.3f} (target {entry['target']})")
    if given.split == "test":
        record.write("foreign" if given.only is None else f"foreign-{given.only}", rows, bars)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
