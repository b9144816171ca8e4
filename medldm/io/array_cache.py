"""Arrays on disk, each under the hash of all that it depends on, read as memory maps.

An entry is an .npy file with a SHA-256 of itself at its end, named by its key; neither says anything of a patient.
It is written whole or not at all, so processes that write the same one at the same time do no harm. The hash is
checked when an entry is first met, or has been touched since; its length each time that it is opened.
"""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from medldm.errors import InputError, OutputError
from medldm.io.atomic import write_whole
from medldm.io.content import Contents

RECORD = "seen.json"
CHUNK = 1 << 24


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
