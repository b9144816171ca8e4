"""The header and the voxels of a NIfTI file: sizes are checked from the header, before anything is decoded."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from medldm.errors import MedldmError, PixelError, UnsupportedInput
from medldm.io.choice import Choice, check_size

_DAMAGE = (OSError, EOFError, zlib.error, ValueError, OverflowError)
_SIZES = {348: "Nifti1Header", 540: "Nifti2Header"}
_MOST_RATIO = 1032  # of deflate
_LARGEST_INTEGER = 2**53
PAIRS = ((".hdr", ".img"), (".hdr.gz", ".img.gz"))
_GZIP, _OF_GZIP = b"\x1f\x8b", 16 + zlib.MAX_WBITS
_PACKED = 2**16  # bytes that are unpacked at a time: what is left of them is copied
_TAIL = 2**26  # bytes after the voxels that are read for the sake of the checksum
_CHUNK = 2**20


def is_packed(path: Path) -> bool:
    """Whether a file is compressed, whatever its name says."""
    try:
        with path.open("rb") as file:
            return file.read(2) == _GZIP
    except OSError:
        return False


def voxels_of(path: Path) -> Path:
    """The file with the voxels: the .img of a pair, else the file itself."""
    for head, body in PAIRS:
        if path.name.lower().endswith(head):
            stem = path.name[: -len(head)]
            named = [path.with_name(stem + suffix) for suffix in (body, ".img", ".img.gz", ".IMG")]
            return next((p for p in named if p.is_file()), named[0])
    return path


def read_header(path: Path) -> Any:
    """The header of a NIfTI-1 or -2 file, or of a pair, as stored; extensions are not read.

    Raises PixelError for a damaged file, UnsupportedInput for the older formats with the same suffix.
    """
    import nibabel as nib

    try:
        with opened(path) as file:
            block = file.read(max(_SIZES))
    except _DAMAGE as failure:
        got = f"no readable NIfTI header ({type(failure).__name__})"
        raise PixelError(path.name, got, "a whole file", "copy it again") from None
    size = next((s for order in ("little", "big") if (s := int.from_bytes(block[:4], order)) in _SIZES), 0)
    if not size or len(block) < size:
        raise PixelError(path.name, "no readable NIfTI header", "a whole file")
    magic, pair = block[344:348] if size == 348 else block[4:8], voxels_of(path) != path
    if magic[:3] not in ((b"ni1", b"ni2") if pair else (b"n+1", b"n+2")):
        kind = "an Analyze header, which does not tell left from right"
        if magic[:2] in (b"ni", b"n+"):
            kind = "the header of one file" if pair else "a NIfTI header without its voxels (of a pair: .hdr, .img)"
        raise UnsupportedInput(path.name, kind, "NIfTI-1 or NIfTI-2, named so", "convert it first, or rename it")
    if pair and not voxels_of(path).is_file():
        raise PixelError(path.name, f"no {voxels_of(path).name} beside it", "both files of the pair")
    kind = _SIZES[size].replace("Header", "PairHeader") if pair else _SIZES[size]
    return getattr(nib.nifti1 if size == 348 else nib.nifti2, kind)(block[:size], check=False)


def shape_of(header: Any, where: str, choice: Choice) -> tuple[tuple[int, int, int], int]:
    """Shape of a 3D image, and how many of them there are, trailing axes of length 1 dropped.

    Raises PixelError, UnsupportedInput, LimitError.
    """
    count = int(header["dim"][0])
    dims = [int(n) for n in header["dim"][1 : 1 + count]] if 1 <= count <= 7 else []
    if not dims:
        raise PixelError(where, f"{count} dimensions", "1 to 7", "the header is damaged")
    check_size(where, dims[:3], max(4, _dtype(header, where).itemsize), max_bytes=choice.max_bytes)
    if any(n < 1 for n in dims):
        raise PixelError(where, f"{' x '.join(map(str, dims))} voxels", "sizes >= 1", "the header is damaged")
    if any(n > 1 for n in dims[4:]):
        got = f"{' x '.join(map(str, dims))} voxels"
        raise UnsupportedInput(where, got, "3D volumes, one or several (4D)", "extract one of them")
    i, j, k, volumes = (dims + [1, 1, 1])[:4]
    return (i, j, k), volumes


def read_voxels(
    header: Any, shape: tuple[int, int, int], path: Path, choice: Choice, number: int = 0
) -> tuple[NDArray[np.float32], dict[str, Any]]:
    """Scaled voxels (I, J, K), float32, finite, of one volume, and notes for the history.

    They are read and scaled slice by slice: the whole is held once, as it is given back.
    Raises UnsupportedInput, PixelError.
    """
    found, beyond, notes = next(each_volume(header, shape, path, range(number, number + 1)))
    array, filled = finite(found, path.name, choice, beyond)
    return array, notes | filled


def each_volume(
    header: Any, shape: tuple[int, int, int], path: Path, numbers: range
) -> Iterator[tuple[NDArray[np.float32], int, dict[str, Any]]]:
    """Volumes of a file one after the other: scaled voxels, how many are beyond single precision, and notes.

    Raises UnsupportedInput, PixelError.
    """
    stored = _stored(header, shape, path, numbers[-1])
    packed, named = is_packed(stored.path), stored.path.name.lower().endswith(".gz")
    notes: dict[str, Any] = {"compressed": packed} if packed != named else {}
    with _undamaged(path), opened(stored.path) as file:
        for number in numbers:
            array, beyond = np.empty(shape, dtype=np.float32, order="F"), 0
            stored.go_to(file, number * shape[2])
            for k in range(shape[2]):
                beyond += stored.scale(stored.next_slice(file), array[..., k])
            if number == numbers[-1]:
                stored.check_end(file)
            if getattr(file, "rest", False):
                notes = notes | {"bytes_after_gzip": True}
            yield array, beyond, notes


def plane_reader(
    header: Any, shape: tuple[int, int, int], path: Path, number: int = 0
) -> Callable[[int], NDArray[np.float32]] | None:
    """What gives slice k, (I, J), scaled and finite, of a file that is not compressed; None for one that is.

    Raises UnsupportedInput, PixelError.
    """
    if is_packed(voxels_of(path)):
        return None
    stored = _stored(header, shape, path, number)

    def plane(k: int) -> NDArray[np.float32]:
        out = np.empty(shape[:2], dtype=np.float32, order="F")
        with _undamaged(path), opened(stored.path) as file:
            stored.go_to(file, number * shape[2] + range(shape[2])[k])
            beyond = stored.scale(stored.next_slice(file), out)
        return finite(out, path.name, Choice(), beyond)[0]

    return plane


@dataclass(frozen=True)
class _Stored:
    """Where the voxels of a file begin, what kind they are, and how they are scaled."""

    path: Path
    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    start: int
    slope: float | None
    inter: float

    @property
    def slice_bytes(self) -> int:
        return self.shape[0] * self.shape[1] * self.dtype.itemsize

    def go_to(self, file: Any, k: int) -> None:
        with _undamaged(self.path):
            file.seek(self.start + k * self.slice_bytes)

    def next_slice(self, file: Any) -> NDArray[Any]:
        """The slice (I, J) at the place that the file is read at, as stored. Raises PixelError."""
        with _undamaged(self.path):
            data = file.read(self.slice_bytes)
            if len(data) < self.slice_bytes:
                raise EOFError
        stored: NDArray[Any] = np.frombuffer(data, self.dtype).reshape(self.shape[:2], order="F")
        return stored

    def scale(self, stored: NDArray[Any], out: NDArray[np.float32]) -> int:
        """Scaled values of a slice into `out`; how many single precision cannot hold. Raises PixelError."""
        if stored.dtype.kind in "iu" and stored.dtype.itemsize == 8:
            largest = max(int(stored.max()), -int(stored.min()))
            if largest > _LARGEST_INTEGER:
                raise PixelError(self.path.name, "integers beyond 2^53", "values that a float can hold")
        with np.errstate(over="ignore", invalid="ignore"):
            exact = stored if self.slope is None else stored.astype(np.float64) * self.slope + self.inter
            out[...] = exact
            return int(np.count_nonzero(np.isinf(out) & np.isfinite(exact)))

    def check_end(self, file: Any) -> None:
        """Read on to the end of a compressed file: its checksum comes last. Raises PixelError."""
        left = _TAIL if isinstance(file, _Unpacked) else 0
        with _undamaged(self.path):
            while left > 0 and (chunk := file.read(_CHUNK)):
                left -= len(chunk)


class _Unpacked:
    """A gzip file, read from its start on; `rest` tells of bytes after its end that are none of it."""

    def __init__(self, file: BinaryIO) -> None:
        self.rest = False
        self._file, self._inflater, self._input = file, zlib.decompressobj(_OF_GZIP), b""
        self._at, self._ended = 0, False

    def read(self, size: int) -> bytes:
        """Up to `size` bytes, less at the end alone. Raises EOFError, zlib.error."""
        found = bytearray()
        while len(found) < size and not self._ended:
            if self._inflater.eof:
                self._next_member()
                continue
            data = self._input or self._file.read(_PACKED)
            more = self._inflater.decompress(data, size - len(found))
            self._input = self._inflater.unconsumed_tail
            if not (data or more or self._inflater.eof):
                raise EOFError
            found += more
        self._at += len(found)
        return bytes(found)

    def _next_member(self) -> None:
        after = self._inflater.unused_data + (self._file.read(_CHUNK) if len(self._inflater.unused_data) < 2 else b"")
        self._ended = after[:2] != _GZIP
        self.rest = self._ended and bool(after.strip(b"\0"))
        self._inflater, self._input = zlib.decompressobj(_OF_GZIP), after

    def seek(self, at: int) -> None:
        """Forward only."""
        while self._at < at and self.read(min(at - self._at, _CHUNK)):
            pass


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Any]:
    """The file, unpacked if it is packed, whatever its name says. Raises OSError."""
    packed = is_packed(path)
    with path.open("rb") as file:
        yield _Unpacked(file) if packed else file


@contextlib.contextmanager
def _undamaged(path: Path) -> Iterator[None]:
    """PixelError for whatever a file that is cut off or damaged raises."""
    try:
        yield
    except MedldmError:
        raise
    except _DAMAGE:
        got = "voxels that end early or are damaged"
        raise PixelError(path.name, got, "a whole file", "copy it again") from None


def finite(
    array: NDArray[np.float32], where: str, choice: Choice, beyond: int = 0
) -> tuple[NDArray[np.float32], dict[str, Any]]:
    """The voxels, those that are not finite filled if that was chosen, and a note of it. Raises PixelError.

    beyond : how many were finite before single precision could not hold them
    """
    if beyond:
        raise PixelError(where, f"{beyond} voxels beyond single precision", "values below 3e38", "scale them first")
    good = np.isfinite(array)
    bad = array.size - int(np.count_nonzero(good))
    if not bad:
        return array, {}
    if choice.nan == "refuse":
        got = f"{bad} voxels that are not finite"
        raise PixelError(where, got, "finite values", "let them be filled (nan fill)")
    if bad == array.size:
        raise PixelError(where, "no voxel that is finite", "finite values")
    array[~good] = array[good].min()
    return array, {"nan_filled": bad}


def _dtype(header: Any, where: str) -> np.dtype[Any]:
    """Type of the voxels; raises UnsupportedInput for what is not a plain number."""
    try:
        dtype: np.dtype[Any] = header.get_data_dtype()
    except KeyError:
        raise UnsupportedInput(where, f"voxels of type {int(header['datatype'])}", "integers or floats") from None
    if dtype.kind not in "iuf":
        kind = "complex" if dtype.kind == "c" else "RGB" if dtype.fields else "untyped"
        raise UnsupportedInput(where, f"{kind} voxels", "real numbers", "convert it first")
    return dtype


def _scaling(header: Any, where: str) -> tuple[float | None, float]:
    """Slope and intercept; None for a slope of 0 or NaN, which means none. Raises PixelError."""
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or np.isnan(slope):
        return None, 0.0
    if not (np.isfinite(slope) and np.isfinite(inter)):
        raise PixelError(where, "an scl_inter or scl_slope that is not finite", "finite numbers")
    return (None, 0.0) if (slope, inter) == (1.0, 0.0) else (slope, inter)


def _stored(header: Any, shape: tuple[int, int, int], path: Path, number: int) -> _Stored:
    """Raises UnsupportedInput, and PixelError for a file that is too short for its voxels up to a volume."""
    (slope, inter), dtype, offset = _scaling(header, path.name), _dtype(header, path.name), float(header["vox_offset"])
    body = voxels_of(path)
    least = 0 if body != path else header.single_vox_offset
    if not least <= offset < 2**62:
        raise PixelError(path.name, f"vox_offset {offset:g}", f"{least} or more")
    start, size = int(offset), body.stat().st_size
    needed = start + (number + 1) * int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if size * (_MOST_RATIO if is_packed(body) else 1) < needed:
        raise PixelError(body.name, f"{size} bytes", f"{needed} unpacked", "the file is cut off")
    return _Stored(body, shape, dtype, start, slope, inter)
