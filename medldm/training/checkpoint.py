"""Checkpoints, written whole and read without executing anything."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from medldm.errors import OutputError, RunError
from medldm.io.atomic import write_whole

CHECKPOINT = "checkpoint.pt"
FREE_TO_CHANGE = {"checkpoint_seconds"}  # what an interrupted training may be gone on with otherwise
LOCK = ".lock"


@contextlib.contextmanager
def written_to(folder: Path) -> Iterator[None]:
    """Make `folder`, and turn what the system refuses within into an OutputError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as failure:
        raise OutputError(str(folder), failure.strerror or "not writable", "a folder to write to") from None


@contextlib.contextmanager
def sole_training(folder: Path) -> Iterator[None]:
    """Keep every other training out of `folder`; a killed one holds nothing. Raises RunError where one is going on."""
    with (folder / LOCK).open("w") as handle:
        try:
            _lock(handle.fileno())
        except (BlockingIOError, PermissionError):  # of Unix, of Windows
            do = "wait for it, or use another --out"
            raise RunError(str(folder), "another training in this folder", "one at a time", do) from None
        yield


def _lock(handle: int) -> None:
    """Until it is closed, or its process is at its end. Raises where another has it."""
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Replace the checkpoint in `folder`; what is there stays whole if this fails."""
    write_whole(folder / CHECKPOINT, lambda path: torch.save(state, path))


def load_checkpoint(folder: Path, recipe: dict[str, Any]) -> dict[str, Any] | None:
    """The checkpoint in `folder`, None where there is none.

    Raises RunError for an unreadable file, or one of another recipe.
    """
    path = folder / CHECKPOINT
    if not path.is_file():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as failure:
        raise RunError(
            str(path), f"unreadable ({type(failure).__name__})", "a checkpoint", "delete it, start anew"
        ) from None
    before = state["recipe"]
    changed = sorted(k for k in {*recipe, *before} - FREE_TO_CHANGE if recipe.get(k) != before.get(k))
    if changed:
        raise RunError(
            str(path),
            f"another recipe (differs in {', '.join(changed)})",
            "the same recipe",
            "use --no-resume or another --out",
        )
    return state
