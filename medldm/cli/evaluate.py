"""`medldm evaluate`."""

from __future__ import annotations

import json as json_
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import medldm
from medldm.cli import options as o
from medldm.cli.output import Progress, print_table
from medldm.errors import InputError
from medldm.installed import folder_of
from medldm.io.manifest import find_manifest

if TYPE_CHECKING:
    from medldm.evaluate.synthetic import Evaluation

Synthetic = Annotated[Path, typer.Argument(help="Synthetic scans: a folder (NIfTI, DICOM, pictures) or a CSV table.")]
Real = Annotated[Path, typer.Option("--real", help="Real scans: a folder, or a CSV table beside its files.")]
HeldOut = Annotated[
    Path | None,
    typer.Option("--held-out", help="Real scans that were not trained on, where --real has no column split."),
]
Index = Annotated[
    Path | None,
    typer.Option(
        "--index",
        help="Table of --real (file, patient, split); left out: a manifest.csv of it here, else manifest.csv or "
        "index.csv in it.",
    ),
]
File = Annotated[
    str | None,
    typer.Option("--file", metavar="PATTERN", help="Where a row's file is, of its columns: 'images/{file}'."),
]
Patient = Annotated[str, typer.Option("--patient", metavar="COLUMN", help="Column of the patients.")]
Labels = Annotated[
    str | None,
    typer.Option("--labels", metavar="PATTERN", help="Where a row's label map is: 'labels/{file}'."),
]
Window = Annotated[
    str | None,
    typer.Option(
        "--window", metavar="LOW:HIGH", help="Values that become 0 and 1, e.g. -1000:400; by the unit if left out."
    ),
]
MaxSimilarity = Annotated[
    float | None,
    typer.Option("--max-similarity", min=0, max=1, help="To a training scan: what is above is not in kept.csv."),
]
ModelName = Annotated[
    str | None, typer.Option("--model", help="What made the scans, for membership by its loss: a name or folder.")
]
Out = Annotated[Path, typer.Option("-o", "--out", help="Folder for evaluation.html, evaluation.json and kept.csv.")]


def evaluate(
    synthetic: Synthetic,
    real: Real,
    held_out: HeldOut = None,
    index: Index = None,
    file: File = None,
    patient: Patient = "patient",
    labels: Labels = None,
    window: Window = None,
    max_similarity: MaxSimilarity = None,
    model: ModelName = None,
    seed: o.Seed = 0,
    device: o.Device = None,
    out: Out = Path("evaluation"),
    overwrite: o.Overwrite = False,
    quiet: o.Quiet = False,
    json: o.Json = False,
) -> None:
    """Measure synthetic scans against real ones: quality, variety, size of regions, and whether any is a copy.

    Rows of the split train, or of none, are what was trained on; other rows, and --held-out, are not. Label maps are
    those of --labels, and files named as such (_dseg, labels/). Nothing is moved: kept.csv lists what is no copy.
    """
    limits = _parse_window(window)
    if model is not None:
        folder_of(model)
    from medldm.evaluate.synthetic import check_report

    check_report(out, overwrite=overwrite)
    if (index, held_out, file) == (None, None, None) and real.is_dir() and not (real / "index.csv").is_file():
        index = find_manifest(real)
        if index is not None and not quiet:
            print(f"patients and splits of {real} by {index}", file=sys.stderr)
    with Progress(quiet=quiet) as progress:
        found = medldm.evaluate_synthetic(
            synthetic,
            real,
            held_out=held_out,
            index=index,
            file=file,
            patient=patient,
            labels=labels,
            window=limits,
            max_similarity=max_similarity,
            model=model,
            seed=seed,
            device=device,
            progress=progress,
        )
    written = found.write(out, overwrite=overwrite)
    if json:
        print(json_.dumps(found.table, indent=2))
    elif not quiet:
        _print(found)
        print(f"wrote {', '.join(str(path) for path in written)}")


def _parse_window(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        low, high = (float(part) for part in text.split(":"))
    except ValueError:
        low = high = 0.0
    if not low < high:
        raise InputError("--window", repr(text), "two numbers, the first one smaller, e.g. -1000:400")
    return low, high


def _print(found: Evaluation) -> None:
    from medldm.evaluate.verdict import summary

    columns = ("", "synthetic", "other real scans", "what it says")
    print_table(columns, summary(found.table))
    for finding in found.findings:
        print(f"{finding.level:4}  {finding.text}")
    for note in found.table["warnings"]:
        print(f"note  {note}")
    for name, counts in found.table["counts"].items():
        if counts["left_out"]:
            first = counts["left_out"][0]
            print(f"{len(counts['left_out'])} {name} files left out, first {first['file']}: {first['why']}")
