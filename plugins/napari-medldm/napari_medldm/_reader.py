"""Reading into napari: NIfTI, DICOM folder or file, zip, and what other medldm readers know."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from napari.utils.notifications import show_error, show_info, show_warning

import medldm
from medldm import AmbiguousInput, LazyScan, MedldmError, Volume
from medldm.errors import InputError
from napari_medldm.compare import residual_style, uncertainty_style
from napari_medldm.label_maps import is_label_map, labels_layer
from napari_medldm.layers import Entry, Layer, layer_data, oblique_note
from napari_medldm.orientation import PLANES, acquired_plane, display_of
from napari_medldm.series import Series, refused_series, series_below

LARGE_BYTES = 2**30  # of voxels in float32: a scan with more is read slice by slice, as it is looked at
_STYLES = {"residual": residual_style, "uncertainty": uncertainty_style}
LABELS = "a label map: a region to restore or measure, or what is to be drawn"
_NOTHING: list[Any] = [(None,)]  # napari's sign for: read, and nothing to show


@dataclass(frozen=True, eq=False)
class Opened:
    """What was found at a path.

    scan : None where some of `found` are to be chosen, or helped
    notes : what a person has to hear of it
    refusal : why it could not be opened as it is
    labels : whether it is a label map, and no scan
    """

    name: str
    scan: Volume | LazyScan | None
    found: tuple[Series, ...] = ()
    notes: tuple[str, ...] = ()
    refusal: str = ""
    labels: bool = False

    def chosen(self, series: Series) -> Opened:
        """One of those that were found."""
        return Opened(series.name, series.scan, (), self.notes)


def look_into(where: Path) -> Opened:
    """Read a scan, or the series of a folder to choose from; touches no window.

    What is refused is among those to choose from, if there are others or something helps. Raises MedldmError.
    """
    name = where.name.removesuffix(".gz").removesuffix(".nii") if where.is_file() else where.name
    found: tuple[Series, ...] = ()
    refusal = ""
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        try:
            scan = _whole_or_large(where)
        except InputError as failure:
            scan, refusal = None, str(failure)
            found = series_below(where) if isinstance(failure, AmbiguousInput) else ()
            alone = None if found else refused_series(where, failure)
            found = found or (() if alone is None else (alone,))
            if not found:
                raise
    told = [w for w in heard if issubclass(w.category, UserWarning) and not issubclass(w.category, DeprecationWarning)]
    notes = tuple(dict.fromkeys(str(each.message) for each in told))  # looked at twice
    return Opened(name, scan, found, notes, refusal, is_label_map(scan))


def layer_of(opened: Opened) -> tuple[Layer, tuple[str, ...]]:
    """The layer of a scan, and all that is to be said of it."""
    assert opened.scan is not None
    if opened.labels:
        assert isinstance(opened.scan, Volume)
        return labels_layer(opened.scan, opened.name), (*opened.notes, f"{opened.name}: {LABELS}")
    entry, style, notes = Entry(opened.scan, display_of(opened.scan.geometry)), {}, list(opened.notes)
    if opened.scan.quantity:
        entry.role, style = opened.scan.quantity, _STYLES.get(opened.scan.quantity, _plain)(opened.scan)
        notes.append(f"{opened.name}: the {opened.scan.quantity} of a result, not a scan")
    if oblique_note(entry):
        notes.append(f"{opened.name}: {oblique_note(entry)}")
    return layer_data(opened.scan, opened.name, entry, **style), tuple(notes)


def _plain(volume: Volume | LazyScan) -> dict[str, Any]:
    """A bound looks like the scan that it is of."""
    return {}


def get_reader(path: str | list[str]) -> Callable[[Any], list[Any]] | None:
    """A reader for what medldm can read, None (quickly) for everything else."""
    return read if medldm.can_read(path[0] if isinstance(path, list) else path) else None


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
        opened = look_into(where)
    except MedldmError as failure:
        show_error(str(failure))
        return _NOTHING
    for text in opened.notes:
        show_warning(text)
    several = [opened]
    if opened.scan is None:
        if all(each.scan is None for each in opened.found):
            show_error(opened.refusal)
            return _NOTHING
        from napari_medldm.chooser import choose

        several = [opened.chosen(series) for series in choose(opened.found)]
    layers = []
    for each in several:
        layer, notes = layer_of(each)
        layers.append(layer)
        for text in notes[len(opened.notes) :]:
            show_info(text)
    if several:
        assert several[-1].scan is not None
        _look_along_slices(acquired_plane(several[-1].scan))
    return layers or _NOTHING


def _look_along_slices(plane: str) -> None:
    """Let a viewer that shows nothing yet show the plane that the scan was acquired in."""
    from napari import current_viewer

    viewer = current_viewer()
    if viewer is not None and not viewer.layers:
        viewer.dims.ndim = 3
        viewer.dims.order = PLANES[plane]


def _whole_or_large(where: Path) -> Volume | LazyScan | None:
    """The scan, read unless it is large and its slices can be read alone. Raises MedldmError."""
    scan = medldm.open_lazily(where)
    if scan is None:
        return medldm.read(where)
    return scan if 4 * math.prod(scan.shape) > LARGE_BYTES else scan.load()
