"""Dividing a large tree of DICOM files into folders that can be read one after another, no series torn apart."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

from medldm.io.choice import series_key
from medldm.io.dicom_header import looks_like_dicom, read_header

MOST = 2000  # files whose headers are held at a time: some 250 kB each


def dicom_parts(
    root: Path, files: Sequence[Path], most: int = MOST, progress: Callable[[int], None] | None = None
) -> list[Path]:
    """Folders at or below `root` that hold all DICOM files among `files`, no two of them images of one series.

    Each holds at most `most` files, as far as the folders and series allow. `progress` is told the files looked at.
    """
    if len(files) <= most:
        return [root]
    series: dict[Path, str] = {}
    for number, file in enumerate(files, start=1):
        if looks_like_dicom(file):
            series[file] = _series_of(file)
        if progress is not None:
            progress(number)
    return _parts(root, series, most)


def _parts(folder: Path, series: dict[Path, str], most: int) -> list[Path]:
    if len(series) <= most or any(file.parent == folder for file in series):
        return [folder] if series else []
    children: dict[str, dict[Path, str]] = defaultdict(dict)
    homes: dict[str, set[str]] = defaultdict(set)
    for file, key in series.items():
        child = file.relative_to(folder).parts[0]
        children[child][file] = key
        homes[key].add(child)
    if any(len(found) > 1 for key, found in homes.items() if key):
        return [folder]
    return [part for child, own in sorted(children.items()) for part in _parts(folder / child, own, most)]


def _series_of(file: Path) -> str:
    """Key of a file's series, "" where it does not say."""
    try:
        header = read_header(file)
        uid = "" if header is None else header.text("SeriesInstanceUID")
    except Exception:  # a damaged file is reported when its folder is read
        return ""
    return series_key(uid) if uid else ""
