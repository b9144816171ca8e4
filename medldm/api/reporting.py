"""What came of a restoration, as a page to read; without torch, so that a window can write it."""

from __future__ import annotations

from pathlib import Path

from medldm.errors import InputError, OutputError
from medldm.inputs import Scan, as_volume
from medldm.report.page import Section, title_of
from medldm.report.page import write_report as write_sections
from medldm.restoration.result import Restoration


def write_report(path: str | Path, scan: Scan, restoration: Restoration) -> Path:
    """Write one HTML file: scan, result, residual, uncertainty, 90 % interval, figures, provenance; no names.

    path : of the file; its folder must be there, a file of that name is replaced
    scan : what was restored: path, Volume or image (see `as_volume`)
    restoration : what came of it
    Raises OutputError where it cannot be written, InputError for what is no scan or Restoration.

    >>> result = medldm.denoise(scan, model=model, noise_std=20.0)
    >>> medldm.write_report("report.html", scan, result).stat().st_size > 10_000
    True
    """
    given: object = restoration
    if not isinstance(given, Restoration):
        raise InputError("restoration", f"a {type(given).__name__}", "a Restoration", "as medldm.denoise returns")
    if not Path(path).absolute().parent.is_dir():
        raise OutputError(str(path), "no folder to write into", "an existing folder", "create it first")
    title = title_of(restoration.report["task"])
    bounds = restoration.interval() if restoration.has_interval else None
    section = Section.of_restoration(title, as_volume(scan), restoration, bounds=bounds)
    write_sections(Path(path), [section])
    return Path(path)
