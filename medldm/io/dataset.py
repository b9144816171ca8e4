"""A whole data set: what of it can be used, whose scans are whose, how it is divided, and its table."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medldm.errors import EmptyInput, InputError
from medldm.io.atomic import write_whole
from medldm.io.choice import Choice
from medldm.io.manifest import draw_splits, pack_select, write_manifest
from medldm.io.patients import patients_of
from medldm.io.survey import Item, Progress, shown, survey
from medldm.volume import QUANTITY, refused_map


@dataclass(frozen=True)
class Member:
    """A scan that can be used; patient : twelve hexadecimal digits"""

    item: Item
    patient: str
    split: str

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
            "split": self.split,
        }


@dataclass(frozen=True)
class Dataset:
    """members : what can be used; refused : what cannot, with reasons; rules : scans by what told their patient

    skipped : what was not looked at, by reason
    doubt : why nothing was put aside for testing, or ""
    """

    members: tuple[Member, ...]
    refused: tuple[Item, ...]
    other_files: int
    skipped: dict[str, int]
    rules: dict[str, int]
    doubt: str

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
        scans = [{**m.item.to_dict(), "patient": m.patient, "split": m.split} for m in self.members]
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
    progress: Progress | None = None,
) -> Dataset:
    """Read everything below `folder`; one bad file never ends it.

    pattern : regular expression that finds the patient in a path (see `medldm.io.patients.patients_of`)
    test, validation : fractions of the patients; the same seed draws the same
    Raises InputError for a missing folder, a wrong pattern or fractions.
    """
    draw_splits([], test=test, validation=validation, seed=seed)
    patients_of([], pattern)
    if not folder.is_dir():
        raise InputError(shown(str(folder)), "no such folder", "the folder of a data set", "check the path")
    found = survey(folder, choice, progress)
    items = [_without_maps(item) for item in found.items]
    scans, refused = ([i for i in items if (i.facts is None) is no] for no in (False, True))
    patients = patients_of(scans, pattern)
    if patients.doubt:
        test = validation = 0.0
    splits = draw_splits(patients.hashes, test=test, validation=validation, seed=seed)
    members = (Member(i, p, splits[p]) for i, p in zip(scans, patients.hashes, strict=True))
    return Dataset(tuple(members), tuple(refused), found.other_files, found.skipped, patients.rules, patients.doubt)


def _without_maps(item: Item) -> Item:
    """The item; refused if it is a map that was saved beside a result."""
    quantity = item.facts["notes"].get(QUANTITY) if item.facts else None
    if not quantity:
        return item
    reason = refused_map(item.file, quantity)
    return replace(item, facts=None, refusal=str(reason), error=type(reason).__name__)
