"""Stored pixels of a classic slice, checked for completeness, and their rescale to the unit of the scan."""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medldm.errors import LimitError, PixelError, UnsupportedInput
from medldm.io.dicom_files import Header
from medldm.io.limits import check_size

_IMPLAUSIBLE_RATIO = 1000  # no lossless coder gets there with a scan; a forged header does
_IMPLAUSIBLE_BYTES = 2**26
_DECODERS = "python-gdcm, pylibjpeg-openjpeg or pyjpegls"


@dataclass(frozen=True)
class Slice:
    """Values (rows, columns) float32 in the unit of the scan; sha256 of the file; voxels of padding."""

    values: NDArray[np.float32]
    sha256: str
    pixels_sha256: str
    padding: int


def check_declared(headers: list[Header]) -> None:
    """Check the declared size against the limit and against the files, before anything is decoded."""
    for header in headers:
        dataset = header.dataset
        rows, columns, bits = (int(dataset.get(k) or 0) for k in ("Rows", "Columns", "BitsAllocated"))
        if bits not in (8, 16, 32, 64):
            raise PixelError(header.name, f"BitsAllocated {bits}", "8, 16 or 32")
        check_size(header.name, (columns, rows, len(headers)), max(4, bits // 8))
        size, needed = header.path.stat().st_size, rows * columns * bits // 8
        syntax = _transfer_syntax(header)
        if syntax.is_encapsulated or syntax.is_deflated:
            if needed > _IMPLAUSIBLE_BYTES and needed > _IMPLAUSIBLE_RATIO * size:
                got = f"{columns} x {rows} pixels in a file of {size} bytes"
                raise LimitError(
                    header.name, got, f"at most {_IMPLAUSIBLE_RATIO} : 1", "the header is forged"
                )
        elif size < needed:
            raise PixelError(header.name, f"{size} bytes", f"{needed} bytes of pixels", "the file is cut off")


def _transfer_syntax(header: Header) -> Any:
    from pydicom.uid import UID, ImplicitVRLittleEndian

    meta = getattr(header.dataset, "file_meta", None)
    return UID(str(meta.get("TransferSyntaxUID", ImplicitVRLittleEndian)) if meta else ImplicitVRLittleEndian)


def rescale_of(header: Header, modality: str) -> tuple[float, float]:
    """RescaleSlope (1 where absent) and RescaleIntercept (0 where absent, but in CT); raises PixelError."""
    slope, intercept = header.dataset.get("RescaleSlope"), header.dataset.get("RescaleIntercept")
    if modality == "CT" and intercept is None:
        raise PixelError(header.name, "a CT without RescaleIntercept", "one: HU are unknown otherwise")
    try:
        m, b = float(1 if slope is None else slope), float(0 if intercept is None else intercept)
    except (TypeError, ValueError):
        raise PixelError(header.name, "an unreadable rescale", "two numbers") from None
    if not (np.isfinite(m) and np.isfinite(b)) or m == 0:
        raise PixelError(
            header.name, f"RescaleSlope {m:g}, RescaleIntercept {b:g}", "finite numbers, slope not 0"
        )
    return m, b


def read_slice(header: Header, slope: float, intercept: float) -> Slice:
    """Decode one file. Raises PixelError naming it where pixels are missing, damaged or not finite."""
    try:
        data = header.path.read_bytes()
    except OSError as failure:
        raise PixelError(header.name, failure.strerror or "unreadable", "a readable file") from None
    stored = _stored(header, data)
    padding = _is_padding(header, stored)
    values = (_drop_unused_bits(header, stored) * np.float64(slope) + intercept).astype(np.float32)
    if not np.isfinite(values).all():
        bad = int(np.count_nonzero(~np.isfinite(values)))
        raise PixelError(header.name, f"{bad} values that are not finite", "finite values")
    pixels = hashlib.sha256(np.ascontiguousarray(stored).tobytes()).hexdigest()
    return Slice(values, hashlib.sha256(data).hexdigest(), pixels, int(np.count_nonzero(padding)))


def _stored(header: Header, data: bytes) -> NDArray[Any]:
    """Stored values (rows, columns) as decoded."""
    import pydicom
    from pydicom.pixels.decoders.base import get_decoder

    syntax = _transfer_syntax(header)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if syntax.is_encapsulated:
            try:
                decoder = get_decoder(syntax)
            except NotImplementedError:
                decoder = None
            if decoder is None or not decoder.is_available:
                got = f"transfer syntax {syntax} ({syntax.name})"
                raise UnsupportedInput(header.name, got, "one with a decoder", f"install {_DECODERS}")
        try:
            dataset = pydicom.dcmread(BytesIO(data), force=True)
            if "TransferSyntaxUID" not in dataset.file_meta:
                dataset.file_meta.TransferSyntaxUID = syntax
            keyword = next(
                (k for k in ("PixelData", "FloatPixelData", "DoubleFloatPixelData") if k in dataset), ""
            )
            if not keyword:
                raise PixelError(header.name, "no PixelData", "a whole file", "copy it again")
            if not syntax.is_encapsulated:
                _check_length(header, len(dataset[keyword].value))
            stored = np.asarray(dataset.pixel_array)
        except PixelError:
            raise
        except Exception as failure:  # whatever a decoder raises, its text may quote the header
            got = f"pixels that cannot be decoded ({type(failure).__name__})"
            raise PixelError(header.name, got, "a whole file", "copy it again") from None
    wanted = (int(header.dataset.Rows), int(header.dataset.Columns))
    if stored.shape != wanted:
        raise PixelError(header.name, f"pixels of shape {stored.shape}", str(wanted), "the file is damaged")
    return stored


def _check_length(header: Header, length: int) -> None:
    dataset = header.dataset
    needed = int(dataset.Rows) * int(dataset.Columns) * int(dataset.BitsAllocated) // 8
    if not needed <= length <= needed + needed % 2:
        do = "the file is cut off" if length < needed else "the header does not fit the pixels"
        raise PixelError(header.name, f"{length} bytes of pixels", str(needed), do)


def _is_padding(header: Header, stored: NDArray[Any]) -> NDArray[np.bool_]:
    """Which pixels hold PixelPaddingValue, or lie between it and PixelPaddingRangeLimit."""
    first, second = (header.dataset.get(k) for k in ("PixelPaddingValue", "PixelPaddingRangeLimit"))
    if not isinstance(first, int):
        return np.zeros(stored.shape, dtype=bool)
    low, high = sorted((first, second if isinstance(second, int) else first))
    return (stored >= low) & (stored <= high)


def _drop_unused_bits(header: Header, stored: NDArray[Any]) -> NDArray[Any]:
    """Values of BitsStored bits; what old scanners left above them (overlays) is no pixel value."""
    if stored.dtype.kind not in "iu":
        return stored
    allocated = stored.dtype.itemsize * 8
    bits = int(header.dataset.get("BitsStored", allocated))
    high = int(header.dataset.get("HighBit", bits - 1))
    if not 1 <= bits <= allocated or high != bits - 1:
        got = f"BitsStored {bits}, HighBit {high}"
        raise PixelError(header.name, got, f"up to {allocated} bits from the lowest one")
    shift = allocated - bits
    return stored if shift == 0 else (stored << shift) >> shift
