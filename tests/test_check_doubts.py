"""What can be read and may be no scan to train on: `medldm check` says so, and does not say it of scans."""

import json
import re

import nibabel as nib
import numpy as np
import pytest

import medldm
from medldm.io.dataset import check_dataset
from medldm.io.survey import describe
from tests.test_cli import call


def doubted(tmp_path, array, affine=None):
    array = np.asarray(array, dtype=np.float32)
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), tmp_path / "a.nii")
    (found,) = check_dataset(tmp_path, test=0).members
    return found.item.facts["doubts"]


def blobs(count, shape=(24, 25, 26)):
    """Labels in patches, as an atlas has them."""
    places = np.random.default_rng(1).random((count, 3)) * shape
    grid = np.stack(np.indices(shape), axis=-1)[..., None, :]
    return np.argmin(((grid - places) ** 2).sum(-1), axis=-1)


NOISE = np.random.default_rng(0).normal(100, 20, (24, 25, 26))
DOUBTS = {
    "constant": (np.full((8, 9, 10), 7), "one value alone .7."),
    "blank": (np.zeros((8, 9, 10)), "one value alone .0."),
    "1e30": (np.where(NOISE > 150, 1e30, NOISE), "values up to 1e.30"),
    "-1e30": (np.where(NOISE > 150, -1e30, NOISE), "values up to 1e.30"),
    "two slices": (NOISE[..., :2], "2 voxels along an axis"),
    "two columns": (NOISE[:2], "2 voxels along an axis"),
    "a mask": (NOISE > 110, "2 whole numbers alone: labels"),
    "a small mask": ((np.indices((24, 25, 26)).sum(0) > 68), "2 whole numbers alone"),
    "labels": (blobs(6), "6 whole numbers alone: labels"),
    "an atlas": (np.repeat(np.repeat(blobs(40), 4, 0), 2, 1) * 50, "40 whole numbers alone: labels"),
}


@pytest.mark.parametrize("name", DOUBTS)
def test_what_is_no_scan_to_train_on_is_doubted(tmp_path, name):
    array, reason = DOUBTS[name]
    assert any(re.search(reason, doubt) for doubt in doubted(tmp_path, array))
    done = call("check", tmp_path, "--dry-run")
    assert "Doubtful" in done.stdout and re.search(reason, done.stdout) and "(1 doubtful)" in done.stdout
    assert json.loads(call("check", tmp_path, "--dry-run", "--json").stdout)["scans"][0]["doubts"]
    assert re.search(reason, call("inspect", tmp_path / "a.nii").stdout)


SOUND = {
    "floats": NOISE,
    "whole numbers": np.rint(NOISE),
    "8 bits": np.clip(np.rint(NOISE / 4), 0, 255),
    "in air": np.where(np.indices((24, 25, 26)).sum(0) > 40, np.rint(NOISE), 0),
    "HU": np.rint(NOISE * 10 - 1024),
    "a picture": NOISE[..., :1],
    "counts of a PET": NOISE * 1e5,
}


@pytest.mark.parametrize("name", SOUND)
def test_a_scan_is_not_doubted(tmp_path, name):
    assert doubted(tmp_path, SOUND[name]) == []
    assert "doubt" not in call("check", tmp_path, "--dry-run").stdout


def test_real_scans_are_not_doubted_and_their_labels_are(data_dir):
    heads = data_dir / "brain-t1-2mm"
    for path in sorted((heads / "t1").iterdir())[:2]:
        assert describe(medldm.read(path))["doubts"] == []
    for path in sorted((heads / "labels").iterdir())[:2]:
        assert "labels" in describe(medldm.read(path))["doubts"][0]
    for path in sorted((data_dir / "chest-xray-256" / "images").iterdir())[:12]:
        assert describe(medldm.read(path))["doubts"] == []
