"""From the headers of one series to a Volume: grid, decoded slices, unit, history."""

from __future__ import annotations

import hashlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medldm.errors import AmbiguousInput, InputError, PixelError
from medldm.geometry import Geometry
from medldm.io.choice import Choice
from medldm.io.dicom.anatomy import anatomy
from medldm.io.dicom.geometry import (
    GRID_KEYWORDS,
    check_place,
    even_geometry,
    flat_geometry,
    same_places,
    sort_slices,
    stack_geometry,
)
from medldm.io.dicom.header import Header
from medldm.io.dicom.kinds import KIND_KEYWORDS, check_supported, lies_nowhere, modality_of
from medldm.io.dicom.partition import what_differs
from medldm.io.dicom.pixels import (
    PIXEL_KEYWORDS,
    RESCALE_KEYWORDS,
    Decoder,
    Layout,
    Rescale,
    are_plain,
    check_declared,
    layout_of,
    rescale_of,
)
from medldm.io.dicom.stacks import select_stack
from medldm.io.dicom.tiles import TILE_KEYWORDS, check_tiles, is_tiled, take_apart
from medldm.marks import AI_PROCESSED, DRAWN, MAPS, QUANTITY, RESEARCH_USE, SYNTHETIC
from medldm.volume import Volume

_THREADS, _TOGETHER = 3, 16  # slices that a thread takes at a time
_OF_ONE = {
    "PatientID": "patients",
    "StudyInstanceUID": "studies",
    "FrameOfReferenceUID": "frames of reference",
}
# ContributionDescription (ContributingEquipmentSequence) of what medldm writes, followed by what a map holds
AI_CONTRIBUTION, OTHER_CONTRIBUTION = f"latent diffusion, {RESEARCH_USE}", "conversion"
_NOTED = ("LossyImageCompression", "PhotometricInterpretation", "PixelPresentation")


@dataclass(frozen=True, eq=False, repr=False)
class DicomSource:
    """What a derived series takes over from the series that was read.

    Attributes
    ----------
    datasets : tuple of pydicom.Dataset
        Attributes without pixels, in the order of slices; of a multi-frame object, one classic-like dataset
        a frame.
    slopes, intercepts : tuple of float
        Rescale of each slice.
    geometry : Geometry
        Grid of the series as read.
    frames : tuple of int or None
        Number of each frame in its file, from 1; None for a file of one slice.
    resampled : bool
        Whether uneven slices were interpolated: the grid is not that of the files then.
    """

    datasets: tuple[Any, ...]
    slopes: tuple[float, ...]
    intercepts: tuple[float, ...]
    geometry: Geometry
    frames: tuple[int | None, ...]
    resampled: bool = False

    def __repr__(self) -> str:
        return f"<DicomSource of {len(self.datasets)} slices>"  # never what is in them: patients are


def check_images(headers: list[Header], choice: Choice) -> None:
    """Refuse images of a kind that is not read, in no known place, or too large. Raises InputError and its children."""
    kinds = {header.raws(KIND_KEYWORDS): header for header in reversed(headers)}
    for header in kinds.values():
        check_supported(header)
    check_declared(headers, choice.max_bytes)
    for header in {h.raws((*TILE_KEYWORDS, *GRID_KEYWORDS)): h for h in reversed(headers)}.values():
        check_tiles(header)
    if not choice.assume_affine:
        for header in headers:
            check_place(header)


@dataclass(frozen=True, eq=False)
class Planned:
    """One volume of a series before its pixels are looked at.

    headers : in the order of the slices
    geometry : of the volume
    places : where the volume's slices lie among the headers, in steps of these; None: each is its own
    notes : for the history
    """

    headers: list[Header]
    geometry: Geometry
    places: NDArray[np.float64] | None
    notes: dict[str, Any]


def volume_of(headers: list[Header], choice: Choice, skipped: Counter[str]) -> Volume:
    """The one volume among the images of a series that `choice` selects. Raises InputError and its children."""
    return assembled(planned(headers, choice), skipped)


