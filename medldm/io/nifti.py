"""NIfTI-1 and -2 in and out, with a sidecar of provenance."""

from __future__ import annotations

import json
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medldm.errors import AmbiguousInput, GeometryError, OutputError, PixelError, UnsupportedInput
from medldm.geometry import Geometry
from medldm.io.atomic import write_whole
from medldm.io.choice import Choice
from medldm.io.limits import check_size
from medldm.volume import Volume

SUFFIXES = (".nii.gz", ".nii")
_DAMAGE = (OSError, EOFError, zlib.error, ValueError, OverflowError)
_MM = {"mm": 1.0, "micron": 1e-3, "meter": 1e3}
_MARK = "medldm"


def can_read(path: Path) -> bool:
    """Whether the name ends in .nii or .nii.gz."""
    return path.is_file() and path.name.lower().endswith(SUFFIXES)


def read(path: Path, choice: Choice | None = None) -> Volume:
    """Read a 3D image; array in file order, float32, scl_slope applied.

    Parameters
    ----------
    path : Path
    choice : Choice, optional
        A series or a selection is an InputError: NIfTI has none.

    Raises
    ------
    GeometryError
        Where neither sform nor qform says where the voxels lie, or what they say is impossible.
    AmbiguousInput
        For more than one volume (4D).
    UnsupportedInput
        For complex or RGB voxels.
    PixelError
        For a damaged file or values that are not finite.
    LimitError
        For more than 8 GiB of voxels.

    Warns
    -----
    UserWarning
        Where sform and qform differ (the sform is taken), or the header has no unit of length (mm is taken).
    """
    import nibabel as nib

    path = Path(path)
    choice = choice or Choice()
    choice.refuse_selection(path.name)
    try:
        image: Any = nib.load(path, mmap=False)
        header = image.header
        with nib.openers.Opener(str(path)) as file:
            raw = image.header_class.from_fileobj(file, check=False)  # as stored: load() repairs in silence
    except nib.spatialimages.HeaderDataError as failure:
        raise PixelError(path.name, f"an impossible header ({failure})", "a valid one") from None
    except (nib.filebasedimages.ImageFileError, *_DAMAGE) as failure:
        reason = f"no readable NIfTI header ({type(failure).__name__})"
        raise PixelError(path.name, reason, "a whole file") from None
    if not isinstance(image, nib.Nifti1Image | nib.Nifti2Image):
        raise UnsupportedInput(path.name, type(image).__name__, "NIfTI-1 or NIfTI-2 in one file")
    shape = _shape(raw, path.name)
    geometry, notes = _geometry(header, raw, shape, path.name)
    array = _values(image, raw, shape, path)
    step = {"step": "read", "format": "nifti", "nibabel": nib.__version__, **notes}
    unit, modality = _described(header)
    return Volume(array, geometry, unit, modality, (step,))


def _shape(raw: Any, where: str) -> tuple[int, int, int]:
    """Shape of the one 3D image, trailing axes of length 1 dropped."""
    count = int(raw["dim"][0])
    dims = [int(n) for n in raw["dim"][1 : 1 + count]] if 1 <= count <= 7 else []
    if not dims:
        raise PixelError(where, f"{count} dimensions", "1 to 7", "the header is damaged")
    check_size(where, dims, max(4, raw.get_data_dtype().itemsize))
    if any(n > 1 for n in dims[3:]):
        raise AmbiguousInput(
            where, f"{' x '.join(map(str, dims))} voxels", "one 3D volume", "extract one of them"
        )
    i, j, k = (dims + [1, 1])[:3]
    return i, j, k


def _geometry(
    header: Any, raw: Any, shape: tuple[int, int, int], where: str
) -> tuple[Geometry, dict[str, Any]]:
    """Grid in mm and notes for the history: the sform if coded, else the qform, else nothing can be said."""
    notes: dict[str, Any] = {}
    try:
        unit = header.get_xyzt_units()[0]
    except KeyError:
        unit = "unknown"
    if unit not in _MM:
        notes["unit_of_length_assumed"] = "mm"
        warnings.warn(
            f"{where}: no unit of length in the header; millimetres assumed", UserWarning, stacklevel=4
        )
    mm = np.diag([*[_MM.get(unit, 1.0)] * 3, 1.0])
    sform_code, qform_code = int(raw["sform_code"]), int(raw["qform_code"])
    if sform_code <= 0 and qform_code <= 0:
        raise GeometryError(
            where, "neither sform nor qform", "one of them", "set the affine of the scan first"
        )
    qform = _qform(header, raw, shape, mm) if qform_code > 0 else None
    if sform_code <= 0:
        if qform is None:
            raise GeometryError(
                where, "an impossible qform", "a finite quaternion and pixdim > 0", "repair the header"
            )
        return qform, notes | {"xform": "qform"}
    try:
        sform = Geometry(mm @ header.get_sform(), shape)
    except GeometryError as failure:
        raise GeometryError(
            where, f"an sform with {failure.got}", failure.expected, "repair the header"
        ) from None
    if qform is not None and np.abs(sform.affine - qform.affine).max() > 1e-3:
        away = float(np.linalg.norm(sform.corners() - qform.corners(), axis=1).max())
        notes["qform_differs_mm"] = round(away, 4)
        text = f"{where}: sform and qform differ by up to {away:.3g} mm; sform taken"
        warnings.warn(text, UserWarning, stacklevel=4)
    return sform, notes | {"xform": "sform"}


