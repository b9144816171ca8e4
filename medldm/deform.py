"""Label maps bent smoothly at random: other anatomies, of which nobody has to have a scan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy import ndimage

from medldm.errors import InputError
from medldm.volume import Volume

KNOTS_MM, STEEPEST = 32.0, 0.25  # how far apart the free displacements lie, at least; the largest to that distance


def deformed(label_map: Volume, most_mm: float, seed: int | Sequence[int]) -> Volume:
    """The same with every voxel taken from up to `most_mm` away, by the nearest one; the edge is repeated.

    Displacements at random at the knots of a grid, a cubic spline between them (as free-form deformations: Rueckert et
    al. 1999); knots are at least four times as far apart as the largest displacement, so that nothing folds. Where the
    scan lies stays as it is, and an axis of one voxel as well.
    Raises InputError for a distance that is none.
    """
    if not 0 <= most_mm < float("inf"):
        raise InputError("deform", f"{most_mm:g} mm", "0 mm or more")
    shape, spacing = label_map.geometry.shape, label_map.geometry.spacing
    free = [axis for axis, n in enumerate(shape) if n > 1]
    apart = max(KNOTS_MM, most_mm / STEEPEST)
    knots = [int(np.ceil(shape[axis] * spacing[axis] / apart)) + 3 for axis in free]
    rng = np.random.default_rng(seed)
    start, size = rng.uniform(0, 1, len(free)), most_mm * np.sqrt(rng.uniform(0.25, 1))
    at = [np.arange(shape[axis]) * spacing[axis] / apart + 1 + s for axis, s in zip(free, start, strict=True)]
    grid = np.meshgrid(*at, indexing="ij")
    moves = np.stack([ndimage.map_coordinates(rng.standard_normal(knots), grid, order=3, mode="nearest") for _ in free])
    moves *= size / max(float(np.sqrt(np.square(moves).sum(0)).max()), 1e-9)
    places = np.meshgrid(*(np.arange(shape[axis], dtype=np.float64) for axis in free), indexing="ij")
    taken = [place + move / spacing[axis] for place, move, axis in zip(places, moves, free, strict=True)]
    array = ndimage.map_coordinates(
        label_map.array.reshape([shape[axis] for axis in free]), taken, order=0, mode="nearest"
    )
    step = {"step": "deform", "most_mm": most_mm, "seed": list(seed) if isinstance(seed, Sequence) else seed}
    return replace(label_map, array=array.reshape(shape), history=(*label_map.history, step))
