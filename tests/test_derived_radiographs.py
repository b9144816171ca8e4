"""Radiographs and secondary captures written back as secondary captures of the same patient and study."""

import numpy as np
import pydicom
import pytest

import medldm
from medldm.errors import OutputError
from medldm.volume import Volume
from tests.referees import entity_errors, validator_errors
from tests.test_derived import STEP, SYNTHETIC, restored
from tests.test_dicom import setting

KINDS = {"CR": "1.2.840.10008.5.1.4.1.1.1", "DX": "1.2.840.10008.5.1.4.1.1.1.1", "OT": "1.2.840.10008.5.1.4.1.1.7"}
SECONDARY_CAPTURE = KINDS["OT"]
GONE = ("ImageOrientationPatient", "ImagePositionPatient", "FrameOfReferenceUID", "ScanningSequence", "EchoTime")


def radiograph(make, modality, name="scan", **attributes):
    """One image that lies nowhere: the detector's pixels are 0.2 mm high and 0.15 mm wide."""
    nowhere = {keyword: None for keyword in GONE} | {"PixelSpacing": None, "ImagerPixelSpacing": ["0.2", "0.15"]}
    if modality == "OT":
        nowhere |= {"PixelSpacing": ["0.2", "0.15"], "ImagerPixelSpacing": None}
    change = setting(SOPClassUID=KINDS[modality], Modality=modality, ViewPosition="AP", **(nowhere | attributes))
    return make(name, n=1, change=change)


@pytest.mark.parametrize("modality", KINDS)
def test_a_radiograph_keeps_patient_study_and_spacing(dicom_series, tmp_path, modality):
    folder = radiograph(dicom_series, modality)
    scan = medldm.read(folder, assume_affine=True)
    volume = restored(scan)
    medldm.write(volume, tmp_path / "out")
    (old,), (new,) = ([pydicom.dcmread(p) for p in path.iterdir()] for path in (folder, tmp_path / "out"))
    assert new.SOPClassUID == SECONDARY_CAPTURE and new.Modality == modality and new.ConversionType == "WSD"
    for keyword in ("PatientName", "PatientID", "StudyInstanceUID", "ViewPosition", "PhotometricInterpretation"):
        assert new[keyword].value == old[keyword].value, keyword
    assert new.SeriesInstanceUID != old.SeriesInstanceUID and list(new.ImageType) == ["DERIVED", "SECONDARY"]
    assert [i.ReferencedSOPInstanceUID for i in new.SourceImageSequence] == [old.SOPInstanceUID]
    assert not {"ImagePositionPatient", "FrameOfReferenceUID", "DerivationCodeSequence"} & set(new.dir())
    again = medldm.read(tmp_path / "out", assume_affine=True)
    assert again.geometry.isclose(scan.geometry) and np.abs(again.array - volume.array).max() <= 0.5
    assert validator_errors(tmp_path / "out" / "0001.dcm") == set()
    assert entity_errors([*folder.iterdir(), *(tmp_path / "out").iterdir()]) <= entity_errors(folder.iterdir())


@pytest.mark.parametrize("modality", KINDS)
def test_a_finer_radiograph_says_its_new_spacing(dicom_series, tmp_path, modality):
    scan = medldm.read(radiograph(dicom_series, modality), assume_affine=True)
    array = np.repeat(np.repeat(scan.array, 2, 0), 2, 1)
    volume = Volume(array, scan.geometry.zoom((2, 2, 1)), scan.unit, scan.modality, (*scan.history, STEP), scan.source)
    medldm.write(volume, tmp_path / "out.dcm")
    again, new = medldm.read(tmp_path / "out.dcm", assume_affine=True), pydicom.dcmread(tmp_path / "out.dcm")
    np.testing.assert_array_equal(again.array, array)
    np.testing.assert_allclose(again.geometry.spacing[:2], (0.075, 0.1))
    assert new.DerivationCodeSequence[0].CodeValue == "113085" and validator_errors(tmp_path / "out.dcm") == set()


def test_values_with_fractions_stay(dicom_series, tmp_path):
    folder = radiograph(dicom_series, "CR", RescaleSlope="0.25", RescaleIntercept="-3", RescaleType="OD")
    scan = medldm.read(folder, assume_affine=True)
    medldm.write(scan, tmp_path / "out.dcm")
    np.testing.assert_allclose(medldm.read(tmp_path / "out.dcm", assume_affine=True).array, scan.array, atol=1e-3)
    assert validator_errors(tmp_path / "out.dcm") == set()


def test_a_radiograph_that_says_where_it_lies_still_does(dicom_series, tmp_path):
    change = setting(SOPClassUID=SECONDARY_CAPTURE, Modality="OT")
    scan = medldm.read(dicom_series(n=1, change=change))
    medldm.write(restored(scan), tmp_path / "out")
    assert medldm.read(tmp_path / "out").geometry.isclose(scan.geometry)


def test_a_synthetic_one_and_a_map_of_uncertainty_are_what_they_were(dicom_series, tmp_path):
    scan = medldm.read(radiograph(dicom_series, "CR"), assume_affine=True)
    with pytest.raises(OutputError, match="where it lies"):
        medldm.write(scan, tmp_path / "map.dcm", "parametric_map")
    with pytest.raises(OutputError, match="write .nii.gz"):
        medldm.write(scan.with_step(SYNTHETIC), tmp_path / "out", "dicom")
    assert list(tmp_path.iterdir()) == [tmp_path / "scan"]
