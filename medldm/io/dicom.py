"""One classic DICOM series (CT, MR, PET) in: each slice at its place and in its unit, or a reason why not."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medldm.errors import AmbiguousInput, UnsupportedInput
from medldm.geometry import Geometry
from medldm.io.choice import Choice
from medldm.io.dicom_files import (
    CLASSIC,
    Header,
    check_supported,
    list_files,
    looks_like_dicom,
    one_series,
    sop_class_name,
)
from medldm.io.dicom_geometry import (
    check_one_stack,
    check_told_apart,
    orientation,
    pixel_spacing,
    same_places,
    sort_slices,
    stack_geometry,
)
from medldm.io.dicom_pixels import check_declared, read_slice, rescale_of
from medldm.volume import Volume

SUFFIXES = (".dcm", ".dicom", ".ima")


@dataclass(frozen=True, eq=False, repr=False)
class DicomSource:
    """What a derived series takes over from the series that was read.

    Attributes
    ----------
    datasets : tuple of pydicom.Dataset
        Attributes without pixels, in the order of slices.
    slopes, intercepts : tuple of float
        Rescale of each slice.
    geometry : Geometry
        Grid of the series as read.
    """

    datasets: tuple[Any, ...]
    slopes: tuple[float, ...]
    intercepts: tuple[float, ...]
    geometry: Geometry

    def __repr__(self) -> str:
        return f"<DicomSource of {len(self.datasets)} slices>"  # never what is in them: patients are


def can_read(path: Path) -> bool:
    """Whether a file is DICOM, or a folder holds one."""
    files = [path] if path.is_file() else list_files(path, Counter()) if path.is_dir() else []
    return any(looks_like_dicom(file) or file.name.lower().endswith(SUFFIXES) for file in files)


def read(path: Path, choice: Choice | None = None) -> Volume:
    """Read the series in a folder (searched through, links not followed), or the image in a file.

    The array is [column, row, slice], slices ordered along the normal by ImagePositionPatient; file names and
    InstanceNumber play no part. Values are ``stored * RescaleSlope + RescaleIntercept`` of each slice.

    Parameters
    ----------
    path : Path
    choice : Choice, optional
        Which series and which part of it, where there are several.

    Raises
    ------
    EmptyInput, NotImage
        No DICOM, or no image in it.
    AmbiguousInput
        Several series, orientations, echoes, times or b-values.
    GeometryError
        Where the slices lie is unknown or uneven; a missing slice is named by its place.
    PixelError
        A file is cut off or damaged, or its unit unknown; the file is named.
    LimitError
        More than 8 GiB of voxels, or a header that cannot be true.
    UnsupportedInput
        Multi-frame, colour, or a kind of image that has no place in a patient.
    """
    path, choice = Path(path), choice or Choice()
    skipped: Counter[str] = Counter()
    headers = one_series(path, choice.series, skipped)
    for header in headers:
        check_supported(header)
        if header.sop_class not in CLASSIC:
            orientation(header)  # radiographs and captures: say what is missing, if anything is
            pixel_spacing(header)
            raise UnsupportedInput(header.name, sop_class_name(header), "a CT, MR or PET image")
    check_declared(headers)
    check_one_stack(headers)
    headers, positions = sort_slices(headers)
    pairs = same_places(positions)
    check_told_apart(headers, pairs)
    modality = CLASSIC[headers[0].sop_class]
    if pairs:
        keep = _without_copies(headers, pairs)
        headers, positions = [headers[i] for i in keep], positions[keep]
    geometry, step_assumed = stack_geometry(headers, positions)
    rescales = [rescale_of(header, modality) for header in headers]

    array = np.empty(geometry.shape, dtype=np.float32)
    digest, padding = hashlib.sha256(), 0
    for k, (header, (slope, intercept)) in enumerate(zip(headers, rescales, strict=True)):
        image = read_slice(header, slope, intercept)
        array[:, :, k] = image.values.T
        digest.update(bytes.fromhex(image.sha256))
        padding += image.padding
    step = _history(headers, skipped, digest.hexdigest())
    notes = {
        "step_assumed": step_assumed,
        "sheared": geometry.is_sheared,
        "copies_dropped": len(pairs),
        "padding_voxels": padding,
        "lossy": any(h.text("LossyImageCompression") == "01" for h in headers),
        "monochrome1": any(h.text("PhotometricInterpretation") == "MONOCHROME1" for h in headers),
    }
    step |= {name: value for name, value in notes.items() if value}
    slopes, intercepts = zip(*rescales, strict=True)
    source = DicomSource(tuple(h.dataset for h in headers), slopes, intercepts, geometry)
    return Volume(array, geometry, _unit(headers[0], modality), modality, (step,), source)


def _without_copies(headers: list[Header], pairs: list[tuple[int, int]]) -> list[int]:
    """Indices without the second of each pair of equal images; raises AmbiguousInput where pixels differ."""
    for a, b in pairs:
        one, other = (read_slice(headers[i], 1.0, 0.0).pixels_sha256 for i in (a, b))
        if one != other:
            got = f"{headers[a].name} and {headers[b].name} at the same place with different pixels"
            raise AmbiguousInput(
                f"series of {len(headers)} images", got, "one image a place", "remove one of them"
            )
    copies = {b for _, b in pairs}
    return [i for i in range(len(headers)) if i not in copies]


def _history(headers: list[Header], skipped: Counter[str], sha256: str) -> dict[str, Any]:
    """The entry of the history. UIDs stay out: they lead to the patient; `sha256` is over the files' own."""
    import pydicom

    step: dict[str, Any] = {"step": "read", "format": "dicom", "pydicom": pydicom.__version__}
    step |= {"files": len(headers), "sha256": sha256}
    if skipped:
        step["skipped"] = dict(sorted(skipped.items()))
    return step


def _unit(header: Header, modality: str) -> str:
    if modality == "CT":
        return "HU"
    return (header.text("Units") or "arbitrary") if modality == "PT" else "arbitrary"
