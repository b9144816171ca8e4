"""NIfTI as it is written: what comes back, what stays, what is left behind."""

import json
import warnings

import nibabel as nib
import numpy as np
import pytest

import medldm
from medldm.errors import OutputError
from medldm.geometry import Geometry
from medldm.marks import AI_PROCESSED, SYNTHETIC
from medldm.volume import Volume
from tests.test_nifti import OBLIQUE, values


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("flip", [1, -1])
def test_round_trip_keeps_values_grid_handedness_and_unit(tmp_path, suffix, flip):
    affine = OBLIQUE @ np.diag([flip, 1, 1, 1])
    volume = Volume(values() / 3 - 20, Geometry(affine, (4, 5, 6)), "HU", "CT", ({"step": "made"},))
    path = medldm.write(volume, tmp_path / f"scan{suffix}")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = medldm.read(path)
    np.testing.assert_array_equal(again.array, volume.array)
    assert again.geometry.isclose(volume.geometry) and (again.unit, again.modality) == ("HU", "CT")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["scan.json", f"scan{suffix}"]
    assert json.loads((tmp_path / "scan.json").read_text())["medldm"]["history"] == [{"step": "made"}]


def test_written_forms_are_coded_and_agree(tmp_path):
    medldm.write(Volume(values(), Geometry(OBLIQUE, (4, 5, 6))), tmp_path / "a.nii.gz")
    header = nib.load(tmp_path / "a.nii.gz").header
    assert (int(header["sform_code"]), int(header["qform_code"])) == (1, 1)
    np.testing.assert_allclose(header.get_qform(), header.get_sform(), atol=1e-4)
    assert header.get_xyzt_units()[0] == "mm" and header.get_data_dtype() == np.float32


def test_a_sheared_grid_is_left_to_the_sform(tmp_path):
    affine = np.eye(4)
    affine[1, 2] = 0.3
    medldm.write(Volume(values(), Geometry(affine, (4, 5, 6))), tmp_path / "a.nii.gz")
    assert int(nib.load(tmp_path / "a.nii.gz").header["qform_code"]) == 0
    assert medldm.read(tmp_path / "a.nii.gz").geometry.isclose(Geometry(affine, (4, 5, 6)))


def test_the_same_scan_gives_the_same_bytes(tmp_path):
    volume = Volume(values(), Geometry(OBLIQUE, (4, 5, 6)))
    files = [medldm.write(volume, tmp_path / name) for name in ("a.nii.gz", "b.nii.gz")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_existing_files_stay_unless_overwrite(tmp_path):
    one, two = (Volume(values() + n, Geometry(OBLIQUE, (4, 5, 6))) for n in (0, 1))
    medldm.write(one, tmp_path / "a.nii.gz")
    with pytest.raises(OutputError, match="exist"):
        medldm.write(two, tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(medldm.read(tmp_path / "a.nii.gz").array, one.array)
    medldm.write(two, tmp_path / "a.nii.gz", overwrite=True)
    np.testing.assert_array_equal(medldm.read(tmp_path / "a.nii.gz").array, two.array)


def test_a_failing_write_leaves_nothing_and_foreign_sidecars_alone(tmp_path, monkeypatch):
    volume = Volume(values(), Geometry(OBLIQUE, (4, 5, 6)))
    (tmp_path / "a.json").write_text('{"EchoTime": 3}')
    with pytest.raises(OutputError, match="another program"):
        medldm.write(volume, tmp_path / "a.nii.gz")
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OutputError, match="No space"):
        medldm.write(volume, tmp_path / "b.nii.gz")
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_what_a_model_made_is_marked_in_the_file_itself(tmp_path):
    made = Volume(values(), Geometry(OBLIQUE, (4, 5, 6)), "HU", "MR", ({"step": "denoise", AI_PROCESSED: "yes"},))
    plain = Volume(values(), Geometry(OBLIQUE, (4, 5, 6)), "HU", "MR", ({"step": "read"},))
    drawn = made.with_step({"step": "synthesize", SYNTHETIC: True})
    for number, volume in enumerate((made, plain, drawn)):
        path = medldm.write(volume, tmp_path / f"{number}.nii.gz")
        path.with_name(path.name.removesuffix(".nii.gz") + ".json").unlink()  # files are moved without their sidecar
        again = medldm.read(path)
        assert (again.ai_processed, again.synthetic) == (volume.ai_processed, volume.synthetic)
        assert (again.unit, again.modality) == ("HU", "MR")
