"""The series at a path: each told by what is known of it, or why it was refused and what helps.

Reads files and headers, and touches no window.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import medldm
from medldm import MedldmError, Volume
from napari_medldm.orientation import PLANES, acquired_plane, display_of
from napari_medldm.windows import limits

THUMBNAIL = 72  # pixels
_TOLD = ("SeriesDescription", "SeriesNumber", "SeriesDate", "AcquisitionDate", "StudyDate")
_DATES = ("AcquisitionDate", "SeriesDate", "StudyDate")


@dataclass(frozen=True)
class Remedy:
    """A button that helps: what it says, and what `medldm.read` is told then."""

    text: str
    options: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Series:
    """One scan below a path that was asked for.

    description, date, number : as the headers say, "" where they do not; the description may say anything
    size : number of slices, or of files where it was refused
    plane : that it was acquired in, "" where unknown
    folder : that its files lie in
    name : for its layer; never the description, which may name somebody
    picture : (rows, columns) uint8, None where it was refused
    scan, refusal : one of them; remedy : what helps against the refusal, if anything does
    again : reads it with other options
    """

    description: str
    date: str
    number: str
    size: str
    plane: str
    folder: str
    name: str
    picture: NDArray[np.uint8] | None
    scan: Volume | None
    refusal: str
    remedy: Remedy | None
    again: Callable[..., Volume]

    def helped(self) -> Series:
        """The same, read as the remedy says. Raises MedldmError."""
        assert self.remedy is not None
        return replace(self, refusal="", remedy=None, **_seen(self.again(**self.remedy.options)))


def series_below(where: Path) -> tuple[Series, ...]:
    """Every series below a folder, in a file or a zip file; those that can be read first. Raises MedldmError."""
    found = [_of_found(where, each) for each in medldm.read_each(where)]
    names = [each.name for each in found]
    told = [each if names.count(each.name) < 2 else _numbered(each) for each in found]
    return tuple(sorted(told, key=lambda each: each.scan is None))


def refused_series(where: Path, refusal: MedldmError) -> Series | None:
    """What lies at a path and was refused as a whole; None where nothing helps."""
    remedy = remedy_for(refusal)
    if remedy is None:
        return None
    name = where.name.removesuffix(".gz").removesuffix(".nii") if where.is_file() else where.name
    again = partial(medldm.read, where)
    reason = _sentence(refusal, remedy)
    return Series(name, "", "", "", "", where.parent.name, name, None, None, reason, remedy, again)


def remedy_for(refusal: MedldmError) -> Remedy | None:
    """The option of `medldm.read` that a refusal names as a way out."""
    do = refusal.do
    if "resample_nonuniform" in do:
        return Remedy("Take the uneven slices, interpolated", {"resample_nonuniform": True})
    if re.search(r"assume[ _]affine", do):
        return Remedy("Open it at a place made up", {"assume_affine": True})
    if "nan fill" in do:
        return Remedy("Fill what is not a number", {"nan": "fill"})
    if other := re.search(r"choose the (sform|qform)", do):
        return Remedy(f"Take the {other[1]}", {"xform": other[1]})
    if several := re.search(r"volume=1 to volume=(\d+)", do):
        return Remedy(f"Open the first of {several[1]} volumes", {"select": {"volume": "1"}})
    return None


def _of_found(where: Path, found: Any) -> Series:
    told = _headers(found)
    date = next((told[keyword] for keyword in _DATES if told.get(keyword)), "")
    select = " ".join(f"{key}={value}" for key, value in found.select.items())
    description = " · ".join(filter(None, (found.modality, told.get("SeriesDescription", ""), select)))
    parents = {path.parent for path in found.files}
    home = parents.pop() if len(parents) == 1 else None
    within = home is not None and where.is_dir() and home.is_relative_to(where)
    folder = home.relative_to(where.parent).as_posix() if within else where.name  # type: ignore[union-attr]
    name = " ".join(filter(None, (home.name if within and home else where.stem, select)))
    remedy = None if found.refusal is None else remedy_for(found.refusal)
    return Series(
        description=description or "unknown",
        date=f"{date[:4]}-{date[4:6]}-{date[6:8]}" if len(date) == 8 else date,
        number=told.get("SeriesNumber", ""),
        folder=folder,
        name=name,
        refusal="" if found.refusal is None else _sentence(found.refusal, remedy),
        remedy=remedy,
        again=partial(medldm.read, where, found.series or None, select=found.select or None),
        **({"size": f"{len(found.files)} files"} | _seen(found.volume)),
    )


def _numbered(series: Series) -> Series:
    return replace(series, name=f"{series.name} series {series.number}") if series.number else series


def _seen(volume: Volume | None) -> dict[str, Any]:
    """What is told of the voxels."""
    if volume is None:
        return {"plane": "", "picture": None, "scan": None}
    plane = acquired_plane(volume)
    axis = display_of(volume.geometry).axes[PLANES[plane][0]]
    size = str(volume.geometry.shape[axis])
    return {"size": size, "plane": plane, "picture": _picture(volume, plane), "scan": volume}


def _picture(volume: Volume, plane: str) -> NDArray[np.uint8]:
    """The middle slice as it will be shown, in square pixels, `THUMBNAIL` along the longer side."""
    display = display_of(volume.geometry)
    across, down, right = PLANES[plane]
    array = display.forward(volume.array)
    array = array[tuple(slice(None, None, -1) if s < 0 else slice(None) for s in display.scale)]
    middle = np.take(array, array.shape[across] // 2, across)
    low, high = limits(volume)
    grey = np.clip((middle - low) / (high - low), 0, 1) * 255
    lengths = np.abs(display.scale)[[down, right]] * grey.shape
    rows, columns = np.maximum(1, np.rint(lengths / lengths.max() * THUMBNAIL)).astype(int)
    chosen = np.ix_(*(np.arange(n) * size // n for n, size in zip((rows, columns), grey.shape, strict=True)))
    return np.ascontiguousarray(grey[chosen].astype(np.uint8))


def _headers(found: Any) -> dict[str, str]:
    """What the first image says of its series; nothing where that cannot be read."""
    datasets = getattr(getattr(found.volume, "source", None), "datasets", ())
    with contextlib.suppress(Exception):  # what was refused may be damaged anywhere
        from pydicom import dcmread

        first = datasets[0] if datasets else dcmread(found.files[0], specific_tags=list(_TOLD))
        return {keyword: str(first.get(keyword) or "").strip() for keyword in _TOLD}
    return {}


def _sentence(refusal: MedldmError, remedy: Remedy | None) -> str:
    parts = [refusal.got, f"expected {refusal.expected}" if refusal.expected else ""]
    parts.append(refusal.do if remedy is None else "")
    return f"Refused: {'; '.join(filter(None, parts))}."
