"""How much memory a restoration will take, known by the size of the scan, without torch."""

from __future__ import annotations

import math
from collections.abc import Sequence

MAX_VOXELS = 12_000_000  # that are computed at once
PROCESS = 500_000_000  # bytes of Python, torch and a model
WORKING = {2: 350, 3: 285}  # bytes a voxel that is computed at once, shipped packs (docs/decisions/0018)
KEPT = 4 * 4  # of a voxel: scan, result, residual, uncertainty


def bytes_of(shape: Sequence[int], dims: int, *, across: int | None = None) -> int:
    """About the most memory of a restoration whose result has this shape (I, J, K); slice by slice `across` an axis."""
    voxels = math.prod(shape)
    at_once = voxels if across is None else voxels // max(shape[across], 1)
    return PROCESS + KEPT * voxels + WORKING[dims] * min(at_once, MAX_VOXELS)
