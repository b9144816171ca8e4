"""`medldm check`."""

from __future__ import annotations

import json as json_
import tempfile
from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medldm.cli import options as o
from medldm.cli.output import Progress, numbers, print_table
from medldm.errors import EmptyInput, InputError, OutputError
from medldm.io.choice import MAX_BYTES
from medldm.io.manifest import MANIFEST

if TYPE_CHECKING:
    from medldm.io.dataset import Dataset
    from medldm.io.labels import Labels
    from medldm.io.survey import Item

Folder = Annotated[Path, typer.Argument(help="Folder with the scans: DICOM in any layout, NIfTI, pictures, plugins'.")]
Out = Annotated[
    Path | None,
    typer.Option("--out", help="Table to write (.csv), or a folder for manifest.csv and report.json."),
]
Pattern = Annotated[
    str | None,
    typer.Option("--patient", metavar="REGEX", help=r"What in a path is the patient, e.g. '([^/]+)_\d+\.png$'."),
]
Test = Annotated[float, typer.Option("--test", help="Share of the patients to test on.")]
Validation = Annotated[float, typer.Option("--validation", help="Share of the patients to validate on.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Same seed, same division.")]
Table = Annotated[
    Path | None,
    typer.Option("--labels", help="CSV or TSV table of what is known of scans or patients; it is joined."),
]
By = Annotated[
    str | None, typer.Option("--by", help="Its column that names the scans or patients, where it is not plain.")
]
Columns = Annotated[
    str | None, typer.Option("--columns", metavar="A,B", help="Its columns to keep; left out: all that name nobody.")
]
LabelMap = Annotated[
    str | None,
    typer.Option("--label-map", metavar="PATTERN", help="Where a scan's label map lies, e.g. 'labels/{stem}.nii.gz'."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Report only; write nothing.")]
REPORT = "report.json"
_LISTED = 50


def check(
    folder: Folder,
    out: Out = None,
    patient: Pattern = None,
    test: Test = 0.1,
    validation: Validation = 0.1,
    seed: Seed = 0,
    labels: Table = None,
    by: By = None,
    columns: Columns = None,
    label_map: LabelMap = None,
    max_bytes: o.MaxBytes = MAX_BYTES,
    dry_run: DryRun = False,
    overwrite: o.Overwrite = False,
    quiet: o.Quiet = False,
    json: o.Json = False,
) -> None:
    """Go over a data set: what can be used, why the rest cannot, and a table for `medldm train`.

    The table, manifest.csv in the working folder unless --out says otherwise, divides the scans by patient; patients
    are hashed. Nothing is written into FOLDER unasked. Further columns of the table are what --labels knows of the
    scans: what a model can be asked for (`medldm plan`).
    """
    if not folder.is_dir():
        raise InputError(str(folder), "no such folder", "the folder of a data set", "check the path")
    targets = [] if dry_run else _targets(out)
    for target in targets:
        _check_target(target, overwrite=overwrite)
    from medldm.io.dataset import check_dataset

    choice = o.choice_of(max_bytes=max_bytes)
    with Progress(quiet=quiet) as progress:
        found = check_dataset(
            folder,
            choice=choice,
            pattern=patient,
            test=test,
            validation=validation,
            seed=seed,
            labels=labels,
            by=by,
            columns=[name.strip() for name in columns.split(",")] if columns else (),
            label_map=label_map,
            progress=progress,
        )
    if json:
        print(json_.dumps(found.to_dict(), indent=2, default=str))
    elif not quiet:
        _print(found, sorted(path.name for path in folder.glob("*.[ct]sv") if path.name != MANIFEST))
    if not found.members:
        got = f"no scan that can be used ({len(found.refused)} refused, {found.other_files} other files)"
        raise EmptyInput(str(folder), got, "DICOM, NIfTI or pictures", "" if quiet or json else "see the reasons above")
    for target in targets:
        target.parent.mkdir(exist_ok=True)
        found.write_report(target) if target.name == REPORT else found.write_manifest(target)
        if not json and not quiet:
            hint = f' (in a recipe: index = "{target.absolute().as_posix()}")' if target.name != REPORT else ""
            print(f"wrote {target}{hint}")


def _targets(out: Path | None) -> list[Path]:
    if out is None:
        return [Path(MANIFEST)]
    return [out] if out.suffix.lower() == ".csv" and not out.is_dir() else [out / REPORT, out / MANIFEST]


def _check_target(path: Path, *, overwrite: bool) -> None:
    """Refuse, before any work, what could not be written. Raises OutputError."""
    if path.is_dir() or (path.exists() and not overwrite):
        raise OutputError(str(path), "an existing file or folder", "a new name", "choose another, or --overwrite")
    place = path.absolute().parent
    place = place if place.exists() or path.name not in (MANIFEST, REPORT) else place.parent
    if not place.is_dir():
        raise OutputError(str(path), "no folder to write into", "an existing folder", "create it first")
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError:
        raise OutputError(str(path), "a folder that cannot be written to", "a writable one", "give --out") from None


def _named(item: Item) -> tuple[str, str, str]:
    """File, series, and part of it."""
    from medldm.io.survey import shown

    return shown(item.file), item.series, shown(" ".join(f"{k}={v}" for k, v in item.select.items()))


def _print(found: Dataset, tables: list[str]) -> None:
    """tables : in the folder, which may hold labels"""
    from medldm.io.patients import NAME
    from medldm.io.survey import shown
    from medldm.io.walk import in_words

    groups: dict[tuple[str, ...], list[Any]] = defaultdict(list)
    for member in found.members:
        facts = member.item.facts or {}
        spacing = numbers([round(s, 3) for s in facts["spacing_mm"]]) + (", sheared" if facts["sheared"] else "")
        kind = (facts["source"], facts["modality"] or "unknown", spacing)
        groups[(*kind, facts["axcodes"], facts["unit"])].append(member)
    ranked = sorted(groups.items(), key=lambda group: (-len(group[1]), group[0]))
    rows = [(str(len(own)), str(len({m.patient for m in own})), *kind) for kind, own in ranked[:_LISTED]]
    if rows:
        print_table(("scans", "patients", "read as", "modality", "mm", "axes", "unit"), rows, title="Usable")
    if len(ranked) > _LISTED:
        print(f"and {len(ranked) - _LISTED} more kinds (--json lists all)")
    doubtful = [(*_named(i), "; ".join((i.facts or {})["doubts"])) for i in found.doubtful[:_LISTED]]
    if doubtful:
        print_table(("file", "series", "part", "why"), doubtful, title="Doubtful")
    if len(found.doubtful) > _LISTED:
        print(f"{len(found.doubtful)} in all (--json)")
    refused = [(*_named(i), i.refusal) for i in found.refused[:_LISTED]]
    if refused:
        print_table(("file", "series", "part", "why"), refused, title="Refused")
    if len(found.refused) > _LISTED:
        kinds = Counter(item.error for item in found.refused)
        print(f"{len(found.refused)} in all: {', '.join(f'{n} {kind}' for kind, n in kinds.most_common())} (--json)")
    patients = len({m.patient for m in found.members})
    doubted = f" ({len(found.doubtful)} doubtful)" if found.doubtful else ""
    print(f"{len(found.members)} scans of {patients} patients{doubted}, {len(found.refused)} refused, "
          f"{found.other_files} other files")  # fmt: skip
    if left_out := in_words(found.skipped):
        print(f"not looked at: {left_out}")
    if (known := found.labels) is not None:
        _print_labels(known)
    elif tables:
        print(f"what {' or '.join(map(shown, tables))} knows of the scans is joined to them by --labels")
    if found.members:
        print("splits: " + ", ".join(f"{k} {s} scans of {p}" for k, (s, p) in found.counts().items()))
        print("patients told by: " + ", ".join(f"{rule} ({n})" for rule, n in found.rules.items()))
    if NAME in found.rules and not found.doubt:
        print(f"{found.rules[NAME]} scans count as one patient a file name; if that is wrong, say --patient")
    if found.doubt:
        print(f"nothing is put aside for testing: {found.doubt}; say what in a path is the patient: "
              "--patient '[^/]+$' if it is the file, '^[^/]+' the first folder")  # fmt: skip


def _print_labels(known: Labels) -> None:
    """What was joined to how many scans, and what was left out of it."""
    named = f" by {known.by}" if known.by else ""
    print(f"labels: {', '.join(known.columns) or 'none'}; {known.known} of {len(known.each)} scans{named}")
    if known.unused:
        print(f"rows of the labels that name no scan: {known.unused}")
    reasons: dict[str, list[str]] = defaultdict(list)
    for name, reason in known.left_out.items():
        reasons[reason].append(name)
    for reason, names in reasons.items():
        print(f"columns left out ({reason}): {', '.join(names)}")
    if known.maps:
        print(f"{len(known.maps)} files are label maps, no scans")