def _qform(header: Any, raw: Any, shape: tuple[int, int, int], mm: NDArray[np.float64]) -> Geometry | None:
    """Grid of the qform, None where it is impossible."""
    import nibabel as nib

    pixdim = np.asarray(raw["pixdim"][1:4], dtype=np.float64)
    if not (np.isfinite(pixdim).all() and (pixdim > 0).all()):
        return None
    try:
        return Geometry(mm @ header.get_qform(), shape)
    except (GeometryError, nib.spatialimages.HeaderDataError, ValueError):
        return None


def _values(image: Any, raw: Any, shape: tuple[int, int, int], path: Path) -> NDArray[np.float32]:
    """Scaled voxels, float32, finite."""
    import nibabel as nib

    dtype = raw.get_data_dtype()
    if dtype.kind not in "iuf":
        kind = "complex" if dtype.kind == "c" else "RGB" if dtype.fields else str(dtype)
        raise UnsupportedInput(path.name, f"{kind} voxels", "real numbers", "convert it first")
    needed = int(raw["vox_offset"]) + int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if path.suffix.lower() == ".nii" and path.stat().st_size < needed:
        raise PixelError(path.name, f"{path.stat().st_size} bytes", f"{needed}", "the file is cut off")
    try:
        image.header.get_slope_inter()
    except nib.spatialimages.HeaderDataError:
        raise PixelError(
            path.name, "an scl_inter or scl_slope that is not finite", "finite numbers"
        ) from None
    try:
        values: NDArray[Any] = np.asanyarray(image.dataobj)
    except (nib.filebasedimages.ImageFileError, *_DAMAGE):
        raise PixelError(
            path.name, "voxels that end early or are damaged", "a whole file", "copy it again"
        ) from None
    if (
        values.dtype.itemsize == 8
        and values.dtype.kind in "iu"
        and max(values.max(), -int(values.min())) > 2**53
    ):
        raise PixelError(path.name, "integers beyond 2^53", "values that a float can hold")
    with np.errstate(over="ignore"):
        array: NDArray[np.float32] = values.astype(np.float32).reshape(shape)
    bad = int(np.count_nonzero(~np.isfinite(array)))
    if bad:
        raise PixelError(path.name, f"{bad} voxels that are not finite", "finite values", "fill them first")
    return array


def _described(header: Any) -> tuple[str, str]:
    """Unit and modality from the description that `write` leaves; other programs' files say neither."""
    text = bytes(header["descrip"].tobytes()).split(b"\0")[0].decode("ascii", "replace")
    parts = text.split("; ") if text.startswith(_MARK) else []
    fields = dict(part.split("=", 1) for part in parts if "=" in part)
    return fields.get("unit", "arbitrary"), fields.get("modality", "")


def sidecar_of(path: Path) -> Path:
    """The JSON file beside a NIfTI file."""
    suffix = next((s for s in SUFFIXES if path.name.lower().endswith(s)), path.suffix)
    return path.with_name(path.name[: len(path.name) - len(suffix)] + ".json")


def write(volume: Volume, path: Path) -> Path:
    """Write float32 voxels and, beside them, a JSON file with the history; each whole or not at all.

    sform and qform hold the same affine (the sform alone, if it is sheared), in mm. Raises OutputError.
    """
    import nibabel as nib

    path = Path(path)
    if not path.name.lower().endswith(SUFFIXES):
        raise OutputError(
            path.name, f"the suffix {path.suffix or 'none'}", ".nii.gz or .nii", "change the suffix"
        )
    sidecar = sidecar_of(path)
    if sidecar.exists() and not _is_ours(sidecar):
        raise OutputError(
            sidecar.name, "a JSON file of another program", "a name without one", "choose another name"
        )
    if max(volume.geometry.shape) > 32767:
        raise OutputError(
            path.name, f"an axis of {max(volume.geometry.shape)} voxels", "at most 32767 in NIfTI-1"
        )
    image: Any = nib.Nifti1Image(np.asarray(volume.array), volume.geometry.affine, dtype=np.float32)
    image.set_sform(volume.geometry.affine, code=1)
    image.set_qform(volume.geometry.affine, code=0 if volume.geometry.is_sheared else 1)
    image.header.set_xyzt_units("mm")
    described = f"{_MARK}; unit={volume.unit}; modality={volume.modality}"
    image.header["descrip"] = described.encode("ascii", "replace")[:79]
    table = {
        _MARK: {"unit": volume.unit, "modality": volume.modality, "history": list(volume.history)},
        "geometry": volume.geometry.to_dict(),
    }
    text = json.dumps(table, indent=2, default=str) + "\n"

    def save(part: Path) -> None:
        nib.save(image, part)
        write_whole(sidecar, lambda file: file.write_text(text, encoding="utf-8"))

    write_whole(path, save)
    return path


def _is_ours(sidecar: Path) -> bool:
    try:
        table = json.loads(sidecar.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(table, dict) and _MARK in table
