"""Radiographs as they come from the detector: flat images, at a place made up, with a spacing that is named."""

import json

import numpy as np
import pydicom
import pytest
from typer.testing import CliRunner

import medldm
from medldm.cli import app
from medldm.errors import AmbiguousInput, GeometryError, UnsupportedInput
from medldm.volume import Volume
from tests.dicom_maker import CANARY, stored_values
from tests.referees import validator_errors
from tests.test_derived import STEP, restored
from tests.test_dicom import setting

PREFIX = "1.2.840.10008.5.1.4.1.1."
KINDS = {
    "1": "CR", "1.1": "DX", "1.1.1": "DX", "1.2": "MG", "1.2.1": "MG", "1.3": "IO", "1.3.1": "IO", "12.1": "XA",
    "12.2": "RF", "7": "OT", "7.2": "OT", "7.3": "OT",
}  # fmt: skip
GONE = ("ImageOrientationPatient", "ImagePositionPatient", "FrameOfReferenceUID", "ScanningSequence", "EchoTime")
MAGNIFIED = "EstimatedRadiographicMagnificationFactor"


def radiograph(make, name="scan", kind="1.2", n=1, change=None, **attributes):
    def every(ds, k):
        own = {keyword: None for keyword in GONE} | {"PixelSpacing": None, "ImagerPixelSpacing": ["0.09", "0.07"]}
        own |= {"SOPClassUID": PREFIX + kind, "Modality": KINDS.get(kind, "MG"), "SliceThickness": None}
        setting(**(own | attributes))(ds, k)
        if change is not None:
            change(ds, k)

    return make(name, n=n, change=every)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_single_radiograph_is_read_at_an_assumed_place(dicom_series, kind):
    folder = radiograph(dicom_series, kind=kind)
    with pytest.raises(GeometryError, match="does not say where it lies.*--assume-affine") as caught:
        medldm.read(folder)
    assert CANARY not in str(caught.value) and "\n" not in str(caught.value)
    volume = medldm.read(folder, assume_affine=True)
    assert volume.modality == KINDS[kind] and volume.geometry.shape == (10, 12, 1)
    assert volume.geometry.spacing[:2] == pytest.approx((0.07, 0.09)) and volume.geometry.axcodes[:2] == ("L", "P")
    np.testing.assert_array_equal(volume.array[..., 0], stored_values(12, 10, 0).T)
    assert volume.history[0]["spacing_from"] == "ImagerPixelSpacing" and volume.history[0]["affine_assumed"] is True


