"""`medldm inspect`."""

from __future__ import annotations

import json as json_
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medldm.cli import options as o
from medldm.cli.output import Progress, numbers, print_table
from medldm.io.choice import MAX_BYTES

if TYPE_CHECKING:
    from medldm.io.survey import Item, Survey

Place = Annotated[Path, typer.Argument(help="NIfTI file, DICOM folder or file, zip, picture, or a folder of them.")]
_NOTHING = 2
_DETAILS = ("sheared", "nibabel", "pydicom", "files", "sha256")  # of notes: in the view of one scan alone


def inspect(
    path: Place,
    series: o.Series = None,
    select: o.Select = None,
    resample_nonuniform: o.ResampleNonuniform = False,
    xform: o.Xform = None,
    assume_affine: o.AssumeAffine = False,
    nan: o.Nan = "refuse",
    max_bytes: o.MaxBytes = MAX_BYTES,
    quiet: o.Quiet = False,
    json: o.Json = False,
) -> None:
    """Show what is there: every scan with its grid, orientation, unit and range, and what reads it; never who it is.

    What would be refused is listed with the reason. Ends with 2 if there is nothing to read.
    """
    choice = o.choice_of(series, select, resample_nonuniform, xform, assume_affine, nan, max_bytes)
    from medldm.io import read_choice
    from medldm.io.survey import describe, shown, survey

    if choice.series is not None or choice.select:
        _one(describe(read_choice(path, choice)), json)
        return
    with Progress(quiet=quiet) as progress:
        found = survey(path, choice, progress)
    if not found.items or (not path.is_dir() and not found.scans and len(found.items) == 1):
        _one(describe(read_choice(path, choice)), json)  # the reader says best why there is nothing
        return
    if len(found.items) == 1 and found.scans and not json:
        lone = found.items[0]
        if path.is_dir() and lone.file != ".":
            print(f"{'file':11} {shown(lone.file)}")
        _one(lone.facts or {}, json)
        _print_rest(found)
    elif json:
        _print_json(found)
    else:
        _print_tables(found)
    if not found.scans:
        raise typer.Exit(_NOTHING)


def _one(facts: dict[str, Any], json: bool) -> None:
    """Everything about one scan, a line each; the affine in JSON alone."""
    if json:
        print(json_.dumps(facts, indent=2, default=str))
        return
    for name, value in facts.items():
        if name == "affine" or (name == "doubts" and not value):
            continue
        if name == "doubts":
            value = "; ".join(value)
        elif isinstance(value, list):
            value = numbers(value, "  " if name == "range" else " x ")
        elif isinstance(value, dict):
            value = "; ".join(f"{k} {v}" for k, v in value.items()) or "none"
        print(f"{name:11} {'unknown' if value == '' else value}")


def _print_json(found: Survey) -> None:
    """A lone scan's facts stand at the top as well, as they do for a single file."""
    items = [item.to_dict() | {"read_with": _options(item, found)} for item in found.items]
    table = {"scans": [i for i in items if "refused" not in i], "refused": [i for i in items if "refused" in i]}
    lone = table["scans"][0] if len(items) == 1 and table["scans"] else {}
    rest = {"other_files": found.other_files, "skipped": found.skipped}
    print(json_.dumps({**lone, **table, **rest}, indent=2, default=str))


def _print_tables(found: Survey) -> None:
    from medldm.io.survey import shown

    columns = ("file", "files", "modality", "voxels", "mm", "axes", "unit", "range", "notes", "read with")
    rows = [
        (
            shown(item.file),
            str(item.files),
            facts["modality"] or "unknown",
            numbers(facts["shape"]),
            numbers(facts["spacing_mm"]) + (", sheared" if facts["sheared"] else ""),
            facts["axcodes"],
            facts["unit"],
            numbers(facts["range"], " to "),
            "; ".join([*facts["doubts"], *_notes(facts)]),
            shown(_options(item, found)),
        )
        for item in found.scans
        if (facts := item.facts) is not None
    ]
    if rows:
        print_table(columns, rows)
    refused = [(shown(i.file), str(i.files), i.modality, i.refusal, shown(_options(i, found))) for i in found.refused]
    if refused:
        print_table(("file", "files", "modality", "why", "part"), refused, title="Refused")
    _print_rest(found)


def _print_rest(found: Survey) -> None:
    from medldm.io.walk import in_words

    if found.other_files:
        print(f"{found.other_files} other files that hold no scan")
    if left_out := in_words(found.skipped):
        print(f"not looked at: {left_out}")


def _notes(facts: dict[str, Any]) -> list[str]:
    return [k if v is True else f"{k} {v}" for k, v in facts["notes"].items() if k not in _DETAILS]


def _options(item: Item, found: Survey) -> str:
    """The options that read this one alone from its file or folder."""
    words = [f"--select {shlex.quote(f'{key}={value}')}" for key, value in item.select.items()]
    several = len({other.series for other in found.items if other.series}) > 1
    return " ".join([*([f"--series {item.series}"] if item.series and several else []), *words])
