"""NIfTI-1 and -2 in and out, with a sidecar of provenance.

Where the voxels lie: sform, qform, or neither. The header is taken as stored, not as nibabel repairs it.
"""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medldm.errors import GeometryError, OutputError
from medldm.geometry import Geometry
from medldm.io.atomic import write_whole
from medldm.io.choice import Choice
from medldm.io.lazy import LazyScan
from medldm.io.nifti_voxels import plane_reader, read_header, read_voxels, shape_of
from medldm.volume import AI_PROCESSED, MAPS, QUANTITY, RESEARCH_USE, Volume

SUFFIXES = (".nii.gz", ".nii")
_MARK = "medldm"
_UNIT, _MODALITY = re.compile(r"[^\s;=]{1,16}"), re.compile(r"[A-Z]{2,4}")
_MM = {"mm": 1.0, "micron": 1e-3, "meter": 1e3}
_SAME = 1e-3  # entries of two affines
_STACK_LEVEL = 5


def can_read(path: Path) -> bool:
    """Whether the name ends in .nii or .nii.gz."""
    return path.is_file() and path.name.lower().endswith(SUFFIXES)


def read(path: Path, choice: Choice | None = None) -> Volume:
    """Read a 3D image; array in file order, float32, scl_slope applied.

    Parameters
    ----------
    path : Path
    choice : Choice, optional
        Which of the forms (`xform`), whether a place may be made up (`assume_affine`), what is done about voxels
        that are not finite (`nan`). A series or a selection is an InputError: NIfTI has none.

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
        For more voxels than the choice allows.

    Warns
    -----
    UserWarning
        Where sform and qform differ and none was chosen, or the header has no unit of length (mm is taken).
    """
    import nibabel as nib

    path = Path(path)
    choice = choice or Choice()
    choice.refuse_selection(path.name)
    header = read_header(path)
    shape = shape_of(header, path.name, choice)
    geometry, notes = _geometry(header, shape, path.name, choice)
    array, filled = read_voxels(header, shape, path, choice)
    step = {"step": "read", "format": "nifti", "nibabel": nib.__version__, **notes, **filled}
    unit, modality, marked = _described(header)
    step |= marked
    return Volume(array, geometry, unit, modality, (step,))


def lazily(path: Path, choice: Choice | None = None) -> LazyScan | None:
    """The same without its voxels; None where they can only be read whole: of a compressed file, or to be filled.

    Raises what `read` raises for the header.
    """
    path, choice = Path(path), choice or Choice()
    choice.refuse_selection(path.name)
    if choice.nan != "refuse":  # what is filled in is the smallest value of all
        return None
    header = read_header(path)
    shape = shape_of(header, path.name, choice)
    geometry, notes = _geometry(header, shape, path.name, choice)
    plane = plane_reader(header, shape, path)
    if plane is None:
        return None
    unit, modality, marked = _described(header)
    step = {"step": "read", "format": "nifti", **notes, **marked}
    return LazyScan(geometry, unit, modality, (step,), plane, lambda: read(path, choice))


