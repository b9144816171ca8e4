"""The header of one DICOM file: its attributes without pixels.

The b-value and gradient direction are taken from the standard's attributes or from where vendors keep them, by the
vendors' conformance statements: GE (0043,1039) and (0019,10BB) to (0019,10BD), Siemens (0019,100C) and (0019,100E),
Philips (2001,1003) and (2005,10B0) to (2005,10B2).
"""

from __future__ import annotations

import functools
import logging
import re
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from medldm.errors import LimitError, PixelError
from medldm.io.choice import MAX_BYTES
from medldm.io.dicom.elements import quick_dataset

logging.getLogger("pydicom").addHandler(logging.NullHandler())  # else its remarks go to stderr
_LARGE_BLOB = _HEAD = 16384  # bytes
_UID = re.compile(rb"[0-9.]+[\0 ]*").fullmatch
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_MOST_INFLATED = 2**26
_IMPLAUSIBLE_RATIO = 200
_DIFFUSION = ("DiffusionBValue", "DiffusionGradientOrientation")
_GE_OFFSET = 1e9  # added by GE where the b-value is not the nominal one
_B_VALUE = (
    (0x0043, "GEMS_PARM_01", 0x39),
    (0x0019, "SIEMENS MR HEADER", 0x0C),
    (0x2001, "Philips Imaging DD 001", 0x03),
)
_DIRECTION = (
    (0x0019, "GEMS_ACQU_01", (0xBB, 0xBC, 0xBD)),
    (0x0019, "SIEMENS MR HEADER", (0x0E,)),
    (0x2005, "Philips MR Imaging DD 001", (0xB0, 0xB1, 0xB2)),
)


@dataclass(frozen=True)
class Tile:
    """Where in a picture of `rows` x `columns` a slice starts that is stored beside others."""

    row: int
    column: int
    rows: int
    columns: int


@dataclass(frozen=True, eq=False)
class Header:
    """Attributes of one image without pixels.

    frame : counts from 1 in a multi-frame file, else None
    pixels_at : where in the file the element with the pixels starts, None if it is deflated
    tile : the part of the file's picture that is this slice, None for the whole
    """

    path: Path
    dataset: Any
    frame: int | None = None
    pixels_at: int | None = None
    tile: Tile | None = None

    @property
    def name(self) -> str:
        """File name and frame, for messages."""
        return self.path.name if self.frame is None else f"{self.path.name}, frame {self.frame}"

    def text(self, keyword: str) -> str:
        """An attribute as text, several values with backslashes between them, "" where absent."""
        tag = _tag(keyword)
        element = None if tag is None else self.dataset.get_item(tag)
        if element is None and keyword not in _DIFFUSION:
            return ""
        if element is not None and element.VR == "UI" and element.is_raw and _UID(element.value or b""):
            return _decoded(element.value)  # what nearly every image is asked for
        value = _diffusion(self.dataset, keyword) if keyword in _DIFFUSION else self.dataset.get(keyword)
        if value is None:
            return ""
        parts = value if not isinstance(value, str | bytes) and hasattr(value, "__len__") else [value]
        return "\\".join(f"{part:g}" if type(part) is float else str(part) for part in parts)

    def raw(self, keyword: str) -> Any:
        """An attribute as it stands in the file: what is equal here has equal values, and needs no decoding."""
        element = self.dataset.get_item(_tag(keyword))
        if element is None:
            return ""
        return (element.VR, element.value, element.is_little_endian) if element.is_raw else repr(element.value)

    def raws(self, keywords: tuple[str, ...]) -> tuple[Any, ...]:
        """The same for several attributes: what is worked out for one image holds for all with equal ones."""
        return tuple(map(self.raw, keywords))

    def number(self, keyword: str, default: int) -> int:
        """A whole number, `default` where absent. Raises PixelError for anything else."""
        value = self.dataset.get(keyword)
        if value is None:
            return default
        try:
            return int(value)
        except (TypeError, ValueError):
            raise PixelError(self.name, f"an unreadable {keyword}", "a whole number") from None

    def decimals(self, keyword: str) -> list[float] | None:
        """Numbers of an attribute that stands as decimal text in the file, None where it does not."""
        element = self.dataset.get_item(_tag(keyword))
        if element is None or not element.is_raw or element.VR != "DS" or not element.value:
            return None
        try:
            return [float(part) for part in element.value.rstrip(b"\0 ").split(b"\\")]
        except ValueError:
            return None

    @functools.cached_property
    def sop_class(self) -> str:
        """UID of the kind of object, if need be from the file meta information (a DICOMDIR, a cut file)."""
        meta = getattr(self.dataset, "file_meta", None)
        return self.text("SOPClassUID") or str((meta or {}).get("MediaStorageSOPClassUID", ""))


@functools.lru_cache(maxsize=4096)
def _decoded(uid: bytes) -> str:
    return uid.rstrip(b"\0 ").decode()


@functools.cache
def _tag(keyword: str) -> Any:
    """Tag of a keyword, None for a word that is none."""
    from pydicom.tag import Tag

    try:
        return Tag(keyword)
    except ValueError:
        return None


