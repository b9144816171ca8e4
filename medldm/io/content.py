"""What files hold, as hashes, so that what was made of a file can be told from what was made of another.

A file is read once and then known by its inode, size and times. The time of change of the inode is among them: it
moves with every write, and, unlike the time of modification, cannot be set back by a copy or an unpacking. A file
that was touched less than two seconds before it was read is not remembered, as a write within the clock's grain would
go unseen; nor is any on Windows, which has no such time.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

from medldm.io.atomic import write_whole

GRAIN_NS = 2_000_000_000


class Contents:
    """Hashes of what files and folders hold.

    record : JSON file of what is known from earlier; it holds hashes alone, and a damaged one only costs time
    """

    def __init__(self, record: Path) -> None:
        self.record = record
        self._known = _read_record(record)
        self._new: dict[str, str] = {}
        self._siblings: dict[Path, dict[str, list[Path]]] = {}

    def of(self, path: Path) -> str:
        """SHA-256 of a file and its companions (the same name with another ending), or of all below a folder.

        Raises OSError where they cannot be read.
        """
        if path.is_dir():
            parts = [(str(p.relative_to(path)), p) for p in sorted(path.rglob("*")) if p.is_file()]
        else:
            parts = [(p.suffix, p) for p in self._companions(path)]
        listed = json.dumps([(name, self.of_file(part)) for name, part in parts])
        return hashlib.sha256(listed.encode("utf-8", "surrogateescape")).hexdigest()

    def of_file(self, path: Path) -> str:
        """SHA-256 of one file."""
        known = self.known(path)
        if known is not None:
            return known
        before, now = path.stat(), time.time_ns()
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        self.remember(path, digest, before, now)
        return digest

    def remember(self, path: Path, digest: str, before: os.stat_result, now: int) -> None:
        """Keep what was found in a file that was in the state `before` at the time `now` (ns), when it was opened."""
        settled = now - max(before.st_mtime_ns, before.st_ctime_ns) > GRAIN_NS
        if os.name != "nt" and settled and _state(before) == _state(path.stat()):
            self._new[_state(before)] = digest

    def known(self, path: Path) -> str | None:
        """The hash of a file that was read before and has stayed as it was; else None."""
        state = _state(path.stat())
        return self._new.get(state) or self._known.get(state)

    def save(self) -> None:
        """Keep what is new for the next time. Raises OutputError."""
        if not self._new:
            return
        known = _read_record(self.record) | self._new  # others may have written meanwhile
        write_whole(self.record, lambda part: part.write_text(json.dumps(known)))
        self._known, self._new = known, {}

    def _companions(self, path: Path) -> list[Path]:
        if path.parent not in self._siblings:
            found: dict[str, list[Path]] = {}
            for each in sorted(path.parent.iterdir()):
                found.setdefault(each.stem, []).append(each)
            self._siblings[path.parent] = found
        named = self._siblings[path.parent].get(path.stem, [])
        return [path, *(p for p in named if p != path and p.is_file())]


def _state(found: os.stat_result) -> str:
    times = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    return hashlib.sha256(repr(times).encode()).hexdigest()[:32]


def _read_record(path: Path) -> dict[str, str]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}
