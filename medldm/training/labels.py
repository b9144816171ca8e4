"""What of a manifest's further columns synthesis can be asked for, and as what."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medldm.errors import InputError
from medldm.io import read
from medldm.io.labels import LABEL_MAP
from medldm.io.manifest import COLUMNS
from medldm.training.fingerprint import Kind

MOST_WORDS, MOST_LABELS = 20, 16
FEW_NUMBERS = 6  # so many distinct numbers are codes of classes
KNOWN = 0.3  # share of the scans of which a column must be known
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")

Table = dict[str, Any]


def conditions_of(
    kind: Kind, root: Path, wanted: Sequence[str] | None = None
) -> tuple[dict[str, Table], dict[str, str]]:
    """Tables of `medldm.conditions`, and of each column why it is one, or none.

    wanted : columns; None: all that fit. Raises InputError for one that is not there, or does not fit.
    """
    columns = list(dict.fromkeys(name for record in kind.records for name in record if name not in COLUMNS))
    unknown = [name for name in wanted or () if name not in columns]
    if unknown:
        raise InputError(
            "--condition", repr(unknown[0]), f"a further column of the manifest: {', '.join(columns) or 'none'}"
        )
    tables, said = {}, {}
    for name in columns if wanted is None else wanted:
        table, why = _table(name, kind, root, asked=wanted is not None)
        said[name] = why
        if table is not None:
            tables[name] = table
        elif wanted is not None:
            raise InputError("--condition", name, f"another column: {why}")
    return tables, said


def _table(name: str, kind: Kind, root: Path, *, asked: bool) -> tuple[Table | None, str]:
    values = [value for record in kind.known if (value := record.get(name, "").strip())]
    words = Counter(values)
    if not _NAME.fullmatch(name):
        return None, "its name has other signs than letters, digits, _ and -"
    if not values:
        return None, "nothing in it"
    files = (root / values[0]).is_file() and len(words) > 1
    if files:
        return (
            _label_map(values, root) if asked or name == LABEL_MAP else (None, f"files; --condition {name} takes them")
        )
    if len(values) < KNOWN * len(kind.known) and not asked:
        return None, f"known of {len(values)} of {len(kind.known)} scans"
    if len(words) == 1:
        return None, "one value throughout"
    numbers = _numbers(words)
    if numbers and len(words) > FEW_NUMBERS:
        low, high = min(numbers), max(numbers)
        return {"kind": "number", "low": low, "high": high}, f"Numbers; known of {len(values)} scans, all within."
    if len(words) > MOST_WORDS or 2 * len(words) > len(values):
        return None, f"{len(words)} different words in {len(values)} scans"
    ranked = sorted(words, key=lambda word: (-words[word], word))
    return {"kind": "class", "values": ranked}, "Scans: " + ", ".join(f"{words[w]} {w}" for w in ranked) + "."


def _numbers(words: Counter[str]) -> list[float]:
    try:
        found = [float(word) for word in words]
    except ValueError:
        return []
    return found if all(map(math.isfinite, found)) else []


def _label_map(files: Sequence[str], root: Path) -> tuple[Table | None, str]:
    """Every map is read: a value that is not listed would be refused in training."""
    found: set[int] = set()
    for file in dict.fromkeys(files):
        values = np.unique(read(root / file).array)
        if not (values == np.rint(values)).all() or values.min() < 0:
            return None, f"{file} holds more than whole numbers from 0"
        found.update(int(value) for value in values if value)
    if not found:
        return None, "maps of background alone"
    if len(found) > MOST_LABELS:
        groups = np.array_split(sorted(found), MOST_LABELS)
        labels = {f"group_{n}": [int(v) for v in group] for n, group in enumerate(groups, start=1)}
        why = f"{len(found)} labels, too many to tell apart, in groups of neighbours: group them by tissue."
        return {"kind": "label_map", "labels": labels}, why
    labels = {f"label_{value}": [value] for value in sorted(found)}
    return {"kind": "label_map", "labels": labels}, f"Label maps of {len(files)} scans; give the labels their names."
