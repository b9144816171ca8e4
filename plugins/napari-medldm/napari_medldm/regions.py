"""Regions drawn as shapes or painted as labels, as masks on the scan that they were drawn on."""

from __future__ import annotations

from typing import Any

import numpy as np
from napari.layers import Image, Labels, Shapes
from numpy.typing import NDArray
from scipy import ndimage

from medldm import MedldmError

AREAS = ("rectangle", "ellipse", "polygon")


def shapes_of(viewer: Any) -> list[Shapes]:
    """Layers with drawn shapes, the uppermost first."""
    return [layer for layer in reversed(viewer.layers) if isinstance(layer, Shapes) and layer.data]


def masks_of_shapes(
    viewer: Any, source: Image, shapes: Shapes | None = None
) -> list[tuple[str, NDArray[np.bool_]]]:
    """(kind, mask in napari's order of axes) of each area in a Shapes layer, in the slices drawn on.

    shapes : None for the uppermost with something drawn
    Raises MedldmError where nothing is drawn.
    """
    if shapes is None:
        layers = shapes_of(viewer)
        if not layers:
            do = "add a shapes layer and draw"
            raise MedldmError("region", "nothing drawn", "a rectangle, ellipse or polygon", do)
        shapes = layers[0]
    shown, found = viewer.dims.order[0], []
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


def drawn_mask(viewer: Any, source: Image) -> NDArray[np.bool_]:
    """What is drawn: all areas of a Shapes layer together, or all that is painted in a Labels layer.

    Taken from the selected layer, else from the uppermost in which something is drawn; (*source.data.shape), in
    napari's order of axes. Raises MedldmError where nothing is drawn.
    """
    active = viewer.layers.selection.active
    drawn = [layer for layer in reversed(viewer.layers) if _is_drawn(layer)]
    if not drawn:
        do = "press Draw a region, or add a shapes layer"
        raise MedldmError("region", "nothing drawn", "an area that is painted, or drawn as a shape", do)
    layer = active if active in drawn else drawn[0]
    if isinstance(layer, Labels):
        return _sampled(layer, source)
    masks = [mask for kind, mask in masks_of_shapes(viewer, source, layer) if kind in AREAS]
    if not masks:
        raise MedldmError("region", "no area", "a rectangle, ellipse or polygon", "draw one")
    return np.any(masks, axis=0)


def start_painting(viewer: Any, source: Image) -> Labels:
    """A Labels layer on the scan's grid, with the brush in hand."""
    layer = viewer.add_labels(
        np.zeros(source.data.shape, dtype=np.uint8),
        name=f"region of {source.name}",
        scale=source.scale,
        translate=source.translate,
        units=source.units,
        axis_labels=source.axis_labels,
        opacity=0.5,
    )
    layer.mode = "paint"
    layer.brush_size = max(3, min(source.data.shape[axis] for axis in viewer.dims.order[-2:]) // 16)
    return layer


def _is_drawn(layer: Any) -> bool:
    return (isinstance(layer, Shapes) and bool(layer.data)) or (isinstance(layer, Labels) and bool(layer.data.any()))


def _sampled(labels: Labels, source: Image) -> NDArray[np.bool_]:
    """The label at each of the scan's voxels: the nearest, outside none. Raises MedldmError where none is met."""
    if labels.data.ndim != 3:
        raise MedldmError("region", f"labels with {labels.data.ndim} axes", "labels of a volume", "draw a new region")
    corner, *ends = (
        np.array(labels.world_to_data(source.data_to_world(point))) for point in ((0, 0, 0), *np.eye(3).tolist())
    )
    matrix = np.stack([end - corner for end in ends], axis=1)
    painted = np.asarray(labels.data) > 0
    if painted.shape == source.data.shape and np.allclose(matrix, np.eye(3)) and np.allclose(corner, 0):
        return painted
    mask = ndimage.affine_transform(
        painted.astype(np.uint8), matrix, corner, output_shape=source.data.shape, order=0, mode="grid-constant"
    )
    if not mask.any():
        raise MedldmError("region", "a region beside the scan", "one on the scan", "draw it where the scan lies")
    return mask.astype(bool)


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
