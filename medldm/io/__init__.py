"""Files in, files out, format by format; LPS and RAS meet in `dicom` here and nowhere else."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medldm import registry
from medldm.errors import EmptyInput, InputError, OutputError, UnsupportedInput
from medldm.io.choice import MAX_BYTES, Choice
from medldm.io.walk import check_exists, in_words, list_files
from medldm.volume import Volume

__all__ = ["Choice", "can_read", "check_output", "read", "read_choice", "write"]


def read(
    path: str | Path,
    series: str | None = None,
    *,
    select: Mapping[str, str] | None = None,
    resample_nonuniform: bool = False,
    xform: str | None = None,
    assume_affine: bool = False,
    nan: str = "refuse",
    max_bytes: int = MAX_BYTES,
) -> Volume:
    """Read a scan: NIfTI file, DICOM folder or file, zip of DICOM, picture, or what a plugin reads.

    path : of the file, or of the folder of a DICOM series
    series, select : which one, where there are several (the refusal lists them), as in `Choice`
    resample_nonuniform, xform, assume_affine, nan, max_bytes : what may be assumed, as in `Choice`
    Raises InputError and its children (`medldm.errors`) with the reason; there are no partial results.

    >>> medldm.read("scan.nii.gz")
    Volume(24 x 20 x 16, 2 x 2 x 3 mm, RAS, arbitrary, MR)
    """
    choice = Choice(series, dict(select or {}), resample_nonuniform, xform, assume_affine, nan, max_bytes)
    return read_choice(path, choice)


def read_choice(path: str | Path, choice: Choice) -> Volume:
    """`read`, with all that was chosen in one piece."""
    path = _path(path)
    check_exists(path)
    for name in registry.names("readers"):
        try:
            reader = registry.find("readers", name)
        except InputError:
            continue  # a broken plugin harms nobody else; medldm doctor names it
        if reader.can_read(path):
            volume: Volume = reader.read(path, choice)
            return volume
    if path.is_dir():
        skipped: Counter[str] = Counter()
        count = len(list_files(path, skipped))
        left_out = in_words(skipped)
        got = f"a folder without DICOM images ({count} other files{', ' if left_out else ''}{left_out})"
        raise EmptyInput(str(path), got, "a DICOM series, or one file", "see medldm inspect")
    got = f"a file that no reader knows ({path.suffix or 'no suffix'})"
    raise UnsupportedInput(str(path), got, "NIfTI, DICOM or a picture")


def _path(path: object) -> Path:
    """Raises InputError for what is no path, such as a list of them."""
    if not isinstance(path, str | Path):
        expected = "one path (a DICOM series is a folder)"
        raise InputError("path", f"a {type(path).__name__}", expected, "read one after the other")
    return Path(path)


def can_read(path: str | Path) -> bool:
    """Whether some reader claims a file or folder, by its name and first bytes; nothing is decoded.

    path : of it
    Raises InputError for what is no path.

    >>> medldm.can_read("dicom"), medldm.can_read("recipe.toml")
    (True, False)
    """
    path = _path(path)
    for name in registry.names("readers"):
        try:
            if registry.find("readers", name).can_read(path):
                return True
        except Exception:
            continue  # a broken plugin harms nobody else; medldm doctor names it
    return False


def _writer(volume: Volume | None, path: Path, format: str | None) -> Any:
    if format is not None:
        return registry.find("writers", format)
    for name in registry.names("writers"):
        try:
            writer = registry.find("writers", name)
        except InputError:
            continue  # as in read
        if path.name.lower().endswith(tuple(writer.SUFFIXES)):
            return writer
    if path.suffix == "" and (volume is None or volume.source is not None):
        return registry.find("writers", "dicom")
    raise OutputError(
        str(path),
        "a name that no writer knows",
        "a name ending in .nii.gz, .png, or a folder with format dicom",
        "name it so, or give the format",
    )


def check_output(
    path: str | Path, *, overwrite: bool = False, volume: Volume | None = None, format: str | None = None
) -> Path:
    """Refuse, before any work is done, an output that could not be written.

    Raises OutputError for an existing target without `overwrite`, a missing or read-only parent folder, or
    a name that no writer knows.
    """
    path = _path(path)
    _writer(volume, path, format)
    if path.exists() and not overwrite:
        do = "choose another, or overwrite=True (--overwrite)"
        raise OutputError(str(path), "an existing file or folder", "a new name", do)
    parent = path.absolute().parent
    if not parent.is_dir():
        wanted = f"the folder {parent.name or parent}"
        raise OutputError(str(path), "no folder to write into", wanted, "create it first")
    try:
        with tempfile.TemporaryFile(dir=parent):
            pass
    except OSError:
        raise OutputError(str(path), "a folder that cannot be written to", "a writable folder") from None
    return path


def write(volume: Volume, path: str | Path, format: str | None = None, *, overwrite: bool = False) -> Path:
    """Write a scan, whole or not at all, as its name says: .nii.gz, .png; a folder is a DICOM series.

    volume : what to write
    path : its name, in a folder that is there
    format : name of a writer ("nifti", "dicom", "picture", a plugin's); default None: as the name tells
    overwrite : replace what is there; default False: it is refused
    Raises OutputError (see `check_output`), and InputError for what is no Volume, or one that the format cannot hold.

    >>> medldm.write(scan, "copy.nii.gz").name
    'copy.nii.gz'
    """
    given: object = volume
    if not isinstance(given, Volume):
        do = "medldm.as_volume makes one of an array or image"
        raise InputError("write", f"a {type(given).__name__}", "a Volume", do)
    path = check_output(path, overwrite=overwrite, volume=volume, format=format)
    _writer(volume, path, format).write(volume, path)
    return path
