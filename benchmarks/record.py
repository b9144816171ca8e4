"""What a benchmark leaves behind: benchmarks/results/NAME.json with rows, bars, machine, commit and date."""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("medldm", "torch", "monai", "numpy", "scikit-image", "bm3d", "bm4d")


def peak_bytes() -> int:
    """The most memory that this process has held so far; 0 where the system does not say (Windows)."""
    try:
        import resource
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def bar(name: str, value: float, target: str, holds: bool) -> dict[str, Any]:
    """One thing that is claimed: what was measured, what it had to be, and whether it is so."""
    return {"name": name, "value": round(float(value), 4), "target": target, "holds": bool(holds)}


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def machine() -> dict[str, Any]:
    """Processor kind, cores and versions: what the figures may depend on; no host name."""
    packages = {}
    for name in PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "packages": packages,
    }


def write(name: str, rows: Sequence[Mapping[str, Any]], bars: Sequence[Mapping[str, Any]]) -> Path:
    """Write benchmarks/results/NAME.json, whole or not at all."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    content = {
        "rows": list(rows),
        "bars": list(bars),
        "machine": machine(),
        "commit": _commit(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    part.replace(path)
    return path
