"""The header and the voxels of a NIfTI file: sizes are checked from the header, before anything is decoded."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medldm.errors import AmbiguousInput, PixelError, UnsupportedInput
from medldm.io.choice import Choice, check_size

_DAMAGE = (OSError, EOFError, zlib.error, ValueError, OverflowError)
_SIZES = {348: "Nifti1Header", 540: "Nifti2Header"}
_MOST_RATIO = 1032  # of deflate
_LARGEST_INTEGER = 2**53
_TAIL = 2**26  # bytes after the voxels that are read for the sake of the checksum
_CHUNK = 2**20


def read_header(path: Path) -> Any:
    """The header of a NIfTI-1 or -2 file as stored; extensions are not read.

    Raises PixelError for a damaged file, UnsupportedInput for the older formats with the same suffix.
    """
    import nibabel as nib

    try:
        with nib.openers.Opener(str(path)) as file:
            block = file.read(max(_SIZES))
    except _DAMAGE as failure:
        got = f"no readable NIfTI header ({type(failure).__name__})"
        do = "a file that is not compressed must end in .nii" if path.name.lower().endswith(".gz") else ""
        raise PixelError(path.name, got, "a whole file", do) from None
    size = next((s for order in ("little", "big") if (s := int.from_bytes(block[:4], order)) in _SIZES), 0)
    if not size or len(block) < size:
        raise PixelError(path.name, "no readable NIfTI header", "a whole file")
    magic = block[344:348] if size == 348 else block[4:8]
    if magic[:3] not in (b"n+1", b"n+2"):
        kind = "a NIfTI header without its voxels" if magic[:2] == b"ni" else "an Analyze header"
        raise UnsupportedInput(path.name, kind, "NIfTI-1 or NIfTI-2 in one file", "convert it first")
    return getattr(nib, _SIZES[size])(block[:size], check=False)


def shape_of(header: Any, where: str, choice: Choice) -> tuple[int, int, int]:
    """Shape of the one 3D image, trailing axes of length 1 dropped.

    Raises PixelError, UnsupportedInput, LimitError, AmbiguousInput.
    """
    count = int(header["dim"][0])
    dims = [int(n) for n in header["dim"][1 : 1 + count]] if 1 <= count <= 7 else []
    if not dims:
        raise PixelError(where, f"{count} dimensions", "1 to 7", "the header is damaged")
    check_size(where, dims, max(4, _dtype(header, where).itemsize), max_bytes=choice.max_bytes)
    if any(n > 1 for n in dims[3:]):
        got = f"{' x '.join(map(str, dims))} voxels"
        raise AmbiguousInput(where, got, "one 3D volume", "extract one of them")
    i, j, k = (dims + [1, 1])[:3]
    return i, j, k


def read_voxels(
    header: Any, shape: tuple[int, int, int], path: Path, choice: Choice
) -> tuple[NDArray[np.float32], dict[str, Any]]:
    """Scaled voxels (I, J, K), float32, finite, and notes for the history.

    They are read and scaled slice by slice: the whole is held once, as it is given back.
    Raises UnsupportedInput, PixelError.
    """
    stored = _stored(header, shape, path)
    array = np.empty(shape, dtype=np.float32, order="F")
    beyond = 0
    with _opened(path) as file:
        stored.go_to(file, 0)
        for k in range(shape[2]):
            beyond += stored.scale(stored.next_slice(file), array[..., k])
        stored.check_end(file)
    _refuse_beyond(beyond, path.name)
    return _finite(array, path.name, choice)


def plane_reader(
    header: Any, shape: tuple[int, int, int], path: Path
) -> Callable[[int], NDArray[np.float32]] | None:
    """What gives slice k, (I, J), scaled and finite, of a file that is not compressed; None for one that is.

    Raises UnsupportedInput, PixelError.
    """
    if path.name.lower().endswith(".gz"):
        return None
    stored = _stored(header, shape, path)

    def plane(k: int) -> NDArray[np.float32]:
        out = np.empty(shape[:2], dtype=np.float32, order="F")
        with _opened(path) as file:
            stored.go_to(file, range(shape[2])[k])
            _refuse_beyond(stored.scale(stored.next_slice(file), out), path.name)
        return _finite(out, path.name, Choice())[0]

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
        left = _TAIL if self.path.name.lower().endswith(".gz") else 0
        with _undamaged(self.path):
            while left > 0 and (chunk := file.read(_CHUNK)):
                left -= len(chunk)


@contextlib.contextmanager
def _undamaged(path: Path) -> Iterator[None]:
    """PixelError for whatever a file that is cut off or damaged raises."""
    try:
        yield
    except _DAMAGE:
        got = "voxels that end early or are damaged"
        raise PixelError(path.name, got, "a whole file", "copy it again") from None


def _opened(path: Path) -> Any:
    """The file, unpacked if it is packed, to be used in a `with`. Raises PixelError."""
    import nibabel as nib

    with _undamaged(path):
        return nib.openers.Opener(str(path))


def _refuse_beyond(count: int, where: str) -> None:
    if count:
        raise PixelError(where, f"{count} voxels beyond single precision", "values below 3e38", "scale them first")


def _finite(array: NDArray[np.float32], where: str, choice: Choice) -> tuple[NDArray[np.float32], dict[str, Any]]:
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


def _stored(header: Any, shape: tuple[int, int, int], path: Path) -> _Stored:
    """Raises UnsupportedInput, and PixelError for a file that is too short for its voxels."""
    (slope, inter), dtype, offset = _scaling(header, path.name), _dtype(header, path.name), float(header["vox_offset"])
    if not header.single_vox_offset <= offset < 2**62:
        raise PixelError(path.name, f"vox_offset {offset:g}", f"{header.single_vox_offset} or more")
    start, size = int(offset), path.stat().st_size
    needed = start + int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if size * (_MOST_RATIO if path.name.lower().endswith(".gz") else 1) < needed:
        raise PixelError(path.name, f"{size} bytes", f"{needed} unpacked", "the file is cut off")
    return _Stored(path, shape, dtype, start, slope, inter)
