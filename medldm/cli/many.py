"""`medldm denoise`, `superres` and `restore` of many scans: every one below a folder, or every volume of a file."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import typer

from medldm.cli.call import Call, Restore
from medldm.cli.output import Progress, print_table
from medldm.errors import InputError, OutputError
from medldm.io import check_output
from medldm.io.choice import VOLUME

if TYPE_CHECKING:
    from medldm.folder import Row
    from medldm.restoration.result import Restoration


def run_each(call: Call, restore: Restore, own: dict[str, Any]) -> None:
    """The same for every scan below a folder; `own` are the settings of this command alone.

    A scan that fails is told in the table, and ends the command with 1. Raises MedldmError.
    """
    settings = call.settings()
    lone = {"--residual": call.residual, "--uncertainty": call.uncertainty, "--interval": call.interval}
    lone["--report"] = call.report
    beside = [name for name, value in lone.items() if value is not None] + ["--series"] * (call.series is not None)
    beside += ["--select"] * bool(call.select) + ["--overwrite"] * call.overwrite
    if beside:
        raise InputError("--each", f"{', '.join(beside)} beside it", "none: they are of one scan", "leave it out")
    if call.format not in (None, "nifti"):
        raise InputError("--format", call.format, "nifti, or each as its scan", "leave it out")
    if not call.input.is_dir():
        raise InputError(str(call.input), "no folder", "a folder of scans", "leave out --each for one scan")
    choice = call.choice()
    call.check_names()
    from medldm.folder import restore_each
    from medldm.model import load_model

    rows = []
    with Progress(quiet=call.quiet) as progress:
        model = load_model(call.model, call.device)
        what = {**settings, **own, "model": model.name, "weights_sha256": model.weights_sha256}
        for row in restore_each(
            call.input,
            call.output,
            lambda scan: restore(scan, model, settings),
            settings=what,
            format=call.format,
            choice=choice,
            progress=lambda file, done, total: progress("scans", done, total),
        ):
            rows.append(row)
    if call.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
    elif not call.quiet:
        columns = ("file", "series", "select", "state", "output", "noise", "structure", "s", "why or warnings")
        print_table(columns, [_cells(row) for row in rows])
    if any(row.state == "failed" for row in rows):
        raise typer.Exit(1)


def _cells(row: Row) -> tuple[str, ...]:
    noise = "" if row.noise_std is None else f"{row.noise_std:.4g}" + f" {row.unit}" * (row.unit != "arbitrary")
    structure = {None: "", True: "look at it", False: "none"}[row.residual_has_structure]
    why = "; ".join(filter(None, (row.reason, row.warnings)))
    return (row.file, row.series, row.select, row.state, row.output, noise, structure, f"{row.seconds:g}", why)


def run_volumes(call: Call, restore: Restore) -> None:
    """The same for every volume of a 4D NIfTI file, into one 4D file; nothing is written if one fails.

    Raises MedldmError.
    """
    settings, choice = call.settings(), call.choice()
    beside = [
        name
        for name, value in (("--report", call.report), ("--interval", call.interval), ("--series", call.series))
        if value is not None
    ]
    if beside or choice.select:
        names = ", ".join(beside + ["--select"] * bool(choice.select))
        raise InputError("--each-volume", f"{names} beside it", "none: they are of one volume", "leave it out")
    from medldm.io import nifti
    from medldm.io.walk import check_exists

    check_exists(call.input)
    if not nifti.can_read(call.input):
        raise InputError(str(call.input), "no NIfTI file", "a 4D NIfTI file", "--each does every scan of a folder")
    count = nifti.count_volumes(call.input, choice)
    targets = [path for path in (call.output, call.residual, call.uncertainty) if path is not None]
    for path in targets:
        nifti.check_free(path, overwrite=call.overwrite)
        check_output(path, overwrite=call.overwrite, format="nifti")
    if len({path.resolve() for path in (call.input, *targets)}) <= len(targets):
        raise OutputError("outputs", "the same path twice, or the scan's", "a path of its own for each")
    call.check_names()
    from medldm.io import read_choice
    from medldm.model import load_model

    results: list[Restoration] = []
    with Progress(quiet=call.quiet) as progress:
        model = load_model(call.model, call.device)
        for number in range(1, count + 1):
            progress("volumes", number - 1, count)
            scan = read_choice(call.input, replace(choice, select={VOLUME: str(number)}))
            results.append(restore(scan, model, settings))
    maps = {
        call.output: [result.volume for result in results],
        call.residual: [result.residual for result in results],
        call.uncertainty: [result.uncertainty for result in results],
    }
    for target, each in maps.items():
        if target is not None:
            nifti.write_volumes(each, target, overwrite=call.overwrite)
    if call.json:
        print(json.dumps([result.report for result in results], indent=2))
    elif not call.quiet:
        print(f"wrote {call.output} ({count} volumes)")
        for number, result in enumerate(results, start=1):
            for warning in result.report.get("warnings", ()):
                print(f"warning: volume {number}: {warning}", file=sys.stderr)