def _diffusion(dataset: Any, keyword: str) -> Any:
    """Value of "DiffusionBValue" (s/mm^2) or "DiffusionGradientOrientation" (a list), None where unknown."""
    value = dataset.get(keyword)
    if value is not None:
        return value
    if keyword == "DiffusionBValue":
        for group, creator, offset in _B_VALUE:
            numbers = private_numbers(dataset, group, creator, offset)
            if numbers:
                return numbers[0] % _GE_OFFSET
        return None
    nested = dataset.get("DiffusionGradientDirectionSequence")
    if nested:
        return nested[0].get(keyword)
    for group, creator, offsets in _DIRECTION:
        parts = [n for offset in offsets for n in private_numbers(dataset, group, creator, offset)]
        if len(parts) == 3:
            return parts
    return None


def private_element(dataset: Any, group: int, creator: str, offset: int) -> Any:
    """A private element, None where absent."""
    try:
        return dataset.private_block(group, creator)[offset]
    except KeyError:  # de-identified: the block is kept, the name of its creator is not
        words = creator.replace("Image Private Header", "UIH").split()
        vendor = words[0].split("_")[0].removesuffix("MS")  # GE, SIEMENS, Philips, UIH
        known = vendor.upper() in str(dataset.get("Manufacturer", "")).upper()
        return dataset.get((group, 0x1000 + offset)) if known else None


def private_numbers(dataset: Any, group: int, creator: str, offset: int) -> list[float]:
    """Numbers of a private attribute, [] where absent or unreadable."""
    element = private_element(dataset, group, creator, offset)
    value: Any = None if element is None else element.value
    try:
        several = hasattr(value, "__len__") and not isinstance(value, str | bytes)
        return [float(v) for v in (value if several else [value])]
    except (TypeError, ValueError):
        return []


def looks_like_dicom(path: Path) -> bool:
    """Whether a file has the DICOM prefix, or starts as a data set without it."""
    try:
        with path.open("rb") as file:
            return _starts_like_dicom(file.read(132))
    except OSError:
        return False


def _starts_like_dicom(start: bytes) -> bool:
    if start[128:132] == b"DICM":
        return True
    # group 0002 or 0008 in front, and a VR of two capitals or the upper half of a short length
    return start[:2] in (b"\x02\x00", b"\x08\x00", b"\x00\x08") and (start[4:6].isalpha() or start[6:8] == b"\0\0")


def _check_inflated(where: str, data: bytes, max_bytes: int) -> None:
    """Raise LimitError for a deflated file that grows beyond `max_bytes`, or as only a bomb does."""
    try:
        start = data.index(b"\x02\x00\x00\x00UL\x04\x00") + 8
        start += 4 + int.from_bytes(data[start : start + 4], "little")
    except ValueError:
        return  # no group length: pydicom says what is wrong
    most = min(max_bytes, max(_MOST_INFLATED, _IMPLAUSIBLE_RATIO * len(data)))
    inflater, total, rest = zlib.decompressobj(-zlib.MAX_WBITS), 0, data[start:]
    while rest and not inflater.eof:
        try:
            total += len(inflater.decompress(rest, 2**20))
        except zlib.error:
            return
        rest = inflater.unconsumed_tail
        if total > most:
            got = f"{len(data)} bytes that inflate to more than {most}"
            raise LimitError(where, got, f"at most {most}", "the file is forged")


def read_header(path: Path, max_bytes: int = MAX_BYTES) -> Header | None:
    """Attributes before the pixels, None where a file is not DICOM.

    Raises PixelError for a damaged or unreadable file, LimitError for one that would inflate beyond `max_bytes`.
    """
    try:
        with path.open("rb") as file:
            start = file.read(_HEAD)
            if not _starts_like_dicom(start):
                return None
            quick = quick_dataset(start, _LARGE_BLOB)
            if quick is None and len(start) == _HEAD:  # a long header
                start += file.read()
                quick = quick_dataset(start, _LARGE_BLOB)
            if quick is not None:
                return Header(path, quick[0], None, quick[1])
            deflated = _DEFLATED in start[:1024]
            if deflated:
                _check_inflated(path.name, start + file.read(), max_bytes)
            file.seek(0)
            dataset = _parsed(file, path.name)
            at = None if deflated else file.tell()
    except OSError as failure:
        raise PixelError(path.name, failure.strerror or "unreadable", "a readable file") from None
    return None if dataset is None else Header(path, dataset, None, at)


def _parsed(file: BinaryIO, where: str) -> Any:
    """The data set without pixels and large private data, None where there is none."""
    import pydicom
    from pydicom.errors import InvalidDicomError

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's warnings quote values, which may be a patient's
        try:
            dataset = pydicom.dcmread(file, stop_before_pixels=True)
        except InvalidDicomError:
            file.seek(0)
            try:
                dataset = pydicom.dcmread(file, stop_before_pixels=True, force=True)
            except Exception:
                return None
            if "SOPClassUID" not in dataset or not ("Rows" in dataset or _is_known(dataset.SOPClassUID)):
                return None
        except Exception as failure:
            raise PixelError(where, f"a damaged header ({type(failure).__name__})", "a whole file") from None
        blobs = [t for t in dataset.keys() if t.group & 1 or t.group & 0xFF00 == 0x6000]  # noqa: SIM118
        for tag in blobs:
            value = dataset.get_item(tag).value
            if isinstance(value, bytes) and len(value) > _LARGE_BLOB:
                del dataset[tag]
    return dataset


def _is_known(uid: Any) -> bool:
    """Whether the standard's table has a name for a UID; junk that parses has none."""
    from pydicom.uid import UID

    return str(UID(str(uid)).name) != str(uid)
