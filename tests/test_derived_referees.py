"""Derived series before the judges: dicom3tools on their headers, dcm2niix on their place and values."""

import numpy as np
import pydicom
import pytest

import medldm
from medldm.geometry import Geometry
from medldm.volume import Volume
from tests.referees import converted, entity_errors, validator_errors
from tests.test_derived import STEP, SYNTHETIC, datasets, elements, restored

CT, MR, PT = (f"1.2.840.10008.5.1.4.1.1.{end}" for end in ("2", "4", "128"))
# Real series and errors that stay: texts of the patient or the scan that medldm does not correct
SERIES = {
    "ct_tilt_philips_phantom": set(),
    "ct_enhanced/perfusion": set(),
    "ct_enhanced/legacy_pair/classic": set(),
    "ct_enhanced/legacy_pair/multiframe": set(),
    "mr_philips_mprage_classic": set(),
    "mr_enhanced_philips_asl": set(),
    "mr_compressed/jpeg": {"PatientAge"},
    "mr_compressed/fragmented_jpeg": {"InversionTime"},
    "pt_single_slices/1.dcm": {"PatientPosition"},
    "pt_single_slices/2.dcm": {"PatientPosition"},
}
ENHANCED = {
    "ct_enhanced/perfusion": CT,
    "ct_enhanced/legacy_pair/multiframe": CT,
    "mr_enhanced_philips_asl": MR,
}


def files_of(path):
    return sorted(path.iterdir()) if path.is_dir() else [path]


def finer(volume, factor=(1, 1, 2)):
    """The scan on a finer grid, each voxel repeated."""
    array = volume.array
    for axis, f in enumerate(factor):
        array = np.repeat(array, f, axis)
    return Volume(array, volume.geometry.zoom(factor), volume.unit, volume.modality, (STEP,), volume.source)


@pytest.mark.parametrize("name", SERIES)
@pytest.mark.parametrize("grid", ["same", "finer"])
def test_derived_real_series_have_no_errors_of_their_own(data_dir, tmp_path, name, grid):
    path = data_dir / "dicom" / name
    scan = medldm.read(path)
    volume = restored(scan) if grid == "same" else finer(scan)
    medldm.write(volume, tmp_path / "out")
    new = files_of(tmp_path / "out")
    for file in (new[0], new[-1]):
        errors = validator_errors(file)
        assert {e for e in errors if not any(f"</{keyword}(" in e for keyword in SERIES[name])} == set()
        assert not errors or errors <= validator_errors(files_of(path)[0])
    assert entity_errors(files_of(path) + new) <= entity_errors(files_of(path))
    images = datasets(tmp_path / "out")
    u, v = np.array(images[0].ImageOrientationPatient, dtype=float).reshape(2, 3)
    heights = [np.array(d.ImagePositionPatient, dtype=float) @ np.cross(u, v) for d in images]
    assert [d.InstanceNumber for d in images] == list(range(1, len(images) + 1)) and heights == sorted(heights)


@pytest.mark.parametrize("name", ENHANCED)
def test_frames_of_an_enhanced_object_become_classic_images(data_dir, tmp_path, name):
    path = data_dir / "dicom" / name
    scan = medldm.read(path)
    volume = restored(scan)
    medldm.write(volume, tmp_path / "out")
    source, new = pydicom.dcmread(next(p for p in files_of(path)), stop_before_pixels=True), datasets(tmp_path / "out")
    again = medldm.read(tmp_path / "out")
    assert again.geometry.isclose(scan.geometry) and again.unit == scan.unit and again.modality == scan.modality
    assert np.abs(again.array - volume.array).max() <= max(again.source.slopes) / 2 * (1 + 1e-5)
    assert len(new) == source.NumberOfFrames and {d.SOPClassUID for d in new} == {ENHANCED[name]}
    for k, ds in enumerate(new):
        (item,) = ds.SourceImageSequence
        frame = source.PerFrameFunctionalGroupsSequence[item.ReferencedFrameNumber - 1]
        assert item.ReferencedSOPInstanceUID == source.SOPInstanceUID and ds.InstanceNumber == k + 1
        assert frame.PlanePositionSequence[0].ImagePositionPatient == ds.ImagePositionPatient
        gone = ("NumberOfFrames", "FrameType", "StackID", "DimensionIndexValues")
        assert not set(gone) & set(elements(ds)) and not any("Dimension" in k or "Groups" in k for k in elements(ds))
        assert ds.PatientName == source.PatientName and ds.StudyInstanceUID == source.StudyInstanceUID
    frames = [d.SourceImageSequence[0].ReferencedFrameNumber for d in new]
    assert sorted(frames) == list(range(1, len(new) + 1))


