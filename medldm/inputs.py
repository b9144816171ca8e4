"""What a caller gives, as what the restorer takes: a scan in any of its forms, a mask; and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medldm.errors import InputError
from medldm.geometry import Geometry
from medldm.io import read
from medldm.restoration.result import Restoration
from medldm.volume import Volume, refused_map

Scan = str | Path | Volume | NDArray[Any]


def as_volume(
    scan: Scan,
    *,
    spacing: Sequence[float] | float | None = None,
    affine: NDArray[Any] | None = None,
    series: str | None = None,
) -> Volume:
    """A scan in any of its forms as a Volume; a 2D array is rows x columns as displayed.

    Raises InputError for an array of the wrong shape, with values that are not finite, or, in 3D, without
    spacing and affine; and for a map that was saved beside a result.
    """
    if isinstance(scan, str | Path):
        scan = read(scan, series)
    if isinstance(scan, Volume):
        if scan.quantity:
            raise refused_map("scan", scan.quantity)
        return scan
    array = np.asarray(scan)
    if array.ndim not in (2, 3) or array.dtype.kind not in "uifb" or not array.size:
        raise InputError("array", f"shape {array.shape}, {array.dtype}", "a 2D or 3D array of real numbers")
    if not np.isfinite(array).all():
        raise InputError(
            "array",
            f"{int((~np.isfinite(array)).sum())} values that are not finite",
            "finite values",
            "fill them",
        )
    step: dict[str, Any] = {"step": "array", "shape": list(array.shape)}
    if array.ndim == 2:
        row, column = _lengths(spacing, 2) if spacing is not None else (1.0, 1.0)
        step["spacing_assumed"] = spacing is None and affine is None
        array = array.T[..., None]
        geometry = Geometry(np.diag([-column, -row, 1.0, 1.0]) if affine is None else affine, array.shape)
    elif affine is not None:
        geometry = Geometry(affine, array.shape)
    elif spacing is not None:
        geometry = Geometry.from_spacing(array.shape, _lengths(spacing, 3))
    else:
        raise InputError(
            "array",
            "neither spacing nor affine",
            "one of them for a 3D array",
            "give spacing=(i, j, k) in mm",
        )
    unit = "grey8" if array.dtype == np.uint8 else "arbitrary"
    return Volume(array.astype(np.float32), geometry, unit, "", (step,))


def mask_of(scan: Scan, mask: Scan, volume: Volume) -> NDArray[np.bool_]:
    """The mask on the scan's voxels, (I, J, K). Raises InputError where it is of another grid, empty, or everything."""
    if isinstance(mask, np.ndarray):
        flat = isinstance(scan, np.ndarray) and scan.ndim == 2
        values = mask.T[..., None] if flat and mask.ndim == 2 else mask
    else:
        drawn = mask if isinstance(mask, Volume) else read(mask)
        values = drawn.array
        if values.shape == volume.array.shape and not np.allclose(
            drawn.geometry.affine, volume.geometry.affine, atol=1e-3 * min(volume.geometry.spacing)
        ):
            raise InputError("mask", "another affine than the scan's", "the same grid", "resample it to the scan")
    if values.shape != volume.array.shape:
        raise InputError("mask", f"shape {values.shape}", f"the scan's {volume.array.shape}", "draw it on the scan")
    filled = np.asarray(values > 0)
    if not filled.any() or filled.all():
        got = "an empty mask" if not filled.any() else "a mask that covers the whole scan"
        raise InputError("mask", got, "a part of the scan to be filled")
    return filled


def _lengths(spacing: Sequence[float] | float, count: int) -> tuple[float, ...]:
    values = tuple(float(s) for s in np.broadcast_to(spacing, (count,)))
    if not all(np.isfinite(v) and v > 0 for v in values):
        raise InputError("spacing", str(spacing), f"{count} lengths > 0 in mm")
    return values


def with_shape_of(scan: Scan, restoration: Restoration) -> Restoration:
    """Let `.array` have the axis order of an array that was given."""
    if isinstance(scan, np.ndarray) and scan.ndim == 2:
        return dataclasses.replace(restoration, array=restoration.array[..., 0].T)
    return restoration
