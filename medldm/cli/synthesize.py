"""`medldm synthesize`."""

from __future__ import annotations

import json as json_
from pathlib import Path
from typing import Annotated

import typer

from medldm.cli import options as o
from medldm.cli.output import Progress
from medldm.errors import ModelError, OutputError
from medldm.pack import describe, folder_of

Count = Annotated[int, typer.Option("-n", "--count", min=1, help="How many scans.")]
Folder = Annotated[
    Path, typer.Option("-o", "--output", help="Folder for the scans; created if its parent exists.")
]
SUFFIX = {"nifti": ".nii.gz", "picture": ".png", "dicom": ""}


def _format(model: str, wanted: str | None) -> str:
    pack = describe(model)
    if pack.problem:
        raise ModelError(f"model {model}", pack.problem)
    form = wanted or ("picture" if pack.dims == 2 else "nifti")
    if form not in SUFFIX:
        raise OutputError("--format", form, ", ".join(SUFFIX))
    return form


def synthesize(
    output: Folder,
    model: o.ModelName,
    count: Count = 1,
    steps: o.Steps = 30,
    seed: o.Seed = 0,
    sampler: o.Sampler = "dpmpp_2m",
    device: o.Device = None,
    format: o.Format = None,
    overwrite: o.Overwrite = False,
    quiet: o.Quiet = False,
    json: o.Json = False,
) -> None:
    """Draw new scans of nobody; the i-th depends on (seed, i) alone."""
    from medldm import registry

    folder_of(model)
    form = _format(model, format)
    if sampler not in registry.names("samplers"):
        registry.find("samplers", sampler)
    stem = Path(model).resolve().name
    paths = [output / f"{stem}-seed{seed}-{index:04d}{SUFFIX[form]}" for index in range(count)]
    _check_folder(output, paths, overwrite=overwrite)
    from medldm import api
    from medldm.io import write

    with Progress(quiet=quiet) as progress:
        scans = api.synthesize(
            model=model, n=count, seed=seed, steps=steps, sampler=sampler, device=device, progress=progress
        )
        for path, scan in zip(paths, scans, strict=True):
            output.mkdir(exist_ok=True)
            write(scan, path, form, overwrite=overwrite)
    if json:
        print(json_.dumps({"model": model, "seed": seed, "files": [str(path) for path in paths]}, indent=2))
    elif not quiet:
        print(f"wrote {count} synthetic {'scan' if count == 1 else 'scans'} to {output}")


def _check_folder(folder: Path, paths: list[Path], *, overwrite: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise OutputError(str(folder), "a file", "a folder")
    if not folder.absolute().parent.is_dir():
        raise OutputError(
            str(folder), "no folder to create it in", "an existing parent folder", "create it first"
        )
    taken = [path for path in paths if path.exists()]
    if taken and not overwrite:
        raise OutputError(
            str(taken[0]), "an existing file or folder", "a new name", "choose another, or --overwrite"
        )
