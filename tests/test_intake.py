"""Inputs that go wrong where a scan is restored: negative values, markers, hidden noise; and what is said of them."""

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import medldm
from medldm.cli import app
from medldm.errors import PixelError
from medldm.geometry import Geometry
from medldm.operators.block_average import BlockAverage
from medldm.restoration.checks import doubts, residual_checks
from medldm.restoration.intake import fill_near
from medldm.restoration.noise_level import estimate_noise_std
from medldm.volume import Volume
from tests.test_restore import head_like
from tests.tiny import mask_model, tiny_model


@pytest.fixture(scope="module")
def model_2d(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("packs"), 2)


@pytest.fixture(scope="module")
def model_3d(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("packs"), 3)


def picture(noise=4.0):
    grid = np.stack(np.meshgrid(np.linspace(-1, 1, 64), np.linspace(-1, 1, 96), indexing="ij"))
    clean = 120 + 80 * np.sin(3 * grid[0]) * np.cos(2 * grid[1])
    return (clean + noise * np.random.default_rng(0).standard_normal(clean.shape)).astype(np.float32)


def settings(model, **further):
    return {"model": model, "spacing": (2, 2, 2), **further}


def test_shifted_values_give_the_shifted_result_and_are_told_of(model_3d):
    array = head_like((24, 22, 20))
    plain = medldm.denoise(array, **settings(model_3d, noise_std=20.0))
    moved = medldm.denoise(array / 100 - 3, **settings(model_3d, noise_std=0.2))
    np.testing.assert_allclose((moved.array + 3) * 100, plain.array, atol=25)
    assert (moved.array < -1).any()
    assert not plain.report["warnings"] and any("taken for air" in w for w in moved.report["warnings"])


def test_values_around_zero_without_air_are_refused_and_a_range_is_the_way_out(model_3d):
    array = np.random.default_rng(0).standard_normal((20, 20, 20)).astype(np.float32)
    with pytest.raises(PixelError, match="value_range"):
        medldm.denoise(array, **settings(model_3d))
    result = medldm.denoise(array, **settings(model_3d, noise_std=0.1, value_range=(-4, 4)))
    assert result.array.min() < -1  # the floor is the range's, not 0


@pytest.mark.parametrize("value", [3000.0, -3000.0])
def test_a_marker_comes_back_and_changes_nothing_around_it(model_2d, value):
    clean, marked = picture(), picture()
    marked[20:28, 30:38] = value
    there = marked != clean
    plain = medldm.denoise(clean, model=model_2d)
    result = medldm.denoise(marked, model=model_2d)
    assert np.array_equal(result.array[there], marked[there])
    far = np.ones_like(there)
    far[8:40, 18:50] = False
    assert np.abs(result.array - plain.array)[far].max() < 2
    assert any("64 voxels" in w for w in result.report["warnings"])


def test_hot_voxels_do_not_hide_the_noise(model_3d):
    array = head_like((24, 22, 20))
    hot = array.copy()
    hot[np.random.default_rng(2).random(array.shape) < 0.002] = 30000
    plain, result = (medldm.denoise(a, **settings(model_3d)) for a in (array, hot))
    assert result.report["noise_std"] == pytest.approx(plain.report["noise_std"], rel=0.15)
    assert result.report["intensity"]["scale"] == pytest.approx(plain.report["intensity"]["scale"], rel=0.1)
    assert np.array_equal(result.array[hot > array], hot[hot > array])


def test_a_marker_stays_in_its_block_when_refined(model_2d):
    marked = picture()
    marked[20:28, 30:38] = 3000
    result = medldm.super_resolve(marked, model=model_2d, scale=2, noise_std=0)
    blocks = result.array.reshape(64, 2, 96, 2).mean((1, 3))
    np.testing.assert_allclose(blocks, marked, atol=0.2)
    np.testing.assert_allclose(result.array[40:56, 60:76], 3000, atol=300)
    assert result.array[:36].max() < 400


def test_voxels_are_filled_from_around_them():
    array = picture(0)
    mask = np.zeros(array.shape, dtype=bool)
    mask[10, 10] = mask[30:40, 40:60] = True
    filled = fill_near(np.where(mask, 1e6, array).astype(np.float32), mask)
    assert np.array_equal(filled[~mask], array[~mask]) and np.abs(filled - array).max() < 40


