"""Which file of a folder belongs to which series, kept for the next series that is read from the same folder.

Only what is asked for anew is parsed then. Nothing of a header is kept but the series; the state of every file
(size, times, identity) has to be the same, and long enough ago that a change could not hide behind a coarse clock.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_MOST_FOLDERS, _MOST_FILES = 8, 200_000
_SETTLED_NS = 3_000_000_000  # the coarsest clock of a file system ticks every 2 s


@dataclass(frozen=True)
class Index:
    """files, images : of each SeriesInstanceUID; skipped, damaged : as the whole folder was looked through"""

    files: dict[str, tuple[Path, ...]]
    images: dict[str, int]
    skipped: Counter[str]
    damaged: tuple[Any, ...]


_known: OrderedDict[tuple[Path, int], tuple[bytes, Index]] = OrderedDict()
_lock = threading.Lock()


def state_of(files: Sequence[Path]) -> bytes | None:
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


def recall(folder: Path, max_bytes: int, state: bytes | None) -> Index | None:
    """What was kept of a folder in this state, None where there is nothing."""
    key = folder.absolute(), max_bytes
    with _lock:
        found = _known.get(key)
        if found is None or state is None or found[0] != state:
            return None
        _known.move_to_end(key)
        return found[1]


def remember(folder: Path, max_bytes: int, state: bytes | None, index: Index) -> None:
    """Keep it, the few folders last used alone. `state` is that before the files were read."""
    count = sum(map(len, index.files.values()))
    if state is None or len(index.files) < 2 or count > _MOST_FILES:
        return
    with _lock:
        _known[folder.absolute(), max_bytes] = state, index
        while len(_known) > _MOST_FOLDERS:
            _known.popitem(last=False)
