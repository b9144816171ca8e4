"""`medldm inspect`."""

from __future__ import annotations

import json as json_
from pathlib import Path
from typing import Annotated, Any

import typer

from medldm.cli import options as o

Scan = Annotated[Path, typer.Argument(help="NIfTI file, DICOM folder or file, or picture.")]


def inspect(path: Scan, series: o.Series = None, json: o.Json = False) -> None:
    """Show what a scan is: grid, orientation, unit, range; never who it is."""
    from medldm.io import Choice, read_choice

    scan = read_choice(path, Choice(series=series))
    first = scan.history[0] if scan.history else {}
    facts: dict[str, Any] = {
        "shape": list(scan.geometry.shape),
        "spacing_mm": [round(s, 6) for s in scan.geometry.spacing],
        "axcodes": "".join(scan.geometry.axcodes),
        "sheared": bool(scan.geometry.is_sheared),
        "modality": scan.modality,
        "unit": scan.unit,
        "range": [float(scan.array.min()), float(scan.array.max())],
        "source": first.get("format", "unknown"),
        "notes": {k: v for k, v in first.items() if k not in ("step", "format")},
    }
    if json:
        print(json_.dumps({**facts, "affine": scan.geometry.affine.tolist()}, indent=2, default=str))
        return
    for name, value in facts.items():
        if isinstance(value, list):
            value = ("  " if name == "range" else " x ").join(f"{v:.6g}" for v in value)
        elif isinstance(value, dict):
            value = "; ".join(f"{k} {v}" for k, v in value.items()) or "none"
        print(f"{name:11} {'unknown' if value == '' else value}")
