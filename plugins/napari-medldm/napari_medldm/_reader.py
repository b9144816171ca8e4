"""Reading into napari: NIfTI, DICOM folder or file, zip, and what other medldm readers know."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from napari.utils.notifications import show_error, show_info, show_warning

import medldm
from medldm import AmbiguousInput, LazyScan, MedldmError, Volume
from napari_medldm.compare import residual_style, uncertainty_style
from napari_medldm.layers import Entry, layer_data, oblique_note
from napari_medldm.orientation import PLANES, display_of

_PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".npy")
LARGE_BYTES = 2**30  # of voxels in float32: a scan with more is read slice by slice, as it is looked at
_STYLES = {"residual": residual_style, "uncertainty": uncertainty_style}
_NOTHING: list[Any] = [(None,)]  # napari's sign for: read, and nothing to show


def get_reader(path: str | list[str]) -> Callable[[Any], list[Any]] | None:
    """A reader for what medldm can read, None (quickly) for everything else; pictures are left to napari."""
    first = Path(path[0] if isinstance(path, list) else path)
    if first.suffix.lower() in _PICTURES:
        return None
    return read if medldm.can_read(first) else None


def read(path: str | list[str]) -> list[Any]:
    """Layers of one scan; a chooser asks where there are several, and what is refused is said in one line."""
    if isinstance(path, list):
        parents = {Path(p).parent for p in path}
        where = Path(path[0]) if len(path) == 1 else parents.pop() if len(parents) == 1 else None
        if where is None:
            show_error("files of several folders: drop one folder at a time")
            return _NOTHING
    else:
        where = Path(path)
    try:
        volume, name = _volume(where)
    except MedldmError as failure:
        show_error(str(failure))
        return _NOTHING
    if volume is None:
        return _NOTHING
    entry, style = Entry(volume, display_of(volume.geometry)), {}
    if volume.quantity:
        entry.role, style = volume.quantity, _STYLES[volume.quantity](volume)
        show_info(f"{name}: the {volume.quantity} of a result, not a scan")
    note = oblique_note(entry)
    if note:
        show_info(f"{name}: {note}")
    layer = layer_data(volume, name, entry, **style)
    if isinstance(volume, LazyScan):
        _look_along_slices(layer[0].plane)
    return [layer]


def _look_along_slices(plane: str) -> None:
    """Let a viewer that shows nothing yet show the plane that a large scan was acquired in."""
    from napari import current_viewer

    viewer = current_viewer()
    if viewer is not None and not viewer.layers:
        viewer.dims.ndim = 3
        viewer.dims.order = PLANES[plane]


def _whole_or_large(where: Path) -> Volume | LazyScan:
    """The scan, read unless it is large and its slices can be read alone. Raises MedldmError."""
    scan = medldm.open_lazily(where)
    if scan is None:
        return medldm.read(where)
    return scan if 4 * math.prod(scan.shape) > LARGE_BYTES else scan.load()


def _volume(where: Path) -> tuple[Volume | LazyScan | None, str]:
    """The scan and a name for its layer; None where the user chose none. Raises MedldmError."""
    stem = where.name.removesuffix(".gz").removesuffix(".nii") if where.is_file() else where.name
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        try:
            volume: Volume | LazyScan | None = _whole_or_large(where)
        except AmbiguousInput as failure:
            from napari_medldm.chooser import choose

            found = list(medldm.read_each(where))
            if not any(each.volume is not None for each in found):
                raise failure from None
            chosen = choose(found)
            volume = None if chosen is None else chosen.volume
            if chosen is not None and chosen.select:
                stem += " " + " ".join(f"{key}={value}" for key, value in chosen.select.items())
    told = [w for w in heard if issubclass(w.category, UserWarning) and not issubclass(w.category, DeprecationWarning)]
    for text in dict.fromkeys(str(warning.message) for warning in told):  # a header is looked at twice
        show_warning(text)
    return volume, stem
