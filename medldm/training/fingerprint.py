"""What a data set is, as far as a plan of training depends on it: kinds of scans, their grids and values.

Grids are known of every scan from its row of the manifest; values of some hundred that are read. Nothing needs torch.
"""

from __future__ import annotations

import csv
import hashlib
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from medldm.errors import EmptyInput, InputError
from medldm.intensity import Intensity, Scaling
from medldm.io import read
from medldm.io.dataset import check_dataset
from medldm.io.manifest import find_manifest, unpack_select
from medldm.io.survey import describe
from medldm.volume import Volume

Progress = Callable[[str, int, int], None]
Record = dict[str, str]
MOST_READ = {2: 200, 3: 48}  # scans whose values are looked at
FEWEST = 2  # scans that are worth a plan
FAR_SPACING, FAR_EXTENT = 2.0, 0.4  # of the median; beyond, a scan is of another kind
SAME = {"CR": "DX"}  # computed and digital radiographs are one kind
AIR_OF_CT = (-4096.0, -500.0)
OPPOSITE = dict(zip("RLAPSI", "LRPAIS", strict=True))


@dataclass(frozen=True)
class Looked:
    """A scan that was read.

    floor, bulk : its range with 0 as 0, or None where that cannot be; and from percentile 0.1 to 99.9
    """

    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    axcodes: str
    assumed: bool
    unit: str
    least: float
    top: float
    floor: Scaling | None
    bulk: Scaling | None

    def along(self, axcodes: str) -> tuple[tuple[int, ...], tuple[float, ...]]:
        """Shape and spacing along the axes of a model."""
        places = [next(n for n, c in enumerate(self.axcodes) if c in (a, OPPOSITE[a])) for a in axcodes]
        return tuple(self.shape[n] for n in places), tuple(self.spacing[n] for n in places)


@dataclass(frozen=True)
class Kind:
    """Scans of one modality and dimensionality.

    modality : DICOM's codes; guess : why it is thought so, where scans do not say
    records : rows of a manifest; left_out : scans that were not taken, by reason
    """

    dims: int
    modality: tuple[str, ...]
    guess: str
    records: tuple[Record, ...]
    left_out: dict[str, int] = field(default_factory=dict)
    looked: tuple[Looked, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.modality[0].lower()}-{self.dims}d"

    @property
    def patients(self) -> int:
        return len({record["patient"] for record in self.records})

    @property
    def training(self) -> list[Record]:
        """The rows that are trained on."""
        return [record for record in self.records if record.get("split", "") in ("train", "")]

    @property
    def known(self) -> list[Record]:
        """The rows that a training reads: none to test on."""
        return [record for record in self.records if record.get("split", "") != "test"]

    @property
    def spacing_range(self) -> tuple[float, float]:
        sizes = [s for record in self.records for s in _numbers(record["spacing"])[: self.dims]]
        return min(sizes), max(sizes)

    @property
    def alike(self) -> bool:
        """Whether the scans' voxels are of one size, to a twentieth."""
        each = np.array([sorted(_numbers(record["spacing"])[: self.dims]) for record in self.records])
        return bool((each <= 1.05 * each.min(0)).all())


def records_of(root: Path, manifest: Path | None, progress: Progress | None = None) -> list[Record]:
    """Rows of a manifest; None: of `medldm.io.manifest.find_manifest`, else of everything below `root`, which is read
    then. Raises InputError."""
    path = manifest or find_manifest(root)
    if path is not None:
        return read_manifest(path)
    return [member.record() for member in check_dataset(root, progress=progress).members]


