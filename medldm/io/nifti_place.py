"""Where the voxels of a NIfTI file lie: sform, qform, or neither.

The header is taken as stored; what is mended (as nibabel and the reference library do) is noted.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medldm.errors import GeometryError
from medldm.geometry import Geometry
from medldm.io.choice import Choice

_MM = {"mm": 1.0, "micron": 1e-3, "meter": 1e3}
_SAME = 1e-3  # entries of two affines
_STACK_LEVEL = 5
_QUATERNION = 1e-4  # what rounding leaves of a length above 1


def place_of(header: Any, shape: tuple[int, int, int], where: str, choice: Choice) -> tuple[Geometry, dict[str, Any]]:
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
        return _made_up(header, shape, mm, where, notes), notes
    name = choice.xform or forms[0]
    if name not in forms:
        got = f"no {name}" + (f", but {forms[0]}" if forms else " and no other form")
        raise GeometryError(where, got, f"the {name} that was chosen", "leave the choice out")
    others = [other for other in forms if other != name]
    try:
        chosen = _form(header, name, shape, mm, notes)
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


def _form(
    header: Any, name: str, shape: tuple[int, int, int], mm: NDArray[np.float64], notes: dict[str, Any]
) -> Geometry:
    """Grid by one form, with a note of what was mended; raises GeometryError for an impossible one."""
    if name == "sform":
        with np.errstate(invalid="ignore"):  # NaN and infinity are refused by the Geometry
            return Geometry(mm @ np.asarray(header.get_sform(), dtype=np.float64), shape)
    lengths = _lengths(header, notes)
    header = header.copy()
    header["pixdim"][1:4] = lengths
    quaternion = np.array([float(header[f"quatern_{axis}"]) for axis in "bcd"])
    length = float(np.linalg.norm(quaternion))
    if 1 < length <= 1 + _QUATERNION:  # a half turn that was rounded up
        for axis, value in zip("bcd", quaternion / length / (1 + np.finfo(np.float32).eps), strict=True):
            header[f"quatern_{axis}"] = value
        if length > 1 + np.finfo(np.float32).eps:
            notes["quaternion_length"] = length
    if float(header["pixdim"][0]) not in (-1.0, 1.0):
        header["pixdim"][0] = 1  # the standard's rule for anything else
    try:
        affine = np.asarray(header.get_qform(), dtype=np.float64)
    except Exception:  # nibabel raises ValueError, HeaderDataError or LinAlgError by the kind of nonsense
        raise GeometryError("qform", "an impossible quaternion", "one of length <= 1") from None
    return Geometry(mm @ affine, shape)


def _lengths(header: Any, notes: dict[str, Any]) -> NDArray[np.float64]:
    """Voxel lengths as stored, without their signs, which mean nothing: load() of nibabel turns zeros into ones."""
    pixdim = np.asarray(header["pixdim"][1:4], dtype=np.float64)
    if np.isfinite(pixdim).all() and (pixdim < 0).any():
        notes["pixdim_negative"] = True
        pixdim = np.abs(pixdim)
    if not (np.isfinite(pixdim).all() and (pixdim > 0).all()):
        got = f"pixdim {' x '.join(f'{p:g}' for p in pixdim)}"
        raise GeometryError("qform", got, "finite lengths > 0")
    return pixdim


def _made_up(
    header: Any, shape: tuple[int, int, int], mm: NDArray[np.float64], where: str, notes: dict[str, Any]
) -> Geometry:
    """Axes to the right, anterior and superior, the grid's middle at the origin."""
    try:
        lengths = _lengths(header, notes) * mm[0, 0]
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
        rival = _form(header, other, chosen.shape, mm, {})
    except GeometryError:
        return
    if np.abs(chosen.affine - rival.affine).max() <= _SAME:
        return
    away = float(np.linalg.norm(chosen.corners() - rival.corners(), axis=1).max())
    notes[f"{other}_differs_mm"] = round(away, 4)
    if warn:
        text = f"{where}: sform and qform differ by up to {away:.3g} mm; {name} taken"
        warnings.warn(text, UserWarning, stacklevel=_STACK_LEVEL + 1)
