"""A whole data set: what of it can be used, whose scans are whose, how it is divided, and its table."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from medldm.errors import EmptyInput, InputError
from medldm.io.atomic import write_whole
from medldm.io.choice import Choice
from medldm.io.labels import Labels, find_labels
from medldm.io.manifest import draw_splits, pack_select, write_manifest
from medldm.io.patients import Patients, patients_of
from medldm.io.survey import Item, Progress, shown, survey
from medldm.marks import QUANTITY
from medldm.volume import refused_map


@dataclass(frozen=True)
class Member:
    """A scan that can be used; patient : twelve hexadecimal digits; labels : what else is known of it"""

    item: Item
    patient: str
    split: str
    labels: dict[str, str] = field(default_factory=dict)

    def record(self) -> dict[str, str]:
        """Its row of the manifest."""
        facts = self.item.facts or {}
        return {
            "file": self.item.file,
            "series": self.item.series,
            "select": pack_select(self.item.select),
            "patient": self.patient,
            "modality": self.item.modality,
            "spacing": "x".join(f"{s:.6g}" for s in facts["spacing_mm"]),
            "shape": "x".join(str(n) for n in facts["shape"]),
            "doubts": "; ".join(facts["doubts"]),
            "split": self.split,
            **self.labels,
        }


@dataclass(frozen=True)
class Dataset:
    """members : what can be used; refused : what cannot, with reasons; rules : scans by what told their patient

    skipped : what was not looked at, by reason
    doubt : why nothing was put aside for testing, or ""
    labels : what else is known of the scans, None where nobody asked
    """

    members: tuple[Member, ...]
    refused: tuple[Item, ...]
    other_files: int
    skipped: dict[str, int]
    rules: dict[str, int]
    doubt: str
    labels: Labels | None = None

    @property
    def doubtful(self) -> list[Item]:
        """What can be used, and should be looked at first."""
        return [m.item for m in self.members if m.item.facts and m.item.facts["doubts"]]

    def counts(self) -> dict[str, tuple[int, int]]:
        """Scans and patients of each split."""
        found = {}
        for split in ("train", "validation", "test"):
            own = [member for member in self.members if member.split == split]
            if own:
                found[split] = (len(own), len({member.patient for member in own}))
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain data: paths below the folder, hashed patients."""
        scans = [
            {**m.item.to_dict(), "patient": m.patient, "split": m.split} | ({"labels": m.labels} if m.labels else {})
            for m in self.members
        ]
        return {
            "scans": scans,
            "refused": [item.to_dict() for item in self.refused],
            "other_files": self.other_files,
            "skipped": self.skipped,
            "splits": {name: {"scans": s, "patients": p} for name, (s, p) in self.counts().items()},
            "patients_told_by": self.rules,
            "doubt": self.doubt,
        }

    def write_manifest(self, path: Path) -> None:
        """Write the table for training, whole or not at all. Raises OutputError; EmptyInput without a scan."""
        if not self.members:
            raise EmptyInput(path.name, "no scan that can be used", "one at least", "see the reasons")
        write_manifest(path, [member.record() for member in self.members])

    def write_report(self, path: Path) -> None:
        """Write `to_dict` as JSON, whole or not at all. Raises OutputError."""
        text = json.dumps(self.to_dict(), indent=2, default=str) + "\n"
        write_whole(path, lambda part: part.write_text(text, encoding="utf-8"))


def check_dataset(
    folder: Path,
    *,
    choice: Choice | None = None,
    pattern: str | None = None,
    test: float = 0.1,
    validation: float = 0.1,
    seed: int = 0,
    labels: Path | None = None,
    by: str | None = None,
    columns: Sequence[str] = (),
    label_map: str | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """Read everything below `folder`; one bad file never ends it.

    pattern : regular expression that finds the patient in a path (see `medldm.io.patients.patients_of`)
    test, validation : fractions of the patients; the same seed draws the same
    labels, by, columns, label_map : a table of what is known of the scans, and their label maps
        (`medldm.io.labels.find_labels`). Where it tells the patient of a scan, or the split of all, that counts.
    Raises InputError for a missing folder, a wrong pattern or fractions, a table that does not go with the scans.
    """
    draw_splits([], test=test, validation=validation, seed=seed)
    patients_of([], pattern)
    if not folder.is_dir():
        raise InputError(shown(str(folder)), "no such folder", "the folder of a data set", "check the path")
    found = survey(folder, choice, progress)
    items = [_without_maps(item) for item in found.items]
    scans, refused = ([i for i in items if (i.facts is None) is no] for no in (False, True))
    known = None
    if labels is not None or label_map is not None:
        asked: dict[str, Any] = {"by": by, "columns": columns, "label_map": label_map}
        maps = find_labels(scans, folder, labels, **asked).maps
        scans = [item for item in scans if item.file not in maps]
        known = find_labels(scans, folder, labels, **asked)
    patients = patients_of(scans, pattern, known.patients if known is not None and pattern is None else ())
    if patients.doubt:
        test = validation = 0.0
    splits = _splits(known, patients, test=test, validation=validation, seed=seed)
    each = known.each if known is not None else ({},) * len(scans)
    members = (Member(*one) for one in zip(scans, patients.hashes, splits, each, strict=True))
    others = (found.other_files, found.skipped, patients.rules, patients.doubt)
    return Dataset(tuple(members), tuple(refused), *others, known)


def _splits(known: Labels | None, patients: Patients, *, test: float, validation: float, seed: int) -> list[str]:
    """Of each scan: as its table tells, if it does so of all, else drawn by patient. Raises InputError."""
    if known is None or not known.splits or not all(known.splits):
        drawn = draw_splits(patients.hashes, test=test, validation=validation, seed=seed)
        return [drawn[patient] for patient in patients.hashes]
    of_patient: dict[str, set[str]] = defaultdict(set)
    for patient, split in zip(patients.hashes, known.splits, strict=True):
        of_patient[patient].add(split)
    torn = Counter(len(found) > 1 for found in of_patient.values())[True]
    if torn:
        raise InputError("labels, column split", f"{torn} patients in two splits", "one split a patient")
    return list(known.splits)


def _without_maps(item: Item) -> Item:
    """The item; refused if it is a map that was saved beside a result."""
    quantity = item.facts["notes"].get(QUANTITY) if item.facts else None
    if not quantity:
        return item
    reason = refused_map(item.file, quantity)
    return replace(item, facts=None, refusal=str(reason), error=type(reason).__name__)
