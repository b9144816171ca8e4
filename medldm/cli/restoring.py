"""`medldm denoise`, `superres`, `inpaint` and `restore`: refusals before torch is imported, the work, the way out."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import medldm
from medldm.cli import options as o
from medldm.cli.call import DICOM, Call, Restore, restoring
from medldm.cli.many import run_each, run_volumes
from medldm.cli.output import Progress
from medldm.conformal import level_share, uncalibrated
from medldm.errors import InputError, OutputError
from medldm.io import check_output

if TYPE_CHECKING:
    from medldm.model import Model
    from medldm.restoration.result import Restoration
    from medldm.volume import Volume

PICTURES = (".png", ".jpg", ".jpeg", ".webp")

Scale = Annotated[str | None, typer.Option("--scale", help="Factor, e.g. 2, or one an axis of the file: 1x1x2.")]
Spacing = Annotated[
    str | None, typer.Option("--spacing", help="Voxel size to reach in mm instead, e.g. 1 or 0.8x0.8x1.")
]
Mask = Annotated[
    Path, typer.Option("--mask", help="What to fill: a file on the scan's grid; voxels > 0 are not looked at.")
]
Task = Annotated[str, typer.Option("--task", help="Name of the problem, as `medldm models` lists it for the model.")]
Pairs = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Option of the problem, e.g. scale=2; repeatable."),
]


@restoring
def denoise(call: Call, noise_std: o.NoiseStd = None, each: o.Each = False, each_volume: o.EachVolume = False) -> None:
    """Remove the noise of a scan; grid, unit and metadata are kept."""

    def solve(scan: Volume, model: Model, settings: dict[str, Any]) -> Restoration:
        return medldm.denoise(scan, model=model, noise_std=noise_std, **settings)

    run_any(call, solve, each, each_volume, {"task": "denoise", "noise_std": noise_std})


@restoring
def superres(
    call: Call,
    scale: Scale = None,
    spacing: Spacing = None,
    noise_std: o.NoiseStd = None,
    each: o.Each = False,
    each_volume: o.EachVolume = False,
) -> None:
    """Refine a scan's grid by whole factors; the field of view stays where it is."""
    factor, target = o.parse_scale(scale), o.parse_spacing(spacing)
    if (factor is None) == (target is None):
        raise InputError("superres", "both or neither of --scale and --spacing", "one of them")

    def solve(scan: Volume, model: Model, settings: dict[str, Any]) -> Restoration:
        return medldm.super_resolve(
            scan, model=model, scale=factor, target_spacing=target, noise_std=noise_std, **settings
        )

    own = {"task": "super_resolve", "scale": scale, "spacing": spacing, "noise_std": noise_std}
    run_any(call, solve, each, each_volume, own)


@restoring
def inpaint(call: Call, mask: Mask) -> None:
    """Fill a region that was not measured, or not well; outside it not a bit changes. Takes --mode fidelity alone."""

    def solve(scan: Volume, model: Model, settings: dict[str, Any]) -> Restoration:
        return medldm.inpaint(scan, mask, model=model, **settings)

    run(call, solve)


@restoring
def restore(
    call: Call,
    task: Task,
    pairs: Pairs = None,
    noise_std: o.NoiseStd = None,
    each: o.Each = False,
    each_volume: o.EachVolume = False,
) -> None:
    """Solve any problem that a model was trained for, a plugin's as well: --task NAME --set KEY=VALUE."""
    problem = o.parse_pairs(pairs or (), "--set", "scale=2")

    def solve(scan: Volume, model: Model, settings: dict[str, Any]) -> Restoration:
        return medldm.restore(scan, task, model=model, problem=problem, noise_std=noise_std, **settings)

    run_any(call, solve, each, each_volume, {"task": task, "problem": problem, "noise_std": noise_std})


def check_report_path(path: Path, *, overwrite: bool) -> None:
    """Refuse a report that could not be written. Raises OutputError."""
    if path.suffix.lower() not in (".html", ".htm"):
        raise OutputError(str(path), "a report of another kind", "a name ending in .html")
    if path.is_dir() or (path.exists() and not overwrite):
        raise OutputError(str(path), "an existing file or folder", "a new name", "choose another, or --overwrite")
    if not path.absolute().parent.is_dir():
        raise OutputError(str(path), "no folder to write into", "an existing folder", "create it first")


