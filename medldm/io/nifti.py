"""NIfTI-1 and -2 in and out, with a sidecar of provenance."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from medldm.errors import OutputError
from medldm.io.atomic import write_whole
from medldm.io.choice import Choice
from medldm.io.lazy import LazyScan
from medldm.io.nifti_geometry import nifti_geometry
from medldm.io.nifti_voxels import plane_reader, read_header, read_voxels, shape_of
from medldm.volume import AI_PROCESSED, MAPS, QUANTITY, RESEARCH_USE, Volume

SUFFIXES = (".nii.gz", ".nii")
_MARK = "medldm"
_UNIT, _MODALITY = re.compile(r"[^\s;=]{1,16}"), re.compile(r"[A-Z]{2,4}")


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
    geometry, notes = nifti_geometry(header, shape, path.name, choice)
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
    geometry, notes = nifti_geometry(header, shape, path.name, choice)
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
