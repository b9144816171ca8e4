"""Data sets: a table of files, hashed patients and splits. A patient is never in two splits."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

from medldm import registry
from medldm.errors import EmptyInput, InputError
from medldm.io.atomic import write_whole
from medldm.io.walk import in_words, list_files

MANIFEST = "manifest.csv"  # as `medldm check` calls it
COLUMNS = ("file", "series", "select", "patient", "modality", "spacing", "shape", "doubts", "split")


@dataclass(frozen=True)
class Row:
    """One scan of a data set; `conditions` are the table's other columns, or what patterns over them gave.

    series, select : which scan of a folder, where it holds several (see `medldm.io.choice.Choice`)
    """

    path: Path
    mask: Path | None
    patient_hash: str
    split: str
    conditions: dict[str, str]
    series: str = ""
    select: dict[str, str] = field(default_factory=dict)


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
    conditions: Mapping[str, str] | None = None,
) -> list[Row]:
    """Read a CSV table with the columns `patient` and, if the set is divided, `split`.

    conditions : patterns, by names; None: the columns that nothing else uses
    Patterns are filled from the columns, relative to `root`; what they give is a file, or a folder of DICOM.
    Columns `series` and `select`, where both are there, say which scan in it. Raises InputError for a missing
    table, column or file, or for a patient in two splits.
    """
    try:
        with table.open(newline="", encoding="utf-8") as handle:
            records = list(csv.DictReader(handle, restkey="", restval=""))
    except OSError as failure:
        raise InputError(str(table), failure.strerror or "unreadable", "a CSV table") from None
    except (UnicodeDecodeError, csv.Error):
        raise InputError(str(table), "bytes that are no UTF-8 text", "a CSV table") from None
    rows: list[Row] = []
    splits: dict[str, str] = {}
    for number, record in enumerate(records, start=2):
        try:
            path = root / file_pattern.format(**record)
            mask = root / mask_pattern.format(**record) if mask_pattern else None
            digest = hash_patient(record[patient], dataset)
            said = {name: pattern.format(**record) for name, pattern in (conditions or {}).items()}
        except KeyError as missing:
            raise InputError(str(table), f"no column {missing}", f"one of {', '.join(record)}") from None
        split = record.get("split", "")
        if splits.setdefault(digest, split) != split:
            raise InputError(f"{table}, line {number}", "a patient in two splits", "one split a patient")
        used, series, select = {patient, "split", ""}, "", {}
        if "series" in record and "select" in record:
            used |= {"series", "select"}
            series, select = record["series"], unpack_select(record["select"], f"{table}, line {number}")
        if conditions is None:
            said = {k: v for k, v in record.items() if k not in used}
        rows.append(Row(path, mask, digest, split, said, series, select))
    absent = [p for row in rows for p in (row.path, row.mask) if p is not None and not p.exists()]
    if absent:
        raise InputError(str(table), f"{len(absent)} missing files, first {absent[0].name}", "every file of the table")
    if not rows:
        raise EmptyInput(str(table), "no rows", "one row a scan")
    return rows


def find_manifest(root: Path) -> Path | None:
    """The manifest.csv of the working folder or of `root` whose scans are all below `root`, or None."""
    for path in (Path(MANIFEST), root / MANIFEST):
        if path.is_file():
            try:
                with path.open(newline="", encoding="utf-8-sig") as handle:
                    files = [row.get("file") for row in csv.DictReader(handle)]
            except (OSError, UnicodeDecodeError, csv.Error):
                continue
            if files and all(file and (root / file).exists() for file in files):
                return path
    return None


def rows_of_folder(folder: Path, *, dataset: str = "") -> list[Row]:
    """Every scan below `folder`, each a patient of its own: files by their suffix, and folders of DICOM slices.

    Raises EmptyInput where there is none, and InputError for a link to nothing that is named like a scan.
    """
    readers = []
    for name in registry.names("readers"):
        with contextlib.suppress(InputError):  # a broken plugin harms nobody else; medldm doctor names it
            readers.append(registry.find("readers", name))
    suffixes = tuple(suffix for reader in readers for suffix in reader.SUFFIXES)
    skipped, dangling = Counter[str](), list[Path]()
    everything = list_files(folder, skipped, dangling)
    missing = [link for link in dangling if link.name.lower().endswith(suffixes)]
    if missing:
        got = f"{len(missing)} links to nothing, first {missing[0].name}"
        raise InputError(str(folder), got, "every scan", "fetch them (e.g. datalad get), or name a table (index)")
    folders = {parent for file in everything for parent in file.relative_to(folder).parents}
    outer = {parent for inner in folders for parent in inner.parents}
    series = [folder / p for p in sorted(folders - outer) if any(r.can_read(folder / p) for r in readers)]
    files = [p for p in everything if p.parent not in series and p.name.lower().endswith(suffixes)]
    if not series and not files:
        left_out = in_words(skipped)
        got = f"no scans among {len(everything)} files" + (f" ({left_out} left out)" if left_out else "")
        raise EmptyInput(str(folder), got, f"DICOM folders, or files ending in {', '.join(suffixes)}")
    scans = sorted([*series, *files])
    return [Row(p, None, hash_patient(str(p.relative_to(folder)), dataset), "train", {}) for p in scans]


def split_rows(rows: Sequence[Row], fraction: float, *, seed: int) -> tuple[list[Row], list[Row]]:
    """Divide by patient: the rest, and about `fraction` of the patients (one at least if it is > 0 and two exist).

    By rank of a hash, as `draw_splits`: of a set that grows by a patient, at most one changes sides.
    """
    splits = draw_splits([row.patient_hash for row in rows], test=0, validation=fraction, seed=seed)
    held_out = [row for row in rows if splits[row.patient_hash] == "validation"]
    return [row for row in rows if splits[row.patient_hash] == "train"], held_out


def draw_splits(patients: Sequence[str], *, test: float, validation: float, seed: int) -> dict[str, str]:
    """ "train", "validation" or "test" of each patient, by rank of a hash of the seed and the patient.

    A set that grows keeps nearly all of its splits. Of a fraction > 0 there is one patient at least, as long as
    one is left to train on. Raises InputError for fractions that leave nothing to train on.
    """
    if min(test, validation) < 0 or not test + validation < 1:
        raise InputError("splits", f"test {test:g}, validation {validation:g}", "fractions >= 0, below 1 together")
    ranked = sorted(set(patients), key=lambda p: hashlib.sha256(f"{seed}\0{p}".encode()).digest())
    tests = _share(test, len(ranked), len(ranked) - 1)
    validations = _share(validation, len(ranked), len(ranked) - 1 - tests)
    names = ["test"] * tests + ["validation"] * validations
    return {p: names[n] if n < len(names) else "train" for n, p in enumerate(ranked)}


def _share(fraction: float, count: int, most: int) -> int:
    return min(max(1, round(fraction * count)), most) if fraction > 0 and most > 0 else 0


def write_manifest(path: Path, records: Sequence[Mapping[str, str]]) -> None:
    """Write the table that `load_manifest` reads, whole or not at all: a row a scan, the columns `COLUMNS`.

    What else the records know of the scans follows in further columns. An existing table is replaced. Raises
    OutputError.
    """
    text = io.StringIO(newline="")
    further = dict.fromkeys(name for record in records for name in record if name not in COLUMNS)
    writer = csv.DictWriter(text, (*COLUMNS, *further), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    write_whole(path, lambda part: part.write_bytes(text.getvalue().encode("utf-8", "backslashreplace")))


def pack_select(select: Mapping[str, str]) -> str:
    """KEY=VALUE;KEY=VALUE; a semicolon or percent sign in a value is written as %3B or %25."""
    return ";".join(f"{key}={value.replace('%', '%25').replace(';', '%3B')}" for key, value in select.items())


def unpack_select(text: str, where: str) -> dict[str, str]:
    """The reverse of `pack_select`. Raises InputError."""
    parts = [part.partition("=") for part in text.split(";")] if text else []
    if not all(key and mark for key, mark, _ in parts):
        raise InputError(where, f"the selection {text!r}", "KEY=VALUE;KEY=VALUE")
    return {key: unquote(value) for key, _, value in parts}
