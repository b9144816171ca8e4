"""The unit of a scan is what its headers say: HU is taken for granted only where the standard does."""

import numpy as np
import pydicom
import pytest

import medldm
from medldm.errors import AmbiguousInput, PixelError
from tests.dicom_maker import CANARY, stored_values
from tests.referees import validator_errors
from tests.test_derived import datasets, restored
from tests.test_dicom import setting

STORED = np.stack([stored_values(12, 10, k).T for k in range(6)], axis=-1).astype(np.float64)


@pytest.mark.parametrize(
    ("term", "unit"),
    [
        (None, "HU"),
        ("", "HU"),
        ("HU", "HU"),
        ("hu ", "HU"),
        *((term, term) for term in ("HU_MOD", "MGML", "Z_EFF", "ED", "EDW", "PCT", "OD")),
        (f"{CANARY} units", "arbitrary"),
    ],
)
def test_a_ct_is_in_the_unit_of_its_rescale_type(dicom_series, term, unit):
    change = setting(RescaleType=term, RescaleSlope="0.01", RescaleIntercept="0")
    volume = medldm.read(dicom_series(modality="CT", change=change))
    assert (volume.unit, volume.modality) == (unit, "CT")
    np.testing.assert_allclose(volume.array, STORED * 0.01, rtol=1e-6)


@pytest.mark.parametrize(
    ("kind", "energies", "unit"),
    [
        (["ORIGINAL", "PRIMARY", "AXIAL"], None, "HU"),
        (["ORIGINAL", "PRIMARY", "LOCALIZER"], None, "arbitrary"),
        (["ORIGINAL", "PRIMARY", "AXIAL"], "YES", "arbitrary"),
        (["DERIVED", "SECONDARY", "AXIAL"], None, "arbitrary"),
    ],
)
def test_unspecified_values_of_an_original_slice_are_hu_by_the_standard(dicom_series, kind, energies, unit):
    change = setting(RescaleType="US", ImageType=kind, MultienergyCTAcquisition=energies)
    volume = medldm.read(dicom_series(modality="CT", change=change))
    assert volume.unit == unit and volume.history[0].get("unit_implied", False) is (unit == "HU")


def test_a_ct_of_several_energies_has_to_say_its_unit(dicom_series):
    change = setting(MultienergyCTAcquisition="YES", RescaleType=None)
    with pytest.raises(PixelError, match="several energies without RescaleType"):
        medldm.read(dicom_series("unknown", modality="CT", change=change))
    change = setting(MultienergyCTAcquisition="YES", RescaleType="Z_EFF")
    assert medldm.read(dicom_series("known", modality="CT", change=change)).unit == "Z_EFF"
    change = setting(MultienergyCTAcquisition="NO", RescaleType=None)
    assert medldm.read(dicom_series("single", modality="CT", change=change)).unit == "HU"


@pytest.mark.parametrize(
    ("modality", "keyword", "units"), [("CT", "RescaleType", ("HU", "Z_EFF")), ("PT", "Units", ("BQML", "GML"))]
)
def test_two_units_in_one_series_are_refused_and_can_be_chosen(dicom_series, modality, keyword, units):
    half = dicom_series("half", modality=modality, change=setting(**{keyword: lambda k: units[k // 3]}))
    with pytest.raises(AmbiguousInput, match=f"values in {units[0]} and {units[1]}"):
        medldm.read(half)
    part = medldm.read(half, select={keyword: units[1]})
    assert part.unit == units[1] and part.geometry.shape == (10, 12, 3)


def test_two_maps_of_one_place_are_listed_by_their_unit(dicom_series):
    folder = dicom_series("both", modality="CT")
    later = setting(SOPInstanceUID=lambda k: f"1.2.3.4.5.{k}", RescaleType="Z_EFF", RescaleSlope="0.01")
    dicom_series("both", modality="CT", prefix="b", change=later)
    with pytest.raises(AmbiguousInput, match="2 volumes: RescaleType=HU .*RescaleType=Z_EFF"):
        medldm.read(folder)
    assert medldm.read(folder, select={"RescaleType": "Z_EFF"}).unit == "Z_EFF"


@pytest.mark.parametrize("frames", [("Z_EFF", "Z_EFF"), ("HU", "HU"), ("HU", "Z_EFF")])
def test_a_multi_frame_ct_says_it_in_the_groups_of_its_frames(data_dir, tmp_path, frames):
    (file,) = (data_dir / "dicom/ct_enhanced/perfusion").iterdir()
    ds = pydicom.dcmread(file)
    shared = ds.SharedFunctionalGroupsSequence[0]
    item = pydicom.Dataset()
    item.RescaleSlope, item.RescaleIntercept = "0.5", "0"
    shared.pop("PixelValueTransformationSequence", None)
    for group, term in zip(ds.PerFrameFunctionalGroupsSequence, frames, strict=True):
        own = pydicom.Dataset()
        own.update(item)
        own.RescaleType = term
        group.PixelValueTransformationSequence = [own]
    ds.save_as(tmp_path / "a.dcm")
    if len(set(frames)) > 1:
        with pytest.raises(AmbiguousInput, match="HU.*Z_EFF"):
            medldm.read(tmp_path / "a.dcm")
    else:
        volume = medldm.read(tmp_path / "a.dcm")
        assert volume.unit == frames[0]
        medldm.write(volume, tmp_path / "out")
        assert {d.RescaleType for d in datasets(tmp_path / "out")} == {frames[0]}


@pytest.mark.parametrize("term", ["Z_EFF", "MGML", "US", "vendor's own"])
def test_a_derived_ct_keeps_unit_type_and_scale(dicom_series, tmp_path, term):
    change = setting(RescaleType=term, RescaleSlope="0.01", RescaleIntercept="0", MultienergyCTAcquisition="YES")
    source = medldm.read(dicom_series(modality="CT", change=change))
    volume = restored(source).with_array(source.array + 0.004)
    medldm.write(volume, tmp_path / "out")
    again, new = medldm.read(tmp_path / "out"), datasets(tmp_path / "out")
    assert {d.RescaleType for d in new} == {term} and again.unit == source.unit
    assert np.abs(again.array - volume.array).max() <= 0.005 * (1 + 1e-4)
    assert not any("RescaleType" in e for e in validator_errors(tmp_path / "out" / "0001.dcm"))
