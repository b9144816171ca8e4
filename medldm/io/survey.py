"""What lies below a path: every scan with its grid and how to read it, every refusal with its reason.

One bad file never ends it. Paths are told below the path that was looked at; nothing names a patient but their files.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medldm import registry
from medldm.errors import InputError, PixelError, UnsupportedInput
from medldm.io import archive
from medldm.io.choice import Choice
from medldm.io.dicom.files import dicom_parts
from medldm.io.dicom.reader import Found, read_each
from medldm.io.dicom.stacks import STACK
from medldm.io.walk import check_exists, list_files
from medldm.volume import Volume

Progress = Callable[[str, int, int], None]
_STAGE = "looking"
_LARGEST_VALUE = 1e9  # the brightest PET in Bq/ml stays below
_FEW_SLICES = 3
_LOOKED_AT = 16  # slices that are looked at for labels
_FEW_LABELS, _MOST_LABELS, _IN_PATCHES = 8, 1000, 0.7


@dataclass(frozen=True)
class Item:
    """One scan, or what is none and why.

    file : what to read, below the root; "." is the root itself
    files : how many it is made of
    series, select : what reads it alone (`series` is a key, not a UID)
    patient : sha256 of the DICOM PatientID, "" where there is none
    facts : see `describe`; None for a refusal
    refusal, error : the reason and its kind, "" for a scan
    """

    file: str
    files: int
    reader: str
    series: str
    select: dict[str, str]
    modality: str
    patient: str
    facts: dict[str, Any] | None
    refusal: str = ""
    error: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain data without the patient."""
        table = {"file": shown(self.file), "series": self.series, "select": self.select, "files": self.files}
        if self.facts is None:
            return {**table, "modality": self.modality, "refused": self.refusal, "error": self.error}
        return {**table, **self.facts}


@dataclass(frozen=True)
class Survey:
    """items : in the order of their paths; other_files : files that hold no scan; skipped : not looked at, by reason"""

    items: tuple[Item, ...]
    other_files: int
    skipped: dict[str, int] = field(default_factory=dict)

    @property
    def scans(self) -> list[Item]:
        return [item for item in self.items if item.facts is not None]

    @property
    def refused(self) -> list[Item]:
        return [item for item in self.items if item.facts is None]


def describe(volume: Volume) -> dict[str, Any]:
    """What a scan is, as plain data: grid, orientation, unit, range, doubts, notes of the reader; never who it is."""
    first = volume.history[0] if volume.history else {}
    return {
        "shape": list(volume.geometry.shape),
        "spacing_mm": [round(s, 6) for s in volume.geometry.spacing],
        "axcodes": "".join(volume.geometry.axcodes),
        "sheared": bool(volume.geometry.is_sheared),
        "modality": volume.modality,
        "unit": volume.unit,
        "range": [float(volume.array.min()), float(volume.array.max())],
        "source": first.get("format", "unknown"),
        "doubts": doubts_of(volume),
        "notes": {key: value for key, value in first.items() if key not in ("step", "format")},
        "affine": volume.geometry.affine.tolist(),
    }


