"""The head over images too large for one pass.

The head has no norm, so a tile with its surroundings gives what the whole gives; beyond `HALO` voxels the
influence is small (measured in tests/test_restore.py).
"""

from __future__ import annotations

import torch
from torch import Tensor

from medldm.nets.head import MeasurementHead
from medldm.nets.tiling import tiles
from medldm.operators.measurement import Measurement

HALO = 32
MAX_VOXELS = 12_000_000


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
    edge = int(max_voxels ** (1 / len(size))) - 2 * HALO
    edge = max(head.multiple, edge // head.multiple * head.multiple)
    halo = -(-HALO // head.multiple) * head.multiple
    image, std = torch.empty_like(decoded), torch.empty_like(decoded)
    every = (slice(None), slice(None))
    for outer, inner, within in tiles(size, [edge] * len(size), [halo] * len(size)):
        part = measurement.on_image(lambda t, at=(*every, *outer): t[at])  # type: ignore[misc]
        tile, tile_std = head(decoded[(*every, *outer)], part, level)
        image[(*every, *inner)] = tile[(*every, *within)]
        std[(*every, *inner)] = tile_std[(*every, *within)]
    return image, std
