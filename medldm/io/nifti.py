"""NIfTI-1 and -2 in and out, with a sidecar of provenance; one 3D image, or several in one file (4D)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medldm.errors import InputError, OutputError
from medldm.foreign import to_nibabel
from medldm.geometry import Geometry
from medldm.io.atomic import write_whole
from medldm.io.choice import VOLUME, Choice
from medldm.io.lazy import LazyScan
from medldm.io.nifti_place import place_of
from medldm.io.nifti_voxels import (
    PAIRS,
    each_volume,
    finite,
    opened,
    plane_reader,
    read_header,
    read_voxels,
    shape_of,
    voxels_of,
)
from medldm.marks import QUANTITY, Marks
from medldm.volume import Volume

WRITTEN = (".nii.gz", ".nii")
SUFFIXES = (*WRITTEN, ".hdr", ".hdr.gz")  # of a pair, the file that is to be read
_MARK = "medldm"


def can_read(path: Path) -> bool:
    """Whether the name ends in .nii or .nii.gz, or a file is one of a pair with a header of NIfTI or Analyze."""
    name = path.name.lower()
    if name.endswith(WRITTEN):
        return path.is_file()
    if not name.endswith((*SUFFIXES, ".img", ".img.gz")) or not path.is_file():
        return False
    header = header_of(path)
    try:
        with opened(header) as file:
            return int.from_bytes(file.read(4), "little") in (348, 540, 0x5C010000, 0x1C020000)
    except Exception:
        return False


def header_of(path: Path) -> Path:
    """The file with the header: the .hdr of a pair for its .img, else the file itself."""
    for suffix, body in PAIRS:
        if path.name.lower().endswith(body):
            stem = path.name[: -len(body)]
            named = [path.with_name(stem + s) for s in (suffix, ".hdr", ".hdr.gz", ".HDR")]
            return next((p for p in named if p.is_file()), named[0])
    return path


def files_of(path: Path) -> list[Path]:
    """The files that make up one: both of a pair."""
    header = header_of(path)
    return list(dict.fromkeys((header, voxels_of(header))))


def read(path: Path, choice: Choice | None = None) -> Volume:
    """Read a 3D image, or one of a 4D file; array in file order, float32, scl_slope applied.

    Parameters
    ----------
    path : Path
        A single file, or one of a pair (.hdr, .img).
    choice : Choice, optional
        Which of the forms (`xform`), whether a place may be made up (`assume_affine`), what is done about voxels
        that are not finite (`nan`), which volume of a 4D file (`select`, {"volume": "3"}, from 1). A series or another
        selection is an InputError: NIfTI has none.

    Raises
    ------
    GeometryError
        Where neither sform nor qform says where the voxels lie, or what they say is impossible.
    AmbiguousInput
        For more than one volume (4D), none of which was chosen.
    UnsupportedInput
        For complex or RGB voxels, for more than four dimensions, and for Analyze.
    PixelError
        For a damaged file or values that are not finite.
    LimitError
        For more voxels than the choice allows.

    Warns
    -----
    UserWarning
        Where sform and qform differ and none was chosen, or the header has no unit of length (mm is taken).
    """
    path, choice = header_of(Path(path)), choice or Choice()
    header, shape, count = _begun(path, choice)
    number = choice.volume(path.name, count, shape)
    geometry, notes = place_of(header, shape, path.name, choice)
    array, found = read_voxels(header, shape, path, choice, number)
    return _volume(header, array, geometry, notes | found, number, count)


def volumes(path: Path, choice: Choice | None = None) -> Iterator[tuple[dict[str, str], Volume | InputError]]:
    """Each volume of a file, or why it is none, with the selection that reads it alone ({} where there is one).

    The file is read once. Raises what `read` raises for the header.
    """
    path, choice = header_of(Path(path)), choice or Choice()
    header, shape, count = _begun(path, choice)
    geometry, notes = place_of(header, shape, path.name, choice)
    each = each_volume(header, shape, path, range(count))
    for number in range(count):
        select = {VOLUME: str(number + 1)} if count > 1 else {}
        try:
            array, beyond, found = next(each)
        except InputError as failure:  # nothing behind it can be read, either
            for rest in range(number, count):
                yield ({VOLUME: str(rest + 1)} if count > 1 else {}), failure
            return
        try:
            array, filled = finite(array, path.name, choice, beyond)
            yield select, _volume(header, array, geometry, notes | found | filled, number, count)
        except InputError as failure:
            yield select, failure


def count_volumes(path: Path, choice: Choice | None = None) -> int:
    """How many 3D volumes a file holds. Raises what `read` raises for the header."""
    return _begun(header_of(Path(path)), choice or Choice())[2]


def _begun(path: Path, choice: Choice) -> tuple[Any, tuple[int, int, int], int]:
    header = read_header(path)
    shape, count = shape_of(header, path.name, choice)
    return header, shape, count


def _volume(
    header: Any, array: NDArray[np.float32], geometry: Geometry, notes: dict[str, Any], number: int, count: int
) -> Volume:
    import nibabel as nib

    if count > 1:
        notes = notes | {VOLUME: number + 1, "volumes": count} | _time_step(header)
    marks = Marks.of_header(header)
    step = {"step": "read", "format": "nifti", "nibabel": nib.__version__, **notes, **marks.step()}
    return Volume(array, geometry, marks.unit, marks.modality, (step,))


def _time_step(header: Any) -> dict[str, Any]:
    """Distance between volumes and its unit, as the header has them; {} where it has none."""
    step = float(header["pixdim"][4])
    try:
        unit = header.get_xyzt_units()[1]
    except KeyError:
        unit = "unknown"
    return {"volume_step": step, "volume_unit": unit} if np.isfinite(step) and step > 0 else {}


def lazily(path: Path, choice: Choice | None = None) -> LazyScan | None:
    """The same without its voxels; None where they can only be read whole: of a compressed file, or to be filled.

    Raises what `read` raises for the header.
    """
    path, choice = header_of(Path(path)), choice or Choice()
    header, shape, count = _begun(path, choice)
    number = choice.volume(path.name, count, shape)
    if choice.nan != "refuse":  # what is filled in is the smallest value of all
        return None
    geometry, notes = place_of(header, shape, path.name, choice)
    plane = plane_reader(header, shape, path, number)
    if plane is None:
        return None
    marks = Marks.of_header(header)
    step = {"step": "read", "format": "nifti", **notes, **marks.step()}
    return LazyScan(geometry, marks.unit, marks.modality, (step,), plane, lambda: read(path, choice))


def sidecar_of(path: Path) -> Path:
    """The JSON file beside a NIfTI file."""
    suffix = next((s for s in WRITTEN if path.name.lower().endswith(s)), path.suffix)
    return path.with_name(path.name[: len(path.name) - len(suffix)] + ".json")


def write(volume: Volume, path: Path) -> Path:
    """Write float32 voxels and, beside them, a JSON file with the history; each whole or not at all.

    sform and qform hold the same affine (the sform alone, if it is sheared), in mm. Raises OutputError.
    """
    return _written(volume, np.asarray(volume.array), Path(path), {"history": list(volume.history)})


def write_volumes(each: Sequence[Volume], path: Path, *, overwrite: bool = False) -> Path:
    """Write volumes of one grid as one 4D file, with the distance between them that the first one's history has.

    Raises OutputError.
    """
    first, path = each[0], Path(path)
    if not all(v.geometry.isclose(first.geometry) and v.unit == first.unit for v in each):
        raise OutputError(path.name, "volumes of several grids or units", "one", "write them one by one")
    check_free(path, overwrite=overwrite)
    histories = {"histories": [list(volume.history) for volume in each]}
    return _written(first, np.stack([volume.array for volume in each], axis=-1), path, histories)


def check_free(path: Path, *, overwrite: bool) -> None:
    """Raise OutputError for a name that is not NIfTI's, or taken."""
    if not path.name.lower().endswith(WRITTEN):
        got = f"the suffix {path.suffix or 'none'}"
        raise OutputError(path.name, got, ".nii.gz or .nii", "change the suffix")
    if path.exists() and not overwrite:
        do = "choose another, or overwrite=True (--overwrite)"
        raise OutputError(str(path), "an existing file or folder", "a new name", do)


def _written(volume: Volume, array: NDArray[Any], path: Path, histories: dict[str, Any]) -> Path:
    check_free(path, overwrite=True)
    sidecar = sidecar_of(path)
    if sidecar.exists() and not _is_ours(sidecar):
        raise OutputError(sidecar.name, "a JSON file of another program", "a name without one", "choose another name")
    image: Any = to_nibabel(array, volume.geometry, volume.marks)
    first = volume.history[0] if array.ndim == 4 and volume.history else {}
    if "volume_step" in first:
        image.header["pixdim"][4] = first["volume_step"]
    image.header.set_xyzt_units("mm", first.get("volume_unit"))
    about = {"unit": volume.unit, "modality": volume.modality, **histories}
    if volume.quantity:
        about[QUANTITY] = volume.quantity
    table = {
        _MARK: about,
        "geometry": volume.geometry.to_dict(),
    }
    text = json.dumps(table, indent=2, default=str) + "\n"

    def save(part: Path) -> None:
        image.to_filename(part)
        write_whole(sidecar, lambda file: file.write_text(text, encoding="utf-8"))

    write_whole(path, save)
    return path


def _is_ours(sidecar: Path) -> bool:
    try:
        table = json.loads(sidecar.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(table, dict) and _MARK in table
