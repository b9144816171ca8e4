"""`medldm view`: the reading room, which is napari with the plugin napari-medldm."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from medldm.errors import InputError, MedldmError


def view(
    paths: Annotated[
        list[Path] | None, typer.Argument(help="NIfTI files, DICOM folders, zip files or grey pictures to open.")
    ] = None,
) -> None:
    """Open scans in a window: look, restore, compare, measure and save."""
    for path in paths or ():
        if not path.exists():
            raise InputError(str(path), "no such file or folder", "a scan", "check the name")
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise MedldmError("view", "no display", "a desktop", "call it there, or through ssh -X")
    try:
        room = importlib.import_module("napari_medldm.room")
    except ImportError as failure:
        got = f"no module {failure.name or 'napari_medldm'}"
        raise MedldmError("view", got, "napari and its plugin", "pip install napari-medldm[pyqt6]") from None
    room.show(paths or [])
