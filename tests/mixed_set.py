"""A data set of all sorts, for the tests of `medldm check` and of what is trained on its table."""

from pathlib import Path

import nibabel as nib
import numpy as np

from tests.dicom_maker import CANARY, make_series, stored_values


def nifti(path, value=0.0, shape=(8, 9, 10)):
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.random.default_rng(0).random(shape).astype(np.float32) + value
    nib.save(nib.Nifti1Image(array, np.diag([1.0, 2, 3, 1])), path)
    return path


def of_patient(patient, **values):
    def change(ds, k):
        ds.PatientID = patient
        for name, value in values.items():
            setattr(ds, name, value)

    return change


def make_mixed_set(root: Path) -> Path:
    """Eight DICOM patients in folders that say nothing, one with two echoes in one series; BIDS; what is damaged."""
    for number in range(8):
        identity = of_patient(f"{CANARY}-{number}", EchoTime="3")
        make_series(root / f"d{number}", series=f"1.2.{number}", change=identity, n=4)
    second = {"change": of_patient(f"{CANARY}-0", EchoTime="9"), "pixels": lambda k: stored_values(12, 10, k) + 7}
    make_series(root / "d0", series="1.2.0", prefix="e", n=4, **second)
    make_series(root / "again", series="1.2.9", change=of_patient(f"{CANARY}-1"), n=4)
    for subject in range(4):
        for session in (1, 2):
            nifti(root / "bids" / f"sub-{subject:02d}" / f"ses-{session}" / f"sub-{subject:02d}_T1w.nii.gz", subject)
    (root / "bids" / "sub-00" / "broken.nii.gz").write_bytes(b"no scan")
    gap = make_series(root / "gap", series="1.2.10")
    (gap / "a002.dcm").unlink()
    (root / "notes.txt").write_text(CANARY)
    return root
