"""What restoring commands share: refusals before torch is imported, the work, and the way out."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medldm.cli.call import DICOM, Call
from medldm.cli.progress import Progress
from medldm.errors import InputError, OutputError
from medldm.packs import folder_of

if TYPE_CHECKING:
    from medldm.model import Model
    from medldm.restore.restoration import Restoration
    from medldm.volume import Volume

# (scan, model, keyword arguments that all restoring functions of the API share)
Restore = Callable[["Volume", "Model", dict[str, Any]], "Restoration"]

PICTURES = (".png", ".jpg", ".jpeg", ".webp")


def check_report_path(path: Path, *, overwrite: bool) -> None:
    """Refuse a report that could not be written. Raises OutputError."""
    if path.suffix.lower() not in (".html", ".htm"):
        raise OutputError(str(path), "a report of another kind", "a name ending in .html")
    if path.is_dir() or (path.exists() and not overwrite):
        raise OutputError(
            str(path), "an existing file or folder", "a new name", "choose another, or --overwrite"
        )
    if not path.absolute().parent.is_dir():
        raise OutputError(str(path), "no folder to write into", "an existing folder", "create it first")


def run(call: Call, restore: Restore) -> None:
    """Read the scan, restore it, write what was asked for. Raises MedldmError."""
    settings = call.settings()
    scan = prepare(call)
    from medldm.model import load_model

    with Progress(quiet=call.quiet) as progress:
        result = restore(scan, load_model(call.model, call.device), {**settings, "progress": progress})
    finish(scan, result, call)


def check_sampler(name: str) -> None:
    """Raises InputError for a sampler that is not installed."""
    from medldm import registry

    if name not in registry.names("samplers"):
        registry.find("samplers", name)


def prepare(call: Call) -> Volume:
    """Read the scan; refuse what cannot end well, before any work.

    Raises InputError, ModelError, OutputError.
    """
    from medldm.io import check_output, read_choice

    source, choice = call.input, call.choice()
    folder_of(call.model)
    check_sampler(call.sampler)
    resolved = [path.resolve() for path in call.paths()]
    if len(set(resolved)) < len(resolved):
        raise OutputError("outputs", "the same path twice", "a path of its own for each")
    if source.resolve() in resolved:
        raise OutputError(
            str(source), "the scan itself as output", "another path", "the original is never replaced"
        )
    for extra in (call.residual, call.uncertainty):
        if extra is not None and extra.name.lower().endswith(PICTURES):
            raise OutputError(str(extra), "a picture", "a file for signed values", "name it .nii.gz")
    if not source.exists():
        raise InputError(str(source), "no such file or folder", "a scan", "check the path")
    for path, format in call.formats():
        check_output(path, overwrite=call.overwrite, format=format)
    if call.report is not None:
        check_report_path(call.report, overwrite=call.overwrite)
    scan = read_choice(source, choice)
    check_output(call.output, overwrite=call.overwrite, volume=scan, format=call.format)
    for path, format in call.formats():
        _check_dicom(path, format, scan)
    if call.uncertainty is not None and not call.uncertainty.suffix:
        got = "a folder for the uncertainty"
        raise OutputError(str(call.uncertainty), got, "one file", "name it .dcm or .nii.gz")
    return scan


def _check_dicom(path: Path, format: str | None, scan: Volume) -> None:
    """Refuse a DICOM file that cannot hold what comes of this scan. Raises OutputError."""
    if format == "parametric_map":
        from medldm.io.parametric_map import check_source

        check_source(scan, str(path))
    elif format in (None, "dicom") and path.name.lower().endswith(DICOM) and scan.geometry.shape[2] != 1:
        got = f"one file for {scan.geometry.shape[2]} slices"
        raise OutputError(str(path), got, "a folder", "leave out .dcm and give the format dicom")


def finish(scan: Volume, result: Restoration, call: Call) -> None:
    """Write what was asked for, then say what was done."""
    from medldm.io import write

    write(result.volume, call.output, call.format, overwrite=call.overwrite)
    if call.residual is not None:
        write(_named(result.residual, "residual"), call.residual, overwrite=call.overwrite)
    if call.uncertainty is not None and result.uncertainty is not None:
        named = _named(result.uncertainty, "uncertainty")
        write(named, call.uncertainty, call.uncertainty_format, overwrite=call.overwrite)
    if call.report is not None:
        from medldm.evaluate.report import TASKS, Section, write_report

        write_report(call.report, [Section.of_restoration(TASKS[result.report["task"]], scan, result)])
    if call.json:
        print(json.dumps(result.report, indent=2))
    elif not call.quiet:
        summarise(result, call)


def _named(volume: Volume, what: str) -> Volume:
    """The same volume, whose last step says what it is: in a DICOM series it must not pass for the result."""
    last = volume.history[-1]
    return volume.with_step({**last, "step": f"{last['step']} {what}"})


def summarise(result: Restoration, call: Call) -> None:
    """Two or three lines for a person; warnings go to stderr."""
    report, volume = result.report, result.volume
    size = " x ".join(map(str, volume.geometry.shape))
    spacing = " x ".join(f"{s:.3g}" for s in volume.geometry.spacing)
    print(f"wrote {call.output} ({size}, {spacing} mm)")
    how = "estimated" if report.get("noise_std_estimated") else "given"
    if report.get("noise_std"):
        unit = "" if volume.unit == "arbitrary" else f" {volume.unit}"
        print(
            f"noise {report['noise_std']:.4g}{unit} ({how}), model {report['model']}, seed {report['seed']}"
        )
    for warning in report.get("warnings", ()):
        print(f"warning: {warning}", file=sys.stderr)