def test_noise_of_a_coarse_scan_is_estimated_and_a_clean_one_keeps_its_blocks(model_2d):
    noisy = medldm.super_resolve(picture(12.0), model=model_2d, scale=2)
    assert noisy.report["noise_std"] == pytest.approx(12, rel=0.2) and noisy.report["noise_std_estimated"]
    texture = 10 * np.random.default_rng(1).standard_normal((64, 96)).astype(np.float32)
    fine = picture(0) + texture * (picture(0) > 150)
    clean = medldm.super_resolve(fine, model=model_2d, scale=2)
    assert clean.report["noise_std"] == 0
    np.testing.assert_allclose(clean.array.reshape(64, 2, 96, 2).mean((1, 3)), fine, atol=0.2)


@pytest.mark.parametrize("factor", [2, 4])
def test_block_means_are_equal_where_the_floor_acts(model_3d, factor):
    """A bright edge beside air: interpolation undershoots there, and the floor at 0 lifts the mean."""
    array = np.zeros((16, 16, 12), np.float32)
    array[5:11, 4:12, 3:9] = 900
    array += np.random.default_rng(0).random(array.shape).astype(np.float32)
    scan = Volume(array, Geometry.from_spacing(array.shape, (2, 2, 4)), "arbitrary", "MR")
    result = medldm.super_resolve(scan, model=model_3d, scale=factor, noise_std=0).array
    assert result.min() >= 0
    blocks = BlockAverage((1, 1, factor)).forward(torch.from_numpy(result.copy())[None, None])[0, 0].numpy()
    assert np.abs(blocks - array).max() < 1e-3 * 900


def test_a_result_that_is_its_scan_and_a_residual_with_structure_are_told_of(model_2d):
    same = medldm.denoise(picture(), model=model_2d, noise_std=1e-3, value_range=(0, 255))
    assert any("as it was" in w for w in same.report["warnings"])
    restored, lost = picture(0)[..., None], (picture(10.0) - picture(0))[..., None] + 0.3 * picture(0)[..., None]
    checks = residual_checks(lost, restored, 8.0)
    assert checks["residual_has_structure"]
    assert any("not plain noise" in w for w in doubts(checks, lost, 255, same_grid=True))
    plain = (picture(8.0) - picture(0))[..., None]
    assert not doubts(residual_checks(plain, restored, 8.0), plain, 255, same_grid=True)


def of_fine_structure():
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in (40, 40, 32)), indexing="ij"))
    fine = np.random.default_rng(1).standard_normal(grid[0].shape)
    return (600 + 40 * (1.1 + np.sin(7 * grid[0]) * np.cos(5 * grid[1])) * fine).astype(np.float32)


def test_a_weak_estimate_is_told_of(model_3d):
    array = of_fine_structure()
    report = medldm.denoise(array, **settings(model_3d)).report
    assert any("hard to tell" in w and "noise_std" in w for w in report["warnings"])
    assert report["noise_std"] <= estimate_noise_std(array, noise="gaussian") * 1.5 + 1


def test_filling_a_region_does_not_ask_for_a_noise_level_that_spoils_nothing(tmp_path):
    array = of_fine_structure()
    mask = np.zeros(array.shape, dtype=bool)
    mask[16:24, 16:24, 12:18] = True
    report = medldm.inpaint(array, mask, model=mask_model(tmp_path, 3), spacing=(2, 2, 2)).report
    assert report["noise_std_estimated"] and not any("noise_std" in w for w in report["warnings"])


def test_a_scan_beyond_what_the_model_saw_is_told_of_wherever_a_person_looks(tmp_path, model_3d):
    """Result, command line, its JSON, the report of one scan, and the list of a folder's."""
    model_3d.save(tmp_path / "pack")
    (tmp_path / "in").mkdir()
    array = head_like((24, 22, 20))
    medldm.write(Volume(array, Geometry.from_spacing(array.shape, (2, 2, 9))), tmp_path / "in" / "thick.nii.gz")
    beyond = "voxels of 2 x 2 x 9 mm; the model was trained on 0.5 to 3 mm"
    scan = tmp_path / "in" / "thick.nii.gz"
    assert beyond in medldm.denoise(scan, model=model_3d).report["warnings"]

    def call(*words):
        words = ["denoise", *words, "--model", tmp_path / "pack", "--noise-std", "20"]
        done = CliRunner().invoke(app, [str(word) for word in words])
        assert done.exit_code == 0, done.stderr
        return done

    said = call("-i", scan, "-o", tmp_path / "out.nii.gz", "--report", tmp_path / "out.html").stderr
    assert f"warning: {beyond}" in said
    assert f'class="warning">{beyond}' in (tmp_path / "out.html").read_text(encoding="utf-8")
    assert beyond in json.loads(call("-i", scan, "-o", tmp_path / "again.nii.gz", "--json").stdout)["warnings"]
    listed = call("--each", "-i", tmp_path / "in", "-o", tmp_path / "each", "--json").stdout
    assert beyond in listed
