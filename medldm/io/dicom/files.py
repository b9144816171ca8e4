"""Finding the DICOM images below a path, series by series; a damaged file is kept in mind, not passed over.

Which file of a folder belongs to which series is kept for the next series that is read from the same folder, so that
only what is asked for anew is parsed then. Nothing of a header is kept but the series; the state of every file (size,
times, identity) has to be the same, and long enough ago that a change could not hide behind a coarse clock.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medldm.errors import AmbiguousInput, EmptyInput, InputError, NotImage, PixelError
from medldm.io.choice import series_key
from medldm.io.dicom.header import Header, looks_like_dicom, read_header
from medldm.io.dicom.kinds import check_kind, split_frames
from medldm.io.walk import in_words, list_files

_KIND = ("Rows", "Columns", "BitsAllocated")
_MOST_FOLDERS, _MOST_FILES = 8, 200_000
_SETTLED_NS = 3_000_000_000  # the coarsest clock of a file system ticks every 2 s
_MOST_HEADERS = 2000  # held at a time: some 250 kB each


@dataclass(frozen=True)
class Scan:
    """What lies below a path: images by SeriesInstanceUID, damaged files, and why others are no images."""

    series: dict[str, list[Header]]
    damaged: list[Damaged]
    no_image: list[InputError]

    def listing(self) -> str:
        """Every series with its UID, for a choice."""
        return ", ".join(
            f"{uid or 'no UID'} ({headers[0].text('Modality')[:16] or 'no modality'}, {len(headers)} images)"
            for uid, headers in sorted(self.series.items())
        )


@dataclass(frozen=True)
class Damaged:
    """A DICOM file that cannot be used; `series` is "" where the header ends before it."""

    path: Path
    series: str
    error: InputError

    def concerns(self, uid: str, headers: list[Header]) -> bool:
        """Whether it may have held an image of a series: it says so, or does not say and lies beside it."""
        return self.series == uid or (not self.series and any(h.path.parent == self.path.parent for h in headers))


def scan_files(path: Path, skipped: Counter[str], max_bytes: int) -> Scan:
    """Headers of all images below `path`; one damaged file does not end it."""
    dangling: list[Path] = []
    return _scan(list_files(path, skipped, dangling), skipped, max_bytes, dangling)


def _scan(files: Sequence[Path], skipped: Counter[str], max_bytes: int, dangling: Sequence[Path] = ()) -> Scan:
    found = Scan({}, [], [])
    good: set[tuple[Any, ...]] = set()
    for file in files:
        header: Header | None = None
        try:
            header = read_header(file, max_bytes)
            if header is None:
                skipped["not_dicom"] += 1
                continue
            kind = (header.sop_class, *header.raws(_KIND))
            if kind not in good:
                check_kind(header)
                good.add(kind)
            for image in split_frames(header, max_bytes):
                found.series.setdefault(header.text("SeriesInstanceUID"), []).append(image)
        except NotImage as refusal:
            skipped["not_image"] += 1
            found.no_image.append(refusal)
        except InputError as refusal:
            found.damaged.append(Damaged(file, _series_of(header), refusal))
        except Exception as failure:  # pydicom decodes values late; what it raises may quote them
            error = PixelError(file.name, f"a damaged header ({type(failure).__name__})", "a whole file")
            found.damaged.append(Damaged(file, _series_of(header), error))
    beside = {(h.path.parent, h.path.suffix.lower()) for headers in found.series.values() for h in headers}
    for link in dangling:
        if (link.parent, link.suffix.lower()) in beside:  # an image that is missing
            error = PixelError(link.name, "a link to nothing", "an image", "fetch it (e.g. datalad get)")
            found.damaged.append(Damaged(link, "", error))
    return found


def _series_of(header: Header | None) -> str:
    try:
        return "" if header is None else header.text("SeriesInstanceUID")
    except Exception:
        return ""


def one_series(path: Path, series: str | None, skipped: Counter[str], max_bytes: int) -> list[Header]:
    """Headers of the images of the one series below `path`, or of the one whose UID or key is `series`.

    Raises
    ------
    EmptyInput, NotImage
        Where there is no DICOM file, or none with an image.
    AmbiguousInput
        For several series and no `series`; they are listed.
    InputError
        Where none has the UID `series`; or the error of a damaged file that may belong to it.
    """
    dangling: list[Path] = []
    files = list_files(path, skipped, dangling)
    state = _state_of(files) if series is not None and len(files) > 1 else None
    index = _recall(path, max_bytes, state)
    headers = None if index is None or series is None else _reread(index, series, skipped, max_bytes)
    if headers is not None:
        return headers
    found = _scan(files, skipped, max_bytes, dangling)
    _remember(path, max_bytes, state, _index_of(found, skipped))
    if not found.series:
        for refusal in (*(d.error for d in found.damaged), *found.no_image):
            raise refusal
        left_out = in_words(skipped)
        got = f"no DICOM image ({left_out})" if left_out else "no DICOM image"
        raise EmptyInput(path.name, got, "a DICOM file or a folder with a series")
    if series is not None:
        uids = [uid for uid in found.series if series in (uid, series_key(uid))]
        if not uids:
            raise InputError(path.name, f"no series {series}", f"one of {found.listing()}")
        skipped["other_series"] += sum(len(h) for uid, h in found.series.items() if uid != uids[0])
    elif len(found.series) > 1:
        got = f"{len(found.series)} series: {found.listing()}"
        raise AmbiguousInput(path.name, got, "one", "choose one by its UID (series)")
    else:
        uids = list(found.series)
    return _undamaged(uids[0], found.series[uids[0]], found.damaged)


def _undamaged(uid: str, headers: list[Header], damaged: Sequence[Damaged]) -> list[Header]:
    """The headers; raises the error of a damaged file that may belong to them."""
    for each in damaged:
        if each.concerns(uid, headers):
            raise each.error
    return headers


def _index_of(found: Scan, skipped: Counter[str]) -> _Index:
    files = {uid: tuple(dict.fromkeys(h.path for h in headers)) for uid, headers in found.series.items()}
    images = {uid: len(headers) for uid, headers in found.series.items()}
    return _Index(files, images, Counter(skipped), tuple(found.damaged))


def _reread(index: _Index, series: str, skipped: Counter[str], max_bytes: int) -> list[Header] | None:
    """The headers of one series of a folder that was looked through before; None where it is not as it was."""
    uids = [uid for uid in index.files if series in (uid, series_key(uid))]
    if not uids:
        return None
    uid = uids[0]
    found = _scan(index.files[uid], Counter(), max_bytes)
    if list(found.series) != [uid] or len(found.series[uid]) != index.images[uid] or found.damaged:
        return None
    skipped.clear()
    skipped.update(index.skipped)
    skipped["other_series"] += sum(count for other, count in index.images.items() if other != uid)
    return _undamaged(uid, found.series[uid], index.damaged)


@dataclass(frozen=True)
class _Index:
    """files, images : of each SeriesInstanceUID; skipped, damaged : as the whole folder was looked through"""

    files: dict[str, tuple[Path, ...]]
    images: dict[str, int]
    skipped: Counter[str]
    damaged: tuple[Any, ...]


_known: OrderedDict[tuple[Path, int], tuple[bytes, _Index]] = OrderedDict()
_lock = threading.Lock()


def _state_of(files: Sequence[Path]) -> bytes | None:
    """A digest of the files as they are; None where one changed just now, or cannot be looked at."""
    digest, settled = hashlib.sha256(), time.time_ns() - _SETTLED_NS
    try:
        for file in files:
            found = file.stat()
            if max(found.st_mtime_ns, found.st_ctime_ns) > settled:
                return None
            facts = (str(file), found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
            digest.update(repr(facts).encode("utf-8", "surrogateescape"))
    except OSError:
        return None
    return digest.digest()


def _recall(folder: Path, max_bytes: int, state: bytes | None) -> _Index | None:
    """What was kept of a folder in this state, None where there is nothing."""
    key = folder.absolute(), max_bytes
    with _lock:
        found = _known.get(key)
        if found is None or state is None or found[0] != state:
            return None
        _known.move_to_end(key)
        return found[1]


def _remember(folder: Path, max_bytes: int, state: bytes | None, index: _Index) -> None:
    """Keep it, the few folders last used alone. `state` is that before the files were read."""
    count = sum(map(len, index.files.values()))
    if state is None or len(index.files) < 2 or count > _MOST_FILES:
        return
    with _lock:
        _known[folder.absolute(), max_bytes] = state, index
        while len(_known) > _MOST_FOLDERS:
            _known.popitem(last=False)


def dicom_parts(
    root: Path, files: Sequence[Path], most: int = _MOST_HEADERS, progress: Callable[[int], None] | None = None
) -> list[Path]:
    """Folders at or below `root` that hold all DICOM files among `files`, no two of them images of one series.

    Each holds at most `most` files, as far as the folders and series allow. `progress` is told the files looked at.
    """
    if len(files) <= most:
        return [root]
    series: dict[Path, str] = {}
    for number, file in enumerate(files, start=1):
        if looks_like_dicom(file):
            series[file] = _key_of(file)
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


def _key_of(file: Path) -> str:
    """Key of a file's series, "" where it does not say."""
    try:
        header = read_header(file)
        uid = "" if header is None else header.text("SeriesInstanceUID")
    except Exception:  # a damaged file is reported when its folder is read
        return ""
    return series_key(uid) if uid else ""
