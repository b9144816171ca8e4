"""Stored pixels of images, checked for completeness, and what turns them into values in a unit."""

from __future__ import annotations

import functools
import hashlib
import warnings
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medldm.errors import LimitError, PixelError, UnsupportedInput
from medldm.io.choice import check_size
from medldm.io.dicom.header import Header
from medldm.io.picture import jpeg_bits

_IMPLAUSIBLE_RATIO = 1000  # no lossless coder gets there with a scan; a forged header does
_IMPLAUSIBLE_BYTES = 2**26
_TRANSFER_SYNTAX = 0x00020010
_KEYWORDS = {b"\x10\x00": "PixelData", b"\x08\x00": "FloatPixelData", b"\x09\x00": "DoubleFloatPixelData"}
RESCALE_KEYWORDS = (
    "RescaleSlope",
    "RescaleIntercept",
    "RescaleType",
    "MultienergyCTAcquisition",
    "ImageType",
    "Units",
)
# Defined terms of RescaleType (DICOM PS3.3 C.11.1.1.2), besides HU and US (unspecified)
_CT_UNITS = ("HU_MOD", "MGML", "Z_EFF", "ED", "EDW", "PCT", "OD")


@dataclass(frozen=True)
class Layout:
    """How the pixels of an image are stored; `padding` is the range of values that mean "nothing here"."""

    rows: int
    columns: int
    bits_allocated: int
    bits_stored: int
    signed: bool
    padding: tuple[int, int] | None

    def drop_unused_bits(self, stored: NDArray[Any]) -> NDArray[Any]:
        """Values of BitsStored bits; what old scanners left above them (overlays) is no pixel value."""
        shift = stored.dtype.itemsize * 8 - self.bits_stored
        return stored if stored.dtype.kind not in "iu" or shift <= 0 else (stored << shift) >> shift

    def count_padding(self, stored: NDArray[Any]) -> int:
        """How many pixels hold PixelPaddingValue, or lie between it and PixelPaddingRangeLimit."""
        if self.padding is None:
            return 0
        low, high = self.padding
        return int(np.count_nonzero((stored >= low) & (stored <= high)))


def layout_of(header: Header) -> Layout:
    """The layout that a header declares; raises PixelError for an impossible one."""
    allocated = header.number("BitsAllocated", 0)
    if allocated not in (8, 16, 32, 64):
        raise PixelError(header.name, f"BitsAllocated {allocated}", "8, 16 or 32")
    bits = header.number("BitsStored", allocated)
    high = header.number("HighBit", bits - 1)
    if not 1 <= bits <= allocated or high != bits - 1:
        got = f"BitsStored {bits}, HighBit {high}"
        raise PixelError(header.name, got, f"up to {allocated} bits from the lowest one")
    first, second = (header.dataset.get(k) for k in ("PixelPaddingValue", "PixelPaddingRangeLimit"))
    padding = None
    if isinstance(first, int):
        low, top = sorted((first, second if isinstance(second, int) else first))
        padding = (low, top)
    signed = header.number("PixelRepresentation", 0) == 1
    return Layout(header.number("Rows", 0), header.number("Columns", 0), allocated, bits, signed, padding)