def run_any(call: Call, restore: Restore, each: bool, each_volume: bool, own: dict[str, Any]) -> None:
    """One scan, every scan below a folder, or every volume of a file. Raises MedldmError."""
    if each and each_volume:
        raise InputError("--each-volume", "--each beside it", "one of them", "--each does the volumes of a file, too")
    if each:
        run_each(call, restore, own)
    elif each_volume:
        run_volumes(call, restore)
    else:
        run(call, restore)


def run(call: Call, restore: Restore) -> None:
    """Read the scan, restore it, write what was asked for. Raises MedldmError."""
    settings = call.settings()
    scan = prepare(call)
    from medldm.model import load_model

    with Progress(quiet=call.quiet) as progress:
        told = {"progress": progress, "forecast": progress.forecast}
        model = load_model(call.model, call.device)
        if call.interval is not None and model.intervals is None:
            raise uncalibrated(f"model {model.name}")
        result = restore(scan, model, {**settings, **told})
    finish(scan, result, call)


def prepare(call: Call) -> Volume:
    """Read the scan; refuse what cannot end well, before any work.

    Raises InputError, ModelError, OutputError.
    """
    from medldm.io import read_choice
    from medldm.io.walk import check_exists

    source, choice = call.input, call.choice()
    call.check_names()
    resolved = [path.resolve() for path in call.paths()]
    if len(set(resolved)) < len(resolved):
        raise OutputError("outputs", "the same path twice", "a path of its own for each")
    if source.resolve() in resolved:
        raise OutputError(str(source), "the scan itself as output", "another path", "the original is never replaced")
    if call.interval is not None:
        level_share(call.level)
        if o.parse_mode(call.mode) not in ("fidelity", 0) or call.samples > 1:
            got = f"mode {call.mode}, {call.samples} samples"
            raise InputError("--interval", got, "fidelity and one sample", "it is that of the mean")
    for extra in (call.residual, call.uncertainty, *call.bounds()):
        if extra is not None and extra.name.lower().endswith(PICTURES):
            raise OutputError(str(extra), "a picture", "a file for signed values", "name it .nii.gz")
    check_exists(source)
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
        from medldm.io.dicom.map_writer import check_source

        check_source(scan, str(path))
    elif format in (None, "dicom") and path.name.lower().endswith(DICOM) and scan.geometry.shape[2] != 1:
        got = f"one file for {scan.geometry.shape[2]} slices"
        raise OutputError(str(path), got, "a folder", "leave out .dcm and give the format dicom")


def finish(scan: Volume, result: Restoration, call: Call) -> None:
    """Write what was asked for, then say what was done."""
    from medldm.io import write

    bounds = [] if call.interval is None else result.interval(call.level)
    write(result.volume, call.output, call.format, overwrite=call.overwrite)
    if call.residual is not None:
        write(result.residual, call.residual, call.map_format(call.residual), overwrite=call.overwrite)
    if call.uncertainty is not None:
        write(result.uncertainty, call.uncertainty, call.map_format(call.uncertainty), overwrite=call.overwrite)
    for path, bound in zip(call.bounds(), bounds, strict=True):
        write(bound, path, call.map_format(path), overwrite=call.overwrite)
    if call.report is not None:
        from medldm.report.page import Section, title_of, write_report

        shown = (bounds[0], bounds[1]) if bounds else result.interval() if result.has_interval else None
        section = Section.of_restoration(title_of(result.report["task"]), scan, result, bounds=shown)
        write_report(call.report, [section])
    if call.json:
        print(json.dumps(result.report, indent=2))
    elif not call.quiet:
        summarise(result, call)


def summarise(result: Restoration, call: Call) -> None:
    """Two or three lines for a person; warnings go to stderr."""
    report, volume = result.report, result.volume
    size = " x ".join(map(str, volume.geometry.shape))
    spacing = " x ".join(f"{s:.3g}" for s in volume.geometry.spacing)
    print(f"wrote {call.output} ({size}, {spacing} mm)")
    how = "estimated" if report.get("noise_std_estimated") else "given"
    if report.get("noise_std"):
        unit = "" if volume.unit == "arbitrary" else f" {volume.unit}"
        print(f"noise {report['noise_std']:.4g}{unit} ({how}), model {report['model']}, seed {report['seed']}")
    for warning in report.get("warnings", ()):
        print(f"warning: {warning}", file=sys.stderr)