SPACINGS = {
    "detector": ({}, (0.09, 0.07), "ImagerPixelSpacing"),
    "magnified": ({MAGNIFIED: "1.8"}, (0.05, 0.07 / 1.8), "ImagerPixelSpacing / 1.8"),
    "not corrected": (
        {"PixelSpacing": ["0.09", "0.07"], MAGNIFIED: "1.8"}, (0.05, 0.07 / 1.8), "ImagerPixelSpacing / 1.8"
    ),
    "corrected": ({"PixelSpacing": ["0.06", "0.04"], MAGNIFIED: "1.8"}, (0.06, 0.04), "PixelSpacing"),
    "calibrated": (
        {"PixelSpacing": ["0.09", "0.07"], MAGNIFIED: "1.8"}
        | {"PixelSpacingCalibrationType": "FIDUCIAL", "PixelSpacingCalibrationDescription": "a sphere"},
        (0.09, 0.07), "PixelSpacing",
    ),
    "pixels alone": ({"PixelSpacing": ["0.2", "0.1"], "ImagerPixelSpacing": None}, (0.2, 0.1), "PixelSpacing"),
    "film": (
        {"ImagerPixelSpacing": None, "NominalScannedPixelSpacing": ["0.2", "0.1"]},
        (0.2, 0.1), "NominalScannedPixelSpacing",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", SPACINGS)
def test_the_spacing_that_is_taken_is_named(dicom_series, case):
    attributes, (row, column), named = SPACINGS[case]
    volume = medldm.read(radiograph(dicom_series, **attributes), assume_affine=True)
    assert volume.geometry.spacing[:2] == pytest.approx((column, row)) and volume.history[0]["spacing_from"] == named


@pytest.mark.parametrize("case", SPACINGS)
def test_a_derived_image_has_the_same_spacing_and_a_finer_one_the_new(dicom_series, tmp_path, case):
    attributes, (row, column), _ = SPACINGS[case]
    scan = medldm.read(radiograph(dicom_series, **attributes), assume_affine=True)
    medldm.write(restored(scan), tmp_path / "same.dcm")
    assert medldm.read(tmp_path / "same.dcm", assume_affine=True).geometry.isclose(scan.geometry, 1e-6)
    array = np.repeat(np.repeat(scan.array, 2, 0), 2, 1)
    volume = Volume(array, scan.geometry.zoom((2, 2, 1)), scan.unit, scan.modality, (*scan.history, STEP), scan.source)
    medldm.write(volume, tmp_path / "finer.dcm")
    again = medldm.read(tmp_path / "finer.dcm", assume_affine=True)
    assert again.geometry.spacing[:2] == pytest.approx((column / 2, row / 2))
    assert pydicom.dcmread(tmp_path / "finer.dcm").Modality == "MG"
    assert validator_errors(tmp_path / "finer.dcm") == set()


def test_a_place_that_is_there_but_empty_is_none(dicom_series, tmp_path):
    folder = radiograph(dicom_series, ImagePositionPatient="", ImageOrientationPatient="")
    with pytest.raises(GeometryError, match="--assume-affine"):
        medldm.read(folder)
    scan = medldm.read(folder, assume_affine=True)
    medldm.write(restored(scan), tmp_path / "out.dcm")
    assert medldm.read(tmp_path / "out.dcm", assume_affine=True).geometry.isclose(scan.geometry, 1e-6)
    assert validator_errors(tmp_path / "out.dcm") == set()


NO_SPACING = {
    "none": ({"ImagerPixelSpacing": None}, "no PixelSpacing and no ImagerPixelSpacing.*PNG"),
    "zero": ({"ImagerPixelSpacing": ["0", "0.1"]}, "ImagerPixelSpacing .0.0, 0.1."),
    "magnified by 0": ({MAGNIFIED: "0"}, f"{MAGNIFIED} 0"),
}


@pytest.mark.parametrize("case", NO_SPACING)
def test_an_unknown_size_of_a_pixel_is_refused(dicom_series, case):
    attributes, reason = NO_SPACING[case]
    with pytest.raises(GeometryError, match=reason):
        medldm.read(radiograph(dicom_series, **attributes), assume_affine=True)


def views(ds, k):
    ds.ImageLaterality, ds.ViewPosition = "RL"[k // 2], ("CC", "MLO")[k % 2]


def test_views_of_one_series_are_images_to_choose_from(dicom_series):
    folder = radiograph(dicom_series, n=4, change=views)
    with pytest.raises(GeometryError, match="--assume-affine"):
        medldm.read(folder)
    with pytest.raises(AmbiguousInput, match="4 volumes: ImageLaterality=L ViewPosition=CC .1 flat images, 10x12."):
        medldm.read(folder, assume_affine=True)
    volume = medldm.read(folder, assume_affine=True, select={"ImageLaterality": "R", "ViewPosition": "MLO"})
    np.testing.assert_array_equal(volume.array[..., 0], stored_values(12, 10, 1).T)


def test_images_that_nothing_tells_apart_are_numbered(dicom_series):
    folder = radiograph(dicom_series, kind="1", n=2, change=setting(InstanceNumber="1"))
    with pytest.raises(AmbiguousInput, match="2 volumes: Stack=1 .image 1.*Stack=2 .image 2"):
        medldm.read(folder, assume_affine=True)
    volume = medldm.read(folder, assume_affine=True, select={"Stack": "2"})
    np.testing.assert_array_equal(volume.array[..., 0], stored_values(12, 10, 1).T)


def test_inspect_lists_every_view_with_what_reads_it(dicom_series):
    folder = radiograph(dicom_series, n=4, change=views)
    done = CliRunner().invoke(app, ["inspect", str(folder), "--assume-affine", "--json"])
    listed = json.loads(done.output)["scans"]
    assert done.exit_code == 0 and CANARY not in done.output
    assert len([one for one in listed if one["select"].get("ViewPosition") == "MLO"]) == 2


def test_images_of_more_frames_and_other_kinds_say_what_to_do(dicom_series):
    several = radiograph(dicom_series, "run", kind="12.1", NumberOfFrames="2", PixelData=bytes(480))
    with pytest.raises(UnsupportedInput, match="NumberOfFrames 2.*single image"):
        medldm.read(several, assume_affine=True)
    enhanced = radiograph(dicom_series, "enhanced", kind="12.1.1")
    with pytest.raises(UnsupportedInput, match="Enhanced XA Image Storage.*PNG"):
        medldm.read(enhanced, assume_affine=True)
