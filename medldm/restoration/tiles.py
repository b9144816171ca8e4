"""The head over images too large for one pass.

The head has no norm, so a tile with its surroundings gives what the whole gives; beyond `HALO` voxels the
influence is small (measured in tests/test_restore.py).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from medldm.nets.head import MeasurementHead
from medldm.nets.tiling import tiles
from medldm.operators.measurement import Measurement

HALO = 32
MAX_VOXELS = 12_000_000


def least_work(size: Sequence[int], multiple: int, halo: int, max_voxels: int) -> list[int]:
    """Length of a tile along each axis so that all tiles with their surroundings have the fewest voxels.

    Each axis is divided evenly, to a multiple of `multiple`; no tile with its surroundings has more than `max_voxels`,
    where that can be.
    """
    choices: list[list[tuple[int, int, int]]] = []
    for n in size:
        units = -(-n // multiple)
        edges = sorted({-(-units // count) * multiple for count in range(1, units + 1)})
        read = [[min(a + e + halo, n) - max(a - halo, 0) for a in range(0, n, e)] for e in edges]
        choices.append([(e, max(lengths), sum(lengths)) for e, lengths in zip(edges, read, strict=True)])
    plans = list(itertools.product(*choices))
    fitting = [plan for plan in plans if math.prod(largest for _, largest, _ in plan) <= max_voxels]
    best = min(fitting or plans[:1], key=lambda plan: math.prod(work for _, _, work in plan))
    return [edge for edge, _, _ in best]


def merge_by_tiles(
    head: MeasurementHead,
    decoded: Tensor,
    measurement: Measurement,
    level: Tensor,
    *,
    max_voxels: int = MAX_VOXELS,
) -> tuple[Tensor, Tensor]:
    """``head(decoded, measurement, level)``, in tiles where the image has more than `max_voxels`."""
    size = decoded.shape[2:]
    if decoded[0, 0].numel() <= max_voxels:
        image, std = head(decoded, measurement, level)
        return image, std
    halo = -(-HALO // head.multiple) * head.multiple
    edges = least_work(size, head.multiple, halo, max_voxels)
    image, std = torch.empty_like(decoded), torch.empty_like(decoded)
    every = (slice(None), slice(None))
    for outer, inner, within in tiles(size, edges, [halo] * len(size)):
        part = measurement.on_image(lambda t, at=(*every, *outer): t[at])  # type: ignore[misc]
        tile, tile_std = head(decoded[(*every, *outer)], part, level)
        image[(*every, *inner)] = tile[(*every, *within)]
        std[(*every, *inner)] = tile_std[(*every, *within)]
    return image, std
