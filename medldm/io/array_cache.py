"""Arrays on disk, each under the hash of all that it depends on, read as memory maps; and what files hold, as hashes.

An entry is an .npy file with a SHA-256 of itself at its end, named by its key; neither says anything of a patient.
It is written whole or not at all, so processes that write the same one at the same time do no harm. The hash is
checked when an entry is first met, or has been touched since; its length each time that it is opened.

A file is hashed once and then known by its inode, size and times. The time of change of the inode is among them: it
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
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from medldm.errors import InputError, OutputError
from medldm.io.atomic import write_whole

RECORD = "seen.json"
CHUNK = 1 << 24
GRAIN_NS = 2_000_000_000


def cache_key(parts: object) -> str:
    """The key of an entry: SHA-256 of JSON of everything that its content depends on."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class ArrayCache:
    """Entries in one folder, which is made. Nothing is ever deleted: to empty the cache, delete the folder.

    Raises OutputError where the folder cannot be made or, later, written to (a full disk among the reasons).
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as failure:
            raise OutputError(str(folder), failure.strerror or "not writable", "a folder for the cache") from None
        self.contents = Contents(folder / RECORD)
        self._sound: set[str] = set()

    def holds(self, key: str) -> bool:
        """Whether there is an undamaged entry."""
        if key not in self._sound and self.open(key) is not None and self._is_whole(self._path(key)):
            self._sound.add(key)
        return key in self._sound

    def put(self, key: str, array: NDArray[Any]) -> None:
        """Write an entry, in C order; one that is there is replaced. Raises OutputError."""
        values = np.ascontiguousarray(array)
        write_whole(self._path(key), lambda part: _fill(part, values))
        self._sound.add(key)

    def open(self, key: str) -> NDArray[Any] | None:
        """An entry as a memory map; None where there is none, or it is cut short.

        The map is private: writing to it changes nothing on disk. It keeps no file open once it is let go. Raises
        InputError where the system refuses it: no right, no address space, too many files.
        """
        path = self._path(key)
        try:
            array: NDArray[Any] = np.load(path, mmap_mode="c", allow_pickle=False)
            whole = path.stat().st_size == array.offset + array.nbytes + hashlib.sha256().digest_size  # type: ignore[attr-defined]
        except (FileNotFoundError, ValueError, EOFError, AttributeError):
            return None
        except OSError as failure:
            raise InputError(str(path), failure.strerror or "unreadable", "a cache that can be read") from None
        return array if whole else None

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.npy"

    def _is_whole(self, path: Path) -> bool:
        if self.contents.known(path) is not None:
            return True
        before, now, digest = path.stat(), time.time_ns(), hashlib.sha256()
        with path.open("rb") as file:
            left = before.st_size - digest.digest_size
            while left > 0 and (chunk := file.read(min(CHUNK, left))):
                digest.update(chunk)
                left -= len(chunk)
            whole = file.read() == digest.digest()
        if whole:
            self.contents.remember(path, digest.hexdigest(), before, now)
        return whole


class _Hashed:
    """A file that hashes what is written to it."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.digest = file, hashlib.sha256()

    def write(self, data: Any) -> int:
        self.digest.update(data)
        return self.file.write(data)


def _fill(path: Path, array: NDArray[Any]) -> None:
    with path.open("wb") as file:
        hashed = _Hashed(file)
        np.lib.format.write_array(hashed, array, allow_pickle=False)
        file.write(hashed.digest.digest())


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
