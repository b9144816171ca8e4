"""What a caller gives, as what the restorer takes: a scan in any of its forms, a mask; and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medldm.errors import InputError
from medldm.foreign import LabelledArray, NibabelImage, SitkImage, TorchTensor, Voxels, taken_over
from medldm.geometry import Geometry
from medldm.io import read
from medldm.marks import Marks
from medldm.restoration.result import Restoration
from medldm.volume import Volume, refused_map

if TYPE_CHECKING:
    from medldm.model import Model

Scan = str | Path | Volume | NDArray[Any] | NibabelImage | SitkImage | LabelledArray | TorchTensor


def as_volume(
    scan: Scan,
    *,
    spacing: Sequence[float] | float | None = None,
    affine: NDArray[Any] | None = None,
    series: str | None = None,
) -> Volume:
    """A scan in any of its forms as a Volume.

    scan : path; Volume; image of nibabel or SimpleITK, MetaTensor of MONAI, DataArray of xarray with an attribute
        `affine`, all with their own place; or an array or tensor without one: (I, J, K), or rows x columns as displayed
    spacing : mm an axis, or one number for all; of an array alone, which else has none. Default None: 1 mm is assumed
        of a picture (and noted in its history), an array of three axes is refused
    affine : (4, 4), voxel indices -> RAS+ mm, of an array alone, in the place of `spacing`; default None
    series : which one (its key, see `medldm inspect`), of a path that holds several; default None: there is but one
    Raises InputError and its children: for what is no scan, an array of another shape, values that are not finite, a
    place that is missing, or given twice; and for a map that was saved beside a result.

    >>> import numpy as np
    >>> medldm.as_volume(np.zeros((8, 6, 4)), spacing=(1, 1, 2.5))
    Volume(8 x 6 x 4, 1 x 1 x 2.5 mm, RAS, arbitrary, modality unknown)
    """
    if isinstance(scan, str | Path):
        _no_place_twice("a path", spacing, affine)
        scan = read(scan, series)
    if isinstance(scan, Volume):
        _no_place_twice("a Volume", spacing, affine)
        return _no_map(scan)
    found = _voxels(scan)
    array = found.array
    step: dict[str, Any] = {"step": found.kind, "shape": list(array.shape)}
    if not np.isfinite(array).all():
        got = f"{int((~np.isfinite(array)).sum())} values that are not finite"
        raise InputError(found.kind, got, "finite values", "fill them")
    if found.affine is not None:
        _no_place_twice(f"a {found.kind}", spacing, affine)
        i, j, k = array.shape
        geometry = Geometry(found.affine, (i, j, k))
    elif array.ndim == 2:
        row, column = _lengths(spacing, 2) if spacing is not None else (1.0, 1.0)
        step["spacing_assumed"] = spacing is None and affine is None
        array = array.T[..., None]
        geometry = Geometry(np.diag([-column, -row, 1.0, 1.0]) if affine is None else affine, array.shape)
    elif affine is not None:
        geometry = Geometry(affine, array.shape)
    elif spacing is not None:
        geometry = Geometry.from_spacing(array.shape, _lengths(spacing, 3))
    else:
        do = "give spacing=(i, j, k) in mm"
        raise InputError(found.kind, "neither spacing nor affine", "one of them for three axes", do)
    marks = found.marks
    unit = "grey8" if array.dtype == np.uint8 and marks == Marks() else marks.unit
    return _no_map(Volume(array.astype(np.float32), geometry, unit, marks.modality, (step | marks.step(),)))


def as_model(model: Model | str | Path, device: str | None) -> Model:
    """A model by name or folder, or a loaded one, on a device. Raises ModelError, InputError for what is no model."""
    from medldm.model import Model, load_model

    if isinstance(model, Model):
        return model.on(device)
    given: object = model
    if not isinstance(given, str | Path):
        raise InputError("model", f"a {type(given).__name__}", "a name, a folder or a loaded Model")
    return load_model(model, device)


def _voxels(scan: Any) -> Voxels:
    """Of an array, a tensor, or an image of another program. Raises InputError for anything else."""
    found = Voxels(scan, None, Marks(), "array") if isinstance(scan, np.ndarray) else taken_over(scan)
    if found is None:
        kind = type(scan).__name__
        wanted = "a path, Volume, array, or image of nibabel, SimpleITK, MONAI or xarray"
        raise InputError("scan", f"a {kind}", wanted, f"numpy.asarray makes an array of a {kind} of numbers")
    array = found.array
    if array.ndim not in (2, 3) or array.dtype.kind not in "uifb" or not array.size:
        raise InputError(found.kind, f"shape {array.shape}, {array.dtype}", "two or three axes of real numbers")
    return found


def _no_map(volume: Volume) -> Volume:
    if volume.quantity:
        raise refused_map("scan", volume.quantity)
    return volume


def _no_place_twice(what: str, spacing: object, affine: object) -> None:
    if spacing is not None or affine is not None:
        name = "spacing" if spacing is not None else "affine"
        do = "leave it out; to refine to a voxel size, super_resolve takes target_spacing"
        raise InputError(name, f"one for {what}, which has its own", f"{name} for an array alone", do)


def _is_picture(scan: Any) -> bool:
    """Whether it is an array of rows and columns, as displayed, without a place of its own."""
    placed = hasattr(scan, "affine") or "affine" in getattr(scan, "attrs", ())
    return not placed and getattr(scan, "ndim", None) == 2


def mask_of(scan: Scan, mask: Scan, volume: Volume) -> NDArray[np.bool_]:
    """The mask on the scan's voxels, (I, J, K). Raises InputError where it is of another grid, empty, or everything."""
    place = None
    if isinstance(mask, str | Path | Volume):
        drawn = mask if isinstance(mask, Volume) else read(mask)
        values, place = drawn.array, drawn.geometry.affine
    else:
        found = _voxels(mask)
        values, place = found.array, found.affine
        if place is None and values.ndim == 2 and _is_picture(scan):
            values = values.T[..., None]
    if values.shape != volume.array.shape:
        raise InputError("mask", f"shape {values.shape}", f"the scan's {volume.array.shape}", "draw it on the scan")
    if place is not None and not np.allclose(place, volume.geometry.affine, atol=1e-3 * min(volume.geometry.spacing)):
        raise InputError("mask", "another affine than the scan's", "the same grid", "resample it to the scan")
    filled = np.asarray(values > 0)
    if not filled.any() or filled.all():
        got = "an empty mask" if not filled.any() else "a mask that covers the whole scan"
        raise InputError("mask", got, "a part of the scan to be filled")
    return filled


def _lengths(spacing: Sequence[float] | float, count: int) -> tuple[float, ...]:
    try:
        values = tuple(float(s) for s in np.broadcast_to(np.asarray(spacing, dtype=float), (count,)))
    except (TypeError, ValueError):
        values = (float("nan"),)
    if not all(np.isfinite(v) and v > 0 for v in values):
        raise InputError("spacing", str(spacing), f"{count} lengths > 0 in mm")
    return values


def with_shape_of(scan: Scan, restoration: Restoration) -> Restoration:
    """Let `.array` have the axis order of an array that was given."""
    if _is_picture(scan):
        return dataclasses.replace(restoration, array=restoration.array[..., 0].T)
    return restoration
