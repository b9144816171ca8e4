"""One DICOM file that medldm makes."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from medldm.io.derived_headers import version

_IMPLEMENTATION = "2.25.327806237151498203715409364270196817302"


def save(dataset: Any, path: Path) -> None:
    """Write a data set as Explicit VR Little Endian. Raises OSError."""
    import pydicom
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = dataset.SOPClassUID, dataset.SOPInstanceUID
    meta.TransferSyntaxUID, meta.ImplementationClassUID = ExplicitVRLittleEndian, UID(_IMPLEMENTATION)
    meta.ImplementationVersionName = f"MEDLDM {version()}"[:16]
    dataset.file_meta = meta
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they quote values, which may be a patient's
        pydicom.dcmwrite(path, dataset, enforce_file_format=True)
