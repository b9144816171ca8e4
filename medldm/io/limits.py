"""How large a scan may be, checked from its header before anything is decoded."""

from __future__ import annotations

import math
from collections.abc import Sequence

from medldm.errors import LimitError, PixelError

MAX_BYTES = 8 * 2**30


def check_size(where: str, shape: Sequence[int], itemsize: int = 4, *, max_bytes: int | None = None) -> None:
    """Raise PixelError for a size below 1, LimitError for voxels of more than `max_bytes` (8 GiB if None)."""
    sizes = [int(n) for n in shape]
    limit = MAX_BYTES if max_bytes is None else max_bytes
    if any(n < 1 for n in sizes):
        raise PixelError(
            where, f"an image of {' x '.join(map(str, sizes))}", "sizes >= 1", "the file is damaged"
        )
    needed = math.prod(sizes) * itemsize
    if needed > limit:
        got = f"{' x '.join(map(str, sizes))} voxels of {itemsize} bytes ({needed / 2**30:.3g} GiB)"
        raise LimitError(where, got, f"at most {limit / 2**30:.3g} GiB", "crop it first")
