"""Slices that lie side by side in one classic MR image: Siemens mosaics, UIH's VFRAME. Each image is a volume.

Siemens: the position in the header is that of the whole picture, as if its middle were the slice's; distance and
direction of the slices are those of the private CSA header, since they may run against rows x columns. UIH: each
slice's position is in a private sequence. Both fill the picture row by row from its upper left corner.
"""

from __future__ import annotations

import math
import struct
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medldm.errors import GeometryError, PixelError, UnsupportedInput
from medldm.io.dicom.geometry import COSINE, numbers, orientation, pixel_spacing
from medldm.io.dicom.header import Header, Tile, private_element, private_numbers
from medldm.io.dicom.kinds import CLASSIC

MOSAIC, VFRAME = "MOSAIC", "VFRAME"
# What tells whether an image is tiled, so that it need not be looked for in every image of a series
TILE_KEYWORDS = ("SOPClassUID", "ImageType", "Manufacturer", "00190010", "0019100A", "00650010", "00651050")
_COUNT = (0x0019, "SIEMENS MR HEADER", 0x0A)
_CSA = (0x0029, "SIEMENS CSA HEADER", 0x10)
_UIH_COUNT = (0x0065, "Image Private Header", 0x50)
_UIH_SLICES = (0x0065, "Image Private Header", 0x51)
_CSA_TAG, _CSA_ITEM = struct.Struct("<64si4s3i"), struct.Struct("<4i")
_OF_A_SLICE = ("Rows", "Columns", "ImagePositionPatient", "ImageType", "SliceLocation")
_MOST = 4096  # slices in a picture
_LARGEST_VIEW = 900.0  # mm: wider than any magnet in both directions
_EXPORT = "export it anew with the scanner's private attributes, or convert the original with dcm2niix"


def is_tiled(header: Header) -> bool:
    """Whether the image is a picture of many slices, by its ImageType or by the number of slices in it."""
    kinds = _kinds(header)
    if MOSAIC in kinds or VFRAME in kinds:
        return True
    if CLASSIC.get(header.sop_class) != "MR":
        return False
    if max([*private_numbers(header.dataset, *_COUNT), *private_numbers(header.dataset, *_UIH_COUNT), 0]) > 1:
        return True
    return (_csa_count(header) or 0) > 1


def check_tiles(header: Header) -> None:
    """Raise UnsupportedInput or GeometryError for a picture of many slices that cannot be taken apart."""
    kinds = _kinds(header)
    if (MOSAIC in kinds or VFRAME in kinds) and (CLASSIC.get(header.sop_class) != "MR" or header.frame is not None):
        got = f"slices tiled in one image ({'VFRAME' if VFRAME in kinds else 'MOSAIC'})"
        raise UnsupportedInput(header.name, got, "a classic MR image of the scanner", _EXPORT)
    if CLASSIC.get(header.sop_class) == "MR" and not is_tiled(header) and header.decimals("PixelSpacing"):
        view = pixel_spacing(header) * (header.number("Rows", 0), header.number("Columns", 0))
        if view.min() > _LARGEST_VIEW:
            got = f"an MR slice of {view[0]:g} x {view[1]:g} mm"
            raise GeometryError(header.name, got, "the size of a magnet", f"if slices are tiled in it, {_EXPORT}")


