"""Written whole or not at all: a hidden neighbour first, then a rename."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from medldm.errors import OutputError

_FILE_PART = re.compile(r"\.\d+\.(.+)")  # process and name, as write_whole puts them together
_FOLDER_PART = re.compile(r"\.(.+)\.[a-z0-9_]{8}")  # as tempfile.mkdtemp does


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)  # Windows flushes what is open for writing
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _failed(path: Path, failure: OSError) -> OutputError:
    return OutputError(str(path), failure.strerror or "a failure", "a place that can be written to")


def check_folder(folder: Path, files: Iterable[Path] = (), *, overwrite: bool = False) -> None:
    """Refuse, before any work, a folder that cannot be made, or files in it that are there. Raises OutputError."""
    if folder.exists() and not folder.is_dir():
        raise OutputError(str(folder), "a file", "a folder")
    if not folder.absolute().parent.is_dir():
        raise OutputError(str(folder), "no folder to create it in", "an existing parent folder", "create it first")
    taken = next((file for file in files if file.exists()), None)
    if taken is not None and not overwrite:
        raise OutputError(str(taken), "an existing file or folder", "a new name", "choose another, or --overwrite")


def write_whole(path: Path, fill: Callable[[Path], Any]) -> None:
    """Let `fill` write a hidden file of the same ending, flush it to the disk, then rename it to `path`.

    What was at `path` stays until the end, and nothing is left behind on an error. Raises OutputError.
    """
    hidden = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        fill(hidden)
        _sync(hidden)
        os.replace(hidden, path)
    except OSError as failure:
        raise _failed(path, failure) from None
    finally:
        hidden.unlink(missing_ok=True)


def remove_parts(paths: Iterable[Path]) -> None:
    """Remove what killed processes left of these files and folders: hidden neighbours. Nobody may be writing them."""
    wanted: dict[Path, set[str]] = {}
    for path in paths:
        wanted.setdefault(path.parent, set()).add(path.name)
    for folder, names in wanted.items():
        for part in list(folder.iterdir()) if folder.is_dir() else ():
            file, whole = _FILE_PART.fullmatch(part.name), _FOLDER_PART.fullmatch(part.name)
            if file is not None and file[1] in names:
                part.unlink(missing_ok=True)
            elif whole is not None and whole[1] in names:
                shutil.rmtree(part, ignore_errors=True)


def write_folder_whole(path: Path, fill: Callable[[Path], Any]) -> None:
    """The same for a folder; an existing one is replaced. Raises OutputError."""
    try:
        hidden = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.absolute().parent))
    except OSError as failure:
        raise _failed(path, failure) from None
    old = hidden.with_name(f"{hidden.name}.old")
    try:
        hidden.chmod(0o755)
        fill(hidden)
        for part in hidden.iterdir():
            _sync(part)
        if path.exists():
            os.replace(path, old)
        os.rename(hidden, path)
    except OSError as failure:
        if old.exists() and not path.exists():
            os.replace(old, path)
        raise _failed(path, failure) from None
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
        if old.is_dir():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.unlink(missing_ok=True)
