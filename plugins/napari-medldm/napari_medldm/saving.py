"""DICOM of what the window shows: a scan is a series of images, a map beside it one parametric map."""

from __future__ import annotations

from pathlib import Path

import medldm
from medldm import Volume


def write_dicom(volume: Volume, path: Path) -> Path:
    """Write a folder, or of a map one file, whose name gets .dcm if it has not; the path that was written.

    Raises MedldmError.
    """
    if not volume.quantity:
        return medldm.write(volume, path, "dicom")
    named = path if path.suffix.lower() == ".dcm" else path.with_name(f"{path.name}.dcm")
    return medldm.write(volume, named, "parametric_map")
