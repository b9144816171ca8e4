import numpy as np
import pydicom
import pytest

import medldm
from medldm.errors import OutputError
from medldm.geometry import Geometry
from medldm.marks import AI_PROCESSED
from medldm.volume import Volume
from tests.dicom_maker import CANARY, OBLIQUE, SAGITTAL

STEP = {"step": "denoise", "model": "brain", "weights_sha256": "ab" * 32, "seed": 7, "version": "0.1.0"}
STEP |= {AI_PROCESSED: "research use only"}
SYNTHETIC = {"step": "synthesize", "model": "brain", "weights_sha256": "ab" * 32, "seed": 3, "synthetic": True}


def restored(volume, seed=0):
    """Other values on the same grid, with fractions and the model's step in the history."""
    noise = np.random.default_rng(seed).normal(size=volume.array.shape)
    return volume.with_array(volume.array + noise, STEP)


def datasets(folder):
    return [pydicom.dcmread(p) for p in sorted(folder.iterdir())]


def elements(dataset):
    return {e.keyword: e for e in dataset.iterall()}


@pytest.mark.parametrize("modality", ["CT", "MR", "PT"])
def test_same_grid_keeps_place_patient_and_study_and_gets_new_uids(dicom_series, tmp_path, modality):
    source_folder = dicom_series(modality=modality, orientation=OBLIQUE)
    source = medldm.read(source_folder)
    volume = restored(source)
    medldm.write(volume, tmp_path / "out")
    again, old, new = medldm.read(tmp_path / "out"), datasets(source_folder), datasets(tmp_path / "out")
    assert again.geometry.isclose(source.geometry, 1e-9) and again.unit == source.unit
    assert again.ai_processed and not source.ai_processed
    assert np.abs(again.array - volume.array).max() <= again.source.slopes[0] / 2 * (1 + 1e-5)
    assert [p.name for p in sorted((tmp_path / "out").iterdir())] == [f"{k:04d}.dcm" for k in range(1, 7)]
    assert len({d.SOPInstanceUID for d in old + new}) == 12 and len({d.SeriesInstanceUID for d in new}) == 1
    for k, (a, b) in enumerate(zip(old, new, strict=True)):
        for keyword in (
            "PatientName", "PatientID", "StudyInstanceUID", "FrameOfReferenceUID",
            "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness",
        ):  # fmt: skip
            assert a[keyword].value == b[keyword].value, keyword
        assert b.SeriesInstanceUID != a.SeriesInstanceUID and b.SOPInstanceUID.startswith("2.25.")
        assert b.SOPClassUID == a.SOPClassUID and b.InstanceNumber == k + 1
        assert list(b.ImageType[:2]) == ["DERIVED", "PRIMARY" if modality == "PT" else "SECONDARY"]
        assert [i.ReferencedSOPInstanceUID for i in b.SourceImageSequence] == [a.SOPInstanceUID]
        assert b.SourceImageSequence[0].PurposeOfReferenceCodeSequence[0].CodeValue == "121322"
        assert b.ReferencedSeriesSequence[0].SeriesInstanceUID == a.SeriesInstanceUID
        assert all(word in b.DerivationDescription for word in ("denoise", "brain", "ab" * 32, "seed 7", "0.1.0"))
        assert b.ContentQualification == "RESEARCH" and b.LossyImageCompression == "00"
        assert "SyntheticData" not in b and "DerivationCodeSequence" not in b
        assert b.ContributingEquipmentSequence[-1].Manufacturer == "medldm" and b.Manufacturer == "maker"


