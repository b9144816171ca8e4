"""Data sets: a table of files, hashed patients and splits. A patient is never in two splits."""

from __future__ import annotations

import contextlib
import csv
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medldm import registry
from medldm.errors import EmptyInput, InputError


@dataclass(frozen=True)
class Row:
    """One scan of a data set; `conditions` are the table's other columns."""

    path: Path
    mask: Path | None
    patient_hash: str
    split: str
    conditions: dict[str, str]


def hash_patient(patient: str, dataset: str) -> str:
    """Twelve hexadecimal digits that tell patients of a data set apart and nothing else about them."""
    return hashlib.sha256(f"{dataset}\0{patient}".encode()).hexdigest()[:12]


def load_manifest(
    table: Path,
    *,
    root: Path,
    file_pattern: str = "{file}",
    mask_pattern: str | None = None,
    patient: str = "patient",
    dataset: str = "",
) -> list[Row]:
    """Read a CSV table with the columns `patient` and, if the set is divided, `split`.

    Patterns are filled from the columns, relative to `root`. Raises InputError for a missing table, column or
    file, or for a patient in two splits.
    """
    try:
        with table.open(newline="", encoding="utf-8") as handle:
            records = list(csv.DictReader(handle))
    except OSError as failure:
        raise InputError(str(table), failure.strerror or "unreadable", "a CSV table") from None
    rows: list[Row] = []
    splits: dict[str, str] = {}
    for number, record in enumerate(records, start=2):
        try:
            path = root / file_pattern.format(**record)
            mask = root / mask_pattern.format(**record) if mask_pattern else None
            digest = hash_patient(record[patient], dataset)
        except KeyError as missing:
            raise InputError(str(table), f"no column {missing}", f"one of {', '.join(record)}") from None
        split = record.get("split", "")
        if splits.setdefault(digest, split) != split:
            raise InputError(f"{table}, line {number}", "a patient in two splits", "one split a patient")
        used = {patient, "split"}
        rows.append(Row(path, mask, digest, split, {k: v for k, v in record.items() if k not in used}))
    absent = [p for row in rows for p in (row.path, row.mask) if p is not None and not p.is_file()]
    if absent:
        raise InputError(
            str(table), f"{len(absent)} missing files, first {absent[0].name}", "every file of the table"
        )
    if not rows:
        raise EmptyInput(str(table), "no rows", "one row a scan")
    return rows


def rows_of_folder(folder: Path, *, dataset: str = "") -> list[Row]:
    """Every scan below `folder`, each a patient of its own: files by their suffix, and folders of DICOM slices.

    Raises EmptyInput where there is none.
    """
    readers = []
    for name in registry.names("readers"):
        with contextlib.suppress(InputError):  # a broken plugin harms nobody else; medldm doctor names it
            readers.append(registry.find("readers", name))
    everything = [folder, *sorted(folder.rglob("*"))]
    series = [
        p
        for p in everything
        if p.is_dir() and not any(c.is_dir() for c in p.iterdir()) and any(r.can_read(p) for r in readers)
    ]
    suffixes = tuple(suffix for reader in readers for suffix in reader.SUFFIXES)
    files = [
        p for p in everything if p.is_file() and p.parent not in series and p.name.lower().endswith(suffixes)
    ]
    if not series and not files:
        raise EmptyInput(str(folder), "no scans", f"DICOM folders, or files ending in {', '.join(suffixes)}")
    scans = sorted([*series, *files])
    return [Row(p, None, hash_patient(str(p.relative_to(folder)), dataset), "train", {}) for p in scans]


def split_rows(rows: Sequence[Row], fraction: float, *, seed: int) -> tuple[list[Row], list[Row]]:
    """Divide by patient: the rest, and about `fraction` of the patients (one at least if it is > 0 and two exist)."""
    patients = sorted({row.patient_hash for row in rows})
    count = 0 if fraction <= 0 or len(patients) < 2 else max(1, round(fraction * len(patients)))
    drawn = set(np.random.default_rng(seed).permutation(patients)[:count].tolist())
    return [r for r in rows if r.patient_hash not in drawn], [r for r in rows if r.patient_hash in drawn]
