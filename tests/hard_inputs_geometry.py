"""Where DICOM slices lie: B09 to B20, B34."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom

import medldm
from medldm.errors import (
    AmbiguousInput,
    GeometryError,
)
from tests.dicom_maker import CORONAL, OBLIQUE, SAGITTAL, affine_ras, make_series
from tests.hard_inputs_cases import VALUES, at, case, equal, one, refused, setting, with_file, with_text


@case
def b09_missing_slice(tmp: Path, data: Path) -> None:
    folder = make_series(tmp / "G")
    (folder / "a003.dcm").unlink()
    refused(folder, GeometryError, r"missing.*-30\.00\\20\.00\\14\.00 mm")


@case
def b10_uneven_slices(tmp: Path, data: Path) -> None:
    folder = data / "dicom/ct_tilt_nonuniform_ge"
    refused(folder, GeometryError, "1.081 to 6.999")
    volume = medldm.read(folder, resample_nonuniform=True)
    assert len(volume.history[0]["resampled_from_mm"]) == 3
    # exact where the values run linearly with the place
    places = [0, 2, 5, 6.5, 10, 12]
    ramp = make_series(
        tmp / "ramp",
        change=setting(ImagePositionPatient=lambda k: at(5 + places[k])),
        pixels=lambda k: np.full((12, 10), int(100 * places[k]), np.uint16),
    )
    refused(ramp, GeometryError)
    even = medldm.read(ramp, resample_nonuniform=True)
    z = even.geometry.to_world(np.array([[0, 0, k] for k in range(even.geometry.shape[2])]))[:, 2]
    np.testing.assert_allclose(even.array[0, 0], 100 * (z - 5), rtol=1e-5, atol=1e-2)
    assert (z[0], z[-1]) == (5, 17)


@case
def b11_one_slice_moved(tmp: Path, data: Path) -> None:
    def moved(by: float) -> Callable[[Any, int], None]:
        return one(2, ImagePositionPatient=lambda k: at(5 + 3 * k + by))

    medldm.read(make_series(tmp / "little", change=moved(0.02)))
    refused(make_series(tmp / "much", change=moved(0.3)), GeometryError)


@case
def b12_one_slice(tmp: Path, data: Path) -> None:
    volume = equal(make_series(tmp / "G", n=1), values=VALUES[..., :1])
    assert volume.history[0]["step_assumed"] is True
    refused(make_series(tmp / "thin", n=1, change=setting(SliceThickness=None)), GeometryError, "SliceThickness")
    assert medldm.read(data / "dicom/pt_single_slices/1.dcm").geometry.shape == (168, 168, 1)
    refused(data / "dicom/pt_single_slices", AmbiguousInput, "2 series")


@case
def b13_order_of_files(tmp: Path, data: Path) -> None:
    equal(make_series(tmp / "reversed", order=[5, 4, 3, 2, 1, 0]))
    against = make_series(tmp / "against", step=(0, 0, -3), origin=(-30, 20, 20))
    equal(against, values=VALUES[..., ::-1])
    volume = medldm.read(data / "dicom/ct_enhanced/perfusion")
    assert volume.geometry.affine[2, 2] > 0 or volume.geometry.axcodes[2] == "I"


@case
def b14_instance_numbers(tmp: Path, data: Path) -> None:
    rules: dict[str, Any] = {"absent": None, "ones": "1", "reversed": lambda k: str(9 - k)}
    for name, rule in (rules | {"shuffled": lambda k: str([3, 1, 6, 2, 5, 4][k])}).items():
        equal(make_series(tmp / name, change=setting(InstanceNumber=rule)))


@case
def b15_tilt(tmp: Path, data: Path) -> None:
    folder = data / "dicom/ct_tilt_philips_phantom"
    volume = medldm.read(folder)
    np.testing.assert_allclose(volume.geometry.affine[:3, 2], (0, 0, 2.5), atol=1e-3)
    assert volume.geometry.is_sheared and volume.history[0]["sheared"] is True
    for name, tilt in (("flipped", "18.5"), ("absent", None)):
        for file in folder.iterdir():
            ds = pydicom.dcmread(file)
            setting(GantryDetectorTilt=tilt)(ds, 0)
            (tmp / name).mkdir(exist_ok=True)
            ds.save_as(tmp / name / file.name)
        assert medldm.read(tmp / name).geometry.isclose(volume.geometry, 1e-9)


@case
def b16_orientations(tmp: Path, data: Path) -> None:
    for name, iop in (("sagittal", SAGITTAL), ("coronal", CORONAL), ("oblique", OBLIQUE)):
        equal(make_series(tmp / name, orientation=iop), affine_ras(iop))
    volume = medldm.read(data / "dicom/mr_philips_mprage_classic")
    first = min(
        (pydicom.dcmread(f, stop_before_pixels=True) for f in (data / "dicom/mr_philips_mprage_classic").iterdir()),
        key=lambda ds: np.linalg.norm(np.array(ds.ImagePositionPatient) * (-1, -1, 1) - volume.geometry.affine[:3, 3]),
    )
    np.testing.assert_allclose(np.array(first.ImagePositionPatient) * (-1, -1, 1), volume.geometry.affine[:3, 3])


@case
def b17_no_place(tmp: Path, data: Path) -> None:
    for keyword in ("ImageOrientationPatient", "ImagePositionPatient"):
        folder = make_series(tmp / keyword, n=1, change=setting(**{keyword: None}))
        refused(folder, GeometryError, keyword)
    sc = make_series(
        tmp / "sc",
        n=1,
        change=setting(
            SOPClassUID="1.2.840.10008.5.1.4.1.1.7", ImageOrientationPatient=None, ImagePositionPatient=None
        ),
    )
    refused(sc, GeometryError)


@case
def b18_no_spacing(tmp: Path, data: Path) -> None:
    dx = setting(SOPClassUID="1.2.840.10008.5.1.4.1.1.1.1", PixelSpacing=None, ImagerPixelSpacing=["0.14", "0.14"])
    refused(make_series(tmp / "dx", n=1, change=dx), GeometryError, "detector")
    flat = setting(
        SOPClassUID="1.2.840.10008.5.1.4.1.1.1.1",
        PixelSpacing=None,
        ImagerPixelSpacing=["0.14", "0.15"],
        ImagePositionPatient=None,
        ImageOrientationPatient=None,
    )
    folder = make_series(tmp / "flat", n=1, change=flat)
    refused(folder, GeometryError)
    volume = medldm.read(folder, assume_affine=True)
    assert volume.geometry.spacing[:2] == (0.15, 0.14) and volume.history[0]["affine_assumed"] is True
    refused(make_series(tmp / "none", change=setting(PixelSpacing=None)), GeometryError, "PixelSpacing")
    for number, value in enumerate((["0", "1"], ["-1", "1"])):
        refused(make_series(tmp / str(number), change=setting(PixelSpacing=value)), GeometryError, "PixelSpacing")
    refused(with_text(make_series(tmp / "nan", spacing=("0.55", "2.25")), b"0.55", b"NaN "), GeometryError)


@case
def b19_orientation_off(tmp: Path, data: Path) -> None:
    bad = setting(ImageOrientationPatient=["1", "0", "0", "0.3", "0.9", "0"])
    refused(make_series(tmp / "bad", change=bad), GeometryError, "ImageOrientationPatient")
    rounded = setting(ImageOrientationPatient=["1", "0.0001", "0", "0", "0.9999", "0"])
    medldm.read(make_series(tmp / "rounded", change=rounded))


@case
def b20_localizer(tmp: Path, data: Path) -> None:
    folder = data / "dicom/mr_localizer_mixed_philips"
    refused(folder, AmbiguousInput, "2 volumes: Stack=1 .*Stack=2 ")
    assert medldm.read(folder, select={"Stack": "2"}).geometry.shape == (288, 288, 2)


@case
def b34_not_finite(tmp: Path, data: Path) -> None:
    huge = setting(ImagePositionPatient=lambda k: at(1e12 + k))
    refused(make_series(tmp / "huge", change=huge), GeometryError)
    for number, text in enumerate((b"NaN ", b"inf ")):
        place = setting(ImagePositionPatient=lambda k: ["7.77", "20", str(5 + 3 * k)])
        refused(with_text(make_series(tmp / f"p{number}", change=place), b"7.77", text), GeometryError)
        axis = setting(ImageOrientationPatient=["1", "0", "0", "0", "1.00", "0"])
        refused(with_text(make_series(tmp / f"o{number}", change=axis), b"1.00", text), GeometryError)
    image = nib.Nifti1Image(np.zeros((2, 3, 4), np.float32), np.eye(4))
    for number, value in enumerate((np.nan, np.inf, 1e12)):
        image.header["sform_code"], image.header["qform_code"] = 1, 0
        image.header["srow_x"] = (value, 0, 0, 0)
        content = image.header.binaryblock + bytes(4) + np.zeros(24, np.float32).tobytes()
        refused(with_file(tmp, f"{number}.nii", content), GeometryError)