def test_the_text_of_a_place_is_kept_but_never_longer_than_16_characters(dicom_series, tmp_path):
    def change(ds, k):
        ds.ImagePositionPatient = ["-30.00", "+20", f"{5 + 3 * k}.0e0"]
        ds.PixelSpacing = [".50", "2.0000000000000000001"]
        ds.SpacingBetweenSlices = "-3.0"

    with pytest.warns(UserWarning, match="16"):
        folder = dicom_series(change=change)
    source = medldm.read(folder)
    medldm.write(restored(source), tmp_path / "out")
    for k, ds in enumerate(datasets(tmp_path / "out")):
        assert list(map(str, ds.ImagePositionPatient)) == ["-30.00", "+20", f"{5 + 3 * k}.0e0"]
        assert list(map(str, ds.PixelSpacing)) == [".50", "2"] and ds.SpacingBetweenSlices == 3
        assert all(len(str(v)) <= 16 for e in ds.iterall() if e.VR == "DS" for v in np.atleast_1d(e.value))


def test_the_window_of_a_ct_is_the_source_s_all_others_are_new(dicom_series, tmp_path):
    def change(ds, k):
        ds.WindowCenter, ds.WindowWidth, ds.VOILUTFunction = ["40", "300"], ["80", "1500"], "LINEAR_EXACT"
        ds.WindowCenterWidthExplanation = ["BRAIN", "BONE"]

    for modality in ("CT", "MR", "PT"):
        volume = restored(medldm.read(dicom_series(modality, modality=modality, change=change)))
        medldm.write(volume, tmp_path / f"{modality} out")
        ds = datasets(tmp_path / f"{modality} out")[0]
        if modality == "CT":
            assert list(ds.WindowCenter) == [40, 300] and ds.VOILUTFunction == "LINEAR_EXACT"
        else:
            low, high = np.percentile(volume.array, (0.5, 99.5))
            assert float(ds.WindowCenter) == pytest.approx((low + high) / 2, abs=1e-3)
            assert float(ds.WindowWidth) == pytest.approx(high - low, abs=1e-3)
            assert "VOILUTFunction" not in ds and "WindowCenterWidthExplanation" not in ds


def test_nested_sequences_stay_whole_and_without_private_elements(dicom_series, tmp_path):
    def change(ds, k):
        item, step = pydicom.Dataset(), pydicom.Dataset()
        step.ReferencedSOPClassUID, step.ReferencedSOPInstanceUID = "1.2.840.10008.3.1.2.3.1", "1.2.3.77"
        item.RequestedProcedureID, item.ScheduledProcedureStepID = "A1", "B2"
        item.ReferencedStudySequence = [step]
        item.ScheduledProtocolCodeSequence = []
        item.add_new(0x00091010, "LO", "private")
        lonely = pydicom.Dataset()
        lonely.add_new(0x00091010, "LO", "private")
        ds.RequestAttributesSequence, ds.ReferencedStudySequence = [item], [step]
        ds.RelatedSeriesSequence = [lonely]

    medldm.write(restored(medldm.read(dicom_series(change=change))), tmp_path / "out")
    for ds in datasets(tmp_path / "out"):
        item = ds.RequestAttributesSequence[0]
        assert (item.RequestedProcedureID, item.ScheduledProcedureStepID) == ("A1", "B2")
        assert item.ReferencedStudySequence[0].ReferencedSOPInstanceUID == "1.2.3.77"
        assert ds.ReferencedStudySequence[0].ReferencedSOPClassUID == "1.2.840.10008.3.1.2.3.1"
        assert "RelatedSeriesSequence" not in ds and not any(e.tag.is_private for e in ds.iterall())


def test_names_in_another_alphabet_and_a_synthetic_source_stay_so(dicom_series, tmp_path):
    def change(ds, k):
        ds.SpecificCharacterSet = ["", "ISO 2022 IR 87"]
        ds.PatientName = "Yamada^Tarou=山田^太郎"
        ds.SyntheticData, ds.TimezoneOffsetFromUTC = "YES", "+0900"
        del ds.FrameOfReferenceUID

    medldm.write(restored(medldm.read(dicom_series(change=change))), tmp_path / "out")
    new = datasets(tmp_path / "out")
    assert all(d.PatientName.ideographic == "山田^太郎" and d.SyntheticData == "YES" for d in new)
    assert len({d.FrameOfReferenceUID for d in new}) == 1 and new[0].FrameOfReferenceUID.startswith("2.25.")


