"""Synthetic scans beside real ones: how good, how diverse, how private. Read `evaluate_synthetic` from top to bottom.

What is compared is in `quality` and `privacy`; what the figures mean in words is in `verdict`.
"""

from __future__ import annotations

import json
import math
import warnings
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from medldm.errors import InputError
from medldm.evaluate import quality
from medldm.evaluate.copies import Copies
from medldm.evaluate.kid import FEWEST, kid
from medldm.evaluate.listing import Listing, Progress, Table, list_scans
from medldm.evaluate.membership import Losses, membership_by
from medldm.evaluate.scans import BINS, OUTSIDE, QUANTILES, RADII, Range, Scans, describe_scans, dims_of
from medldm.evaluate.verdict import Finding, findings
from medldm.io.atomic import check_folder, write_whole
from medldm.io.manifest import draw_splits, hash_patient, pack_select, write_manifest
from medldm.nets.efficientnet import EfficientNetLite0

SCHEMA = "medldm.evaluation/1"
PAGE, REPORT, KEPT = "evaluation.html", "evaluation.json", "kept.csv"
TRAINING, HELD_OUT, SYNTHETIC = "training", "held-out", "synthetic"


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What was found.

    table : plain data, what the JSON file holds; docs/evaluation.md describes it
    findings : the same in words
    synthetic, reference, other : the sets whose quality is compared; `other` against `reference` is the floor
    copies : what is near to the training
    scale : the range that intensities are taken in
    """

    table: dict[str, Any]
    findings: tuple[Finding, ...]
    synthetic: Scans
    reference: Scans
    other: Scans | None
    copies: Copies
    scale: Range

    def write(self, folder: str | Path, *, overwrite: bool = False) -> list[Path]:
        """Write evaluation.html, evaluation.json and kept.csv, each whole or not at all. Raises OutputError."""
        from medldm.evaluate.synthetic_page import write_page

        folder = Path(folder)
        check_report(folder, overwrite=overwrite)
        folder.mkdir(exist_ok=True)
        write_page(folder / PAGE, self)
        text = json.dumps(self.table, indent=2, allow_nan=False) + "\n"
        write_whole(folder / REPORT, lambda part: part.write_text(text, encoding="utf-8"))
        write_manifest(folder / KEPT, self._kept())
        return [folder / name for name in (PAGE, REPORT, KEPT)]

    def _kept(self) -> list[dict[str, str]]:
        """Rows of a table that `medldm train` reads, with SYNTHETIC as its folder."""
        rows = []
        for number, scan in enumerate(self.table["scans"]):
            entry = self.synthetic.entries[number]
            if scan["kept"]:
                rows.append(
                    {
                        "file": entry.name,
                        "series": entry.series,
                        "select": pack_select(entry.select),
                        "patient": entry.patient,
                        "modality": self.synthetic.modalities[number],
                        "spacing": "x".join(f"{s:.6g}" for s in self.synthetic.spacings[number]),
                        "split": "train",
                    }
                )
        return rows


def check_report(folder: Path, *, overwrite: bool) -> None:
    """Refuse, before any work, a folder that a report could not be written to. Raises OutputError."""
    check_folder(folder, [folder / name for name in (PAGE, REPORT, KEPT)], overwrite=overwrite)


def evaluate_synthetic(
    synthetic: Path,
    real: Path,
    *,
    held_out: Path | None = None,
    table: Table | None = None,
    window: tuple[float, float] | None = None,
    max_similarity: float | None = None,
    losses: Losses | None = None,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Evaluation:
    """Compare the scans of a folder (or CSV table) with real ones.

    real : folder or CSV table; rows of the split "train", or of none, are the training's; others are held out
    held_out : a further folder or table of real scans that were not trained on
    table : how the table of `real` is read
    window : values that become 0 and 1, of all scans (see `scans.Range`)
    max_similarity : above it a synthetic scan is not kept; None: where it counts as a copy
    losses : what a model's loss is on scans, for membership inference
    Raises InputError, EmptyInput, ModelError.
    """
    if max_similarity is not None and not 0 < max_similarity <= 1:
        raise InputError("max_similarity", f"{max_similarity:g}", "a number above 0, up to 1")
    listings = _listings(synthetic, real, held_out, table or Table(), progress)
    network = EfficientNetLite0.pretrained().to(device)
    dims = dims_of(listings[TRAINING].entries)
    scale = Range.of([listing.entries for listing in listings.values()], window)
    sets = {
        name: describe_scans(listing, dims=dims, scale=scale, network=network, stage=name, progress=progress)
        for name, listing in listings.items()
        if listing.entries
    }
    held = sets.get(HELD_OUT)
    notes = []
    if held is not None and len(set(held.patients)) < 2:
        held = None
        notes.append("the held-out scans are of one patient, and are not used")
    fake, training = sets[SYNTHETIC], sets[TRAINING]
    if len(fake) < 2 or len(set(training.patients)) < 2:
        got = f"{len(fake)} synthetic scans, {len(set(training.patients))} real patients"
        raise InputError("evaluate", got, "at least 2 of each", "see medldm check")

    reference, other = _references(training, held, len(fake), seed)
    found_quality = _quality(fake, reference, other, seed)
    regions = _regions(listings, held is not None, notes)
    copies = Copies(fake, training, held, seed)
    limit = copies.limit if max_similarity is None else max_similarity
    membership = None if losses is None else membership_by(losses, training, held, seed, notes, progress)
    fewest = min(len(fake), len(set(reference.patients)))
    if fewest < FEWEST:
        notes.append(f"{fewest} scans or patients in a set: KID is not to be trusted below {FEWEST}")
    if held is None:
        notes.append(
            "no held-out real scans: quality is held against one half of the real patients, privacy against what real "
            "patients have in common; a table with a column split, or --held-out, says more"
        )

    facts: dict[str, Any] = {
        "schema": SCHEMA,
        "medldm": version("medldm"),
        "dims": dims,
        "range": str(scale),
        "seed": seed,
        "counts": {name: _counts(found) for name, found in sets.items()},
        "reference": {"set": HELD_OUT if held is not None else "half of the real patients", "scans": len(reference)},
        "floor": None if other is None else {"scans": len(other)},
        "quality": found_quality,
        "regions": regions,
        "privacy": copies.table() | {"membership": membership},
        "max_similarity": limit,
        "scans": copies.rows(limit),
        "warnings": notes,
    }
    told = findings(facts)
    facts["verdict"] = [{"level": finding.level, "text": finding.text} for finding in told]
    return Evaluation(_finite(facts), told, fake, reference, other, copies, scale)


def _listings(
    synthetic: Path, real: Path, held_out: Path | None, table: Table, progress: Progress | None
) -> dict[str, Listing]:
    """Training, held-out and synthetic scans; where nothing is called train, all real ones are."""
    fake, found = list_scans(synthetic, None, progress), list_scans(real, table, progress)
    train, rest = ([e for e in found.entries if (e.split in ("train", "")) is yes] for yes in (True, False))
    further = list_scans(held_out, replace(table, index=None), progress) if held_out is not None else Listing(())
    # names of files tell patients of one folder apart, not of two
    rest += [replace(entry, patient=f"held out {entry.patient}") for entry in further.entries]
    if not train:
        train, rest = rest, []
    both = {entry.patient for entry in train} & {entry.patient for entry in rest}
    if both:
        raise InputError(str(real), f"{len(both)} patients in training and held out", "one split a patient")
    return {
        SYNTHETIC: replace(
            fake, entries=tuple(replace(e, patient=hash_patient(e.name, SYNTHETIC)) for e in fake.entries)
        ),
        TRAINING: Listing(tuple(train), found.labels, found.left_out),
        HELD_OUT: Listing(tuple(rest), further.labels, further.left_out),
    }


def _counts(scans: Scans) -> dict[str, Any]:
    left_out = [{"file": name, "why": why} for name, why in scans.left_out]
    return {"scans": len(scans), "patients": len(set(scans.patients)), "left_out": left_out}


def _references(training: Scans, held: Scans | None, count: int, seed: int) -> tuple[Scans, Scans | None]:
    """What synthetic scans are held against; and other real ones, as many if there are, for the floor."""
    reference, other = held, training
    if reference is None:
        splits = draw_splits(training.patients.tolist(), test=0.5, validation=0, seed=seed)
        in_test = np.array([splits[patient] == "test" for patient in training.patients])
        reference, other = training.part(np.flatnonzero(in_test)), training.part(np.flatnonzero(~in_test))
    order = np.random.default_rng(seed).permutation(len(other))
    other = other.part(np.sort(order[:count]))
    return reference, other if len(other) > 1 else None


def _quality(fake: Scans, reference: Scans, other: Scans | None, seed: int) -> dict[str, Any]:
    """Every figure of the synthetic scans, and of other real ones: the floor."""
    sets = {"synthetic": fake} | ({} if other is None else {"floor": other})
    found = {name: _against(scans, reference, seed) for name, scans in sets.items()}
    table = {key: {name: own[key] for name, own in found.items()} for key in found["synthetic"]}
    table["diversity"]["reference"] = quality.diversity(reference.vectors, reference.patients.tolist())
    table["intensity"]["reference"] = {"quantiles": reference.quantiles.mean(0).tolist()}
    return table | {"quantiles": list(QUANTILES)}


def _against(scans: Scans, reference: Scans, seed: int) -> dict[str, Any]:
    ours, theirs = scans.patients, reference.patients
    distance = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # few patients: the report says so itself
        for name, (values, owners) in scans.planes.items():
            if name in reference.planes and min(len(set(ours)), len(set(theirs))) > 1:
                real, of_real = reference.planes[name]
                found = kid(values, real, groups_a=ours[owners], groups_b=theirs[of_real], seed=seed)
                distance[name] = found.to_dict()
    if len(distance) > 1:
        keys = ("mean", "low", "high")
        distance["mean"] = {key: float(np.mean([own[key] for own in distance.values()])) for key in keys}
    shape = quality.manifolds(reference.vectors, scans.vectors, patients=theirs.tolist(), seed=seed)
    bands = quality.spectrum_difference(scans.spectra, reference.spectra)
    third = RADII // 3
    return {
        "kid": distance,
        "precision": shape.precision.to_dict(),
        "recall": shape.recall.to_dict(),
        "density": shape.density.to_dict(),
        "coverage": shape.coverage.to_dict(),
        "diversity": quality.diversity(scans.vectors, ours.tolist()),
        "intensity": {
            "distance": quality.intensity_distance(scans.histograms, reference.histograms, (1 + 2 * OUTSIDE) / BINS),
            "quantiles": scans.quantiles.mean(0).tolist(),
        },
        "spectrum": {
            "rms_db": float(np.sqrt((bands**2).mean())),
            "low_db": float(bands[:third].mean()),
            "middle_db": float(bands[third : 2 * third].mean()),
            "high_db": float(bands[2 * third :].mean()),
        },
    }


def _regions(listings: dict[str, Listing], by_held_out: bool, notes: list[str]) -> dict[str, Any] | None:
    """Sizes of labelled regions against held-out ones, or the training's; None where a side has no label maps."""
    paths = {
        name: [*listing.labels, *(entry.labels for entry in listing.entries if entry.labels is not None)]
        for name, listing in listings.items()
    }
    real = (paths[HELD_OUT] if by_held_out else []) or paths[TRAINING]
    if not paths[SYNTHETIC] or not real:
        return None
    (of_real, unit, bad), (of_fake, _, more) = quality.region_sizes(real), quality.region_sizes(paths[SYNTHETIC])
    if bad or more:
        notes.append(f"{len(bad) + len(more)} label maps left out, first {(bad + more)[0][1]}")
    if not of_real or not of_fake:
        return None
    return {"unit": unit, "labels": quality.compare_regions(of_real, of_fake)}


def _finite(value: Any) -> Any:
    """Plain data for JSON: what is no number is None."""
    if isinstance(value, dict):
        return {key: _finite(own) for key, own in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(own) for own in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
