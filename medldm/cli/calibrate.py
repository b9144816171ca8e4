"""`medldm calibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import medldm
from medldm.cli import options as o
from medldm.cli.output import Progress
from medldm.errors import InputError
from medldm.installed import folder_of
from medldm.recipe import load_sources

Calibrated = Annotated[str, typer.Argument(help="Name of a model (see `medldm models`), or its folder.")]
Data = Annotated[Path, typer.Option("--data", help="Folder of the data sets that the model was trained on.")]
SourcesFile = Annotated[
    Path | None,
    typer.Option("--sources", help="TOML file with the sources of a recipe, in the place of the model's own."),
]
IntervalsToo = Annotated[
    bool,
    typer.Option(
        "--intervals",
        help="Find how far results are off instead, on patients that were kept aside, or on --sources that were never "
        "trained on; takes some hundred restorations.",
    ),
]


def calibrate(
    model: Calibrated,
    data: Data,
    sources: SourcesFile = None,
    intervals: IntervalsToo = False,
    device: o.Device = None,
    quiet: o.Quiet = False,
) -> None:
    """Find out what scans of a model's kind look like, so that it warns of others; kept in the model's folder."""
    folder_of(model)
    if not data.is_dir():
        raise InputError(str(data), "no such folder", "the folder of the data sets")
    known = None if sources is None else load_sources(sources)

    with Progress(quiet=quiet) as progress:
        found = medldm.calibrate(model, data=data, sources=known, intervals=intervals, device=device, progress=progress)
    if not quiet:
        rows = found.intervals.rows if intervals and found.intervals is not None else ()
        patients = rows[0].patients if rows else found.patients
        print(f"calibrated on {patients} patients: {folder_of(model)}")