def test_a_part_of_the_grid_is_not_called_resampled(dicom_series, tmp_path):
    source = medldm.read(dicom_series())
    medldm.write(restored(source).crop((2, 1, 2), (8, 12, 5)), tmp_path / "out")
    new = datasets(tmp_path / "out")
    assert [d.SourceImageSequence[0].ReferencedSOPInstanceUID for d in new] == [f"1.2.3.4.{k}" for k in (3, 4, 5)]
    assert all(len(d.SourceImageSequence) == 1 and "DerivationCodeSequence" not in d for d in new)
    assert "resampled" not in new[0].DerivationDescription and float(new[0].SliceThickness) == 3
    assert medldm.read(tmp_path / "out").geometry.isclose(source.geometry.crop((2, 1, 2), (8, 12, 5)))


def test_slices_made_even_name_the_uneven_ones_around_them(dicom_series, tmp_path):
    heights = (0, 3, 6, 10, 12, 15)

    def change(ds, k):
        ds.ImagePositionPatient = [-30, 20, heights[k]]

    scan = medldm.read(dicom_series(change=change), resample_nonuniform=True)
    medldm.write(restored(scan), tmp_path / "out")
    again, new = medldm.read(tmp_path / "out"), datasets(tmp_path / "out")
    assert again.geometry.isclose(scan.geometry) and len(new) == scan.geometry.shape[2]
    for ds in new:
        z = float(ds.ImagePositionPatient[2])
        named = [heights[int(i.ReferencedSOPInstanceUID.rsplit(".")[-1]) - 1] for i in ds.SourceImageSequence]
        assert abs(named[0] - z) == min(abs(h - z) for h in heights)
        assert min(named) <= z + 1e-3 and z - 1e-3 <= max(named)
        assert ds.DerivationCodeSequence[0].CodeValue == "113085"


def test_what_belongs_to_the_old_pixels_is_dropped(dicom_series, tmp_path):
    def change(ds, k):
        ds.add_new(0x00091010, "LO", "private")
        ds.add_new(0x60003000, "OW", bytes(16))
        ds.SmallestImagePixelValue, ds.LargestImagePixelValue, ds.PixelPaddingValue = 0, 10, 5
        ds.ProcedureCodeSequence = []
        ds.WindowCenter, ds.WindowWidth, ds.VOILUTFunction = "1", "2", "LINEAR"
        ds.LossyImageCompression = "01"

    medldm.write(restored(medldm.read(dicom_series(change=change))), tmp_path / "out")
    for ds in datasets(tmp_path / "out"):
        found = elements(ds)
        assert not any(e.tag.is_private or e.tag.group == 0x6000 for e in ds.iterall())
        gone = ("SmallestImagePixelValue", "LargestImagePixelValue", "PixelPaddingValue", "ProcedureCodeSequence")
        assert not set(gone) & set(found)
        assert ds.LossyImageCompression == "01"  # what was lost once stays lost
        assert float(ds.WindowWidth) > 100 and "VOILUTFunction" not in ds