def take_apart(header: Header) -> list[Header]:
    """The slices of a tiled image, each with a header of its own. Raises GeometryError, PixelError."""
    csa = _csa(header)
    if VFRAME in _kinds(header) or private_element(header.dataset, *_UIH_SLICES) is not None:
        positions = _uih_positions(header)
        across = math.ceil(math.sqrt(len(positions)))
        down = math.ceil(len(positions) / across)
        rows, columns = _size(header, down, across, len(positions))
    else:
        count = _count(header, csa)
        across = down = math.ceil(math.sqrt(count))
        rows, columns = _size(header, down, across, count)
        positions = _mosaic_positions(header, csa, count, rows, columns)
    whole = header.number("Rows", 0), header.number("Columns", 0)
    common = [e for e in header.dataset if not e.tag.is_private and e.keyword not in _OF_A_SLICE]
    kept = [k for k in _kinds(header) if k not in (MOSAIC, VFRAME)]
    slices = []
    for k, position in enumerate(positions):
        place = {"Rows": rows, "Columns": columns, "ImagePositionPatient": position.tolist(), "ImageType": kept}
        tile = Tile(k // across * rows, k % across * columns, *whole)
        slices.append(Header(header.path, _dataset(header, common, place), None, header.pixels_at, tile))
    return slices


def _kinds(header: Header) -> list[str]:
    return header.text("ImageType").upper().split("\\")


def _dataset(header: Header, common: list[Any], place: dict[str, Any]) -> Any:
    from pydicom.dataset import Dataset

    result = Dataset()
    for element in common:
        result[element.tag] = element
    for keyword, value in place.items():
        setattr(result, keyword, value)
    implicit, little = header.dataset.original_encoding
    result.set_original_encoding(implicit, little, header.dataset.original_character_set)
    result.file_meta = header.dataset.file_meta
    return result


def _size(header: Header, down: int, across: int, count: int) -> tuple[int, int]:
    """Rows and columns of a slice."""
    rows, columns = header.number("Rows", 0), header.number("Columns", 0)
    if rows % down or columns % across or not rows or not columns:
        got = f"{count} slices tiled in {columns} x {rows} pixels"
        raise GeometryError(header.name, got, f"{across} x {down} tiles of equal size", _EXPORT)
    return rows // down, columns // across


def _count(header: Header, csa: bytes) -> int:
    """Slices in a mosaic; what says it twice has to say the same."""
    found = {round(n) for n in private_numbers(header.dataset, *_COUNT)}
    found |= {round(n) for n in _csa_numbers(header, csa, "NumberOfImagesInMosaic")[:1]}
    if len(found) != 1 or not 1 <= max(found) <= _MOST:
        got = f"a mosaic of {' or '.join(map(str, sorted(found))) or 'an unknown number of'} slices"
        raise GeometryError(header.name, got, "NumberOfImagesInMosaic (0019,100A)", _EXPORT)
    return found.pop()


def _mosaic_positions(header: Header, csa: bytes, count: int, rows: int, columns: int) -> NDArray[np.float64]:
    """ImagePositionPatient of each slice, (count, 3)."""
    u, v = orientation(header)
    row_spacing, column_spacing = pixel_spacing(header)
    normal = np.array(_csa_numbers(header, csa, "SliceNormalVector")[:3])
    if normal.shape != (3,) or not np.isfinite(normal).all():
        got = "a mosaic that does not say in which order its slices lie"
        raise GeometryError(header.name, got, "SliceNormalVector of the CSA header (0029,1010)", _EXPORT)
    along = float(normal @ np.cross(u, v))
    if np.linalg.norm(normal - along * np.cross(u, v)) > 10 * COSINE or abs(abs(along) - 1) > 10 * COSINE:
        got = f"SliceNormalVector {normal.tolist()}"
        raise GeometryError(header.name, got, "one at right angles to rows and columns", _EXPORT)
    step = np.zeros(3) if count == 1 else math.copysign(1, along) * np.cross(u, v) * _distance(header)
    beyond = (header.number("Columns", 0) - columns) / 2, (header.number("Rows", 0) - rows) / 2
    first = numbers(header, "ImagePositionPatient", 3) + u * column_spacing * beyond[0] + v * row_spacing * beyond[1]
    return np.asarray(first + np.arange(count)[:, None] * step)


def _distance(header: Header) -> float:
    """Between two slices: the gap counts, so that SliceThickness is no stand-in."""
    distance = float(numbers(header, "SpacingBetweenSlices", 1)[0])
    if distance <= 0:
        raise GeometryError(header.name, f"SpacingBetweenSlices {distance:g}", "a distance > 0 mm", _EXPORT)
    return distance


def _uih_positions(header: Header) -> NDArray[np.float64]:
    element = private_element(header.dataset, *_UIH_SLICES)
    items = _items(element)
    counts = private_numbers(header.dataset, *_UIH_COUNT)
    if not items or any(round(n) != len(items) for n in counts) or len(items) > _MOST:
        known = f"{len(items)} of {counts[0]:g}" if counts else "no"
        got = f"tiled slices (VFRAME) with {known} positions"
        raise GeometryError(header.name, got, "a position for each slice (0065,1051)", _EXPORT)
    each = [numbers(Header(header.path, item), "ImagePositionPatient", 3) for item in items]
    return np.array(each)


def _items(element: Any) -> list[Any]:
    """Items of a private sequence, also of one whose VR was lost in a transfer; it is implicit then (PS3.5 6.2.2)."""
    if element is None or element.VR == "SQ":
        return [] if element is None else list(element.value)
    from pydicom.filereader import read_sequence

    try:
        return list(read_sequence(BytesIO(element.value), True, True, len(element.value), "iso8859"))
    except Exception:  # no sequence at all
        return []


def _csa(header: Header) -> bytes:
    """The CSA header of an image, b"" where there is none; a large one was left out when the file was first read."""
    element = private_element(header.dataset, *_CSA)
    if element is None and header.pixels_at is not None and "SIEMENS" in header.text("Manufacturer").upper():
        import pydicom

        whole = pydicom.dcmread(header.path, stop_before_pixels=True, force=True)
        element = private_element(whole, *_CSA)
    return bytes(element.value) if element is not None and isinstance(element.value, bytes) else b""


def _csa_count(header: Header) -> int | None:
    element = private_element(header.dataset, *_CSA)
    value = b"" if element is None or not isinstance(element.value, bytes) else element.value
    found = _csa_numbers(header, value, "NumberOfImagesInMosaic")
    return round(found[0]) if found else None


def _csa_numbers(header: Header, csa: bytes, name: str) -> list[float]:
    """Numbers under a name of the CSA header, [] where it is not there. Raises PixelError for a damaged one."""
    at = csa.find(name.encode() + b"\0")
    if at < 0:
        return []
    try:
        count = _CSA_TAG.unpack_from(csa, at)[4]
        first = _CSA_TAG.unpack_from(csa, 8)[4]  # the older form adds this number to every length
        at += _CSA_TAG.size
        texts = []
        for _ in range(min(count, _MOST)):
            lengths = _CSA_ITEM.unpack_from(csa, at)
            length = lengths[1] if csa[:4] == b"SV10" else lengths[0] - first
            at += _CSA_ITEM.size
            if length < 0 or at + length > len(csa):
                break
            texts.append(csa[at : at + length].split(b"\0")[0].strip())
            at += (length + 3) // 4 * 4
        return [float(text) for text in texts if text]
    except (struct.error, ValueError):
        raise PixelError(header.name, "a damaged CSA header", "a whole one", _EXPORT) from None
