"""Reading into napari: NIfTI, DICOM folder or file, zip, and what other medldm readers know."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from napari.utils.notifications import show_error, show_info, show_warning

import medldm
from medldm import AmbiguousInput, MedldmError, Volume
from napari_medldm.layers import layer_data, oblique_note

_PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".npy")
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
    layer = layer_data(volume, name)
    note = oblique_note(layer[1]["metadata"]["medldm"])
    if note:
        show_info(f"{name}: {note}")
    return [layer]


def _volume(where: Path) -> tuple[Volume | None, str]:
    """The scan and a name for its layer; None where the user chose none. Raises MedldmError."""
    stem = where.name.removesuffix(".gz").removesuffix(".nii") if where.is_file() else where.name
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        try:
            volume: Volume | None = medldm.read(where)
        except AmbiguousInput as failure:
            from napari_medldm.chooser import choose

            found = list(medldm.read_each(where))
            if not any(each.volume is not None for each in found):
                raise failure from None
            chosen = choose(found)
            volume = None if chosen is None else chosen.volume
            if chosen is not None and chosen.select:
                stem += " " + " ".join(f"{key}={value}" for key, value in chosen.select.items())
    for warning in heard:
        if issubclass(warning.category, UserWarning) and not issubclass(warning.category, DeprecationWarning):
            show_warning(str(warning.message))
    return volume, stem
