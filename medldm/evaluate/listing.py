"""Where the scans of a set are: by a table (split, patients, label maps), or whatever lies below a folder."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from medldm.errors import EmptyInput, InputError
from medldm.io import read
from medldm.io.manifest import load_manifest
from medldm.io.patients import patients_of
from medldm.io.survey import shown, survey
from medldm.volume import Volume, refused_map

Progress = Callable[[str, int, int], None]
TABLES = ("manifest.csv", "index.csv")
_LABELS = re.compile(r"(?:^|[/_.-])(?:labels?|labelmap|d?seg|masks?)(?=[/_.-]|$)", re.IGNORECASE)


@dataclass(frozen=True)
class Entry:
    """Where a scan is. name : below the folder that was given; patient : a hash; labels : its label map, if any"""

    name: str
    path: Path
    patient: str
    split: str = ""
    labels: Path | None = None
    series: str = ""
    select: dict[str, str] = field(default_factory=dict)

    def read(self) -> Volume:
        """Raises InputError, also for a map that was saved beside a result."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what a reader mended is for `medldm check` to tell
            volume = read(self.path, self.series or None, select=self.select)
        if volume.quantity:
            raise refused_map(self.path.name, volume.quantity)
        return volume


@dataclass(frozen=True)
class Listing:
    """What lies in a place: scans, label maps that no table assigns to one, and what cannot be read, with reasons."""

    entries: tuple[Entry, ...]
    labels: tuple[Path, ...] = ()
    left_out: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Table:
    """How a table of real scans is read; as the keys of a recipe's source.

    index : the CSV file; None: manifest.csv or index.csv of the folder, where there is one
    file, labels : patterns of its columns, such as "images/{file}"; file None: the column `file`
    patient : the column of patients
    """

    index: Path | None = None
    file: str | None = None
    patient: str = "patient"
    labels: str | None = None


def list_scans(place: Path, table: Table | None = None, progress: Progress | None = None) -> Listing:
    """The scans of a folder, or of a CSV table, whose files lie beside it.

    Without a table every file below the folder is looked at (`medldm.io.survey`), and files that are named as labels
    (`_dseg`, `labels/`, ...) count as label maps. Raises EmptyInput, InputError.
    """
    table, root = table or Table(), place
    index = table.index
    if place.is_file() and place.suffix.lower() == ".csv":
        index, root = place, place.parent
    elif index is None:
        index = next((place / name for name in TABLES if (place / name).is_file()), None)
    elif not index.is_file() and (place / index).is_file():
        index = place / index
    return _of_folder(place, progress) if index is None else _of_table(index, root, table)


def _of_table(index: Path, root: Path, table: Table) -> Listing:
    pattern = table.file or "{file}"
    try:
        rows = load_manifest(index, root=root, file_pattern=pattern, mask_pattern=table.labels, patient=table.patient)
    except InputError:
        below = [] if table.file else [p.name for p in sorted(root.iterdir()) if p.is_dir()]
        for folder in below:  # a table beside the folder of its files is common
            try:
                return _of_table(index, root, replace(table, file=f"{folder}/{{file}}"))
            except InputError:
                continue
        raise
    names = [shown(_below(row.path, root)) for row in rows]
    return Listing(
        tuple(
            Entry(name, row.path, row.patient_hash, row.split, row.mask, row.series, row.select)
            for name, row in zip(names, rows, strict=True)
        )
    )


def _of_folder(folder: Path, progress: Progress | None) -> Listing:
    found = survey(folder, progress=progress)
    root = folder if folder.is_dir() else folder.parent
    named = [item for item in found.scans if _LABELS.search(item.file)]
    scans = [item for item in found.scans if item not in named]
    refused = tuple((shown(item.file), item.refusal) for item in found.refused)
    if not scans:
        got = f"no scan that can be read ({len(refused)} refused, {found.other_files} other files)"
        raise EmptyInput(str(folder), got, "NIfTI, DICOM or pictures", "see medldm check")
    patients = patients_of(scans).hashes
    entries = [
        Entry(shown(item.file), root / item.file, patient, series=item.series, select=item.select)
        for item, patient in zip(scans, patients, strict=True)
    ]
    return Listing(tuple(entries), tuple(root / item.file for item in named), refused)


def _below(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