def read_manifest(path: Path) -> list[Record]:
    """Rows of the table of `medldm check`. Raises InputError."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as handle:
            rows = [dict(row) for row in csv.DictReader(handle, restkey="", restval="")]
    except OSError as failure:
        raise InputError(str(path), failure.strerror or "unreadable", "the table of medldm check") from None
    except (UnicodeDecodeError, csv.Error):
        raise InputError(str(path), "bytes that are no UTF-8 text", "the table of medldm check") from None
    absent = [name for name in ("file", "patient") if rows and name not in rows[0]]
    if absent:
        raise InputError(str(path), f"no column {absent[0]}", "the table of medldm check")
    return rows


def kinds_of(
    records: Sequence[Record], root: Path, *, modality: str | None = None, progress: Progress | None = None
) -> list[Kind]:
    """The kinds of scans in a data set, the largest first; those of the split "test" are not looked at.

    modality : of scans that do not say theirs
    Raises EmptyInput where no kind has scans enough, InputError for a file that cannot be read.
    """
    left: dict[int, Counter[str]] = defaultdict(Counter)
    divided: dict[tuple[str, int, bool], list[Record]] = defaultdict(list)
    for record in records:
        known = record if record.get("shape") and record.get("spacing") else record | _facts(record, root)
        shape = [int(n) for n in _numbers(known["shape"])]
        dims = 2 if shape[2] == 1 else 3
        if known.get("doubts"):
            left[dims][f"doubtful ({re.split(r'[;:(]', known['doubts'])[0].strip()})"] += 1
        elif min(shape[:dims]) == 1:
            left[dims]["a line of voxels"] += 1
        else:
            said = known.get("modality", "")
            picture = not said and dims == 2 and ".nii" not in known["file"].lower()
            divided[SAME.get(said, said), dims, picture].append(known)
    merged: dict[tuple[str, int], tuple[list[Record], str]] = {}
    for (code, dims, picture), own in divided.items():
        told = [(code or modality or "", "" if code else "as you said", own)]
        for name, guess, some in told if code or modality else _guessed(own, root, picture=picture):
            before, reason = merged.get((name, dims), ([], ""))
            merged[name, dims] = (before + some, guess or reason)
    kinds = []
    for (code, dims), (own, guess) in sorted(merged.items(), key=lambda pair: (-len(pair[1][0]), pair[0])):
        kept, reasons = _of_a_size(own, dims)
        codes = dict.fromkeys([code] + [m for r in own if (m := r.get("modality", ""))])
        kind = Kind(dims, tuple(codes), guess, tuple(kept), dict(left.pop(dims, Counter()) + reasons))
        if len(kind.training) >= FEWEST:
            kinds.append(kind)
        elif kinds:  # larger ones come first
            kinds[0].left_out[f"too few for a plan of their own ({kind.name})"] = len(own)
    if not kinds:
        got = f"{len(records)} scans, of no kind at least {FEWEST}"
        raise EmptyInput(str(root), got, "scans of one modality and size", "see medldm check")
    total = sum(len(_sampled(kind)) for kind in kinds)
    done, finished = 0, []
    for kind in kinds:
        looked = []
        for record in _sampled(kind):
            looked.append(_look(record, root, kind.modality[0]))
            done += 1
            if progress is not None:
                progress("looking", done, total)
        finished.append(Kind(kind.dims, kind.modality, kind.guess, kind.records, kind.left_out, tuple(looked)))
    return finished


def _sampled(kind: Kind) -> list[Record]:
    """Some of the scans, drawn by a hash of their place, none to test on."""
    ranked = sorted(kind.known, key=lambda r: hashlib.sha256(f"{r['file']}\0{r.get('select', '')}".encode()).digest())
    return ranked[: MOST_READ[kind.dims]]


def _volume(record: Record, root: Path) -> Volume:
    select = unpack_select(record.get("select", ""), "manifest")
    return read(root / record["file"], record.get("series") or None, select=select)


def _facts(record: Record, root: Path) -> Record:
    """What a row lacks of its scan."""
    volume = _volume(record, root)
    facts = describe(volume)
    return {
        "shape": "x".join(map(str, facts["shape"])),
        "spacing": "x".join(map(str, facts["spacing_mm"])),
        "modality": record.get("modality", "") or volume.modality,
        "doubts": "; ".join(facts["doubts"]),
    }


def _guessed(records: Sequence[Record], root: Path, *, picture: bool) -> list[tuple[str, str, list[Record]]]:
    """The modality of scans that do not say theirs, why, and which they are; all are read where some seem CT."""
    if picture:
        return [("SC", "pictures do not say theirs", list(records))]

    def is_ct(record: Record) -> bool:
        return AIR_OF_CT[0] <= float(_volume(record, root).array.min()) <= AIR_OF_CT[1]

    seem = {is_ct(record) for record in records[:: -(-len(records) // 12)]}
    each = [is_ct(record) for record in records] if len(seem) > 1 else [*seem] * len(records)
    why = {"CT": "values down to air in HU", "MR": "values that are no HU"}
    found = {name: [r for r, ct in zip(records, each, strict=True) if ct == (name == "CT")] for name in why}
    return [(name, f"a guess by {why[name]}; --modality says otherwise", own) for name, own in found.items() if own]


def _of_a_size(records: Sequence[Record], dims: int) -> tuple[list[Record], Counter[str]]:
    """Scans whose voxels and fields are about the median's; the others are of another kind."""
    spacing = np.array([sorted(_numbers(r["spacing"])[:dims]) for r in records])
    shape = np.array([sorted(np.multiply(_numbers(r["spacing"]), _numbers(r["shape"]))[:dims]) for r in records])
    ratio, extent = spacing / np.median(spacing, axis=0), shape / np.median(shape, axis=0)
    kept, reasons = [], Counter[str]()
    for record, voxel, field_of_view in zip(records, ratio, extent, strict=True):
        if voxel.max() > FAR_SPACING:
            reasons["voxels over twice the median's"] += 1
        elif voxel.min() < 1 / FAR_SPACING:
            reasons["voxels below half the median's"] += 1
        elif field_of_view.min() < FAR_EXTENT and dims == 3:
            reasons["a much smaller field of view"] += 1
        else:
            kept.append(record)
    return kept, reasons


def _look(record: Record, root: Path, modality: str) -> Looked:
    volume = _volume(record, root)
    array = volume.array
    top = float(np.percentile(array, 99.9))
    floor = (
        _fit(volume, Intensity("percentile", 0.0, 99.5, zero_floor=True)) if modality in ("MR", "PT", "NM") else None
    )
    bulk = None if modality == "CT" else _fit(volume, Intensity("percentile", 0.1, 99.9))
    return Looked(
        volume.geometry.shape,
        volume.geometry.spacing,
        "".join(volume.geometry.axcodes),
        any(step.get("spacing_assumed") for step in volume.history),
        volume.unit,
        float(array.min()),
        top,
        floor,
        bulk,
    )


def _fit(volume: Volume, intensity: Intensity) -> Scaling | None:
    try:
        return intensity.fit(volume)
    except InputError:
        return None


def _numbers(text: str) -> list[float]:
    """ "1x1x2.5"; raises InputError for what a manifest does not hold."""
    try:
        values = [float(part) for part in text.split("x")]
    except ValueError:
        values = []
    if len(values) != 3 or not all(math.isfinite(v) and v > 0 for v in values):
        raise InputError("manifest", f"the size {text!r}", "three numbers, such as 1x1x2.5")
    return values
