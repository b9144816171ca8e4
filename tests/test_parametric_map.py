"""The uncertainty as a DICOM Parametric Map: values, place, references, and nothing said of the patient."""

import logging
import warnings

import highdicom
import numpy as np
import pydicom
import pytest
from typer.testing import CliRunner

import medldm
from medldm.cli import app
from medldm.errors import OutputError
from medldm.geometry import Geometry
from medldm.volume import Volume
from tests.dicom_maker import CANARY, OBLIQUE, SAGITTAL
from tests.referees import entity_errors, validator_errors
from tests.test_derived import STEP, SYNTHETIC
from tests.test_derived_referees import SERIES, files_of, finer
from tests.tiny import tiny_model

PARAMETRIC_MAP = "1.2.840.10008.5.1.4.1.1.30"


def uncertainty(scan, seed=0):
    """Values >= 0 that no 16 bits could hold."""
    return scan.with_array(np.abs(np.random.default_rng(seed).normal(size=scan.array.shape)) * 3e-4, STEP)


def write(volume, path):
    medldm.write(volume, path, "parametric_map")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pydicom.dcmread(path)


def by_highdicom(path):
    """The map as highdicom reads it."""
    found = highdicom.imread(path).get_volume()
    affine = found.get_affine("RAS")[:, [2, 1, 0, 3]]  # its axes are slice, row, column
    return Volume(found.array.transpose(2, 1, 0), Geometry(affine, found.array.shape[::-1]))


@pytest.mark.parametrize("orientation", [OBLIQUE, SAGITTAL])
@pytest.mark.parametrize("factor", [(1, 1, 1), (1, 1, 2), (2, 2, 1)])
def test_values_and_place_are_ours_by_anothers_reading(dicom_series, tmp_path, orientation, factor):
    volume = finer(uncertainty(medldm.read(dicom_series(orientation=orientation))), factor)
    ds = write(volume, tmp_path / "u.dcm")
    theirs = by_highdicom(tmp_path / "u.dcm").reorient("".join(volume.geometry.axcodes))
    assert theirs.geometry.isclose(volume.geometry, 1e-3)
    np.testing.assert_array_equal(theirs.array, volume.array)
    assert ds.SOPClassUID == PARAMETRIC_MAP and "FloatPixelData" in ds
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["u.dcm"]


def test_the_header_says_whose_it_is_and_what_made_it(dicom_series, tmp_path):
    volume = uncertainty(medldm.read(dicom_series(modality="CT")))
    ds = write(volume, tmp_path / "u.dcm")
    assert ds.PatientName == f"{CANARY}^Name" and ds.PatientID == f"{CANARY}-ID"
    assert ds.StudyInstanceUID == "1.2.3" and ds.FrameOfReferenceUID == "1.2.3.9"
    assert ds.SeriesInstanceUID.startswith("2.25.") and ds.SOPInstanceUID.startswith("2.25.")
    assert ds.ContentQualification == "RESEARCH" and ds.BurnedInAnnotation == "NO" and ds.InstanceNumber == 1
    assert ds.LossyImageCompression == "00" and "SyntheticData" not in ds and ds.Manufacturer == "maker"
    assert ds.ContributingEquipmentSequence[-1].Manufacturer == "medldm"
    assert ds.ImageType[0] == "DERIVED" and ds.SeriesDescription == "medldm uncertainty brain"
    frame = ds.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0]
    for text in (ds.DerivationDescription, frame.DerivationDescription):
        assert all(word in text for word in ("denoise", "brain", "ab" * 32, "seed 7", "0.1.0"))
    shared = ds.SharedFunctionalGroupsSequence[0]
    mapping, window = shared.RealWorldValueMappingSequence[0], shared.FrameVOILUTSequence[0]
    unit = mapping.MeasurementUnitsCodeSequence[0]
    assert (unit.CodeValue, unit.CodingSchemeDesignator) == ("[hnsf'U]", "UCUM")
    assert (mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept) == (1, 0)
    highest = float(volume.array.max())
    assert float(window.WindowCenter) - float(window.WindowWidth) / 2 == pytest.approx(0, abs=1e-9)
    assert float(window.WindowWidth) == pytest.approx(highest, rel=1e-5)


@pytest.mark.parametrize(("modality", "code"), [("MR", "1"), ("PT", "Bq/ml")])
def test_the_unit_is_the_scan_s(dicom_series, tmp_path, modality, code):
    ds = write(uncertainty(medldm.read(dicom_series(modality=modality))), tmp_path / "u.dcm")
    mapping = ds.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence[0]
    assert mapping.MeasurementUnitsCodeSequence[0].CodeValue == code