@pytest.mark.parametrize("modality", ["CT", "MR", "PT"])
def test_a_series_and_the_enhanced_object_made_of_it_derive_alike(dicom_series, tmp_path, modality):
    legacy = pytest.importorskip("highdicom.legacy")

    def change(ds, k):
        ds.StudyDate = ds.AcquisitionDate = ds.ContentDate = ds.PatientBirthDate = "20200102"
        ds.StudyTime = ds.AcquisitionTime = ds.ContentTime = "101112"
        ds.WindowCenter, ds.WindowWidth = "40", "80"
        if modality == "PT":
            ds.SeriesType, ds.CountsSource, ds.DecayCorrection = ["WHOLE BODY", "IMAGE"], "EMISSION", "START"
            ds.FrameReferenceTime, ds.CorrectedImage, ds.DecayFactor = "7", ["DECY"], "1.5"
            ds.ActualFrameDuration = "60000"

    folder = dicom_series(modality=modality, change=change)
    converter = getattr(legacy, f"LegacyConvertedEnhanced{'PET' if modality == 'PT' else modality}Image")
    enhanced = converter(datasets(folder), "1.2.3.5", 5, "1.2.3.5.1", 1)
    enhanced.save_as(tmp_path / "enhanced.dcm")
    scan = medldm.read(tmp_path / "enhanced.dcm")
    medldm.write(scan, tmp_path / "from enhanced")
    medldm.write(medldm.read(folder), tmp_path / "from classic")
    assert None not in scan.source.frames
    new = ("UID", "SeriesNumber", "SourceImage", "Referenced", "Creation", "Contributi", "SeriesTime", "ContentTime")
    differ = {"ImageType", "AcquisitionNumber", "Laterality"}
    differ |= {"PatientPosition", "PatientOrientationCodeSequence", "PatientGantryRelationshipCodeSequence"}
    for ours, wanted in zip(datasets(tmp_path / "from enhanced"), datasets(tmp_path / "from classic"), strict=True):
        keywords = {e.keyword for e in wanted if not any(word in e.keyword for word in new)}
        assert {k for k in keywords if ours.get(k) != wanted.get(k)} <= differ
        assert ours.InstanceNumber == wanted.InstanceNumber and ours.pixel_array.tolist() == wanted.pixel_array.tolist()
    assert validator_errors(tmp_path / "from enhanced" / "0001.dcm") == set()


def test_an_enhanced_mr_keeps_its_pulse_sequence_in_classic_words(data_dir, tmp_path):
    medldm.write(medldm.read(data_dir / "dicom" / "mr_enhanced_philips_asl"), tmp_path / "out")
    ds = datasets(tmp_path / "out")[0]
    assert list(ds.ScanningSequence) == ["SE", "GR", "EP"] and ds.InPlanePhaseEncodingDirection == "COL"
    assert (ds.EchoTime, ds.RepetitionTime, ds.FlipAngle, ds.MRAcquisitionType) == (9, 4250, 90, "3D")
    assert float(ds.ImagingFrequency) == pytest.approx(127.748512)


def test_a_finer_grid_names_both_frames_around_a_slice_in_one_item(data_dir, tmp_path):
    medldm.write(finer(medldm.read(data_dir / "dicom" / "mr_enhanced_philips_asl")), tmp_path / "out")
    frames = [np.atleast_1d(d.SourceImageSequence[0].ReferencedFrameNumber) for d in datasets(tmp_path / "out")]
    assert all(len(pair) == 2 and abs(pair[0] - pair[1]) == 1 for pair in frames[1:-1])
    assert all(len(d.SourceImageSequence) == 1 for d in datasets(tmp_path / "out"))