def doubts_of(volume: Volume) -> list[str]:
    """Why it may be no scan to train on, though it can be read: a mask, a blank image, nonsense, a scrap."""
    array, doubts = volume.array, []
    low, high = float(array.min()), float(array.max())
    if low == high:
        doubts.append(f"one value alone ({low:g})")
    if max(-low, high) > _LARGEST_VALUE:
        doubts.append(f"values up to {max(-low, high):.3g}")
    few = [n for n in array.shape if 1 < n <= _FEW_SLICES]
    if few:
        doubts.append(f"{min(few)} voxels along an axis")
    labels = _labels(array[..., :: -(-array.shape[2] // _LOOKED_AT)]) if low < high else 0
    if labels:
        doubts.append(f"{labels} whole numbers alone: labels?")
    return doubts


def _labels(part: NDArray[np.float32]) -> int:
    """How many values there are, if they look like labels: few whole numbers, in patches; else 0."""
    if not (part == np.rint(part)).all():
        return 0
    values, counts = np.unique(part, return_counts=True)
    if len(values) <= _FEW_LABELS:
        return len(values)
    if len(values) > _MOST_LABELS:
        return 0
    inside = part[1:] != values[np.argmax(counts)]
    alike = (part[1:] == part[:-1])[inside]
    return len(values) if alike.size and alike.mean() > _IN_PATCHES else 0


def shown(name: str) -> str:
    """A file name fit for a terminal: no control characters, no halves of damaged encodings."""
    return "".join(c if c.isprintable() else "\ufffd" for c in name)


def survey(path: str | Path, choice: Choice | None = None, progress: Progress | None = None) -> Survey:
    """Read everything below `path` (or the one file) once, keep what describes it.

    choice : what may be assumed; its series and selection are not heeded
    progress : called as (stage, files done, files)
    Raises EmptyInput for a missing path.
    """
    path = Path(path)
    check_exists(path)
    choice = replace(choice or Choice(), series=None, select={})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the notes say the same, scan by scan
        return _Looking(path, choice, progress).result()


class _Looking:
    """One survey on its way."""

    def __init__(self, path: Path, choice: Choice, progress: Progress | None) -> None:
        self.path, self.choice, self.progress = path, choice, progress
        self.root = path if path.is_dir() else path.parent
        self.skipped: Counter[str] = Counter()
        self.files = list_files(path, self.skipped)
        self.readers = list(_readers())
        self.folders: dict[Path, str] = {}
        self.known: set[Path] = set()

    def result(self) -> Survey:
        items = [] if archive.can_read(self.path) else self._dicom()
        items += [item for file in self.files if file not in self.known for item in self._other(file)]
        if self.files:
            self._tell(_STAGE, len(self.files))
        others = sum(1 for file in self.files if file not in self.known)
        ordered = sorted(items, key=lambda item: (item.file, item.series))
        return Survey(tuple(ordered), others, dict(self.skipped))

    def _dicom(self) -> list[Item]:
        """Stacks of every series; a stack is read from the folder that holds all of its series."""
        drafts: list[tuple[Item, tuple[Path, ...]]] = []
        for part in dicom_parts(self.path, self.files, progress=lambda done: self._tell("sorting", done)):
            try:
                for found in read_each(part, self.choice):
                    drafts.append((self._item(found, ""), found.files))
                    self._is_known(*found.files)
            except Exception as failure:
                place = part.relative_to(self.root).as_posix()
                drafts.append((self._refusal(place, "dicom", _typed(part, "dicom", failure)), ()))
        files: dict[str, list[Path]] = {}
        for item, own in drafts:
            files.setdefault(item.series, []).extend(own)
        return [
            replace(item, file=self._place(item, own, files[item.series] if item.series else list(own)))
            for item, own in drafts
        ]

    def _place(self, item: Item, own: tuple[Path, ...], series: list[Path]) -> str:
        if not own:
            return item.file
        if len(set(own)) == 1 and STACK not in item.select:
            return own[0].relative_to(self.root).as_posix()
        return Path(os.path.commonpath([file.parent for file in series])).relative_to(self.root).as_posix()

    def _other(self, file: Path) -> list[Item]:
        """A file, or the folder it lies in, that another reader takes; [] where none does."""
        folder, name = self._folder_of(file)
        if folder is not None:
            first = not any(folder in known.parents for known in self.known)
            self._is_known(file)
            return self._read(folder, name) if first else []
        name = self._reader_of(file)
        if name in ("", "dicom"):  # DICOM that holds no image, or a name that is all there is of it
            return []
        self._is_known(file)
        return self._archive(file) if name == "zip" else self._read(file, name)

    def _archive(self, file: Path) -> list[Item]:
        place = file.relative_to(self.root).as_posix()
        try:
            items = [self._item(found, place) for found in read_each(file, self.choice)]
        except Exception as failure:
            return [self._refusal(place, "zip", _typed(file, "zip", failure))]
        return items or self._read(file, "zip")

    def _read(self, path: Path, name: str) -> list[Item]:
        place = path.relative_to(self.root).as_posix()
        try:
            place.encode()
        except UnicodeEncodeError:
            reason = UnsupportedInput(shown(path.name), "a name that is not UTF-8", "one that is", "rename it")
            return [self._refusal(place, name, reason)]
        reader = dict(self.readers)[name]
        parts = getattr(reader, "files_of", None)
        several: Callable[..., Iterator[tuple[dict[str, str], Volume | InputError]]] | None
        several = getattr(reader, "volumes", None)
        try:
            own = [path] if parts is None else parts(path)
            self._is_known(*own)
            if several is None:
                return [self._described(place, name, {}, len(own), reader.read(path, self.choice))]
            return [self._described(place, name, s, len(own), v) for s, v in several(path, self.choice)]
        except Exception as failure:
            return [self._refusal(place, name, _typed(path, name, failure))]

    def _described(self, place: str, name: str, select: dict[str, str], files: int, found: Volume | InputError) -> Item:
        if isinstance(found, InputError):
            return replace(self._refusal(place, name, found), select=select, files=files)
        return Item(place, files, name, "", select, found.modality, "", describe(found))

    def _item(self, found: Found, place: str) -> Item:
        name = "zip" if place else "dicom"
        item = Item(place, len(found.files), name, found.series, found.select, found.modality, found.patient, None)
        if found.volume is not None:
            return replace(item, facts=describe(found.volume))
        assert found.refusal is not None
        return replace(item, refusal=self._text(found.refusal), error=type(found.refusal).__name__)

    def _refusal(self, place: str, name: str, reason: InputError) -> Item:
        return Item(place, 1, name, "", {}, "", "", None, self._text(reason), type(reason).__name__)

    def _text(self, reason: InputError) -> str:
        text = str(reason)
        for root in (self.root, self.root.resolve()):
            if root.name:
                text = text.replace(f"{root}{os.sep}", "").replace(str(root), root.name)
        return shown(text)

    def _is_known(self, *files: Path) -> None:
        self.known.update(files)
        self._tell(_STAGE, len(self.known))

    def _tell(self, stage: str, done: int) -> None:
        if self.progress is not None:
            self.progress(stage, done, len(self.files))

    def _reader_of(self, path: Path) -> str:
        for name, reader in self.readers:
            with contextlib.suppress(Exception):
                if reader.can_read(path):
                    return name
        return ""

    def _folder_of(self, file: Path) -> tuple[Path | None, str]:
        """The outermost folder around a file that is a scan itself: by its suffix, and some reader's word."""
        inside = [self.root / part for part in reversed(file.relative_to(self.root).parents) if part.name]
        for folder in inside:
            if folder not in self.folders:
                suffixes = [(n, tuple(r.SUFFIXES)) for n, r in self.readers if n != "dicom"]
                named = any(folder.name.lower().endswith(s) for _, s in suffixes)
                self.folders[folder] = self._reader_of(folder) if named else ""
            if self.folders[folder] not in ("", "dicom"):
                return folder, self.folders[folder]
        return None, ""


def _typed(path: Path, name: str, failure: Exception) -> InputError:
    """The failure itself if it is a refusal; a plugin's others may quote what a header says."""
    if isinstance(failure, InputError):
        return failure
    return PixelError(path.name, f"a failure of the reader {name} ({type(failure).__name__})", "a readable scan")


def _readers() -> Iterator[tuple[str, Any]]:
    for name in registry.names("readers"):
        with contextlib.suppress(InputError):  # a broken plugin harms nobody else; medldm doctor names it
            yield name, registry.find("readers", name)
