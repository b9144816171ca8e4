"""Label maps as napari's Labels layers and back: a file with one opens as such, and goes back to its own grid."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medldm import Geometry, LazyScan, MedldmError, Volume
from medldm.appearance import count_values, is_flat
from napari_medldm.layers import Layer
from napari_medldm.orientation import AXIS_LABELS, RAS_TO_IPL, display_of

GRID = "medldm_grid"  # key of a layer's metadata: the geometry of what is painted


def is_label_map(scan: Volume | LazyScan | None) -> bool:
    """Whether a volume holds labels and no intensities: whole numbers, and fewer than any scanner gives, or hardly ever
    another one next door. Shares of voxels are taken for a scan, and so is a single image."""
    if not isinstance(scan, Volume) or scan.quantity or min(scan.array.shape) == 1 or scan.array.min() < 0:
        return False
    if count_values(scan.array):
        values = np.unique(scan.array)
        return bool(len(values) > 1 and values[0] == 0 and np.array_equal(values, np.round(values)))
    return is_flat(scan.array)


def grid_attributes(geometry: Geometry, name: str) -> dict[str, Any]:
    """What a Labels layer on a scan's grid is made with; its voxels lie as `display_of(geometry).forward` has them."""
    display = display_of(geometry)
    return {
        "name": name,
        "scale": display.scale,
        "translate": display.translate,
        "units": "mm",
        "axis_labels": AXIS_LABELS,
        "opacity": 0.5,
        "metadata": {GRID: geometry},
    }


def labels_layer(volume: Volume, name: str) -> Layer:
    """(data, attributes, "labels") of a label map."""
    data = display_of(volume.geometry).forward(volume.array)
    kind = np.uint8 if data.max() <= np.iinfo(np.uint8).max else np.int32
    return np.ascontiguousarray(data, kind), grid_attributes(volume.geometry, name), "labels"


def grid_of(shape: tuple[int, ...], meta: dict[str, Any]) -> Geometry | None:
    """Where labels of this shape lie in the patient; None for a layer that somebody else made, moved, or cut."""
    grid = meta.get("metadata", {}).get(GRID)
    if not isinstance(grid, Geometry):
        return None
    display = display_of(grid)
    kept = all(np.allclose(meta[key], getattr(display, key)) for key in ("scale", "translate"))
    return grid if kept and shape == tuple(grid.shape[axis] for axis in display.axes) else None


def volume_of_labels(data: Any, meta: dict[str, Any]) -> Volume:
    """What is painted, on the grid that it was opened or begun on; of a layer that somebody else made on the axes that
    it is shown along.

    meta : name, metadata, scale and translate of the layer
    Raises MedldmError for labels of another number of axes.
    """
    painted: NDArray[np.float32] = np.asarray(data, np.float32)
    where = f"layer {meta.get('name', '')}"
    if painted.ndim != 3:
        raise MedldmError(where, f"labels with {painted.ndim} axes", "labels of a volume", "draw a new region")
    grid, history = grid_of(painted.shape, meta), ({"step": "labels painted in napari"},)
    if grid is not None:
        return Volume(np.ascontiguousarray(display_of(grid).backward(painted)), grid, history=history)
    affine = np.eye(4)
    affine[:3, :3] = RAS_TO_IPL.T @ np.diag(meta["scale"])
    affine[:3, 3] = RAS_TO_IPL.T @ np.asarray(meta["translate"])
    return Volume(painted, Geometry(affine, painted.shape), history=history)


def meta_of(layer: Any) -> dict[str, Any]:
    """Of a Labels layer."""
    return {key: getattr(layer, key) for key in ("name", "metadata", "scale", "translate")}
