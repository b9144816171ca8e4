"""Zip files: unpacked into a temporary folder after every name and size in them is checked, then read as one."""

from __future__ import annotations

import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from medldm.errors import EmptyInput, InputError, LimitError, PixelError, UnsafeInput, UnsupportedInput
from medldm.io.choice import Choice
from medldm.volume import Volume

SUFFIXES = (".zip",)
_MOST_FILES = 65_535
_MOST_RATIO = 200  # scans shrink to a third; blank slices a few hundredfold, but not all of them
_SMALL = 2**22  # bytes that may be blank
_CHUNK = 2**20


def can_read(path: Path) -> bool:
    """Whether a file is a zip file, by its name and first bytes."""
    if not (path.is_file() and path.name.lower().endswith(SUFFIXES)):
        return False
    try:
        with path.open("rb") as file:
            return file.read(2) == b"PK"
    except OSError:
        return False


def read(path: Path, choice: Choice | None = None) -> Volume:
    """Read the one scan in a zip file: a DICOM series, or a single file of another format.

    Raises UnsafeInput, LimitError, PixelError for an archive that could do harm, is too large or damaged,
    and what reading the scan raises.
    """
    from medldm.io import read_choice

    choice = choice or Choice()
    with unpacked(path, choice.max_bytes) as folder:
        files = [p for p in sorted(folder.rglob("*")) if p.is_file()]
        if not files:
            raise EmptyInput(path.name, "an empty archive", "a scan")
        volume = read_choice(files[0] if len(files) == 1 else folder, choice)
    first, *rest = volume.history
    return Volume(
        volume.array,
        volume.geometry,
        volume.unit,
        volume.modality,
        ({**first, "archive": "zip"}, *rest),
        volume.source,
    )


@contextmanager
def unpacked(path: Path, max_bytes: int) -> Iterator[Path]:
    """A temporary folder with the files of the archive; gone afterwards, whatever happens.

    Raises UnsafeInput for names that lead outside, links, too many files or a size that only a bomb has,
    LimitError for more than `max_bytes`, PixelError for a damaged archive.
    """
    with tempfile.TemporaryDirectory(prefix="medldm-") as name:
        folder = Path(name) / path.stem[:64]
        folder.mkdir()
        try:
            with zipfile.ZipFile(path) as archive:
                members = [info for info in archive.infolist() if not info.is_dir()]
                _check(path.name, members, max_bytes)
                left = max_bytes
                for info in members:
                    left -= _extract(archive, info, folder / PurePosixPath(info.filename), path.name, left)
        except InputError:
            raise
        except (zipfile.BadZipFile, zlib.error, EOFError, IndexError, OSError, ValueError) as failure:
            got = f"a damaged archive ({type(failure).__name__})"
            raise PixelError(path.name, got, "a whole zip file", "copy it again") from None
        except (NotImplementedError, RuntimeError):
            raise UnsupportedInput(path.name, "an unknown compression in it", "stored or deflated files") from None
        yield folder


def _check(where: str, members: list[Any], max_bytes: int) -> None:
    if len(members) > _MOST_FILES:
        raise UnsafeInput(where, f"{len(members)} files", f"at most {_MOST_FILES}", "unpack it yourself")
    for info in members:
        place = PurePosixPath(info.filename)
        windows = "\\" in info.filename or ":" in info.filename.split("/")[0]
        if place.is_absolute() or ".." in place.parts or windows or "\0" in info.filename:
            raise UnsafeInput(where, "a file name that leads outside the archive", "plain relative names")
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFREG):
            raise UnsafeInput(where, "a link or device in the archive", "plain files")
        if info.flag_bits & 1:
            raise UnsupportedInput(where, "an encrypted archive", "one without a password", "unpack it yourself")
        if info.file_size > _SMALL and info.file_size > _MOST_RATIO * max(info.compress_size, 1):
            raise _bomb(where)
    total, packed = sum(i.file_size for i in members), sum(i.compress_size for i in members)
    if total > _SMALL and total > _MOST_RATIO * max(packed, 1):
        raise _bomb(where)
    if total > max_bytes:
        raise LimitError(where, f"{total} bytes unpacked", f"at most {max_bytes}", "unpack it yourself")


def _bomb(where: str) -> UnsafeInput:
    return UnsafeInput(where, f"files packed by more than {_MOST_RATIO}:1", "a plausible ratio", "unpack it yourself")


def _extract(archive: zipfile.ZipFile, info: Any, target: Path, where: str, left: int) -> int:
    """Write one member; bytes are counted, since the directory of an archive may lie."""
    target.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with archive.open(info) as packed, target.open("xb") as file:
        while chunk := packed.read(_CHUNK):
            written += len(chunk)
            if written > left or written > info.file_size:
                raise UnsafeInput(where, "a file larger than the archive says", "its true size")
            file.write(chunk)
    return written