def check_declared(headers: list[Header], max_bytes: int | None = None) -> None:
    """Check the declared size against the limit and against the files, before anything is decoded."""
    known: dict[tuple[Any, ...], tuple[int, int, int, bool]] = {}
    for header in headers:
        syntax = transfer_syntax(header)
        raw = (syntax, *header.raws(("Rows", "Columns", "BitsAllocated")))
        if raw not in known:
            rows, columns, bits = (header.number(k, 0) for k in ("Rows", "Columns", "BitsAllocated"))
            if bits not in (8, 16, 32, 64):
                raise PixelError(header.name, f"BitsAllocated {bits}", "8, 16 or 32")
            check_size(header.name, (columns, rows, len(headers)), max(4, bits // 8), max_bytes=max_bytes)
            known[raw] = rows, columns, bits, syntax.is_encapsulated or syntax.is_deflated
        rows, columns, bits, packed = known[raw]
        size, needed = header.path.stat().st_size, rows * columns * bits // 8 * (header.frame or 1)
        if packed:
            if needed > _IMPLAUSIBLE_BYTES and needed > _IMPLAUSIBLE_RATIO * size:
                got = f"{columns} x {rows} pixels in a file of {size} bytes"
                raise LimitError(header.name, got, f"at most {_IMPLAUSIBLE_RATIO} : 1", "the header is forged")
        elif size < needed:
            raise PixelError(header.name, f"{size} bytes", f"{needed} bytes of pixels", "the file is cut off")


def transfer_syntax(header: Header) -> Any:
    """UID of the transfer syntax; implicit little endian where the file does not say."""
    meta = getattr(header.dataset, "file_meta", None)
    found = meta.get_item(_TRANSFER_SYNTAX) if meta else None
    if found is None:
        return _syntax("")
    return _syntax(found.value.rstrip(b"\0 ").decode("ascii", "replace") if found.is_raw else str(found.value))


@functools.lru_cache(maxsize=64)
def _syntax(uid: str) -> Any:
    from pydicom.uid import UID, ImplicitVRLittleEndian

    return UID(uid) if uid else ImplicitVRLittleEndian


PIXEL_KEYWORDS = (
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
)


class Decoder:
    """Stored values (rows, columns) of one image after the other; a file of several slices is decoded once.

    Raises PixelError naming the file where pixels are missing, damaged, or too many.
    """

    def __init__(self) -> None:
        self.sha256: dict[Path, bytes] = {}  # of the files
        self._path: Path | None = None
        self._frames: NDArray[Any] = np.empty((0, 0, 0))

    def stored(self, header: Header, layout: Layout) -> NDArray[Any]:
        tile = header.tile
        if tile is not None:
            whole = replace(layout, rows=tile.rows, columns=tile.columns)
            picture = self._whole(header, whole)
            return picture[tile.row : tile.row + layout.rows, tile.column : tile.column + layout.columns]
        return self._whole(header, layout)

    def _whole(self, header: Header, layout: Layout) -> NDArray[Any]:
        frames = self._frames
        if header.path != self._path:
            try:
                data = header.path.read_bytes()
            except OSError as failure:
                raise PixelError(header.name, failure.strerror or "unreadable", "a readable file") from None
            self.sha256[header.path] = hashlib.sha256(data).digest()
            frames = _frames(header, data, layout)
            if header.frame is not None or header.tile is not None:
                self._frames, self._path = frames, header.path
        index = (header.frame or 1) - 1
        wanted = (layout.rows, layout.columns)
        if index >= len(frames) or frames.shape[1:] != wanted:
            got = f"pixels of shape {frames.shape}"
            raise PixelError(header.name, got, f"{wanted} in each frame", "the file is damaged")
        return layout.drop_unused_bits(frames[index])


def are_plain(headers: list[Header]) -> bool:
    """Whether every image is a file of its own without compression, so that threads may share the reading."""
    syntaxes = set(map(transfer_syntax, headers))
    return all(h.frame is None and h.tile is None for h in headers) and not any(s.is_compressed for s in syntaxes)


def _frames(header: Header, data: bytes, layout: Layout) -> NDArray[Any]:
    """Stored values (frames, rows, columns) of a file."""
    syntax = transfer_syntax(header)
    if not (syntax.is_encapsulated or header.pixels_at is None) and header.frame is None:
        return _native(header, data, syntax, layout)
    return _by_pydicom(header, data, syntax)


def _native(header: Header, data: bytes, syntax: Any, layout: Layout) -> NDArray[Any]:
    """Uncompressed pixels without parsing the file a second time (DICOM PS3.5, 7.1)."""
    encoding = getattr(header.dataset, "original_encoding", (None, None))  # as found, if the file does not say
    implicit = syntax.is_implicit_VR if encoding[0] is None else encoding[0]
    order = "little" if (syntax.is_little_endian if encoding[1] is None else encoding[1]) else "big"
    at = header.pixels_at or 0
    group = (0x7FE0).to_bytes(2, order)  # type: ignore[arg-type]
    element = data[at + 2 : at + 4] if order == "little" else data[at + 3 : at + 1 : -1]
    keyword = _KEYWORDS.get(element)
    if data[at : at + 2] != group or keyword is None:
        raise PixelError(header.name, "no PixelData", "a whole file", "copy it again")
    start = at + (8 if implicit else 12)
    length = int.from_bytes(data[start - 4 : start], order)  # type: ignore[arg-type]
    needed = layout.rows * layout.columns * layout.bits_allocated // 8
    found = min(length, len(data) - start)
    if not needed <= found <= needed + needed % 2:
        do = "the file is cut off" if found < needed else "the header does not fit the pixels"
        raise PixelError(header.name, f"{found} bytes of pixels", str(needed), do)
    kind = "f" if keyword != "PixelData" else "i" if layout.signed else "u"
    dtype = np.dtype(f"{'<' if order == 'little' else '>'}{kind}{layout.bits_allocated // 8}")
    pixels = np.frombuffer(data, dtype, count=needed // dtype.itemsize, offset=start)
    return pixels.reshape(1, layout.rows, layout.columns)


def _by_pydicom(header: Header, data: bytes, syntax: Any) -> NDArray[Any]:
    """Compressed, deflated and multi-frame pixels."""
    import pydicom
    from pydicom.pixels.decoders.base import get_decoder

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if syntax.is_encapsulated:
            try:
                decoder = get_decoder(syntax)
            except NotImplementedError:
                decoder = None
            if decoder is None or not decoder.is_available:
                got = f"transfer syntax {syntax} ({syntax.name})"
                raise UnsupportedInput(header.name, got, "one with a decoder", _what_decodes(decoder))
        try:
            dataset = pydicom.dcmread(BytesIO(data), force=True)
            if "TransferSyntaxUID" not in dataset.file_meta:
                dataset.file_meta.TransferSyntaxUID = syntax
            keyword = next((k for k in _KEYWORDS.values() if k in dataset), "")
            if not keyword:
                raise PixelError(header.name, "no PixelData", "a whole file", "copy it again")
            if not syntax.is_encapsulated:
                _check_length(header, dataset, len(dataset[keyword].value))
            stored = np.asarray(dataset.pixel_array)
        except PixelError:
            raise
        except Exception as failure:  # whatever a decoder raises, its text may quote the header
            bits = jpeg_bits(data[max(data.find(b"\xff\xd8\xff", header.pixels_at or 0), 0) :])
            if syntax.is_encapsulated and bits > 8:  # a decoder of 8 bits says so only when it tries
                got = f"JPEG of {bits} bits a sample, not lossless"
                do = "install pylibjpeg-libjpeg (GPL), or decompress it first"
                raise UnsupportedInput(header.name, got, "one with a decoder", do) from None
            got = f"pixels that cannot be decoded ({type(failure).__name__})"
            raise PixelError(header.name, got, "a whole file", "copy it again") from None
    return stored[None] if stored.ndim == 2 else stored


def _what_decodes(decoder: Any) -> str:
    """What to do for pixels that no decoder is installed for."""
    needed = [] if decoder is None else [text.split(" requires ")[-1] for text in decoder.missing_dependencies]
    return f"install {' or '.join(needed)}" if needed else "nothing to install decodes it: decompress it first"


def _check_length(header: Header, dataset: Any, length: int) -> None:
    pixels = int(dataset.Rows) * int(dataset.Columns) * int(dataset.get("NumberOfFrames") or 1)
    needed = pixels * int(dataset.BitsAllocated) // 8
    if not needed <= length <= needed + needed % 2:
        do = "the file is cut off" if length < needed else "the header does not fit the pixels"
        raise PixelError(header.name, f"{length} bytes of pixels", str(needed), do)


@dataclass(frozen=True)
class Rescale:
    """``value = stored * slope + intercept``, in the unit of the scan.

    implied : whether the unit follows from the kind of image, though RescaleType says "unspecified"
    """

    slope: float
    intercept: float
    unit: str
    implied: bool = False


def rescale_of(header: Header, modality: str) -> Rescale:
    """RescaleSlope (1 where absent), RescaleIntercept (0 where absent, but in CT) and unit; raises PixelError."""
    slope, intercept = header.dataset.get("RescaleSlope"), header.dataset.get("RescaleIntercept")
    if modality == "CT" and intercept is None:
        raise PixelError(header.name, "a CT without RescaleIntercept", "one: HU are unknown otherwise")
    try:
        m, b = float(1 if slope is None else slope), float(0 if intercept is None else intercept)
    except (TypeError, ValueError):
        raise PixelError(header.name, "an unreadable rescale", "two numbers") from None
    if not (np.isfinite(m) and np.isfinite(b)) or m == 0:
        got = f"RescaleSlope {m:g}, RescaleIntercept {b:g}"
        raise PixelError(header.name, got, "finite numbers, slope not 0")
    unit, implied = _ct_unit(header) if modality == "CT" else ("arbitrary", False)
    return Rescale(m, b, header.text("Units") or unit if modality == "PT" else unit, implied)


def _ct_unit(header: Header) -> tuple[str, bool]:
    """What RescaleType says, "arbitrary" where that is no term of the standard, and whether it is implied.

    A CT of one energy need not say it if its values are HU, and those of an original slice are HU by the standard
    (PS3.3 C.8.2.1), even where they are called unspecified.
    """
    term = header.text("RescaleType").strip().upper()
    several = header.text("MultienergyCTAcquisition").strip().upper() == "YES"
    if not term and several:
        raise PixelError(header.name, "a CT of several energies without RescaleType", "one: its unit is unknown")
    if term in ("", "HU"):
        return "HU", False
    kind = header.text("ImageType").upper().split("\\")
    original = kind[0] == "ORIGINAL" and "LOCALIZER" not in kind and not several
    if term == "US" and original:
        return "HU", True
    return (term if term in _CT_UNITS else "arbitrary"), False
