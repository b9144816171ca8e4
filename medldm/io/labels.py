"""What is known of scans from elsewhere: a table joined to them by file or by patient, and their label maps.

Nothing that tells who somebody is goes on into a manifest, unless a column is asked for by its name.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from medldm.errors import InputError
from medldm.io.survey import Item, shown

LABEL_MAP = "label_map"  # the column of a scan's label map
OWN = ("file", "series", "select", "modality", "spacing", "shape", "doubts")  # what a manifest says itself
PATIENT = ("patient", "patient_id", "patientid", "participant", "participant_id", "subject", "subject_id")
SPLITS = {
    "train": "train", "training": "train", "validation": "validation", "val": "validation", "valid": "validation",
    "dev": "validation", "test": "test", "testing": "test",
}  # fmt: skip
MISSING = {"", "n/a", "na", "nan", "null", "none"}  # BIDS writes n/a
_WHO = re.compile(
    r"(^|_)(ids?|uid|names?|surname|mrn|dob|birth\w*|born|dates?|address|phone|e?mail|accession\w*|patient|"
    r"participant|subject)(_|$)"
)
_BIDS = re.compile(r"(?:^|[/_])sub-([A-Za-z0-9]+)(?=[/_.]|$)")


@dataclass(frozen=True)
class Labels:
    """What was found of each scan, in the order of the scans.

    each : columns and their values; {} for a scan that the table does not know
    by : column of the table that names the scans, "" without a table; unused : rows that name none
    left_out : columns that are not kept, with the reason
    patients : as the table tells them, "" of a scan that it does not know; () where it does not tell any
    splits : as the table tells them, or () where it does not, or not of all
    maps : files that are label maps of others, and no scans
    """

    each: tuple[dict[str, str], ...]
    by: str = ""
    unused: int = 0
    left_out: dict[str, str] = field(default_factory=dict)
    patients: tuple[str, ...] = ()
    splits: tuple[str, ...] = ()
    maps: frozenset[str] = frozenset()

    @property
    def known(self) -> int:
        """Scans of which anything is known."""
        return sum(any(said.values()) for said in self.each)

    @property
    def columns(self) -> list[str]:
        return list(dict.fromkeys(name for said in self.each for name in said))


def find_labels(
    items: Sequence[Item],
    root: Path,
    table: Path | None,
    *,
    by: str | None = None,
    columns: Sequence[str] = (),
    label_map: str | None = None,
) -> Labels:
    """Join a CSV or TSV table to scans, and find their label maps.

    by : its column that names the scans: by path, file name with or without suffix, folder, `sub-` or PatientID; None:
        the one that names most of them
    columns : those to keep; (): all but the patient's, and what else tells who somebody is
    label_map : pattern of a file below `root`, filled from the table's columns and the scan's `file`, `folder`, `name`,
        `stem`
    Raises InputError for a table that cannot be read or joined, an unknown column, or a pattern that finds nothing.
    """
    rows = [] if table is None else _read(table)
    where = "" if table is None else shown(table.name)
    joined = _Join(items, rows, where, by)
    taken = [joined.of(item) for item in items]
    kept, left_out = _kept(rows, taken, joined.by, columns, root, where)
    each = [{kept[k]: _value(row[k]) for k in kept} if row else dict.fromkeys(kept.values(), "") for row in taken]
    maps = [_map_of(item, row, label_map, root) for item, row in zip(items, taken, strict=True)] if label_map else []
    if label_map and not any(maps):
        raise InputError("--label-map", shown(label_map), "a pattern that finds a file", "such as labels/{stem}.nii.gz")
    for said, file in zip(each, maps, strict=False):
        said[LABEL_MAP] = file
    named = {id(row) for row in taken if row}
    who = next((name for name in (rows[0] if rows else {}) if name.lower() in PATIENT), None)
    return Labels(
        tuple(each),
        joined.by,
        sum(id(row) not in named for row in rows),
        left_out,
        () if who is None else tuple(_value(row[who]) if row else "" for row in taken),
        tuple(SPLITS.get(s.lower(), "") for s in _of_all(taken, ["split"] if rows and "split" in rows[0] else [])),
        frozenset(maps) - {""},
    )


def _read(table: Path) -> list[dict[str, str]]:
    """Rows of a table with commas, semicolons or tabs."""
    try:
        text = table.read_text(encoding="utf-8-sig")
    except OSError as failure:
        raise InputError(str(table), failure.strerror or "unreadable", "a CSV or TSV table") from None
    except UnicodeDecodeError:
        raise InputError(str(table), "bytes that are no UTF-8 text", "a CSV or TSV table") from None
    head = text.split("\n", 1)[0]
    rows = list(csv.DictReader(io.StringIO(text), delimiter=max(",;\t", key=head.count), restkey="", restval=""))
    if not rows:
        raise InputError(str(table), "no rows", "a line of column names, and one a scan or patient")
    return [{(name or "").strip(): str(value).strip() for name, value in row.items() if name} for row in rows]


def _keys(item: Item) -> list[str]:
    """What a table may call a scan, the surest first."""
    path = PurePosixPath(item.file)
    plain = path.name.split(".")[0] or path.name
    keys = [item.file, (path.parent / plain).as_posix(), path.name, path.name.rsplit(".", 1)[0], plain]
    if item.patient:
        keys.append(item.patient)
    keys += [text for name in _BIDS.findall(item.file)[:1] for text in (f"sub-{name}", name)]
    return keys + [part.name for part in path.parents if part.name]


class _Join:
    """Which row of a table is a scan's."""

    def __init__(self, items: Sequence[Item], rows: list[dict[str, str]], where: str, by: str | None) -> None:
        self.by, self.rows = "", {}  # type: tuple[str, dict[str, dict[str, str]]]
        if not rows:
            return
        if by is not None and by not in rows[0]:
            raise InputError(where, f"no column {by!r}", f"one of {', '.join(rows[0])}")
        found: dict[str, list[dict[str, str] | None]] = {}
        for name in rows[0] if by is None else [by]:
            table = _by_value(rows, name)
            if table is not None:
                matched = [_first(table, item) for item in items]
                if any(matched):
                    found[name] = matched
        if not found:
            do = "a column of paths below the folder, file names, or patients (PatientID, sub-)"
            raise InputError(where, "no column that tells the scans apart" if by is None else f"{by}: no scan", do)
        best = max(found, key=lambda name: sum(row is not None for row in found[name]))
        most = sum(row is not None for row in found[best])
        rivals = [n for n, m in found.items() if sum(row is not None for row in m) == most and m != found[best]]
        if rivals:
            raise InputError(where, f"{best} and {rivals[0]}, which name scans differently", "one", "say which (--by)")
        self.by, self.rows = best, _by_value(rows, best) or {}

    def of(self, item: Item) -> dict[str, str] | None:
        return _first(self.rows, item)


