"""Whose scan is whose: by the DICOM PatientID, by BIDS names, else by folders. Where in doubt, one patient too few."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from medldm.errors import InputError
from medldm.io.manifest import hash_patient
from medldm.io.survey import Item, shown

_BIDS = re.compile(r"(?:^|[/_])(sub-[A-Za-z0-9]+)(?=[/_.]|$)")
_DATASET = "medldm check"  # the same for every set, so that a folder may be moved
_MANY = 20  # scans of one patient
_FEW = 10  # folders
ID, BIDS, PATTERN = "PatientID", "sub- in the path", "pattern"
FOLDER, NAME, LABELS = "folder", "file name", "labels"


@dataclass(frozen=True)
class Patients:
    """Whose the scans are.

    hashes : the patient of each scan, twelve hexadecimal digits
    rules : scans by what told their patient
    doubt : why no split is safe, or ""
    """

    hashes: tuple[str, ...]
    rules: dict[str, int]
    doubt: str


def patients_of(items: Sequence[Item], pattern: str | None = None, told: Sequence[str] = ()) -> Patients:
    """Tell the patients of scans apart.

    told : the patient of each scan, "" where nobody says; such a scan is whose the told ones are that go by the same
        rule, if they are of one
    Else, in this order: the groups of the regular expression `pattern` in the path below the root; the PatientID of
    DICOM (the StudyInstanceUID where it is empty); sub-XXX in the path, as in BIDS; the first folder below the one
    that holds all the others, unless the same names recur in fewer such folders (kinds of scans: the name counts
    then); the file name.
    Raises InputError for a pattern that is none, or that leaves out a scan.
    """
    keys = _by_pattern(items, pattern) if pattern is not None else [_named(item) for item in items]
    rest = [n for n, key in enumerate(keys) if key is None]
    for n, key in zip(rest, _by_folder([items[n].file for n in rest]), strict=True):
        keys[n] = key
    by_rule = [key for key in keys if key is not None]
    known, doubt = _with_told(by_rule, told) if told else (by_rule, "")
    hashes = tuple(hash_patient("\0".join(key), _DATASET) for key in known)
    return Patients(hashes, dict(Counter(rule for rule, _ in known)), doubt or _doubt(known))


def _with_told(keys: Sequence[tuple[str, str]], told: Sequence[str]) -> tuple[list[tuple[str, str]], str]:
    """The keys with the patients that are told, and why no split is safe, or ""."""
    named: dict[tuple[str, str], set[str]] = defaultdict(set)
    for key, name in zip(keys, told, strict=True):
        if name:
            named[key].add(name)
    found: list[tuple[str, str]] = []
    torn = 0
    for key, name in zip(keys, told, strict=True):
        likely = {name} if name else set(named.get(key, ()))
        torn += len(likely) > 1
        found.append((LABELS, likely.pop()) if len(likely) == 1 else key)
    return found, f"{torn} scans that the labels do not name lie among those of several patients" if torn else ""


def _by_pattern(items: Sequence[Item], pattern: str) -> list[tuple[str, str] | None]:
    try:
        expression = re.compile(pattern)
    except re.error as failure:
        raise InputError("patient pattern", repr(pattern), "a regular expression", str(failure)) from None
    found = [expression.search(item.file) for item in items]
    missed = [item.file for item, match in zip(items, found, strict=True) if match is None]
    if missed:
        got = f"{len(missed)} scans whose path it does not match, first {shown(missed[0])}"
        raise InputError("patient pattern", got, "one that matches every path")
    return [(PATTERN, "\0".join(m.groups("") or (m.group(),))) for m in found if m is not None]


def _named(item: Item) -> tuple[str, str] | None:
    if item.patient:
        return ID, item.patient
    match = _BIDS.search(item.file)
    return (BIDS, match.group(1)) if match else None


def _by_folder(files: Sequence[str]) -> list[tuple[str, str]]:
    """Rule and key of paths that say no more than where they lie."""
    parts = [PurePosixPath(file).parts or ("",) for file in files]
    parents = [p[:-1] for p in parts]
    common = 0
    while parents and all(len(p) > common and p[common] == parents[0][common] for p in parents):
        common += 1
    below = [p[common:] for p in parts]
    folders: dict[str, set[str]] = defaultdict(set)  # of each name, folder or file, one level further down
    for p in below:
        if len(p) > 1:
            folders[_stem(p[1])].add(p[0])
    first = {p[0] for p in below if len(p) > 1}
    kinds = len(first) < len(folders) and any(len(found) > 1 for found in folders.values())
    keys = []
    for p in below:
        if len(p) == 1:
            keys.append((NAME, _stem(p[0])))
        elif kinds:
            keys.append((NAME, _stem(p[1])))
        else:
            keys.append((FOLDER, p[0]))
    return keys


def _stem(name: str) -> str:
    return name.split(".")[0] or name


def _doubt(keys: Sequence[tuple[str, str]]) -> str:
    """Folders with many scans each may be sites, kinds or classes as well as patients."""
    scans = Counter(key for rule, key in keys if rule == FOLDER)
    if not scans:
        return ""
    mean = scans.total() / len(scans)
    if mean <= _MANY and (len(scans) >= _FEW or mean <= len(scans)):
        return ""
    return f"{len(scans)} folder{'s' * (len(scans) > 1)} with {scans.total()} scans may not be patients"
