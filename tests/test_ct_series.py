"""A CT series, blind: each slice by its own noise, a pair of neighbours alike, soft tissue where it was measured."""

import dataclasses

import numpy as np
import pytest
from scipy import ndimage

import medldm
from medldm.geometry import Geometry
from medldm.operators.measurement import Gaussian, Kernel
from medldm.volume import Volume
from tests.test_tissue_noise import noisy, thorax
from tests.tiny import tiny_model

LEVELS = (90.0, 75.0, 60.0, 45.0, 30.0, 30.0)  # HU, from the shoulders to the lung
AFFINE = np.diag([-1.6, -1.6, 5.0, 1.0])


@pytest.fixture(scope="module")
def ct_model(tmp_path_factory):
    model = tiny_model(tmp_path_factory.mktemp("packs"), 2)
    window = model.pack.intensity.model_copy(update={"kind": "window", "low": -1000.0, "high": 400.0})
    pack = model.pack.model_copy(update={"intensity": window, "modality": ("CT",)})
    return medldm.load_model(dataclasses.replace(model, pack=pack).save(tmp_path_factory.mktemp("ct")))


@pytest.fixture(scope="module")
def series():
    slices = [noisy(Kernel(), thorax(), level, seed) for seed, level in enumerate(LEVELS)]
    array = np.concatenate(slices, axis=2).astype(np.float32)
    return Volume(array, Geometry(AFFINE, array.shape), "HU", "CT")


@pytest.fixture(scope="module")
def restored(ct_model, series):
    return medldm.restore(series, "denoise", model=ct_model)


def test_each_slice_has_its_own_level(restored):
    found = restored.report["noise_std_of_slices"]
    assert np.allclose(found, LEVELS, rtol=0.3) and np.all(np.diff(found) < 5)
    assert restored.report["noise_std_estimated"] and min(found) < restored.report["noise_std"] < max(found)
    assert not any("differs from slice to slice" in said for said in restored.report["warnings"])


def test_a_slice_of_it_is_what_it_is_alone_with_that_level(restored, series, ct_model):
    for k in (0, 4):
        alone = series.crop((0, 0, k), (*series.geometry.shape[:2], k + 1))
        level = restored.report["noise_std_of_slices"][k]
        told = medldm.denoise(alone, model=ct_model, noise_std=level)
        assert np.allclose(told.array[..., 0], restored.volume.array[..., k], atol=0.5)


def test_a_level_that_is_given_holds_for_all(series, ct_model):
    told = medldm.restore(series, "denoise", model=ct_model, noise_std=50.0)
    assert told.report["noise_std"] == 50 and "noise_std_of_slices" not in told.report


def test_what_is_estimated_is_what_is_taken(restored, series, ct_model):
    assert medldm.estimate_noise(series, model=ct_model) == pytest.approx(restored.report["noise_std"])


def test_the_report_says_from_where_to_where(restored, series, tmp_path):
    page = medldm.write_report(tmp_path / "report.html", series, restored)
    low, high = (f"{f(restored.report['noise_std_of_slices']):.4g}" for f in (min, max))
    assert f"{low} to {high} in its slices" in page.read_text(encoding="utf-8")


def test_soft_tissue_keeps_the_measurements_mean():
    """By the model that ships, at 80 HU of either noise."""
    truth = thorax()
    muscle = ndimage.binary_erosion((truth[..., 0] > 0) & (truth[..., 0] < 80), np.ones((9, 9)))
    for noise in (Gaussian(), Kernel()):
        scan = noisy(noise, truth, 80.0)
        found = medldm.denoise(Volume(scan, Geometry(AFFINE, scan.shape), "HU", "CT"), model="ct-torso", noise_std=80.0)
        assert np.std((found.array - truth)[muscle]) < 20
        assert abs((found.array - scan)[muscle].mean()) < 0.85
