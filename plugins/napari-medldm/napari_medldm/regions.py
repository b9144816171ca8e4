"""Regions drawn as shapes or painted as labels, as masks on the scan that they were drawn on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from napari.layers import Image, Labels, Shapes
from numpy.typing import NDArray
from scipy import ndimage

from medldm import MedldmError
from napari_medldm.label_maps import grid_attributes, grid_of, meta_of
from napari_medldm.layers import entry_of, root_of
from napari_medldm.orientation import display_of

AREAS = ("rectangle", "ellipse", "polygon")
LINES = ("line", "path")
DRAWN_ON = "medldm_drawn_on"  # key of a layer's metadata: the name of the scan
TO_MEASURE = "medldm_to_measure"  # the same: what is drawn is measured, and no region to restore


@dataclass(frozen=True, eq=False)
class Region:
    """What is drawn, on the grid of an image.

    kind : of shape, or "volume"
    size, unit : length in mm, area in mm², volume in mL, of what was drawn, whatever the image's voxels are
    box, mask : part of the image, in napari's order of axes, and the voxels of it that belong to the region
    """

    kind: str
    size: float
    unit: str
    box: tuple[slice, ...]
    mask: NDArray[np.bool_]

    def whole(self, shape: tuple[int, ...]) -> NDArray[np.bool_]:
        """The mask on the grid of the whole image."""
        mask = np.zeros(shape, dtype=bool)
        mask[self.box] = self.mask
        return mask


def regions_of(viewer: Any, source: Image, root: str | None = None) -> list[Region]:
    """All that is drawn in Shapes and Labels layers, on the grid of the image `source`; the lowest layer first.

    root : name of a scan; what was drawn on others is left out
    Raises MedldmError where nothing is drawn.
    """
    drawn = [layer for layer in viewer.layers if _is_drawn(layer) and layer.metadata.get(DRAWN_ON, root) == root]
    if not drawn:
        raise MedldmError("region", "nothing drawn", "a line, an area or a painted volume", "draw one")
    found: list[Region] = []
    for layer in drawn:
        found += _volumes(source, layer) if isinstance(layer, Labels) else shapes_on(viewer, source, layer)
    return found


def shapes_on(viewer: Any, source: Image, shapes: Shapes) -> list[Region]:
    """Each shape of a layer, in the slice of the image `source` that it was drawn on."""
    shown, found = viewer.dims.order[0], []
    for kind, vertices in zip(map(str, shapes.shape_type), shapes.data, strict=True):
        world = np.asarray(vertices, dtype=np.float64)
        if world.shape[1] < 3:
            point = np.array(viewer.dims.point)
            full = np.tile(point, (len(world), 1))
            full[:, list(viewer.dims.order[-2:])] = world
            world = full
        else:
            world = np.array([shapes.data_to_world(v) for v in world])
        extent = np.ptp(world, axis=0)
        across = shown if extent[shown] < 1e-6 else int(np.argmin(extent))  # another plane may be shown by now
        points = np.array([source.world_to_data(w) for w in world])
        box, mask = _rasterised(kind, points, across, source.data.shape)
        found.append(Region(kind, _size(kind, world), "mm" if kind in LINES else "mm²", box, mask))
    return found


def _size(kind: str, world: NDArray[np.float64]) -> float:
    """Length (mm) or area (mm²) of vertices in mm that lie in a plane along two of the axes."""
    sides = np.diff(world, axis=0)
    lengths = np.linalg.norm(sides, axis=1)
    if kind in LINES:
        return float(lengths.sum())
    if kind == "ellipse":  # the corners of what it lies in
        return float(np.pi / 4 * lengths[0] * lengths[1])
    vectors = world - world[0]
    return float(np.linalg.norm(np.cross(vectors[:-1], vectors[1:]).sum(axis=0)) / 2)


def _volumes(source: Image, labels: Labels) -> list[Region]:
    """Each label that is painted."""
    values, data = _sampled(labels, source), np.asarray(labels.data)
    voxel = float(np.prod(np.abs(labels.scale))) / 1000  # mL
    found = []
    for value, box in enumerate(ndimage.find_objects(values), start=1):
        if box is not None:
            mask = values[box] == value
            found.append(Region("volume", float((data == value).sum()) * voxel, "mL", box, mask))
    return found


def drawn_mask(viewer: Any, source: Image) -> NDArray[np.bool_]:
    """What is drawn: all areas of a Shapes layer together, or all that is painted in a Labels layer.

    Taken from the selected layer, else from the uppermost in which something is drawn; (*source.data.shape), in
    napari's order of axes. Raises MedldmError where nothing is drawn.
    """
    active = viewer.layers.selection.active
    drawn = [layer for layer in reversed(viewer.layers) if _is_drawn(layer) and TO_MEASURE not in layer.metadata]
    if not drawn:
        do = "press Draw a region, or add a shapes layer"
        raise MedldmError("region", "nothing drawn", "an area that is painted, or drawn as a shape", do)
    layer = active if active in drawn else drawn[0]
    if isinstance(layer, Labels):
        mask = _sampled(layer, source) > 0
        if not mask.any():
            do = "draw it where the scan lies"
            raise MedldmError("region", "a region beside the scan", "one on the scan", do)
        return mask
    masks = [each.whole(source.data.shape) for each in shapes_on(viewer, source, layer) if each.kind in AREAS]
    if not masks:
        raise MedldmError("region", "no area", "a rectangle, ellipse or polygon", "draw one")
    return np.any(masks, axis=0)


def start_painting(viewer: Any, source: Image) -> Labels:
    """A Labels layer on the scan's grid, with the brush in hand."""
    attributes = grid_attributes(entry_of(source).volume.geometry, f"region of {source.name}")
    layer = viewer.add_labels(np.zeros(source.data.shape, dtype=np.uint8), **attributes)
    layer.metadata[DRAWN_ON] = root_of(source)
    layer.mode = "paint"
    layer.brush_size = max(3, min(source.data.shape[axis] for axis in viewer.dims.order[-2:]) // 16)
    return layer


def _is_drawn(layer: Any) -> bool:
    return (isinstance(layer, Shapes) and bool(layer.data)) or (isinstance(layer, Labels) and bool(layer.data.any()))


def _sampled(labels: Labels, source: Image) -> NDArray[Any]:
    """The label at each of the scan's voxels: the nearest, outside none. Raises MedldmError."""
    if labels.data.ndim != 3:
        raise MedldmError("region", f"labels with {labels.data.ndim} axes", "labels of a volume", "draw a new region")
    corner, matrix = _to_labels(labels, source)
    painted = np.asarray(labels.data)
    if painted.shape == source.data.shape and np.allclose(matrix, np.eye(3)) and np.allclose(corner, 0):
        return painted
    return np.asarray(
        ndimage.affine_transform(painted, matrix, corner, output_shape=source.data.shape, order=0, mode="grid-constant")
    )


def _to_labels(labels: Labels, source: Image) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where the scan's first voxel lies among the labels' and the steps from there, both in napari's order of axes.

    In the patient where the labels have a place there, whatever each is shown along; else as they are shown.
    """
    grid, entry = grid_of(labels.data.shape, meta_of(labels)), entry_of(source)
    if grid is None or entry is None or not np.allclose(source.translate, entry.display.translate):
        corner, *ends = (
            np.array(labels.world_to_data(source.data_to_world(point))) for point in ((0, 0, 0), *np.eye(3).tolist())
        )
        return corner, np.stack([end - corner for end in ends], axis=1)
    step = np.linalg.inv(grid.affine) @ entry.volume.geometry.affine
    order, own = list(display_of(grid).axes), list(entry.display.axes)
    return step[:3, 3][order], step[:3, :3][np.ix_(order, own)]


def _rasterised(
    kind: str, points: NDArray[np.float64], shown: int, shape: tuple[int, ...]
) -> tuple[tuple[slice, ...], NDArray[np.bool_]]:
    """The slice across `shown` that vertices in voxels lie in, and which of its voxels they enclose or meet."""
    from skimage.draw import ellipse, line, polygon

    index = int(np.clip(round(float(points[:, shown].mean())), 0, shape[shown] - 1))
    plane_axes = [axis for axis in range(3) if axis != shown]
    plane_shape = (shape[plane_axes[0]], shape[plane_axes[1]])
    flat = points[:, plane_axes]
    if kind == "ellipse":
        centre, radius = flat.mean(0), (flat.max(0) - flat.min(0)) / 2
        rows, columns = ellipse(centre[0], centre[1], max(radius[0], 0.5), max(radius[1], 0.5), plane_shape)
    elif kind in LINES:
        ends = np.rint(flat).astype(int)
        pieces = [line(*a, *b) for a, b in zip(ends[:-1], ends[1:], strict=True)]
        rows, columns = (np.concatenate([piece[axis] for piece in pieces]) for axis in (0, 1))
        inside = (rows >= 0) & (rows < plane_shape[0]) & (columns >= 0) & (columns < plane_shape[1])
        rows, columns = rows[inside], columns[inside]
    else:
        rows, columns = polygon(flat[:, 0], flat[:, 1], plane_shape)
    plane = np.zeros(plane_shape, dtype=bool)
    plane[rows, columns] = True
    box = tuple(slice(index, index + 1) if axis == shown else slice(None) for axis in range(3))
    return box, np.expand_dims(plane, shown)
