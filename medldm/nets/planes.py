"""Which planes of a volume a network of images can judge."""

from __future__ import annotations

from collections.abc import Sequence

NARROWEST_PLANE = 16


def wide_planes(size: Sequence[int]) -> list[int]:
    """The axes of a volume (I, J, K) that planes at least 16 voxels wide lie across; the shortest, if none does."""
    wide = [axis for axis in range(3) if min(n for a, n in enumerate(size) if a != axis) >= NARROWEST_PLANE]
    return wide or [min(range(3), key=lambda axis: size[axis])]