def _described(header: Any) -> tuple[str, str, dict[str, str]]:
    """Unit, modality and marks from the description that `write` leaves; no other text of a header is looked at."""
    text = bytes(header["descrip"].tobytes()).split(b"\0")[0].decode("ascii", "replace")
    parts = text.split("; ") if text.startswith(_MARK + "; ") else []
    fields = dict(part.split("=", 1) for part in parts if "=" in part)
    unit, modality = fields.get("unit", ""), fields.get("modality", "")
    marked = {AI_PROCESSED: RESEARCH_USE} if AI_PROCESSED in fields else {}
    intent = bytes(header["intent_name"].tobytes()).rstrip(b"\0").decode("ascii", "replace")
    if parts and intent in MAPS:
        marked[QUANTITY] = intent
    return (
        unit if _UNIT.fullmatch(unit) else "arbitrary",
        modality if _MODALITY.fullmatch(modality) else "",
        marked,
    )


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
    mark = f"; {AI_PROCESSED}={RESEARCH_USE}" if volume.ai_processed else ""
    described = f"{_MARK}{mark}; unit={volume.unit}; modality={volume.modality}"
    if volume.quantity:
        image.header.set_intent("estimate", name=volume.quantity)
    image.header["descrip"] = described.encode("ascii", "replace")[:79]
    about = {"unit": volume.unit, "modality": volume.modality, "history": list(volume.history)}
    if volume.quantity:
        about[QUANTITY] = volume.quantity
    table = {
        _MARK: about,
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


def _geometry(
    header: Any, shape: tuple[int, int, int], where: str, choice: Choice
) -> tuple[Geometry, dict[str, Any]]:
    """Grid in mm and notes for the history: the form that was chosen, else the sform if coded, else the qform.

    Raises GeometryError where neither is coded (and no place may be made up), the chosen one is not, or what
    it says is impossible. Warns where both are coded and differ, or there is no unit of length.
    """
    notes: dict[str, Any] = {}
    mm = _to_mm(header, where, notes)
    forms = [name for name in ("sform", "qform") if int(header[f"{name}_code"]) > 0]
    if not forms and choice.xform is None:
        if not choice.assume_affine:
            do = "set the affine of the scan first, or let one be made up (assume affine)"
            raise GeometryError(where, "neither sform nor qform", "one of them", do)
        notes["affine_assumed"] = True
        return _made_up(header, shape, mm, where), notes
    name = choice.xform or forms[0]
    if name not in forms:
        got = f"no {name}" + (f", but {forms[0]}" if forms else " and no other form")
        raise GeometryError(where, got, f"the {name} that was chosen", "leave the choice out")
    others = [other for other in forms if other != name]
    try:
        chosen = _form(header, name, shape, mm)
    except GeometryError as failure:
        do = f"choose the {others[0]} (xform), or repair the header" if others else "repair the header"
        raise GeometryError(where, f"the {name} with {failure.got}", failure.expected, do) from None
    notes["xform"] = name
    for other in others:
        _compare(chosen, header, name, other, mm, where, notes, warn=choice.xform is None)
    return chosen, notes


def _to_mm(header: Any, where: str, notes: dict[str, Any]) -> NDArray[np.float64]:
    """Scaling of the file's unit of length to mm, (4, 4)."""
    try:
        unit = header.get_xyzt_units()[0]
    except KeyError:
        unit = "unknown"
    if unit not in _MM:
        notes["unit_of_length_assumed"] = "mm"
        text = f"{where}: no unit of length in the header; millimetres assumed"
        warnings.warn(text, UserWarning, stacklevel=_STACK_LEVEL)
    return np.diag([*[_MM.get(unit, 1.0)] * 3, 1.0])


def _form(header: Any, name: str, shape: tuple[int, int, int], mm: NDArray[np.float64]) -> Geometry:
    """Grid by one form; raises GeometryError for an impossible one."""
    if name == "sform":
        with np.errstate(invalid="ignore"):  # NaN and infinity are refused by the Geometry
            return Geometry(mm @ np.asarray(header.get_sform(), dtype=np.float64), shape)
    _lengths(header)
    header = header.copy()
    if float(header["pixdim"][0]) not in (-1.0, 1.0):
        header["pixdim"][0] = 1  # the standard's rule for anything else
    try:
        affine = np.asarray(header.get_qform(), dtype=np.float64)
    except Exception:  # nibabel raises ValueError, HeaderDataError or LinAlgError by the kind of nonsense
        raise GeometryError("qform", "an impossible quaternion", "one of length <= 1") from None
    return Geometry(mm @ affine, shape)


def _lengths(header: Any) -> NDArray[np.float64]:
    """Voxel lengths as stored: load() of nibabel turns zeros into ones."""
    pixdim = np.asarray(header["pixdim"][1:4], dtype=np.float64)
    if not (np.isfinite(pixdim).all() and (pixdim > 0).all()):
        got = f"pixdim {' x '.join(f'{p:g}' for p in pixdim)}"
        raise GeometryError("qform", got, "finite lengths > 0")
    return pixdim


def _made_up(header: Any, shape: tuple[int, int, int], mm: NDArray[np.float64], where: str) -> Geometry:
    """Axes to the right, anterior and superior, the grid's middle at the origin."""
    try:
        lengths = _lengths(header) * mm[0, 0]
    except GeometryError as failure:
        raise GeometryError(where, failure.got, failure.expected, "set the voxel size first") from None
    return Geometry.from_spacing(shape, lengths.tolist(), (-lengths * (np.array(shape) - 1) / 2).tolist())


def _compare(
    chosen: Geometry,
    header: Any,
    name: str,
    other: str,
    mm: NDArray[np.float64],
    where: str,
    notes: dict[str, Any],
    *,
    warn: bool,
) -> None:
    """Note, and warn of, the distance between the two forms' grids at their worst corner."""
    try:
        rival = _form(header, other, chosen.shape, mm)
    except GeometryError:
        return
    if np.abs(chosen.affine - rival.affine).max() <= _SAME:
        return
    away = float(np.linalg.norm(chosen.corners() - rival.corners(), axis=1).max())
    notes[f"{other}_differs_mm"] = round(away, 4)
    if warn:
        text = f"{where}: sform and qform differ by up to {away:.3g} mm; {name} taken"
        warnings.warn(text, UserWarning, stacklevel=_STACK_LEVEL + 1)
