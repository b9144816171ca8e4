"""A quick way through the header of the usual kind of DICOM file; pydicom reads all others.

Explicit VR little endian (DICOM PS3.5, 7.1.2), tags in their order, pixels at the end: for anything else the
answer is "not this way", so that nothing is judged here.
"""

from __future__ import annotations

import functools
import struct
import warnings
from io import BytesIO
from typing import Any

_PIXELS = (0x7FE00008, 0x7FE00009, 0x7FE00010)
_SYNTAX = 0x00020010
_CHARACTERS = 0x00080005
_EXPLICIT_LITTLE = ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2.5")
_COMPRESSED = "1.2.840.10008.1.2.4."
_UNDEFINED = 0xFFFFFFFF
_END_OF_SEQUENCE = b"\xfe\xff\xdd\xe0"
_START = struct.Struct("<HH2sH").unpack_from
_LENGTH = struct.Struct("<L").unpack_from
# VR -> its name, and whether its length takes 32 bits after two bytes that are not used
_SHORT = "AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US"
_LONG = "OB OD OF OL OV OW SQ SV UC UN UR UT UV"
_VRS = {vr.encode(): (vr, vr in _LONG) for vr in f"{_SHORT} {_LONG}".split()}


def quick_dataset(data: bytes, largest_blob: int) -> tuple[Any, int] | None:
    """Attributes in front of the pixels, as pydicom gives them, and where the element of the pixels starts.

    data : a file from its start, at least up to its pixels
    largest_blob : private attributes and overlays of more bytes are left out
    None where the file is not of the usual kind, or `data` ends too early.
    """
    if data[128:132] != b"DICM":
        return None
    read = _elements(data, 132, 2, None, largest_blob)
    if read is None or _SYNTAX not in read[0]:
        return None
    meta, at = read
    value = meta[_SYNTAX].value
    syntax = value.rstrip(b"\0 ").decode("ascii", "replace") if isinstance(value, bytes) else ""
    if syntax not in _EXPLICIT_LITTLE and not syntax.startswith(_COMPRESSED):
        return None
    read = _elements(data, at, None, "iso8859", largest_blob)
    if read is None:
        return None
    return _dataset(*read, meta)


def _dataset(elements: dict[Any, Any], at: int, meta: dict[Any, Any]) -> tuple[Any, int]:
    from pydicom.dataset import Dataset, FileMetaDataset

    dataset, file_meta = Dataset(elements), FileMetaDataset(meta)
    encoding = _encoding(elements[_CHARACTERS].value) if _CHARACTERS in elements else "iso8859"
    dataset.set_original_encoding(False, True, encoding)
    file_meta.set_original_encoding(False, True, "iso8859")
    dataset.file_meta = file_meta
    return dataset, at


def _elements(
    data: bytes, at: int, group: int | None, encoding: Any, largest_blob: int
) -> tuple[dict[Any, Any], int] | None:
    """Elements of one group, or all up to the pixels, and where the next one starts; None where unusual."""
    from pydicom.dataelem import RawDataElement

    found: dict[Any, Any] = {}
    make = RawDataElement._make  # without the detour over its defaults
    size, last = len(data), 0 if group else 0x0002FFFF
    while at + 12 <= size:
        number, element, code, length = _START(data, at)
        tag = number << 16 | element
        if tag in _PIXELS if group is None else number != group:
            return found, at
        known = _VRS.get(code)
        if known is None or tag <= last:
            return None
        vr, long = known
        start, last = at + 8, tag
        if long:
            start += 4
            length = _LENGTH(data, at + 8)[0]
        if length == _UNDEFINED:
            sequence = _sequence(data, start, encoding) if vr == "SQ" and group is None else None
            if sequence is None:
                return None
            value, at = sequence
            found[_tag(tag)] = _nested(_tag(tag), value, start)
            continue
        at = start + length
        if at > size:
            return None
        if length > largest_blob and (number & 1 or number & 0xFF00 == 0x6000):
            continue
        raw = data[start:at] if length else _empty(vr)
        if tag == _CHARACTERS:
            encoding = _encoding(raw)
        key = _tag(tag)
        found[key] = make((key, vr, length, raw, start, False, True, True, False))
    return None


def _sequence(data: bytes, start: int, encoding: Any) -> tuple[Any, int] | None:
    """A sequence without a length, by pydicom, and where it ends; None where `data` ends first."""
    from pydicom.filereader import read_sequence

    file = BytesIO(data)
    file.seek(start)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            sequence = read_sequence(file, False, True, _UNDEFINED, encoding)
    except Exception:  # cut off or damaged: the whole file is read by pydicom then
        return None
    end = file.tell()
    return (sequence, end) if data[end - 8 : end - 4] == _END_OF_SEQUENCE else None


def _nested(tag: Any, sequence: Any, start: int) -> Any:
    from pydicom.dataelem import DataElement

    return DataElement(tag, "SQ", sequence, start, is_undefined_length=True)


@functools.cache
def _empty(vr: str) -> Any:
    from pydicom.dataelem import empty_value_for_VR

    return empty_value_for_VR(vr, raw=True)


@functools.lru_cache(maxsize=4096)
def _tag(number: int) -> Any:
    from pydicom.tag import BaseTag

    return BaseTag(number)


@functools.lru_cache(maxsize=64)
def _encoding(value: bytes | None) -> Any:
    """Python's names of the character sets that SpecificCharacterSet names."""
    from pydicom.charset import convert_encodings
    from pydicom.values import convert_string

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return convert_encodings(convert_string(value or b"", True))