def _by_value(rows: Sequence[dict[str, str]], name: str) -> dict[str, dict[str, str]] | None:
    """The rows by what a column says, and by its hash as of a PatientID; None where one value has two rows."""
    found: dict[str, dict[str, str]] = {}
    for row in rows:
        value = row[name].replace("\\", "/").removeprefix("./")
        if not value:
            continue
        if value in found:
            return None
        found[value] = row
    return found | {hashlib.sha256(value.encode()).hexdigest(): row for value, row in found.items()}


def _first(table: dict[str, dict[str, str]], item: Item) -> dict[str, str] | None:
    return next((table[key] for key in _keys(item) if key in table), None)


def _kept(
    rows: Sequence[dict[str, str]],
    taken: Sequence[dict[str, str] | None],
    by: str,
    columns: Sequence[str],
    root: Path,
    where: str,
) -> tuple[dict[str, str], dict[str, str]]:
    """Columns to keep, with their names in a manifest; and the others, with the reason."""
    if not rows:
        return {}, {}
    unknown = [name for name in columns if name not in rows[0]]
    if unknown:
        raise InputError(where, f"no column {unknown[0]!r}", f"one of {', '.join(rows[0])}")
    kept: dict[str, str] = {}
    left_out: dict[str, str] = {}
    known = [row for row in taken if row is not None]
    for name in rows[0]:
        plain = re.sub(r"[^A-Za-z0-9_-]+", "_", name).strip("_-")
        plain = plain if plain[:1].isalpha() else f"c_{plain}"
        values = [value for row in known if (value := _value(row[name]))]
        reason = ""
        if name == "split":  # heeded, see `Labels`
            continue
        if plain in (*OWN, "patient", *kept.values()):
            reason = "who it is" if plain in ("file", "patient") else "the manifest has its own"
        elif columns:
            reason = "" if name in columns else "not asked for"
        elif name == by or _WHO.search(_snake(plain)):
            reason = "who it is"
        elif len(values) > 2 and len(set(values)) == len(values) and not _numbers(values):
            reason = "" if (root / values[0]).exists() else "another word for each scan"
        if reason:
            left_out[name] = reason
        else:
            kept[name] = plain
    return kept, left_out


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower().replace("-", "_")


def _numbers(values: Sequence[str]) -> bool:
    try:
        return all(float(value) == float(value) for value in values)
    except ValueError:
        return False


def _value(text: str) -> str:
    return "" if text.lower() in MISSING else text


def _of_all(taken: Sequence[dict[str, str] | None], names: Sequence[str]) -> tuple[str, ...]:
    """A column of every scan's row; () where a scan has none."""
    found = [row[name] for row in taken for name in names if row is not None and _value(row[name])]
    return tuple(found) if len(found) == len(taken) else ()


def _map_of(item: Item, row: dict[str, str] | None, pattern: str, root: Path) -> str:
    """The label map of a scan, below the root; "" where there is none, or it is one itself."""
    path = PurePosixPath(item.file)
    plain = path.name.split(".")[0] or path.name
    own = {"file": item.file, "folder": path.parent.as_posix(), "name": path.name, "stem": plain}
    try:
        file = pattern.format(**((row or {}) | own))
    except (KeyError, IndexError, ValueError):
        if row is None:
            return ""
        known = ", ".join(Counter([*row, *own]))
        raise InputError("--label-map", shown(pattern), f"a pattern of {known}") from None
    return PurePosixPath(file).as_posix() if file != item.file and (root / file).exists() else ""
