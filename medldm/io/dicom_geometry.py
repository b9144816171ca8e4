"""From the positions and orientations of classic slices to one affine. LPS becomes RAS here.

DICOM PS3.3 C.7.6.2: a pixel at (column i, row j) lies at ``IPP + i * PS[1] * IOP[:3] + j * PS[0] * IOP[3:]``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medldm.errors import AmbiguousInput, GeometryError
from medldm.geometry import LARGEST_COORDINATE, Geometry
from medldm.io.dicom_files import Header, sop_class_name

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
ON_LINE_MM = 0.05
SAME_PLACE_MM = 0.01
_COSINE = 1e-3
_TELL_APART = (
    "EchoTime",
    "DiffusionBValue",
    "TemporalPositionIdentifier",
    "TemporalPositionIndex",
    "TriggerTime",
    "InversionTime",
    "FlipAngle",
    "AcquisitionNumber",
    "ImageType",
    "AcquisitionTime",
    "ContentTime",
)
_SELECT = "leave one of them in the folder"


def numbers(header: Header, keyword: str, count: int) -> NDArray[np.float64]:
    """`count` finite numbers of an attribute; raises GeometryError."""
    if header.dataset.get(keyword) is None:
        raise GeometryError(header.name, f"no {keyword}", f"{count} numbers", _why_missing(header, keyword))
    try:
        values = np.atleast_1d(np.array(header.dataset.get(keyword), dtype=np.float64))
    except (TypeError, ValueError):
        raise GeometryError(header.name, f"an unreadable {keyword}", f"{count} numbers") from None
    if values.shape != (count,) or not np.isfinite(values).all() or np.abs(values).max() > LARGEST_COORDINATE:
        raise GeometryError(header.name, f"{keyword} {values.tolist()}", f"{count} finite numbers")
    return values


def _why_missing(header: Header, keyword: str) -> str:
    if keyword == "PixelSpacing" and "ImagerPixelSpacing" in header.dataset:
        return "ImagerPixelSpacing is measured on the detector, not in the patient"
    return f"{sop_class_name(header)} does not say where it lies"


def orientation(header: Header) -> NDArray[np.float64]:
    """Unit vectors (2, 3) in LPS along which columns and rows are counted; raises GeometryError."""
    iop = numbers(header, "ImageOrientationPatient", 6).reshape(2, 3)
    lengths, cosine = np.linalg.norm(iop, axis=1), float(iop[0] @ iop[1])
    if np.abs(lengths - 1).max() > _COSINE or abs(cosine) > _COSINE:
        got = f"ImageOrientationPatient {iop.ravel().tolist()}"
        raise GeometryError(header.name, got, "two unit vectors at a right angle")
    first = iop[0] / lengths[0]
    second = iop[1] - (iop[1] @ first) * first
    return np.stack([first, second / np.linalg.norm(second)])


def pixel_spacing(header: Header) -> NDArray[np.float64]:
    """Distance between rows, then between columns, mm; raises GeometryError."""
    spacing = numbers(header, "PixelSpacing", 2)
    if (spacing <= 0).any():
        raise GeometryError(header.name, f"PixelSpacing {spacing.tolist()}", "two lengths > 0")
    return spacing


def check_one_stack(headers: Sequence[Header]) -> None:
    """Raise AmbiguousInput where orientation, size, spacing or kind of object differ in a series."""
    stacks: list[tuple[Any, ...]] = []
    counts: list[int] = []
    for header in headers:
        dataset = header.dataset
        fixed = (int(dataset.Rows), int(dataset.Columns), header.sop_class)
        measured = np.concatenate([orientation(header).ravel(), pixel_spacing(header)])
        for index, (other, values) in enumerate(stacks):
            if other == fixed and np.abs(values - measured).max() <= _COSINE:
                counts[index] += 1
                break
        else:
            stacks.append((fixed, measured))
            counts.append(1)
    if len(stacks) > 1:
        listing = "; ".join(
            f"{n} of {fixed[1]}x{fixed[0]} with orientation {np.round(values[:6], 3).tolist()}"
            for n, (fixed, values) in zip(counts, stacks, strict=True)
        )
        where = f"series of {len(headers)} images"
        raise AmbiguousInput(where, f"{len(stacks)} stacks: {listing}", "one stack", _SELECT)


def sort_slices(headers: Sequence[Header]) -> tuple[list[Header], NDArray[np.float64]]:
    """Headers and positions (n, 3) in LPS mm in the order along the normal."""
    u, v = orientation(headers[0])
    normal = np.cross(u, v)
    positions = np.array([numbers(h, "ImagePositionPatient", 3) for h in headers])
    # equal places are told apart by UID, so that the order of files does not matter
    keys = [
        (round(float(p @ normal), 3), h.text("SOPInstanceUID"))
        for h, p in zip(headers, positions, strict=True)
    ]
    order = sorted(range(len(headers)), key=lambda i: keys[i])
    return [headers[i] for i in order], positions[order]


def same_places(positions: NDArray[np.float64]) -> list[tuple[int, int]]:
    """Neighbours in the sorted stack that lie at the same place."""
    steps = np.linalg.norm(np.diff(positions, axis=0), axis=1)
    return [(int(i), int(i) + 1) for i in np.nonzero(steps < SAME_PLACE_MM)[0]]


def check_told_apart(headers: Sequence[Header], pairs: Sequence[tuple[int, int]]) -> None:
    """Raise AmbiguousInput where images at one place differ in echo, time or b-value; they are listed."""
    for keyword in _TELL_APART:
        if any(headers[a].text(keyword) != headers[b].text(keyword) for a, b in pairs):
            values: dict[str, int] = {}
            for header in headers:
                value = header.text(keyword) or "none"
                values[value] = values.get(value, 0) + 1
            listing = ", ".join(f"{value} ({n} images)" for value, n in list(values.items())[:8])
            where = f"series of {len(headers)} images"
            raise AmbiguousInput(
                where, f"images at the same place with {keyword} {listing}", "one volume", _SELECT
            )


def stack_geometry(headers: Sequence[Header], positions: NDArray[np.float64]) -> tuple[Geometry, bool]:
    """Grid (columns, rows, slices) of a sorted stack, and whether the step is taken from SliceThickness.

    A step that is not along the normal (tilted gantry) is kept: the affine is sheared then. Raises
    GeometryError for uneven slices, naming the place of a missing one.
    """
    u, v = orientation(headers[0])
    row_spacing, column_spacing = pixel_spacing(headers[0])
    normal, count = np.cross(u, v), len(headers)
    if count == 1:
        thickness = header_thickness(headers[0])
        step = normal * thickness
    else:
        step = (positions[-1] - positions[0]) / (count - 1)
        line = positions[0] + np.arange(count)[:, None] * step
        off = np.linalg.norm(positions - line, axis=1)
        if off.max() > ON_LINE_MM or step @ normal < SAME_PLACE_MM:
            raise _uneven(positions, normal, float(off.max()))
    affine = np.eye(4)
    affine[:3, :3] = np.stack([u * column_spacing, v * row_spacing, step], axis=1)
    affine[:3, 3] = positions[0]
    dataset = headers[0].dataset
    shape = (int(dataset.Columns), int(dataset.Rows), count)
    return Geometry(LPS_TO_RAS @ affine, shape), count == 1


def header_thickness(header: Header) -> float:
    """SliceThickness of a single slice, mm; raises GeometryError."""
    if header.dataset.get("SliceThickness") is None:
        raise GeometryError(header.name, "a single slice without SliceThickness", "a thickness in mm")
    thickness = float(numbers(header, "SliceThickness", 1)[0])
    if thickness <= 0:
        raise GeometryError(header.name, f"SliceThickness {thickness:g}", "a thickness > 0 mm")
    return thickness


def _uneven(positions: NDArray[np.float64], normal: NDArray[np.float64], off: float) -> GeometryError:
    """What is wrong with the positions: a gap, or no even step at all."""
    where = f"series of {len(positions)} slices"
    steps = np.diff(positions @ normal)
    usual = float(np.median(steps)) if len(steps) > 2 else float(steps.min())
    share = steps / usual if usual > SAME_PLACE_MM else np.zeros_like(steps)
    whole = np.rint(share)
    if (np.abs(share - whole) * usual <= ON_LINE_MM).all() and (whole >= 1).all() and whole.max() > 1:
        at = int(np.argmax(whole))
        missing = positions[at] + (positions[at + 1] - positions[at]) / whole[at]
        place = "\\".join(f"{x:.2f}" for x in missing)
        got = f"{int(whole.sum()) - len(steps)} missing slices, the first at ImagePositionPatient {place} mm"
        return GeometryError(where, got, f"a slice every {usual:.3f} mm", "find the missing files")
    got = (
        f"distances of {steps.min():.3f} to {steps.max():.3f} mm along the normal, {off:.3f} mm off the line"
    )
    return GeometryError(where, got, f"even slices within {ON_LINE_MM} mm", "resample it with another tool")