def test_each_frame_names_the_slices_it_comes_from(dicom_series, tmp_path):
    scan = medldm.read(dicom_series())
    for name, volume, count in (("same", uncertainty(scan), 1), ("finer", finer(uncertainty(scan)), 2)):
        ds = write(volume, tmp_path / f"{name}.dcm")
        for frame in ds.PerFrameFunctionalGroupsSequence:
            z = float(frame.PlanePositionSequence[0].ImagePositionPatient[2])
            uids = [i.ReferencedSOPInstanceUID for i in frame.DerivationImageSequence[0].SourceImageSequence]
            distances = [abs(5 + 3 * (int(uid.rsplit(".")[-1]) - 1) - z) for uid in uids]
            assert len(uids) <= count and distances[0] <= 1.5 and max(distances) < 3
        (series,) = ds.ReferencedSeriesSequence
        assert series.SeriesInstanceUID == "1.2.3.4" and len(series.ReferencedInstanceSequence) == 6
        named = {e.value for e in ds.iterall() if e.keyword == "ReferencedSOPInstanceUID"}
        assert named == {f"1.2.3.4.{k}" for k in range(1, 7)}  # of the stand-ins nothing is left


def test_frames_of_an_enhanced_source_are_named(data_dir, tmp_path):
    path = data_dir / "dicom" / "mr_enhanced_philips_asl"
    ds, source = write(uncertainty(medldm.read(path)), tmp_path / "u.dcm"), pydicom.dcmread(files_of(path)[0])
    for frame in ds.PerFrameFunctionalGroupsSequence:
        (item,) = frame.DerivationImageSequence[0].SourceImageSequence
        other = source.PerFrameFunctionalGroupsSequence[item.ReferencedFrameNumber - 1]
        ours, theirs = (f.PlanePositionSequence[0].ImagePositionPatient for f in (frame, other))
        assert ours == theirs and item.ReferencedSOPInstanceUID == source.SOPInstanceUID


@pytest.mark.parametrize("name", SERIES)
@pytest.mark.parametrize("grid", ["same", "finer"])
def test_maps_of_real_series_have_no_errors_of_their_own(data_dir, tmp_path, name, grid):
    path = data_dir / "dicom" / name
    volume = uncertainty(medldm.read(path))
    write(volume if grid == "same" else finer(volume), tmp_path / "u.dcm")
    allowed = SERIES[name] & {"PatientAge"}  # a wrong text of the patient stays as it is
    assert {e for e in validator_errors(tmp_path / "u.dcm") if not any(k in e for k in allowed)} == set()
    sources = files_of(path)
    assert entity_errors([*sources, tmp_path / "u.dcm"]) <= entity_errors(sources)


def test_a_tilted_stack_keeps_each_place(data_dir, tmp_path):
    volume = uncertainty(medldm.read(data_dir / "dicom" / "ct_tilt_philips_phantom"))
    ds = write(volume, tmp_path / "u.dcm")
    places = [g.PlanePositionSequence[0].ImagePositionPatient for g in ds.PerFrameFunctionalGroupsSequence]
    ours = {tuple(np.round(volume.geometry.to_world([0, 0, k]) * [-1, -1, 1], 3)) for k in range(4)}
    assert volume.geometry.is_sheared and {tuple(np.round(np.array(p, float), 3)) for p in places} == ours


def test_nothing_of_the_patient_is_logged_or_warned_of(dicom_series, tmp_path, caplog, capsys):
    def change(ds, k):
        ds.PatientName = CANARY  # without ^: others warn of it, and quote it
        ds.ProcedureCodeSequence, ds.PatientSex = [], "unknown"
        ds.StudyDate, ds.PatientBirthDate = "today", "1.1.1970"
        ds.add_new(0x00091010, "LO", CANARY)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scan = medldm.read(dicom_series(change=change))
    caplog.set_level(logging.DEBUG)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        medldm.write(uncertainty(scan), tmp_path / "u.dcm", "parametric_map")
    said = caplog.text + "".join(str(w.message) for w in caught) + "".join(capsys.readouterr())
    assert CANARY not in said and "1.2.3" not in said.replace("1.2.840", "")
    ds = pydicom.dcmread(tmp_path / "u.dcm")
    expected = {
        "PatientName", "PatientID", "InstitutionName", "AccessionNumber", "StudyDescription",
        "ReferringPhysicianName", "StudyID",
    }  # fmt: skip
    assert {e.keyword for e in ds.iterall() if CANARY in str(e.value) and e.VR != "SQ"} <= expected
    assert not any(e.tag.is_private for e in ds.iterall()) and "ProcedureCodeSequence" not in ds


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda v: v.with_array(-v.array - 1), "below 0"),
        (lambda v: v.with_array(np.full(v.array.shape, np.nan)), "not finite"),
        (lambda v: Volume(v.array, v.geometry, "HU", "CT", (STEP,)), "not from DICOM"),
        (lambda v: v.with_array(v.array, SYNTHETIC), "not from DICOM"),
        (lambda v: Volume(v.array, v.geometry, "furlong", "PT", (STEP,), v.source), "furlong"),
    ],
)
def test_what_is_no_uncertainty_of_a_dicom_scan_is_refused(dicom_series, tmp_path, change, reason):
    volume = change(medldm.read(dicom_series(modality="PT")))
    with pytest.raises(OutputError, match=reason) as caught:
        medldm.write(volume, tmp_path / "u.dcm", "parametric_map")
    assert CANARY not in str(caught.value) and not (tmp_path / "u.dcm").exists()


