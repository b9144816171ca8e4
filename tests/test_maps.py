"""Residual and uncertainty say what they are, in memory and in every file, and are not taken for a scan again."""

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

import medldm
from medldm import Geometry, Restoration, Volume
from medldm.errors import InputError, NotImage
from medldm.marks import AI_PROCESSED, BOUNDS, MAPS, RESEARCH_USE
from tests.dicom_maker import OBLIQUE
from tests.tiny import tiny_intervals, tiny_model

STEP = {"step": "denoise", "model": "brain", "weights_sha256": "ab" * 32, "seed": 7, "version": "0.1.0"}
STEP |= {AI_PROCESSED: RESEARCH_USE}


def restoration(scan):
    """A result with its maps, as any author might put it together."""
    values = np.random.default_rng(0).normal(0, 3, scan.array.shape).astype(np.float32)
    result = scan.with_array(scan.array - values, STEP)
    return Restoration(result, result.array, scan.with_array(values, STEP), scan.with_array(np.abs(values), STEP), {})


def map_of(scan, what):
    """A map beside the result, or a bound of its interval."""
    made = restoration(scan)
    if what not in BOUNDS:
        return getattr(made, what)
    facts = {"task": "denoise", "method": "trained", "mode": 0.0, "samples": 1, "factor": [1, 1, 1], "noise_std": 3.0}
    report = facts | {"intensity": {"offset": 0.0, "scale": 100.0}}
    return replace(made, report=report, intervals=tiny_intervals()).interval()[BOUNDS.index(what)]


@pytest.fixture
def scan():
    shape = (8, 9, 5)
    geometry = Geometry(np.diag([2.0, 2, 3, 1]), shape)
    return Volume(np.ones(shape, np.float32), geometry, "PROPCNTS", "PT", ({"step": "read"},))


def test_maps_name_themselves_once_and_the_result_does_not(scan):
    made = restoration(scan)
    assert made.volume.quantity == scan.quantity == ""
    for again in (made, replace(made, report={"seed": 1})):
        assert (again.residual.quantity, again.uncertainty.quantity) == ("residual", "uncertainty")
        assert [step["step"] for step in again.residual.history] == ["read", "denoise", "denoise residual"]
        assert again.uncertainty.ai_processed


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("what", MAPS)
def test_a_nifti_file_says_what_it_holds_without_its_sidecar(scan, tmp_path, what, suffix):
    written = map_of(scan, what)
    path = medldm.write(written, tmp_path / f"a{suffix}")
    assert what in (tmp_path / "a.json").read_text()
    (tmp_path / "a.json").unlink()
    again = medldm.read(path)
    assert (again.quantity, again.unit, again.modality) == (what, "PROPCNTS", "PT") and again.ai_processed
    np.testing.assert_array_equal(again.array, written.array)
    assert nib.load(path).header.get_intent()[::2] == ("estimate", what)
    if suffix == ".nii":
        lazy = medldm.open_lazily(path)
        assert lazy.quantity == what and lazy.ai_processed


def test_the_intent_of_another_program_s_file_is_not_heeded(tmp_path):
    image = nib.Nifti1Image(np.ones((3, 3, 3), np.float32), np.eye(4))
    image.header.set_intent("estimate", name="residual")
    image.header.set_xyzt_units("mm")
    nib.save(image, tmp_path / "a.nii")
    assert medldm.read(tmp_path / "a.nii").quantity == ""


@pytest.mark.parametrize("modality", ["CT", "MR", "PT"])
def test_a_series_of_a_residual_says_so(dicom_series, tmp_path, modality):
    made = restoration(medldm.read(dicom_series(modality=modality, orientation=OBLIQUE)))
    medldm.write(made.residual, tmp_path / "residual")
    medldm.write(made.volume, tmp_path / "result")
    again = medldm.read(tmp_path / "residual")
    assert again.quantity == "residual" and again.ai_processed
    assert np.abs(again.array - made.residual.array).max() <= again.source.slopes[0] / 2 + 1e-5
    assert medldm.open_lazily(tmp_path / "residual").quantity == "residual"
    assert medldm.read(tmp_path / "result").quantity == ""


@pytest.mark.parametrize("what", MAPS)
def test_a_parametric_map_is_no_scan(dicom_series, tmp_path, what):
    made = map_of(medldm.read(dicom_series()), what)
    medldm.write(made, tmp_path / "a.dcm", "parametric_map")
    for opening in (medldm.read, medldm.open_lazily):
        with pytest.raises(NotImage, match="Parametric Map"):
            opening(tmp_path / "a.dcm")


@pytest.mark.parametrize("what", MAPS)
def test_a_map_is_not_restored(scan, tmp_path, what):
    tiny_model(tmp_path, 3)
    written = map_of(scan, what)
    path = medldm.write(written, tmp_path / "a.nii.gz")
    for given in (written, path):
        with pytest.raises(InputError, match=f"the {what} of a result"):
            medldm.denoise(given, model=tmp_path / "tiny-3d")
