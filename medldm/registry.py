"""The doors for plugins: entry points `medldm.<kind>`, loaded when asked for.

What ships with medldm enters by the same doors. A broken plugin is named where it is asked for and in
`medldm doctor`, and harms nobody else.
"""

from __future__ import annotations

import difflib
import functools
import sys
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from medldm.errors import InputError, ModelError

KINDS = ("readers", "writers", "problems", "samplers", "models", "autoencoders")


@dataclass(frozen=True)
class Entry:
    """One plugin: its name, where it is, who brings it, and the error if it does not load."""

    name: str
    value: str
    distribution: str
    error: str | None


def _points(kind: str) -> dict[str, EntryPoint]:
    if kind not in KINDS:
        raise InputError("registry", repr(kind), ", ".join(KINDS))
    return _on_path(kind, tuple(sys.path))


@functools.lru_cache(maxsize=64)
def _on_path(kind: str, path: tuple[str, ...]) -> dict[str, EntryPoint]:
    """Looked up once a search path: a read of a small file would spend most of its time here."""
    return {point.name: point for point in sorted(entry_points(group=f"medldm.{kind}"), key=lambda p: p.name)}


def names(kind: str) -> list[str]:
    """Names on offer, none of them loaded."""
    return list(_points(kind))


def _reason(failure: Exception) -> str:
    return f"{type(failure).__name__}: {failure}".splitlines()[0][:120]


def find(kind: str, name: str) -> Any:
    """Load the plugin `name`.

    Raises ModelError (for models) or InputError naming what is there, and the nearest, if it is unknown or
    does not load.
    """
    error = ModelError if kind == "models" else InputError
    points = _points(kind)
    where = f"{kind.removesuffix('s')} {name!r}"
    if name not in points:
        near = difflib.get_close_matches(name, points, n=1)
        listing = "models" if kind == "models" else "doctor"
        do = f"did you mean {near[0]!r}?" if near else f"see medldm {listing}"
        known = ", ".join(points) or "none installed"
        raise error(where, "no such name", f"{known}, or a folder" if kind == "models" else known, do)
    try:
        return points[name].load()
    except Exception as failure:
        got = f"a plugin that does not load ({_reason(failure)})"
        raise error(where, got, points[name].value, "repair or remove it") from None


def entries(kind: str) -> list[Entry]:
    """Every plugin of a kind, loaded to see whether it works."""
    found = []
    for name, point in _points(kind).items():
        error = None
        try:
            point.load()
        except Exception as failure:
            error = _reason(failure)
        found.append(Entry(name, point.value, point.dist.name if point.dist else "", error))
    return found
