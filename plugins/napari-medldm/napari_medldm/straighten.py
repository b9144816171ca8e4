"""An oblique scan along the patient's axes, to be looked at: interpolated, so never restored or saved."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from medldm import Geometry, Volume
from napari_medldm.orientation import AXIS_LABELS


def straightened(volume: Volume) -> Volume:
    """The scan on a grid along (inferior, posterior, left) that holds all of it, linearly interpolated.

    Each patient axis has the spacing of the scan axis nearest to it. Outside the scan is its lowest value.
    """
    geometry = volume.geometry
    order, _ = geometry.orientation_to(AXIS_LABELS)
    spacing = np.array(geometry.spacing)[list(order)]
    directions = np.array([[0, 0, -1], [0, -1, 0], [-1, 0, 0]], dtype=np.float64).T  # columns: I, P, L in RAS
    places = geometry.corners() @ directions  # mm along I, P, L
    low, high = places.min(0), places.max(0)
    size = np.ceil((high - low) / spacing - 1e-6).astype(int) + 1
    affine = np.eye(4)
    affine[:3, :3] = directions * spacing
    affine[:3, 3] = directions @ low
    target = Geometry(affine, (int(size[0]), int(size[1]), int(size[2])))
    to_scan = np.linalg.inv(geometry.affine) @ affine
    array = ndimage.affine_transform(
        volume.array,
        to_scan[:3, :3],
        to_scan[:3, 3],
        output_shape=target.shape,
        order=1,
        mode="constant",
        cval=float(volume.array.min()),
    )
    step = {"step": "resampled to be looked at", "interpolation": "linear", "spacing": spacing.tolist()}
    return Volume(array, target, volume.unit, volume.modality, (*volume.history, step))
