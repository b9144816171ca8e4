"""What a restoration will take: a piece of the scan is restored first, and timed; its memory is known by its size."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace

from medldm.model import Networks
from medldm.nets.head import MeasurementHead
from medldm.operators.measurement import Measurement
from medldm.restoration.estimate import MAX_VOXELS, estimate
from medldm.restoration.settings import Settings

PIECE = {2: 192, 3: 48}  # voxels along an edge of what is timed
WORTH = 24  # a scan of so many pieces is timed
PROCESS = 500_000_000  # bytes of Python, torch and a model
WORKING = {2: 320, 3: 215}  # bytes a voxel that is computed at once, shipped packs (docs/decisions/0018-slices.md)
KEPT = 4 * 4  # of a voxel: scan, result, residual, uncertainty


def seconds_of(
    networks: Networks, head: MeasurementHead, measurement: Measurement, settings: Settings, multiple: Sequence[int]
) -> float | None:
    """About how long `estimate` will take; None where it is soon done, or cannot be told."""
    size = measurement.image.shape[2:]
    piece = [min(n, math.ceil(PIECE[len(size)] / m) * m) for n, m in zip(size, multiple, strict=True)]
    share = math.prod(size) / math.prod(piece)
    if share < WORTH:
        return None
    middle = tuple(slice(s := (n - p) // 2 // m * m, s + p) for n, p, m in zip(size, piece, multiple, strict=True))
    part = measurement.on_image(lambda field: field[(slice(None), slice(None), *middle)])
    quiet = replace(settings, progress=None, preview=None, forecast=None)
    started = time.perf_counter()
    estimate(networks, head, part, quiet, lambda done, total, x: None)
    return share * (time.perf_counter() - started)


def bytes_of(shape: Sequence[int], dims: int, *, across: int | None = None) -> int:
    """About the most memory of a restoration whose result has this shape (I, J, K); slice by slice `across` an axis."""
    voxels = math.prod(shape)
    at_once = voxels if across is None else voxels // shape[across]
    return PROCESS + KEPT * voxels + WORKING[dims] * min(at_once, MAX_VOXELS)
