"""What `denoise` and `superres` share: refusals before torch is imported, and the way out."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medldm.errors import InputError, OutputError
from medldm.packs import folder_of

if TYPE_CHECKING:
    from medldm.io.choice import Choice
    from medldm.restore.restoration import Restoration
    from medldm.volume import Volume

PICTURES = (".png", ".jpg", ".jpeg", ".webp")
_DICOM = ".dcm"


@dataclass(frozen=True)
class Outputs:
    """Everything that a restoration may leave behind."""

    output: Path
    format: str | None
    residual: Path | None
    uncertainty: Path | None
    report: Path | None
    overwrite: bool

    def paths(self) -> list[Path]:
        every = (self.output, self.residual, self.uncertainty, self.report)
        return [path for path in every if path is not None]

    def formats(self) -> list[tuple[Path, str | None]]:
        """Files that hold a scan, with the name of their writer where the file's name is not enough."""
        every = [(self.output, self.format), (self.residual, None), (self.uncertainty, self.uncertainty_format)]
        return [(path, format) for path, format in every if path is not None]

    @property
    def uncertainty_format(self) -> str | None:
        """An uncertainty in DICOM is a parametric map: no image has room for its values."""
        is_dicom = self.uncertainty is not None and self.uncertainty.name.lower().endswith(_DICOM)
        return "parametric_map" if is_dicom else None


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


def prepare(source: Path, choice: Choice, model: str, sampler: str, outputs: Outputs) -> Volume:
    """Read the scan; refuse what cannot end well, before any work.

    Raises InputError, ModelError, OutputError.
    """
    from medldm import registry
    from medldm.io import check_output, read_choice

    folder_of(model)
    if sampler not in registry.names("samplers"):
        registry.find("samplers", sampler)
    resolved = [path.resolve() for path in outputs.paths()]
    if len(set(resolved)) < len(resolved):
        raise OutputError("outputs", "the same path twice", "a path of its own for each")
    if source.resolve() in resolved:
        raise OutputError(
            str(source), "the scan itself as output", "another path", "the original is never replaced"
        )
    for extra in (outputs.residual, outputs.uncertainty):
        if extra is not None and extra.name.lower().endswith(PICTURES):
            raise OutputError(str(extra), "a picture", "a file for signed values", "name it .nii.gz")
    if not source.exists():
        raise InputError(str(source), "no such file or folder", "a scan", "check the path")
    for path, format in outputs.formats():
        check_output(path, overwrite=outputs.overwrite, format=format)
    if outputs.report is not None:
        check_report_path(outputs.report, overwrite=outputs.overwrite)
    scan = read_choice(source, choice)
    check_output(outputs.output, overwrite=outputs.overwrite, volume=scan, format=outputs.format)
    for path, format in outputs.formats():
        _check_dicom(path, format, scan)
    if outputs.uncertainty is not None and not outputs.uncertainty.suffix:
        got = "a folder for the uncertainty"
        raise OutputError(str(outputs.uncertainty), got, "one file", "name it .dcm or .nii.gz")
    return scan


def _check_dicom(path: Path, format: str | None, scan: Volume) -> None:
    """Refuse a DICOM file that cannot hold what comes of this scan. Raises OutputError."""
    if format == "parametric_map":
        from medldm.io.parametric_map import check_source

        check_source(scan, str(path))
    elif format in (None, "dicom") and path.name.lower().endswith(_DICOM) and scan.geometry.shape[2] != 1:
        got = f"one file for {scan.geometry.shape[2]} slices"
        raise OutputError(str(path), got, "a folder", "leave out .dcm and give the format dicom")


def finish(scan: Volume, result: Restoration, outputs: Outputs, *, quiet: bool, as_json: bool) -> None:
    """Write what was asked for, then say what was done."""
    from medldm.io import write

    write(result.volume, outputs.output, outputs.format, overwrite=outputs.overwrite)
    if outputs.residual is not None:
        write(_named(result.residual, "residual"), outputs.residual, overwrite=outputs.overwrite)
    if outputs.uncertainty is not None and result.uncertainty is not None:
        named = _named(result.uncertainty, "uncertainty")
        write(named, outputs.uncertainty, outputs.uncertainty_format, overwrite=outputs.overwrite)
    if outputs.report is not None:
        from medldm.evaluate.report import TASKS, Section, write_report

        write_report(outputs.report, [Section.of_restoration(TASKS[result.report["task"]], scan, result)])
    if as_json:
        print(json.dumps(result.report, indent=2))
    elif not quiet:
        summarise(result, outputs)


def _named(volume: Volume, what: str) -> Volume:
    """The same volume, whose last step says what it is: in a DICOM series it must not pass for the result."""
    last = volume.history[-1]
    return volume.with_step({**last, "step": f"{last['step']} {what}"})


def summarise(result: Restoration, outputs: Outputs) -> None:
    """Two or three lines for a person; warnings go to stderr."""
    report, volume = result.report, result.volume
    size = " x ".join(map(str, volume.geometry.shape))
    spacing = " x ".join(f"{s:.3g}" for s in volume.geometry.spacing)
    print(f"wrote {outputs.output} ({size}, {spacing} mm)")
    how = "estimated" if report.get("noise_std_estimated") else "given"
    if report.get("noise_std"):
        unit = "" if volume.unit == "arbitrary" else f" {volume.unit}"
        print(
            f"noise {report['noise_std']:.4g}{unit} ({how}), model {report['model']}, seed {report['seed']}"
        )
    for warning in report.get("warnings", ()):
        print(f"warning: {warning}", file=sys.stderr)
