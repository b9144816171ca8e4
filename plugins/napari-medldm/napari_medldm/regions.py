"""Regions drawn in a Shapes layer, as masks on the scan that they were drawn on."""

from __future__ import annotations

from typing import Any

import numpy as np
from napari.layers import Image, Shapes
from numpy.typing import NDArray

from medldm import MedldmError

AREAS = ("rectangle", "ellipse", "polygon")


def shapes_of(viewer: Any) -> list[Shapes]:
    """Layers with drawn shapes, the uppermost first."""
    return [layer for layer in reversed(viewer.layers) if isinstance(layer, Shapes) and layer.data]


def masks_of_shapes(viewer: Any, source: Image) -> list[tuple[str, NDArray[np.bool_]]]:
    """(kind, mask in napari's order of axes) of each area in the uppermost Shapes layer, in the slices drawn on.

    Raises MedldmError where nothing is drawn.
    """
    layers = shapes_of(viewer)
    if not layers:
        raise MedldmError("region", "nothing drawn", "a rectangle, ellipse or polygon", "add a shapes layer and draw")
    shapes, shown = layers[0], viewer.dims.order[0]
    found = []
    for kind, vertices in zip(shapes.shape_type, shapes.data, strict=True):
        world = np.asarray(vertices, dtype=np.float64)
        if world.shape[1] < 3:
            point = np.array(viewer.dims.point)
            full = np.tile(point, (len(world), 1))
            full[:, list(viewer.dims.order[-2:])] = world
            world = full
        else:
            world = np.array([shapes.data_to_world(v) for v in world])
        points = np.array([source.world_to_data(w) for w in world])
        found.append((str(kind), _rasterised(str(kind), points, shown, source.data.shape)))
    return found


def mask_of_shapes(viewer: Any, source: Image) -> NDArray[np.bool_]:
    """All areas of the uppermost Shapes layer together, in napari's order of axes. Raises MedldmError."""
    masks = [mask for kind, mask in masks_of_shapes(viewer, source) if kind in AREAS]
    if not masks:
        raise MedldmError("region", "no area", "a rectangle, ellipse or polygon", "draw one")
    return np.any(masks, axis=0)


def _rasterised(kind: str, points: NDArray[np.float64], shown: int, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    from skimage.draw import ellipse, line, polygon

    mask = np.zeros(shape, dtype=bool)
    index = int(np.clip(round(float(points[:, shown].mean())), 0, shape[shown] - 1))
    plane_axes = [axis for axis in range(3) if axis != shown]
    plane_shape = (shape[plane_axes[0]], shape[plane_axes[1]])
    flat = points[:, plane_axes]
    if kind == "ellipse":
        centre, radius = flat.mean(0), (flat.max(0) - flat.min(0)) / 2
        rows, columns = ellipse(centre[0], centre[1], max(radius[0], 0.5), max(radius[1], 0.5), plane_shape)
    elif kind in ("line", "path"):
        ends = np.rint(flat).astype(int)
        pieces = [line(*a, *b) for a, b in zip(ends[:-1], ends[1:], strict=True)]
        rows, columns = (np.concatenate([piece[axis] for piece in pieces]) for axis in (0, 1))
        inside = (rows >= 0) & (rows < plane_shape[0]) & (columns >= 0) & (columns < plane_shape[1])
        rows, columns = rows[inside], columns[inside]
    else:
        rows, columns = polygon(flat[:, 0], flat[:, 1], plane_shape)
    plane = np.zeros(plane_shape, dtype=bool)
    plane[rows, columns] = True
    mask[(slice(None),) * shown + (index,)] = plane
    return mask