@pytest.mark.parametrize(("unit", "modality"), [("HU", "CT"), ("arbitrary", "MR"), ("grey8", "CR")])
def test_series_of_nobody_are_valid(tmp_path, unit, modality):
    shape = (8, 9, 1) if unit == "grey8" else (8, 9, 4)
    volume = Volume(np.arange(np.prod(shape)).reshape(shape), Geometry.from_spacing(shape, (1, 1, 1)), unit, modality)
    medldm.write(volume.with_step(SYNTHETIC), tmp_path / "synthetic", "dicom")
    medldm.write(volume, tmp_path / "anonymous", "dicom")
    for out in ("synthetic", "anonymous"):
        assert validator_errors(tmp_path / out / "0001.dcm") == set()
        assert entity_errors(files_of(tmp_path / out)) == set()


@pytest.mark.parametrize("modality", ["CT", "MR", "PT"])
def test_derived_generated_series_have_no_errors_of_their_own(dicom_series, tmp_path, modality):
    def change(ds, k):
        del ds.Laterality, ds.ReferringPhysicianName, ds.PatientPosition
        if modality == "CT":
            del ds.KVP
        elif modality == "PT":
            ds.SeriesType, ds.CountsSource, ds.DecayCorrection = ["STATIC", "IMAGE"], "EMISSION", "NONE"
            ds.FrameReferenceTime, ds.CorrectedImage = "0", ["DECY"]
            ds.RadiopharmaceuticalInformationSequence = []

    folder = dicom_series(modality=modality, change=change)
    for out, volume in (("same", restored(medldm.read(folder))), ("finer", finer(medldm.read(folder)))):
        medldm.write(volume, tmp_path / out)
        assert validator_errors(tmp_path / out / "0001.dcm") == set()
        assert entity_errors(files_of(folder) + files_of(tmp_path / out)) <= entity_errors(files_of(folder))


@pytest.mark.parametrize("part", ["", "BRAIN", "KNEE"])
def test_an_empty_laterality_stays_only_where_the_part_may_be_paired(dicom_series, tmp_path, part):
    def change(ds, k):
        ds.BodyPartExamined, ds.Laterality = part, ""

    medldm.write(medldm.read(dicom_series(change=change)), tmp_path / "out")
    assert ("Laterality" in datasets(tmp_path / "out")[0]) is (part != "BRAIN")
    assert validator_errors(tmp_path / "out" / "0001.dcm") == set()


@pytest.mark.parametrize("factor", [(1, 1, 1), (1, 1, 2)])
@pytest.mark.parametrize(
    "name",
    ["mr_philips_mprage_classic", "pt_single_slices/1.dcm", "ct_enhanced/legacy_pair/classic", *ENHANCED],
)
def test_dcm2niix_finds_the_derived_series_where_we_put_it(data_dir, tmp_path, name, factor):
    pytest.importorskip("nibabel")
    volume = finer(medldm.read(data_dir / "dicom" / name), factor)
    medldm.write(volume, tmp_path / "out")
    medldm.write(volume, tmp_path / "ours.nii.gz")
    theirs = converted(tmp_path / "out", tmp_path / "nii").reorient("".join(volume.geometry.axcodes))
    ours = medldm.read(tmp_path / "ours.nii.gz")
    assert theirs.geometry.isclose(ours.geometry, 1e-3)
    step = medldm.read(tmp_path / "out").source.slopes[0]
    assert np.abs(theirs.array - ours.array).max() <= step / 2 + 1e-4 * np.abs(ours.array).max()


def test_dcm2niix_takes_a_tilted_ct_and_the_one_derived_from_it_alike(data_dir, tmp_path):
    """Against its source: dcm2niix itself lays a tilted stack 0.39 mm beside where the files say."""
    pytest.importorskip("nibabel")
    path = data_dir / "dicom" / "ct_tilt_philips_phantom"
    volume = medldm.read(path)
    medldm.write(volume, tmp_path / "out")
    before, after = converted(path, tmp_path / "before"), converted(tmp_path / "out", tmp_path / "after")
    assert after.geometry.isclose(before.geometry, 1e-3)
    np.testing.assert_array_equal(after.array, before.array)
    np.testing.assert_array_equal(after.reorient("".join(volume.geometry.axcodes)).array, volume.array)