def planned(headers: list[Header], choice: Choice) -> Planned:
    """Which images make the one volume that `choice` selects, and where it lies. Raises InputError's children."""
    check_images(headers, choice)
    headers = select_stack(headers, choice.select)
    if lies_nowhere(headers[0]):
        flat, spacing = flat_geometry(headers[0])
        for keyword in ("ImagePositionPatient", "ImageOrientationPatient"):
            headers[0].dataset.pop(keyword, None)  # there, but empty
        return Planned(headers, flat, None, {"affine_assumed": True, "spacing_assumed": True, "spacing_from": spacing})
    tiled = is_tiled(headers[0])
    if tiled:
        headers = take_apart(headers[0])
    _check_belonging(headers)
    headers, positions = sort_slices(headers)
    pairs = same_places(positions)
    if pairs:
        keep = _without_copies(headers, pairs)
        headers, positions = [headers[i] for i in keep], positions[keep]
    notes: dict[str, Any] = {"copies_dropped": len(pairs), "tiled": tiled}
    if choice.resample_nonuniform and len(headers) > 2 and _is_uneven(headers, positions):
        geometry, places = even_geometry(headers, positions)
        steps = np.linalg.norm(np.diff(positions, axis=0), axis=1)
        notes["resampled_from_mm"] = [round(float(s), 4) for s in steps]
        return Planned(headers, geometry, places, notes)
    geometry, notes["step_assumed"] = stack_geometry(headers, positions)
    return Planned(headers, geometry, None, notes)


def _check_belonging(headers: list[Header]) -> None:
    """Raise AmbiguousInput for images of several patients, studies or coordinate systems under one series UID."""
    for keyword, what in _OF_ONE.items():
        if len({header.raw(keyword) for header in headers}) > 1:
            count = len({header.text(keyword) for header in headers} - {""})
            if count > 1:
                got = f"images of {count} {what} ({keyword} differs)"
                raise AmbiguousInput(f"series of {len(headers)} images", got, "one", "divide the series")


def _is_uneven(headers: list[Header], positions: NDArray[np.float64]) -> bool:
    try:
        stack_geometry(headers, positions)
    except InputError:
        return True
    return False


class Slices:
    """The slices of a volume, each to be decoded alone. Raises AmbiguousInput for several units."""

    def __init__(self, headers: list[Header]) -> None:
        modality = modality_of(headers[0])
        known: dict[tuple[Any, ...], tuple[Rescale, Layout]] = {}
        self.headers, self.each = headers, []
        for header in headers:
            raw = header.raws((*PIXEL_KEYWORDS, *RESCALE_KEYWORDS))
            if raw not in known:
                known[raw] = rescale_of(header, modality), layout_of(header)
            self.each.append(known[raw])
        units = sorted({rescale.unit for rescale, _ in self.each})
        if len(units) > 1:
            where, do = f"series of {len(headers)} images", "choose by RescaleType or Units (select)"
            raise AmbiguousInput(where, f"values in {' and '.join(units)}", "one unit", do)
        self.unit = units[0]

    def decode(self, k: int, decoder: Decoder, out: NDArray[np.float32]) -> int:
        """Values of slice k into `out` (rows, columns); returns how many voxels are padding."""
        rescale, layout = self.each[k]
        stored = decoder.stored(self.headers[k], layout)
        _rescale(self.headers[k], stored, rescale, out)
        return layout.count_padding(stored)


def marks(headers: list[Header]) -> dict[str, str]:
    """What medldm left on images that it wrote: that a model contributed to them, and what a map holds; and what any
    program says of images of nobody."""
    found: dict[str, str] = {}
    for header in headers:
        if str(header.dataset.get("SyntheticData") or "") == "YES":
            found[SYNTHETIC] = DRAWN
        for item in header.dataset.get("ContributingEquipmentSequence") or ():
            kind, _, what = str(item.get("ContributionDescription") or "").partition("; ")
            if kind == AI_CONTRIBUTION:
                found[AI_PROCESSED] = RESEARCH_USE
            if kind in (AI_CONTRIBUTION, OTHER_CONTRIBUTION) and what in MAPS:
                found[QUANTITY] = what
    return found