def test_another_name_is_refused_and_a_failing_write_leaves_nothing(dicom_series, tmp_path, monkeypatch):
    volume = uncertainty(medldm.read(dicom_series()))
    before = sorted(tmp_path.iterdir())
    with pytest.raises(OutputError, match=".dcm"):
        medldm.write(volume, tmp_path / "u.dicom", "parametric_map")

    def full(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pydicom, "dcmwrite", full)
    with pytest.raises(OutputError, match="No space"):
        medldm.write(volume, tmp_path / "u.dcm", "parametric_map")
    assert sorted(tmp_path.iterdir()) == before


# --- the command line ---


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packs")
    tiny_model(folder, 3)
    return folder / "tiny-3d"


def call(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.mark.parametrize("command", [("denoise", "--noise-std", 20), ("superres", "--scale", "1x1x2")])
def test_the_command_line_writes_a_map_where_the_name_ends_in_dcm(dicom_series, tmp_path, pack, command):
    folder = dicom_series(n=12, rows=16, columns=16, spacing=(1, 1))
    words = (*command, "-i", folder, "-o", tmp_path / "out", "--model", pack, "--uncertainty", tmp_path / "u.dcm")
    done = call(*words, "--residual", tmp_path / "residual")
    assert done.exit_code == 0, done.output
    said = [pydicom.dcmread(tmp_path / f / "0001.dcm").SeriesDescription for f in ("out", "residual")]
    assert "residual" not in said[0] and "residual" in said[1]  # one is not taken for the other
    ds, scan = pydicom.dcmread(tmp_path / "u.dcm"), medldm.read(tmp_path / "out")
    assert ds.SOPClassUID == PARAMETRIC_MAP and ds.PatientID == f"{CANARY}-ID"
    assert by_highdicom(tmp_path / "u.dcm").reorient("".join(scan.geometry.axcodes)).geometry.isclose(scan.geometry)


def test_a_residual_is_a_map_of_its_own_label_with_values_on_both_sides_of_zero(dicom_series, tmp_path, pack):
    folder = dicom_series(n=12, rows=16, columns=16, spacing=(1, 1))
    done = call("denoise", "-i", folder, "-o", tmp_path / "out", "--model", pack, "--residual", tmp_path / "r.dcm")
    assert done.exit_code == 0, done.output
    ds, residual = pydicom.dcmread(tmp_path / "r.dcm"), medldm.denoise(folder, model=pack).residual
    theirs = by_highdicom(tmp_path / "r.dcm").reorient("".join(residual.geometry.axcodes))
    np.testing.assert_allclose(theirs.array, residual.array, rtol=1e-4, atol=1e-3)
    assert float(theirs.array.min()) < 0
    shared = ds.SharedFunctionalGroupsSequence[0]
    mapping, window = shared.RealWorldValueMappingSequence[0], shared.FrameVOILUTSequence[0]
    assert (ds.ContentLabel, mapping.LUTLabel) == ("RESIDUAL", "RESIDUAL") and "deviation" not in mapping.LUTExplanation
    assert "QuantityDefinitionSequence" not in mapping and ds.SeriesDescription.startswith("medldm residual")
    assert float(window.WindowCenter) == 0
    assert float(window.WindowWidth) == pytest.approx(2 * np.abs(theirs.array).max(), rel=1e-5)
    assert validator_errors(tmp_path / "r.dcm") <= validator_errors(next(folder.iterdir()))


def test_the_command_line_refuses_before_any_work_what_cannot_be_dicom(dicom_series, tmp_path, pack):
    folder = dicom_series(n=12, rows=16, columns=16, spacing=(1, 1))
    medldm.write(medldm.read(folder), tmp_path / "scan.nii.gz")
    before = sorted(tmp_path.iterdir())
    for source, option in (
        (tmp_path / "scan.nii.gz", ("-o", tmp_path / "o.nii.gz", "--uncertainty", tmp_path / "u.dcm")),
        (folder, ("-o", tmp_path / "o.dcm")),
        (folder, ("-o", tmp_path / "o", "--uncertainty", tmp_path / "u")),
    ):
        done = call("denoise", "-i", source, "--model", pack, *option)
        assert done.exit_code == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
        assert CANARY not in done.stderr and sorted(tmp_path.iterdir()) == before
