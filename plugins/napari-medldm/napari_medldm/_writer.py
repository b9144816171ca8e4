"""Writing from napari's save dialog; the panel writes DICOM folders, too."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import medldm
from napari_medldm import saving
from napari_medldm.label_maps import volume_of_labels
from napari_medldm.layers import volume_from_meta


def write_nifti(path: str, data: Any, meta: dict[str, Any]) -> list[str]:
    """One NIfTI file with the scan's own affine, and its history in a JSON file beside it. Raises MedldmError."""
    medldm.write(volume_from_meta(data, meta), path, "nifti", overwrite=True)  # napari has asked already
    return [path]


def write_labels(path: str, data: Any, meta: dict[str, Any]) -> list[str]:
    """The same of labels, on the grid of the scan that they were painted on. Raises MedldmError."""
    medldm.write(volume_of_labels(data, meta), path, "nifti", overwrite=True)
    return [path]


def write_dicom(path: str, data: Any, meta: dict[str, Any]) -> list[str]:
    """A derived DICOM series, of a map a parametric map, in a zip file; nothing half-written is left.

    Raises MedldmError.
    """
    target = Path(path)
    with tempfile.TemporaryDirectory(dir=target.absolute().parent, prefix=".medldm-") as hidden:
        folder = Path(hidden) / target.stem
        volume = volume_from_meta(data, meta)
        if volume.quantity:
            folder.mkdir()
        saving.write_dicom(volume, folder / volume.quantity if volume.quantity else folder)
        packed = shutil.make_archive(str(Path(hidden) / "packed"), "zip", hidden, folder.name)
        Path(packed).replace(target)
    return [path]
