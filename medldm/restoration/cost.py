"""How long a restoration will take: a piece of the scan is restored first, and timed."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace

from medldm.nets.head import MeasurementHead
from medldm.networks import Networks
from medldm.operators.measurement import Measurement
from medldm.restoration.estimate import estimate
from medldm.restoration.settings import Settings

PIECE = {2: 192, 3: 48}  # voxels along an edge of what is timed
WORTH = 24  # a scan of so many pieces is timed


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