@pytest.mark.parametrize(
    ("factor", "orientation"), [((1, 1, 2), OBLIQUE), ((2, 2, 1), SAGITTAL), ((1, 1, 3), SAGITTAL)]
)
def test_new_grid_gets_its_positions_from_the_affine(dicom_series, tmp_path, factor, orientation):
    source = medldm.read(dicom_series(orientation=orientation))
    array = source.array
    for axis, f in enumerate(factor):
        array = np.repeat(array, f, axis=axis)
    step = {**STEP, "step": "super_resolve"}
    volume = Volume(array, source.geometry.zoom(factor), "arbitrary", "MR", (step,), source.source)
    medldm.write(volume, tmp_path / "out")
    again, new = medldm.read(tmp_path / "out"), datasets(tmp_path / "out")
    assert np.abs(again.geometry.corners() - volume.geometry.corners()).max() < 1e-3
    np.testing.assert_array_equal(again.array, array)
    assert len(new) == 6 * factor[2] and float(new[0].SliceThickness) == pytest.approx(3 / factor[2])
    assert new[0].DerivationCodeSequence[0].CodeValue == "113085" and "resampled to" in new[0].DerivationDescription
    sources = [[i.ReferencedSOPInstanceUID for i in d.SourceImageSequence] for d in new]
    assert sources[0] == ["1.2.3.4.1"] and sources[-1] == ["1.2.3.4.6"]
    assert new[0].FrameOfReferenceUID == "1.2.3.9" and new[0].PatientName == f"{CANARY}^Name"


def test_a_turned_volume_still_lands_on_the_source_grid(dicom_series, tmp_path):
    source = medldm.read(dicom_series())
    medldm.write(restored(source).reorient("RSA"), tmp_path / "out")
    assert medldm.read(tmp_path / "out").geometry.isclose(source.geometry, 1e-9)
    assert "DerivationCodeSequence" not in datasets(tmp_path / "out")[0]


def test_a_tilted_ct_stays_tilted(dicom_series, tmp_path):
    source = medldm.read(dicom_series(modality="CT", orientation=(1, 0, 0, 0, 0.8, -0.6), step=(0, 0, 2.5)))
    volume = Volume(np.repeat(source.array, 2, 2), source.geometry.zoom((1, 1, 2)), "HU", "CT", (STEP,), source.source)
    medldm.write(volume, tmp_path / "out")
    again = medldm.read(tmp_path / "out")
    assert again.geometry.is_sheared and again.geometry.isclose(volume.geometry)


@pytest.mark.parametrize(("unit", "modality"), [("HU", "CT"), ("arbitrary", "MR"), ("arbitrary", "")])
def test_a_synthetic_scan_is_nobody(tmp_path, unit, modality):
    array = np.random.default_rng(0).normal(100, 30, (5, 6, 7))
    affine = np.array([[0, 0, 2.0, 1], [-2, 0, 0, 4], [0, 2, 0, 1], [0, 0, 0, 1]])
    volume = Volume(array, Geometry(affine, (5, 6, 7)), unit, modality, (SYNTHETIC,))
    medldm.write(volume, tmp_path / "out", "dicom")
    again = medldm.read(tmp_path / "out").reorient("PSR")
    assert again.geometry.isclose(volume.geometry) and np.abs(again.array - volume.array).max() <= 0.501
    for ds in datasets(tmp_path / "out"):
        assert ds.SyntheticData == "YES" and str(ds.PatientName).startswith("SYNTH^") and ds.PatientBirthDate == ""
        assert "Synthetic image, not a patient" in ds.DerivationDescription and ds.Manufacturer == "medldm"
        assert not {"SourceImageSequence", "ReferencedSeriesSequence", "PatientIdentityRemoved"} & set(elements(ds))


def test_nothing_of_a_source_reaches_a_synthetic_series(dicom_series, tmp_path):
    source = medldm.read(dicom_series())
    medldm.write(source.with_array(source.array, SYNTHETIC), tmp_path / "out")
    for path in (tmp_path / "out").iterdir():
        assert CANARY.encode() not in path.read_bytes() and b"1.2.3." not in path.read_bytes().replace(b"1.2.840", b"")