def assembled(plan: Planned, skipped: Counter[str]) -> Volume:
    """Decode the slices in their order, or interpolate between them linearly. Raises InputError's children."""
    headers, geometry, places, notes = plan.headers, plan.geometry, plan.places, plan.notes
    own = Slices(headers)
    columns, rows, _ = geometry.shape
    slices = np.empty((len(headers), rows, columns), dtype=np.float32)  # as stored: one pass over the memory
    decoder = Decoder()

    def fill(part: range) -> int:
        return sum(own.decode(k, decoder, slices[k]) for k in part)

    parts = [range(start, min(start + _TOGETHER, len(headers))) for start in range(0, len(headers), _TOGETHER)]
    with ThreadPoolExecutor(_THREADS if are_plain(headers) else 1) as pool:
        padding = sum(pool.map(fill, parts))
    if places is not None:
        below = np.minimum(places.astype(int), len(headers) - 2)
        share = (places - below)[:, None, None].astype(np.float32)
        slices = slices[below] * (1 - share) + slices[below + 1] * share
    kinds = {header.raws(_NOTED): header for header in headers}.values()
    notes = notes | {
        "sheared": geometry.is_sheared,
        "unit_implied": any(rescale.implied for rescale, _ in own.each),
        "padding_voxels": padding,
        "frames": headers[0].frame is not None,
        "lossy": any(h.text("LossyImageCompression") == "01" for h in kinds),
        "monochrome1": any(h.text("PhotometricInterpretation") == "MONOCHROME1" for h in kinds),
        "shown_in_colour": any(h.text("PixelPresentation") not in ("", "MONOCHROME") for h in kinds),
    }
    step = _history(headers, skipped, decoder.sha256)
    step |= {name: value for name, value in notes.items() if value} | anatomy(headers[0]) | marks(headers)
    slopes, intercepts = tuple(r.slope for r, _ in own.each), tuple(r.intercept for r, _ in own.each)
    datasets, frames = tuple(h.dataset for h in headers), tuple(h.frame for h in headers)
    source = DicomSource(datasets, slopes, intercepts, geometry, frames, places is not None)
    return Volume(slices.transpose(2, 1, 0), geometry, own.unit, modality_of(headers[0]), (step,), source)


def _rescale(header: Header, stored: NDArray[Any], rescale: Rescale, out: NDArray[np.float32]) -> None:
    """``stored * slope + intercept`` in float64, kept as float32. Raises PixelError where it is not finite."""
    whole = rescale.slope == 1 and rescale.intercept == round(rescale.intercept) and abs(rescale.intercept) < 2**23
    if whole and stored.dtype.kind in "iu" and stored.dtype.itemsize <= 2:
        out[:] = stored
        out += np.float32(rescale.intercept)  # exact: whole numbers below 2^24
        return
    values = stored * np.float64(rescale.slope)
    values += rescale.intercept
    out[:] = values
    bad = out.size - int(np.count_nonzero(np.isfinite(out)))
    if bad:
        raise PixelError(header.name, f"{bad} values that are not finite", "finite values")


def _without_copies(headers: list[Header], pairs: list[tuple[int, int]]) -> list[int]:
    """Indices without the second of each pair of equal images; raises AmbiguousInput where pixels differ."""
    for a, b in pairs:
        one, other = (Decoder().stored(headers[i], layout_of(headers[i])) for i in (a, b))
        if not np.array_equal(one, other):
            got = f"{headers[a].name} and {headers[b].name} at the same place with different pixels"
            differing = what_differs(headers[a], headers[b])
            do = f"choose by what differs (select): {differing}" if differing else "keep each in a folder of its own"
            raise AmbiguousInput(f"series of {len(headers)} images", got, "one image a place", do)
    copies = {b for _, b in pairs}
    return [i for i in range(len(headers)) if i not in copies]


def _history(headers: list[Header], skipped: Counter[str], sha256: dict[Path, bytes]) -> dict[str, Any]:
    """The entry of the history. UIDs stay out: they lead to the patient; `sha256` is over the files' own."""
    import pydicom

    step: dict[str, Any] = {"step": "read", "format": "dicom", "pydicom": pydicom.__version__}
    paths = list(dict.fromkeys(h.path for h in headers))
    digest = hashlib.sha256(b"".join(sha256[path] for path in paths))
    step |= {"files": len(paths), "sha256": digest.hexdigest()}
    if skipped:
        step["skipped"] = dict(sorted(skipped.items()))
    return step
