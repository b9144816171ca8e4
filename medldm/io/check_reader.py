"""One check that proves any reader, ours or a plugin's, with one example of what it reads."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from medldm.errors import InputError, MedldmError
from medldm.io.choice import Choice
from medldm.volume import Volume

_OTHERS = {
    "other.txt": b"text",
    "other.bin": bytes(1000),
    "other": b"",
    "other.png": b"\x89PNG\r\n\x1a\n" + bytes(100),
    "other.dcm": bytes(128) + b"DICM" + bytes(100),
    "other.nii": (348).to_bytes(4, "little") + bytes(340) + b"n+1\0" + bytes(4),
    "other.zip": b"PK\x05\x06" + bytes(18),
}
_CUTS = (0.0, 0.01, 0.5)  # shares of a file that are left


def check_reader(reader: Any, path: str | Path) -> None:
    """Check a reader on an example: a file, or a folder if it reads folders. The example is not touched.

    reader : object or module with SUFFIXES, can_read(path) and read(path, choice=None)
    What is checked: its suffixes; that it claims the example, and no other format's files, whatever is in them;
    that it reads the same Volume twice, with finite values, where the first step of the history names the format;
    that a series or selection that is not there, and more voxels than `max_bytes`, are refused as InputError; that
    copies cut off or overwritten end in a MedldmError and nothing else; that it prints nothing and leaves nothing.
    Raises InputError that names the first of these that does not hold.
    """
    path, name = Path(path), str(getattr(reader, "__name__", type(reader).__name__))
    before = _listing(path)
    try:
        with _silence() as printed, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a warning is the proper way to say something
            _check_claims(reader, path)
            _check_result(reader, path)
            _check_refusals(reader, path)
            _check_damage(reader, path)
            said = printed()
        if said:
            raise _Fault(f"{len(said)} characters printed", "warnings and errors alone")
        if _listing(path) != before:
            raise _Fault("files beside the example that were not there, or changed", "none")
    except _Fault as fault:
        raise InputError(name, *fault.args) from fault.__cause__
    except MedldmError as refusal:
        raise InputError(name, f"a refusal of the example ({refusal})", "a Volume") from refusal


class _Fault(Exception):
    """What does not hold: got, expected."""


def _check_claims(reader: Any, path: Path) -> None:
    suffixes = getattr(reader, "SUFFIXES", None)
    if not isinstance(suffixes, tuple) or not suffixes or not all(_is_suffix(s) for s in suffixes):
        raise _Fault(f"SUFFIXES {suffixes!r}", 'a tuple of endings in small letters, as (".nii.gz", ".nii")')
    if _call(reader.can_read, path) is not True:
        raise _Fault("can_read() of the example is not True", "True")
    with tempfile.TemporaryDirectory(prefix="medldm-") as folder:
        places = [Path(folder) / "absent", Path(folder) / "empty"]
        places[1].mkdir()
        for other, content in _OTHERS.items():
            if not other.endswith(suffixes):
                places.append(Path(folder) / other)
                places[-1].write_bytes(content)
        for place in places:
            try:
                claimed = _call(reader.can_read, place)
            except MedldmError as failure:
                raise _Fault(f"{type(failure).__name__} from can_read()", "True or False") from failure
            if claimed is not False:
                raise _Fault(f"can_read() of {place.name} is not False", "False for what it does not read")


def _is_suffix(suffix: Any) -> bool:
    return isinstance(suffix, str) and suffix.startswith(".") and suffix == suffix.lower()


def _check_result(reader: Any, path: Path) -> None:
    results = [_call(reader.read, path), _call(reader.read, path, Choice())]
    for volume in results:
        if not isinstance(volume, Volume):
            raise _Fault(f"a {type(volume).__name__} from read()", "a Volume")
        if not np.isfinite(volume.array).all():
            raise _Fault("values that are not finite", "finite values, or a PixelError")
        first: Any = volume.history[0] if volume.history else {}
        if first.get("step") != "read" or not first.get("format"):
            raise _Fault("a history that does not name the format", 'a first step {"step": "read", "format": ...}')
        try:
            json.dumps(volume.history)
        except (TypeError, ValueError):
            raise _Fault("a history that is no plain data", "texts, numbers, lists, tables") from None
    one, two = results
    same = np.array_equal(one.array, two.array) and np.array_equal(one.geometry.affine, two.geometry.affine)
    if not same or (one.unit, one.modality, one.history) != (two.unit, two.modality, two.history):
        raise _Fault("two different results", "the same each time a file is read")


def _check_refusals(reader: Any, path: Path) -> None:
    for what, choice in (
        ("an unknown series", Choice(series="no-such-series")),
        ("an unknown selection", Choice(select={"NoSuchKey": "no such value"})),
        ("a limit of one byte (max_bytes)", Choice(max_bytes=1)),
    ):
        with contextlib.suppress(InputError):
            _call(reader.read, path, choice)
            raise _Fault(f"a result in spite of {what}", "an InputError")


def _check_damage(reader: Any, path: Path) -> None:
    rng = np.random.default_rng(0)
    for share in (*_CUTS, None):
        what = "overwritten with noise" if share is None else f"cut to {share:.0%}"
        with tempfile.TemporaryDirectory(prefix="medldm-") as folder:
            copy = Path(folder) / path.name
            shutil.copytree(path, copy) if path.is_dir() else shutil.copy(path, copy)
            for file in [copy] if copy.is_file() else [p for p in sorted(copy.rglob("*")) if p.is_file()]:
                data = file.read_bytes()
                file.chmod(0o600)
                file.write_bytes(rng.bytes(len(data)) if share is None else data[: int(share * len(data))])
            with contextlib.suppress(MedldmError):
                _call(reader.read, copy)
                raise _Fault(f"a result of a copy {what}", "a MedldmError, as PixelError")


def _call(function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except MedldmError:
        raise
    except Exception as failure:
        got = f"{type(failure).__name__} from {getattr(function, '__name__', 'the reader')}()"
        raise _Fault(got, "a MedldmError or a result") from failure


def _listing(path: Path) -> list[tuple[str, int]]:
    """Files beside the example, or in it, and their sizes."""
    files = path.rglob("*") if path.is_dir() else path.parent.iterdir()
    return sorted((str(file), file.stat().st_size) for file in files if file.is_file())


@contextlib.contextmanager
def _silence() -> Iterator[Callable[[], str]]:
    """Catch what is written to stdout and stderr, by Python or below it; the function yielded gives it so far."""
    streams = [stream for stream in (sys.stdout, sys.stderr) if stream is not None]
    for stream in streams:
        stream.flush()
    saved = [(number, os.dup(number)) for number in (1, 2)]
    text = io.StringIO()
    with tempfile.TemporaryFile() as file:

        def printed() -> str:
            file.seek(0)
            return text.getvalue() + file.read().decode("utf-8", "replace")

        try:
            for number, _ in saved:
                os.dup2(file.fileno(), number)
            with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
                yield printed
        finally:
            for number, copy in saved:
                os.dup2(copy, number)
                os.close(copy)
