"""What a reader is told where a path holds several scans, or does not say all that is needed; how large one may be."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from medldm.errors import AmbiguousInput, InputError, LimitError, PixelError

MAX_BYTES = 8 * 2**30
XFORMS = ("sform", "qform")
NAN = ("refuse", "fill")
VOLUME = "volume"


@dataclass(frozen=True)
class Choice:
    """Which scan, and what may be assumed. The default takes nothing for granted.

    series : SeriesInstanceUID, or the `series_key` of it that `medldm inspect` and manifests give; default None: there
        is but one
    select : DICOM keyword -> value, as in EchoTime -> 5.19; "Stack" -> the number in the listing; of a 4D NIfTI,
        "volume" -> its number, from 1; default {}
    resample_nonuniform : take uneven slices and interpolate them to an even step; default False: they are refused
    xform : "sform" or "qform" of a NIfTI that has both; default None: the sform
    assume_affine : take a scan that does not say where it lies; its place is made up and marked as such; default False
    nan : "refuse" (default) voxels that are not finite, or "fill" them with the smallest finite value
    max_bytes : most voxels to hold, in bytes; default 8 GiB
    Raises InputError for other values.

    >>> medldm.Choice(select={"EchoTime": "5.19"}).nan
    'refuse'
    """

    series: str | None = None
    select: Mapping[str, str] = field(default_factory=dict)
    resample_nonuniform: bool = False
    xform: str | None = None
    assume_affine: bool = False
    nan: str = "refuse"
    max_bytes: int = MAX_BYTES

    def __post_init__(self) -> None:
        if self.xform not in (None, *XFORMS):
            raise InputError("xform", repr(self.xform), " or ".join(XFORMS))
        if self.nan not in NAN:
            raise InputError("nan", repr(self.nan), " or ".join(NAN))
        if self.max_bytes < 1:
            raise InputError("max_bytes", str(self.max_bytes), "a number of bytes >= 1")

    def refuse_selection(self, where: str) -> None:
        """Raise InputError, naming the file `where`, where a series or part was chosen and the format has none."""
        if self.series is not None or self.select:
            raise InputError(where, "a series or a selection", "none: the file holds one image", "leave it out")

    def volume(self, where: str, count: int, shape: Sequence[int]) -> int:
        """Which of `count` volumes of the file `where` was chosen, from 0; `shape` is that of each.

        Raises AmbiguousInput where none was and there are several, InputError for any other selection.
        """
        if self.series is not None or set(self.select) - {VOLUME}:
            expected = f"{VOLUME}=1 to {VOLUME}={count}" if count > 1 else "none: the file holds one image"
            raise InputError(where, "a series or another selection", expected, "leave it out")
        text = str(self.select.get(VOLUME, "1" if count == 1 else ""))
        if not text:
            do = f"choose one, {VOLUME}=1 to {VOLUME}={count} (select)"
            got = f"{' x '.join(map(str, (*shape, count)))} voxels, {count} volumes"
            raise AmbiguousInput(where, got, "one 3D volume", do)
        if not text.isdecimal() or not 1 <= int(text) <= count:
            raise InputError(where, f"{VOLUME}={text}", f"a number from 1 to {count}")
        return int(text) - 1


def series_key(uid: str) -> str:
    """Twelve hexadecimal digits that tell the series of a data set apart without its UID."""
    return hashlib.sha256(uid.encode()).hexdigest()[:12]


def check_size(where: str, shape: Sequence[int], itemsize: int = 4, *, max_bytes: int | None = None) -> None:
    """Raise PixelError for a size below 1, LimitError for voxels of more than `max_bytes` (8 GiB if None)."""
    sizes = [int(n) for n in shape]
    limit = MAX_BYTES if max_bytes is None else max_bytes
    if any(n < 1 for n in sizes):
        raise PixelError(where, f"an image of {' x '.join(map(str, sizes))}", "sizes >= 1", "the file is damaged")
    needed = math.prod(sizes) * itemsize
    if needed > limit:
        got = f"{' x '.join(map(str, sizes))} voxels of {itemsize} bytes ({needed / 2**30:.3g} GiB)"
        raise LimitError(where, got, f"at most {limit / 2**30:.3g} GiB", "crop it first")
