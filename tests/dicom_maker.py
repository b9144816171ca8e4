"""Small classic DICOM series with a known affine: value 100 k + 10 row + column, every attribute can be overridden."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

CANARY = "Kanarienvogel"
SOP_CLASSES = {
    "CT": "1.2.840.10008.5.1.4.1.1.2",
    "MR": "1.2.840.10008.5.1.4.1.1.4",
    "PT": "1.2.840.10008.5.1.4.1.1.128",
}
AXIAL = (1, 0, 0, 0, 1, 0)
SAGITTAL = (0, 1, 0, 0, 0, -1)
CORONAL = (1, 0, 0, 0, 0, -1)
_u = np.array([0.8, 0.6, 0.0])
_v = np.array([-0.36, 0.48, -0.8])
OBLIQUE = (*_u, *_v)


def stored_values(rows: int, columns: int, k: int) -> NDArray[np.uint16]:
    """(rows, columns) of slice k."""
    return (100 * k + 10 * np.arange(rows)[:, None] + np.arange(columns)).astype(np.uint16)


def affine_ras(
    orientation: Sequence[float] = AXIAL,
    spacing: Sequence[float] = (0.5, 2.0),
    step: Sequence[float] | None = None,
    origin: Sequence[float] = (-30.0, 20.0, 5.0),
) -> NDArray[np.float64]:
    """Affine by the standard's formula (PS3.3 C.7.6.2.1.1), spelled out voxel by voxel."""
    u, v = np.array(orientation[:3], float), np.array(orientation[3:], float)
    d = np.cross(u, v) * 3.0 if step is None else np.array(step, float)

    def place(i: float, j: float, k: float) -> NDArray[np.float64]:
        x, y, z = np.array(origin) + i * spacing[1] * u + j * spacing[0] * v + k * d
        return np.array([-x, -y, z])

    affine = np.eye(4)
    affine[:3, 3] = place(0, 0, 0)
    for axis, index in enumerate(np.eye(3)):
        affine[:3, axis] = place(*index) - affine[:3, 3]
    return affine


def make_series(
    folder: Path,
    *,
    n: int = 6,
    rows: int = 12,
    columns: int = 10,
    modality: str = "MR",
    orientation: Sequence[float] = AXIAL,
    spacing: Sequence[float] = (0.5, 2.0),
    step: Sequence[float] | None = None,
    origin: Sequence[float] = (-30.0, 20.0, 5.0),
    series: str = "1.2.3.4",
    prefix: str = "a",
    pixels: Callable[[int], NDArray[Any]] | None = None,
    change: Callable[[Dataset, int], None] | None = None,
    order: Sequence[int] | None = None,
) -> Path:
    """Write `n` files into `folder`; `change(dataset, k)` may alter slice k, `order` permutes the file names.

    Patient attributes hold the canary, so that every test notices it where it does not belong.
    """
    folder.mkdir(parents=True, exist_ok=True)
    u, v = np.array(orientation[:3], float), np.array(orientation[3:], float)
    d = np.cross(u, v) * 3.0 if step is None else np.array(step, float)
    names = list(order) if order is not None else list(range(n))
    for k in range(n):
        ds = Dataset()
        ds.SOPClassUID, ds.SOPInstanceUID = SOP_CLASSES[modality], f"{series}.{k + 1}"
        ds.SpecificCharacterSet = "ISO_IR 100"
        ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = f"{CANARY}^Name", f"{CANARY}-ID", "", ""
        ds.InstitutionName, ds.AccessionNumber = f"{CANARY} clinic", CANARY[:16]
        ds.StudyDescription, ds.SeriesDescription = f"{CANARY} study", f"{CANARY} series"
        ds.ReferringPhysicianName, ds.StudyID, ds.Manufacturer = f"{CANARY}^Doctor", CANARY[:16], "maker"
        ds.StudyDate = ds.StudyTime = ds.ContentDate = ds.ContentTime = ""
        ds.Modality, ds.StudyInstanceUID, ds.SeriesInstanceUID = modality, "1.2.3", series
        ds.FrameOfReferenceUID, ds.PositionReferenceIndicator = "1.2.3.9", ""
        ds.SeriesNumber, ds.InstanceNumber, ds.AcquisitionNumber = "3", str(k + 1), "1"
        ds.PatientPosition, ds.Laterality = "HFS", ""
        ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL" if modality == "CT" else "M"]
        ds.ImageOrientationPatient = [f"{x:.10g}" for x in orientation]
        ds.ImagePositionPatient = [f"{x:.10g}" for x in np.array(origin) + k * d]
        ds.PixelSpacing, ds.SliceThickness = [str(s) for s in spacing], "3"
        if modality == "CT":
            ds.KVP, ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = "120", "1", "-1024", "HU"
        elif modality == "MR":
            ds.ScanningSequence, ds.SequenceVariant, ds.ScanOptions, ds.MRAcquisitionType = "GR", "NONE", "", "3D"
            ds.EchoTime, ds.RepetitionTime, ds.EchoTrainLength = "3", "8", "1"
        else:
            ds.Units, ds.RescaleSlope, ds.RescaleIntercept = "BQML", "1", "0"
        ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PhotometricInterpretation = rows, columns, 1, "MONOCHROME2"
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
        values = stored_values(rows, columns, k) if pixels is None else pixels(k)
        ds.add_new(0x7FE00010, "OW", np.ascontiguousarray(values).tobytes())
        if change is not None:
            change(ds, k)
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.file_meta = meta
        dcmwrite(folder / f"{prefix}{names[k]:03d}.dcm", ds, enforce_file_format=True)
    return folder
