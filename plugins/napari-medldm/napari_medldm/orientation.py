"""From a scan's grid to napari's axes and back: exact permutations and flips, patient left on the right.

napari draws axis -2 downwards and axis -1 to the right. With world axes (inferior, posterior, left) all
three planes are in radiological convention, and the 3D view is not mirrored. In 2D napari heeds scale and
translation alone, so an oblique scan is shown along its own axes, and by how much it is oblique is said.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medldm import Geometry, LazyScan, Volume

RAS_TO_IPL = np.array([[0, 0, -1], [0, -1, 0], [-1, 0, 0]], dtype=np.float64)
AXIS_LABELS = ("I", "P", "L")
LETTERS = (("L", "R"), ("P", "A"), ("I", "S"))  # ends of the axes of RAS, the low one first
OBLIQUE_SHARE = 0.2  # sine of 11.5 degrees: from there on a second letter says where an axis points
PLANES = {"axial": (0, 1, 2), "coronal": (1, 0, 2), "sagittal": (2, 0, 1)}  # order of napari's axes


@dataclass(frozen=True)
class Display:
    """How a grid is shown.

    axes : the scan's axis for each of napari's three
    scale, translate : mm, signed scale
    tilt_deg : largest angle between a scan axis and the patient axis it is shown along
    """

    axes: tuple[int, int, int]
    scale: NDArray[np.float64]
    translate: NDArray[np.float64]
    tilt_deg: float

    def forward(self, array: NDArray[Any]) -> NDArray[Any]:
        """The array in napari's order of axes; a view."""
        return array.transpose(self.axes)

    def backward(self, array: NDArray[Any]) -> NDArray[Any]:
        """The array in the scan's order of axes; a view."""
        return array.transpose(tuple(np.argsort(self.axes)))


def display_of(geometry: Geometry) -> Display:
    """The exact permutation and flips that bring a grid nearest to (inferior, posterior, left)."""
    order, _ = geometry.orientation_to(AXIS_LABELS)
    world = (RAS_TO_IPL @ geometry.affine[:3, :3])[:, order]
    spacing = np.linalg.norm(world, axis=0)
    cosines = np.diag(world) / spacing
    scale = spacing * np.where(cosines < 0, -1.0, 1.0)
    half = (np.array(geometry.shape)[list(order)] - 1) / 2
    centre = RAS_TO_IPL @ geometry.affine[:3, 3] + world @ half
    tilt = float(np.degrees(np.arccos(np.clip(np.abs(cosines).min(), 0, 1))))
    return Display(order, scale, centre - scale * half, tilt)


def directions(geometry: Geometry, display: Display) -> tuple[tuple[str, str], ...]:
    """Where each of napari's axes points, its low and its high end: "R" and "L", or "RA" and "LP" if oblique.

    The nearest patient axis comes first, others that have a share in it after (DICOM's Patient Orientation).
    """
    ends = []
    for axis, step in zip(display.axes, display.scale, strict=True):
        along = np.sign(step) * geometry.affine[:3, axis] / np.linalg.norm(geometry.affine[:3, axis])
        order = [int(w) for w in np.argsort(-np.abs(along))]
        shares = [w for n, w in enumerate(order) if n == 0 or abs(along[w]) > OBLIQUE_SHARE]
        low, high = ("".join(LETTERS[w][int((along[w] > 0) == up)] for w in shares) for up in (False, True))
        ends.append((low, high))
    return tuple(ends)


def acquired_plane(volume: Volume | LazyScan) -> str:
    """The plane nearest to the slices as they were acquired: those of the file, where it was read slice by slice."""
    across = 2 if isinstance(volume, LazyScan) or volume.source is not None else volume.slice_axis
    return list(PLANES)[display_of(volume.geometry).axes.index(across)]