def test_a_synthetic_scan_stays_nobody_s_in_every_file(tmp_path):
    """Saved, read again and restored, it is still nobody's: of the synthetic series that it was made of."""
    volume = Volume(np.arange(210.0).reshape(5, 6, 7), Geometry.from_spacing((5, 6, 7), (1, 1, 1)), "arbitrary", "MR")
    drawn = volume.with_step(SYNTHETIC | {AI_PROCESSED: "research use only"})
    medldm.write(drawn, tmp_path / "a.nii.gz")
    medldm.write(drawn, tmp_path / "a", "dicom")
    assert not medldm.read(medldm.write(volume, tmp_path / "plain.nii.gz")).synthetic
    first = datasets(tmp_path / "a")[0]
    for name in ("a.nii.gz", "a"):
        again = medldm.read(tmp_path / name)
        assert again.synthetic and again.ai_processed
        medldm.write(restored(again), tmp_path / f"{name}-restored", "dicom")
        made = datasets(tmp_path / f"{name}-restored")[0]
        assert made.SyntheticData == "YES" and "SYNTH" in made.PatientID
        assert (made.PatientID == first.PatientID) == (name == "a") == ("SourceImageSequence" in made)


def test_a_scan_from_nifti_gets_an_anonymous_identity(tmp_path):
    volume = Volume(np.arange(60.0).reshape(3, 4, 5), Geometry.from_spacing((3, 4, 5), (1, 2, 3)))
    medldm.write(volume, tmp_path / "a.nii.gz")
    medldm.write(medldm.read(tmp_path / "a.nii.gz"), tmp_path / "out", "dicom")
    ds = datasets(tmp_path / "out")[0]
    assert str(ds.PatientName).startswith("ANON^") and ds.PatientIdentityRemoved == "YES" and "SyntheticData" not in ds
    assert medldm.read(tmp_path / "out").reorient("RAS").geometry.isclose(volume.geometry)


def test_a_picture_becomes_a_secondary_capture(tmp_path):
    array = np.arange(63.0).reshape(9, 7, 1)
    volume = Volume(array, Geometry(np.diag([-1.6, -1.6, 1, 1]), (9, 7, 1)), "grey8", "CR", (SYNTHETIC,))
    medldm.write(volume, tmp_path / "x.dcm")
    ds = pydicom.dcmread(tmp_path / "x.dcm")
    np.testing.assert_array_equal(ds.pixel_array, array[..., 0].T)
    assert ds.SOPClassUID == "1.2.840.10008.5.1.4.1.1.7" and list(ds.PixelSpacing) == [1.6, 1.6]


def test_existing_targets_stay_unless_overwrite(dicom_series, tmp_path):
    volume = medldm.read(dicom_series())
    medldm.write(volume, tmp_path / "out")
    with pytest.raises(OutputError, match="exist"):
        medldm.write(volume, tmp_path / "out")
    medldm.write(volume.crop((0, 0, 0), (10, 12, 3)), tmp_path / "out", overwrite=True)
    assert len(list((tmp_path / "out").iterdir())) == 3
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match="other files"):
        medldm.write(volume, tmp_path / "out", overwrite=True)
    assert (tmp_path / "out" / "thesis.txt").exists()


def test_a_failing_write_leaves_nothing_behind(dicom_series, tmp_path, monkeypatch):
    volume = medldm.read(dicom_series())
    before = sorted(tmp_path.iterdir())
    write, calls = pydicom.dcmwrite, []

    def full(*args, **options):
        calls.append(1)
        if len(calls) == 4:
            raise OSError(28, "No space left on device")
        return write(*args, **options)

    monkeypatch.setattr(pydicom, "dcmwrite", full)
    with pytest.raises(OutputError, match="No space"):
        medldm.write(volume, tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda v: v.with_array(np.full(v.array.shape, np.nan)), "not finite"),
        (lambda v: Volume(v.array, v.geometry, "grey8"), "6 slices"),
        (lambda v: Volume(v.array, v.geometry, "BQML", "PT"), "BQML"),
    ],
)
def test_what_cannot_be_written_is_refused(dicom_series, tmp_path, change, reason):
    with pytest.raises(OutputError, match=reason):
        medldm.write(change(medldm.read(dicom_series())), tmp_path / "out", "dicom")
    assert not (tmp_path / "out").exists()
