"""`medldm plan`."""

from __future__ import annotations

import json as json_
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

import medldm
from medldm.cli import options as o
from medldm.cli.output import Progress, print_table, time_left
from medldm.errors import InputError, OutputError

if TYPE_CHECKING:
    from medldm.training.plan_page import Plan

Folder = Annotated[Path, typer.Argument(help="Folder with the scans, as given to `medldm check`.")]
Out = Annotated[
    Path,
    typer.Option("-o", "--output", help="Recipe to write (.toml), or a folder: a recipe for each kind of scans."),
]
Manifest = Annotated[
    Path | None,
    typer.Option(
        "--manifest",
        help="Table of `medldm check`; left out: manifest.csv here or in FOLDER, else FOLDER is gone over.",
    ),
]
Purpose = Annotated[Literal["both", "restore", "synthesize"], typer.Option("--for", help="What the model is to learn.")]
Minutes = Annotated[float, typer.Option("--minutes", help="How long the training may take on this machine.")]
Modality = Annotated[
    str | None, typer.Option("--modality", help="Of scans that do not say theirs, e.g. MR for NIfTI, DX for pictures.")
]
Condition = Annotated[
    list[str] | None,
    typer.Option(
        "--condition", metavar="COLUMN", help="What synthesis can be asked for; left out: all columns that fit."
    ),
]
Only = Annotated[str | None, typer.Option("--only", metavar="KIND", help="One kind of scans alone, e.g. mr-3d.")]


def plan(
    folder: Folder,
    output: Out,
    manifest: Manifest = None,
    purpose: Purpose = "both",
    minutes: Minutes = 120.0,
    modality: Modality = None,
    condition: Condition = None,
    only: Only = None,
    device: o.Device = None,
    overwrite: o.Overwrite = False,
    quiet: o.Quiet = False,
    json: o.Json = False,
) -> None:
    """Write a recipe for the scans in a folder: what they are and what this machine can do decide each key.

    The recipe says why above each key. Beside it lies the table of its scans. Several kinds of scans become several
    recipes.
    """
    if not folder.is_dir():
        raise InputError(str(folder), "no such folder", "the folder of a data set", "check the path")
    one = output.suffix.lower() == ".toml"
    _check_place(output, one=one, overwrite=overwrite)

    with Progress(quiet=quiet) as progress:
        found = medldm.find_kinds(folder, manifest=manifest, modality=modality, progress=progress)
        if only is not None:
            known = ", ".join(kind.name for kind in found)
            found = [kind for kind in found if kind.name == only]
            if not found:
                raise InputError("--only", only, f"one of {known}")
        if one and len(found) > 1:
            listed = ", ".join(f"{kind.name} ({len(kind.records)} scans)" for kind in found)
            do = f"a folder (-o {output.stem}) for a recipe each, or --only {found[0].name}"
            raise InputError(str(output), f"{len(found)} kinds of scans: {listed}", "one in a recipe", do)
        paths = [output if one else output / f"{kind.name}.toml" for kind in found]
        for path in paths:
            _check_free(path, overwrite=overwrite)
        plans = [
            medldm.plan(kind, data=folder, purpose=purpose, minutes=minutes, conditions=condition, device=device)
            for kind in found
        ]
    if not one:
        output.mkdir(exist_ok=True)
    for made, path in zip(plans, paths, strict=True):
        made.write(path, folder)
    if json:
        print(json_.dumps([_facts(made, path) for made, path in zip(plans, paths, strict=True)], indent=2))
    elif not quiet:
        _print(plans, paths, folder)


def _check_place(output: Path, *, one: bool, overwrite: bool) -> None:
    if not one and output.exists() and not output.is_dir():
        raise OutputError(str(output), "a file", "a name ending in .toml, or a folder")
    if not output.absolute().parent.is_dir():
        raise OutputError(str(output), "no folder to write into", "an existing folder", "create it first")
    if one:
        _check_free(output, overwrite=overwrite)


def _check_free(path: Path, *, overwrite: bool) -> None:
    taken = [p for p in (path, path.with_suffix(".csv")) if p.exists()]
    if taken and not overwrite:
        raise OutputError(str(taken[0]), "an existing file", "a new name", "choose another, or --overwrite")


def _facts(plan: Plan, path: Path) -> dict[str, object]:
    return {
        "recipe": str(path),
        "table": str(path.with_suffix(".csv")),
        "kind": plan.name,
        "scans": len(plan.kind.records),
        "left_out": plan.kind.left_out,
        "conditions": list(plan.conditions),
        "steps": dict(plan.steps),
        "step_seconds": dict(plan.seconds),
    }


def _print(plans: list[Plan], paths: list[Path], folder: Path) -> None:
    for plan, path in zip(plans, paths, strict=True):
        rows = [
            (name, str(steps), str(plan.batches[name]), time_left(steps * plan.seconds[name]))
            for name, steps in plan.steps.items()
        ]
        out = ", ".join(f"{count} {reason}" for reason, count in plan.kind.left_out.items())
        title = f"{plan.name}: {len(plan.kind.records)} scans of {plan.kind.patients} patients"
        print_table(("stage", "steps", "batch", "takes"), rows, title=title + (f"; left out: {out}" if out else ""))
        asked = [f"{name} ({table['kind']})" for name, table in plan.conditions.items()]
        if asked:
            print(f"can be asked for: {', '.join(asked)}")
        print(f"wrote {path} and {path.with_suffix('.csv').name}; next:")
        print(f"  medldm train {path} --data {folder} --out {path.with_suffix('')}-model")
