"""Where the slices of a derived series lie, compared with those of the series that it was made of."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medldm.errors import OutputError
from medldm.geometry import Geometry
from medldm.io.dicom.geometry import FLAT_SPACINGS, LPS_TO_RAS
from medldm.io.dicom.quantise import ds_text
from medldm.io.dicom.reader import DicomSource

_SAME_GRID_MM = 1e-3


def is_same(source: DicomSource, new: Geometry) -> bool:
    """Whether slice k of the grid is slice k of the files, voxel for voxel."""
    return not source.resampled and new.isclose(source.geometry, _SAME_GRID_MM)


def is_part(source: DicomSource, new: Geometry) -> bool:
    """Whether the voxels are those of the files, but fewer or more of them (cropped, padded)."""
    if source.resampled:
        return False
    start = np.rint(source.geometry.to_voxel(new.to_world((0, 0, 0))))
    moved = np.array(source.geometry.affine)
    moved[:3, 3] = source.geometry.to_world(start)
    return Geometry(moved, new.shape).isclose(new, _SAME_GRID_MM)


def nearest_slices(source: DicomSource, new: Geometry, k: int) -> list[int]:
    """Slices of the source around slice `k` of the new grid, the nearest one first; one if it lies on it."""
    if "ImagePositionPatient" not in source.datasets[0]:
        return [0]  # a radiograph
    normal = _normal(source.datasets[0])
    places = np.array([np.dot(_floats(d, "ImagePositionPatient"), normal) for d in source.datasets])
    centre = [(n - 1) / 2 for n in new.shape[:2]]
    # along the normal: of a tilted stack, slices are shifted in their plane
    place = float((LPS_TO_RAS[:3, :3] @ new.to_world([*centre, k])) @ normal)
    order = np.argsort(places)
    above = int(np.searchsorted(places[order], place))
    near = {int(order[max(above - 1, 0)]), int(order[min(above, len(order) - 1)])}
    found = sorted(near, key=lambda i: (abs(places[i] - place), i))
    return found[:1] if abs(places[found[0]] - place) <= _SAME_GRID_MM else found


def place(dataset: Any, geometry: Geometry, k: int, modality: str, *, spacing: bool) -> None:
    """Position of slice `k` from the affine; with `spacing`, also orientation and distances.

    Raises OutputError where columns and rows are not at a right angle: DICOM cannot say that.
    """
    lps = LPS_TO_RAS @ geometry.affine  # the matrix is its own inverse
    column, row, _ = geometry.spacing
    u, v = lps[:3, 0] / column, lps[:3, 1] / row
    if abs(float(u @ v)) > 1e-4:
        raise OutputError("derived series", "columns and rows that are not at a right angle", "a plain grid")
    normal = np.cross(u, v)
    position = lps[:3, 3] + k * lps[:3, 2]
    distance = abs(float(lps[:3, 2] @ normal))
    dataset.ImagePositionPatient = [ds_text(x) for x in position]
    if "SliceLocation" in dataset:
        dataset.SliceLocation = ds_text(round(float(position @ normal), 6))
    if not spacing:
        return
    dataset.ImageOrientationPatient = [ds_text(round(float(x), 10)) for x in (*u, *v)]
    dataset.PixelSpacing = [ds_text(row), ds_text(column)]
    dataset.SliceThickness = ds_text(distance)
    if modality == "MR" or "SpacingBetweenSlices" in dataset:
        dataset.SpacingBetweenSlices = ds_text(distance)


def scale(dataset: Any, source: Geometry, new: Geometry) -> None:
    """Distances of rows and columns of a radiograph, in all the terms that it used."""
    column, row = (new.spacing[axis] / source.spacing[axis] for axis in (0, 1))
    for keyword in FLAT_SPACINGS:
        if keyword in dataset:
            old = _floats(dataset, keyword)
            setattr(dataset, keyword, [ds_text(old[0] * row), ds_text(old[1] * column)])


def _floats(dataset: Any, keyword: str) -> NDArray[np.float64]:
    return np.array([float(x) for x in dataset[keyword].value])


def _normal(dataset: Any) -> NDArray[np.float64]:
    """Unit vector of columns x rows, LPS."""
    u, v = _floats(dataset, "ImageOrientationPatient").reshape(2, 3)
    normal = np.cross(u, v)
    return np.asarray(normal / np.linalg.norm(normal))
