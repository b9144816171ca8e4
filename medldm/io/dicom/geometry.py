"""From the positions and orientations of classic slices to one affine. LPS becomes RAS here.

DICOM PS3.3 C.7.6.2: a pixel at (column i, row j) lies at ``IPP + i * PS[1] * IOP[:3] + j * PS[0] * IOP[3:]``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medldm.errors import GeometryError
from medldm.geometry import LARGEST_COORDINATE, Geometry
from medldm.io.choice import check_size
from medldm.io.dicom.header import Header
from medldm.io.dicom.kinds import lies_nowhere, sop_class_name

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
ON_LINE_MM = 0.05
SAME_PLACE_MM = 0.01
COSINE = 1e-3
# Of radiographs: in the patient, on the detector, on a film
FLAT_SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")
_MAGNIFICATION = "EstimatedRadiographicMagnificationFactor"
_ROUNDED_TO_MM = (1.0, 0.5, 0.1)
GRID_KEYWORDS = ("Rows", "Columns", "PixelSpacing", "ImageOrientationPatient")


def numbers(header: Header, keyword: str, count: int) -> NDArray[np.float64]:
    """`count` finite numbers of an attribute; raises GeometryError."""
    found: Any = header.decimals(keyword)
    if found is None:
        found = header.dataset.get(keyword)
    if found is None:
        raise GeometryError(header.name, f"no {keyword}", f"{count} numbers", _why_missing(header, keyword))
    try:
        values = np.atleast_1d(np.array(found, dtype=np.float64))
    except (TypeError, ValueError):
        raise GeometryError(header.name, f"an unreadable {keyword}", f"{count} numbers") from None
    if values.shape != (count,) or not np.isfinite(values).all() or np.abs(values).max() > LARGEST_COORDINATE:
        raise GeometryError(header.name, f"{keyword} {values.tolist()}", f"{count} finite numbers")
    return values


def _why_missing(header: Header, keyword: str) -> str:
    if keyword == "PixelSpacing" and "ImagerPixelSpacing" in header.dataset:
        return "ImagerPixelSpacing is measured on the detector, not in the patient"
    return f"{sop_class_name(header)} does not say where it lies; get it as the scanner wrote it"


def check_place(header: Header) -> None:
    """Raise GeometryError for a radiograph that does not say where it lies, naming the option that takes it."""
    if lies_nowhere(header):
        got = f"no ImagePositionPatient: {sop_class_name(header)} does not say where it lies in the patient"
        do = "take it as a flat image at a place made up: --assume-affine (assume_affine=True)"
        raise GeometryError(header.name, got, "a place", do)


def orientation(header: Header) -> NDArray[np.float64]:
    """Unit vectors (2, 3) in LPS along which columns and rows are counted; raises GeometryError."""
    iop = numbers(header, "ImageOrientationPatient", 6).reshape(2, 3)
    lengths, cosine = np.linalg.norm(iop, axis=1), float(iop[0] @ iop[1])
    if np.abs(lengths - 1).max() > COSINE or abs(cosine) > COSINE:
        got = f"ImageOrientationPatient {iop.ravel().tolist()}"
        raise GeometryError(header.name, got, "two unit vectors at a right angle")
    first = iop[0] / lengths[0]
    second = iop[1] - (iop[1] @ first) * first
    return np.stack([first, second / np.linalg.norm(second)])


def pixel_spacing(header: Header, keyword: str = "PixelSpacing") -> NDArray[np.float64]:
    """Distance between rows, then between columns, mm; raises GeometryError."""
    spacing = numbers(header, keyword, 2)
    if (spacing <= 0).any():
        raise GeometryError(header.name, f"{keyword} {spacing.tolist()}", "two lengths > 0")
    return spacing


def sort_slices(headers: Sequence[Header]) -> tuple[list[Header], NDArray[np.float64]]:
    """Headers and positions (n, 3) in LPS mm in the order along the normal."""
    u, v = orientation(headers[0])
    normal = np.cross(u, v)
    positions = _positions(headers)
    heights = [round(z, 3) for z in (positions @ normal).tolist()]
    common = Counter(heights)
    # equal places are told apart by UID, so that the order of files does not matter
    keys = [(z, h.text("SOPInstanceUID") if common[z] > 1 else "") for z, h in zip(heights, headers, strict=True)]
    order = sorted(range(len(headers)), key=lambda i: keys[i])
    return [headers[i] for i in order], positions[order]


def _positions(headers: Sequence[Header]) -> NDArray[np.float64]:
    """ImagePositionPatient (n, 3), at once where all are plain decimal text; raises GeometryError."""
    found = [h.decimals("ImagePositionPatient") for h in headers]
    if all(place is not None and len(place) == 3 for place in found):
        positions = np.array(found, dtype=np.float64)
        if np.isfinite(positions).all() and np.abs(positions).max() <= LARGEST_COORDINATE:
            return positions
    return np.array([numbers(h, "ImagePositionPatient", 3) for h in headers])


def same_places(positions: NDArray[np.float64]) -> list[tuple[int, int]]:
    """Neighbours in the sorted stack that lie at the same place."""
    steps = np.linalg.norm(np.diff(positions, axis=0), axis=1)
    return [(int(i), int(i) + 1) for i in np.nonzero(steps < SAME_PLACE_MM)[0]]


def is_even(positions: NDArray[np.float64]) -> bool:
    """Whether sorted positions lie on one line with one step."""
    line = np.linspace(positions[0], positions[-1], len(positions))
    return bool(np.linalg.norm(positions - line, axis=1).max() <= ON_LINE_MM and not same_places(positions))


def stack_geometry(headers: Sequence[Header], positions: NDArray[np.float64]) -> tuple[Geometry, bool]:
    """Grid (columns, rows, slices) of a sorted stack, and whether the step is taken from SliceThickness.

    A step that is not along the normal (tilted gantry) is kept: the affine is sheared then. Raises
    GeometryError for uneven slices, naming the place of a missing one.
    """
    normal, count = np.cross(*orientation(headers[0])), len(headers)
    if count == 1:
        step = normal * header_thickness(headers[0])
    else:
        step = (positions[-1] - positions[0]) / (count - 1)
        line = positions[0] + np.arange(count)[:, None] * step
        off = np.linalg.norm(positions - line, axis=1)
        if off.max() > ON_LINE_MM or step @ normal < SAME_PLACE_MM:
            raise _uneven(positions, normal, float(off.max()))
    geometry = _grid(headers[0], positions[0], step, count)
    _check_corners(geometry, headers, positions)
    return geometry, count == 1


def even_geometry(headers: Sequence[Header], positions: NDArray[np.float64]) -> tuple[Geometry, NDArray[np.float64]]:
    """Grid of even slices from the first to the last of an uneven stack, about as many as there are.

    Also returns the place of each new slice among the old ones, (n,), as a fractional index. Raises
    GeometryError where the slices do not lie on one line.
    """
    normal = np.cross(*orientation(headers[0]))
    length = float(np.linalg.norm(positions[-1] - positions[0]))
    along = (positions[-1] - positions[0]) / max(length, SAME_PLACE_MM)
    places = (positions - positions[0]) @ along
    off = float(np.linalg.norm(positions - positions[0] - places[:, None] * along, axis=1).max())
    steps = np.diff(places)
    if _are_two_passes(steps):
        raise _uneven(positions, normal, off)
    if off > ON_LINE_MM or steps.min() < SAME_PLACE_MM or along @ normal < 0.5:
        raise _uneven(positions, normal, off)
    count = round(length / float(np.median(steps))) + 1
    check_size(headers[0].name, (headers[0].number("Columns", 0), headers[0].number("Rows", 0), count))
    wanted = np.linspace(0, length, count)
    geometry = _grid(headers[0], positions[0], along * length / max(count - 1, 1), count)
    return geometry, np.interp(wanted, places, np.arange(len(places), dtype=np.float64))


def flat_geometry(header: Header) -> tuple[Geometry, str]:
    """A made-up place for a radiograph, as for a picture, and what its spacing is.

    PixelSpacing counts where it was corrected for the magnification: it says so, or differs from that on the detector
    (PS3.3 10.7.1.3). Else it is the detector's, divided by EstimatedRadiographicMagnificationFactor if that is known;
    else that on a film. Raises GeometryError where none is known.
    """
    known = [k for k in FLAT_SPACINGS if header.dataset.get(k) is not None]
    if not known:
        do = "save it as PNG, where 1 mm a pixel is assumed"
        raise GeometryError(header.name, f"no {' and no '.join(FLAT_SPACINGS)}", "the size of a pixel", do)
    source, factor, (patient, detector, _) = known[0], 1.0, FLAT_SPACINGS
    spacing = pixel_spacing(header, source)
    if source == patient and detector in known and not header.text("PixelSpacingCalibrationType"):
        source = detector if np.allclose(spacing, pixel_spacing(header, detector), rtol=1e-4) else patient
    if source == detector:
        spacing = pixel_spacing(header, detector)
        if header.dataset.get(_MAGNIFICATION) is not None:
            factor = float(numbers(header, _MAGNIFICATION, 1)[0])
    if factor <= 0:
        raise GeometryError(header.name, f"{_MAGNIFICATION} {factor:g}", "a factor > 0", "correct it, or save as PNG")
    row, column = spacing / factor
    shape = (header.number("Columns", 0), header.number("Rows", 0), 1)
    text = source if factor == 1 else f"{source} / {factor:g}"
    return Geometry(np.diag([-column, -row, 1.0, 1.0]), shape), text


def _grid(header: Header, first: NDArray[np.float64], step: NDArray[np.float64], count: int) -> Geometry:
    u, v = orientation(header)
    row_spacing, column_spacing = pixel_spacing(header)
    affine = np.eye(4)
    affine[:3, :3] = np.stack([u * column_spacing, v * row_spacing, step], axis=1)
    affine[:3, 3] = first
    return Geometry(LPS_TO_RAS @ affine, (header.number("Columns", 0), header.number("Rows", 0), count))


def _check_corners(geometry: Geometry, headers: Sequence[Header], positions: NDArray[np.float64]) -> None:
    """Compare the grid with each image's own attributes, at its four corners; raises GeometryError.

    The bound is that of the positions and of the rounding that an orientation may have.
    """
    columns, rows, count = geometry.shape
    corners = np.array([[i, j] for i in (0, columns - 1) for j in (0, rows - 1)], dtype=np.float64)
    known: dict[tuple[Any, ...], NDArray[np.float64]] = {}
    each = []
    for header in headers:
        raw = header.raws(GRID_KEYWORDS)
        if raw not in known:
            row_spacing, column_spacing = pixel_spacing(header)
            known[raw] = orientation(header) * [[column_spacing], [row_spacing]]
        each.append(known[raw])
    axes = np.stack(each)
    own = (positions[:, None] + corners @ axes) * (-1, -1, 1)
    ijk = np.concatenate([np.tile(corners, (count, 1)), np.repeat(np.arange(count), 4)[:, None]], axis=1)
    off = np.linalg.norm(own - geometry.to_world(ijk).reshape(count, 4, 3), axis=2).max(axis=1)
    worst = int(np.argmax(off - COSINE * np.linalg.norm(corners[-1] @ axes, axis=1)))
    if off[worst] > ON_LINE_MM + COSINE * float(np.linalg.norm(corners[-1] @ axes[worst])):
        got = f"corners {off[worst]:.3f} mm off the grid"
        raise GeometryError(headers[worst].name, got, "the grid of its series")


def header_thickness(header: Header) -> float:
    """SliceThickness of a single slice, mm; raises GeometryError."""
    if header.dataset.get("SliceThickness") is None:
        raise GeometryError(header.name, "a single slice without SliceThickness", "a thickness in mm")
    thickness = float(numbers(header, "SliceThickness", 1)[0])
    if thickness <= 0:
        raise GeometryError(header.name, f"SliceThickness {thickness:g}", "a thickness > 0 mm")
    return thickness


def _uneven(positions: NDArray[np.float64], normal: NDArray[np.float64], off: float) -> GeometryError:
    """What is wrong with the positions: a gap, rounding, or no even step at all."""
    where, rounded = f"series of {len(positions)} slices", _as_rounded(positions)
    steps = np.diff(positions @ normal)
    usual = float(np.median(steps)) if len(steps) > 2 else float(steps.min())
    share = steps / usual if usual > SAME_PLACE_MM else np.zeros_like(steps)
    whole = np.rint(share)
    lacking = ""
    if (np.abs(share - whole) * usual <= ON_LINE_MM).all() and (whole >= 1).all() and whole.max() > 1:
        at = int(np.argmax(whole))
        missing = positions[at] + (positions[at + 1] - positions[at]) / whole[at]
        place = "\\".join(f"{x:.2f}" for x in missing)
        lacking = f"{int(whole.sum()) - len(steps)} missing slices, the first at ImagePositionPatient {place} mm"
    if lacking and not rounded:
        return GeometryError(where, lacking, f"a slice every {usual:.3f} mm", "find the missing files")
    if not rounded and _are_two_passes(steps):
        do = "divide the series, or choose one by its values (select); passes are not interpolated together"
        return GeometryError(where, "two passes whose slices lie between each other", "one of them", do)
    got = f"distances of {steps.min():.3f} to {steps.max():.3f} mm along the normal"
    if rounded:
        got += f": places {rounded}" + (f", or {lacking}" if lacking else "")
        do = "export it again with exact places, or interpolate: resample_nonuniform"
        return GeometryError(where, got, f"even slices within {ON_LINE_MM} mm", do)
    got += f", {off:.3f} mm off the line"
    return GeometryError(where, got, f"even slices within {ON_LINE_MM} mm", "or interpolate: resample_nonuniform")


def _are_two_passes(steps: NDArray[np.float64]) -> bool:
    """Whether distances take turns and make up one step together, as those of two even stacks that overlap do."""
    if len(steps) < 3:
        return False
    one, other, third = steps[:-2], steps[1:-1], steps[2:]
    turns = (np.abs(one - third) <= ON_LINE_MM) & (np.abs(one - other) > 2 * ON_LINE_MM)
    together = (np.abs(one + other - steps.max()) <= 2 * ON_LINE_MM) | turns.all()
    return bool((turns & together).any())


def _as_rounded(positions: NDArray[np.float64]) -> str:
    """In words, how the places of even slices were rounded, if that explains them; else ""."""
    index = np.arange(len(positions), dtype=np.float64)
    if len(positions) < 4:  # nearly any three would do
        return ""
    for unit in _ROUNDED_TO_MM:
        if np.abs(positions / unit - np.rint(positions / unit)).max() * unit > 1e-4:
            continue
        # the least worst line, one coordinate at a time: rounding is off by half a unit at most
        steps = [_even_step(index, places, unit / 2 + 1e-4) for places in positions.T]
        if all(step is not None for step in steps):
            length = float(np.linalg.norm([step for step in steps if step is not None]))
            return f"rounded to {unit:g} mm (a step of {length:.3g} mm fits)"
    return ""


def _even_step(index: NDArray[np.float64], places: NDArray[np.float64], most: float) -> float | None:
    """Step of a line that passes all places by at most `most`, None where there is none."""
    with np.errstate(divide="ignore", invalid="ignore"):
        apart, between = np.subtract.outer(index, index), np.subtract.outer(places, places)
        later = apart > 0
        lowest = float(((between - 2 * most) / apart)[later].max())
        highest = float(((between + 2 * most) / apart)[later].min())
    if lowest > highest:
        return None
    return (lowest + highest) / 2
