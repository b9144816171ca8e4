"""Restoration on tiny random models: geometry, units, seeds, consistency, refusals."""

import copy
import dataclasses

import numpy as np
import pytest
import torch

import medldm
from medldm.errors import Cancelled, InputError
from medldm.geometry import Geometry
from medldm.net_tables import IntensityTable
from medldm.nets.condition import Measurement
from medldm.nets.head import MeasurementHead
from medldm.nets.tiling import tiles
from medldm.operators.block_average import BlockAverage
from medldm.restoration.estimate import least_work, merge_by_tiles
from medldm.volume import Volume
from tests.tiny import tiny_model


@pytest.fixture(scope="module")
def model_2d(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("packs"), 2)


@pytest.fixture(scope="module")
def model_3d(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("packs"), 3)


def head_like(shape=(19, 22, 17), seed=0):
    """A bright ellipsoid with texture on a dark ground."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"))
    inside = (grid**2).sum(0) < 0.8
    return (inside * (600 + 100 * np.sin(5 * grid[0])) + rng.rayleigh(8, shape)).astype(np.float32)


OBLIQUE = np.array([[0.1, 2.0, 0.0, -30], [-1.9, 0.1, 0.2, 20], [0.1, -0.1, 2.1, 5], [0, 0, 0, 1.0]])


def test_denoised_scan_lies_on_the_scans_own_grid_in_its_unit(model_3d):
    scan = Volume(head_like(), Geometry(OBLIQUE, (19, 22, 17)), "arbitrary", "MR")
    result = medldm.denoise(scan, model=model_3d, noise_std=20.0)
    np.testing.assert_allclose(result.volume.geometry.affine, OBLIQUE, atol=1e-9)
    assert result.volume.array.shape == result.array.shape == scan.array.shape
    assert result.volume.unit == "arbitrary"
    np.testing.assert_allclose(result.residual.array, scan.array - result.volume.array, atol=1e-3)
    assert (result.uncertainty.array > 0).all()


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PSR", "IPR", "SAL", "ARI"])
def test_the_orientation_of_the_file_changes_nothing(model_3d, codes):
    """The same head stored in another axis order must give the same result at the same place."""
    scan = Volume(head_like(), Geometry(OBLIQUE, (19, 22, 17)), "arbitrary", "MR")
    direct = medldm.denoise(scan, model=model_3d, noise_std=20.0).volume.reorient("RAS")
    turned = medldm.denoise(scan.reorient(codes), model=model_3d, noise_std=20.0).volume.reorient("RAS")
    np.testing.assert_allclose(turned.geometry.affine, direct.geometry.affine, atol=1e-9)
    np.testing.assert_allclose(turned.array, direct.array, atol=1e-2)


def test_the_scale_of_the_values_changes_nothing_but_the_scale(model_3d):
    array = head_like()
    one = medldm.denoise(array, model=model_3d, noise_std=20.0, spacing=(2, 2, 2))
    other = medldm.denoise(array * 7, model=model_3d, noise_std=140.0, spacing=(2, 2, 2))
    np.testing.assert_allclose(other.array, one.array * 7, rtol=1e-3, atol=1)


def test_a_picture_keeps_rows_and_columns(model_2d):
    picture = np.zeros((20, 31), np.float32)
    picture[3:6, 10:28] = 1
    picture += np.random.default_rng(0).normal(0, 0.01, picture.shape)
    result = medldm.denoise(picture, model=model_2d, noise_std=0.02, value_range=(0, 1))
    assert result.array.shape == (20, 31)
    assert result.volume.array.shape == (31, 20, 1)
    assert np.corrcoef(result.array.ravel(), picture.ravel())[0, 1] > 0.9


def test_light_noise_fades_out_to_the_measurement(model_2d):
    picture = np.random.default_rng(0).random((24, 24)).astype(np.float32)
    result = medldm.denoise(picture, model=model_2d, noise_std=1e-5, value_range=(0, 1))
    np.testing.assert_allclose(result.array, picture, atol=1e-4)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_super_resolution_agrees_with_the_measurement_and_pins_the_edge(model_3d, axis):
    scan = Volume(head_like(), Geometry(OBLIQUE, (19, 22, 17)), "arbitrary", "MR")
    scale = [1, 1, 1]
    scale[axis] = 2
    result = medldm.super_resolve(scan, model=model_3d, scale=scale)
    assert result.volume.geometry.isclose(scan.geometry.zoom(scale))
    first = np.full(3, -0.5)
    np.testing.assert_allclose(result.volume.geometry.to_world(first), scan.geometry.to_world(first), atol=1e-9)
    blocks = BlockAverage(tuple(scale)).forward(torch.from_numpy(result.volume.array.copy())[None, None])[0, 0].numpy()
    inside = scan.array > 50  # where the floor at 0 does not act
    assert np.abs(blocks - scan.array)[inside].max() < 2


def test_one_factor_refines_the_thickest_axis(model_3d):
    scan = Volume(head_like((16, 8, 16)), Geometry.from_spacing((16, 8, 16), (1, 2.4, 1)), "arbitrary", "MR")
    assert medldm.super_resolve(scan, model=model_3d, scale=2).volume.array.shape == (16, 16, 16)
    assert medldm.super_resolve(scan, model=model_3d, target_spacing=(1, 1.2, 1)).volume.array.shape == (16, 16, 16)


def test_a_picture_is_refined_on_both_axes(model_2d):
    picture = np.random.default_rng(0).random((20, 12)).astype(np.float32)
    result = medldm.super_resolve(picture, model=model_2d, scale=2, value_range=(0, 1))
    assert result.array.shape == (40, 24)
    np.testing.assert_allclose(result.array.reshape(20, 2, 12, 2).mean((1, 3)), picture, atol=5e-3)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"scale": 3}, "factors out of 2, 4"),
        ({"scale": (2, 2, 1)}, "one axis"),
        ({"scale": 1}, "factors out of"),
        ({"target_spacing": (1, 1, 1.7)}, "whole fractions"),
        ({}, "one of scale and target_spacing"),
        ({"scale": 2.9}, "a whole factor"),
        ({"scale": (2.5, 2.5)}, "a whole factor"),
        ({"scale": (2, 2, 1, 7)}, "a whole factor"),
        ({"scale": "two"}, "a whole factor"),
        ({"scale": float("nan")}, "a whole factor"),
    ],
)
def test_scales_that_the_model_does_not_know_are_refused(model_3d, arguments, said):
    scan = Volume(head_like(), Geometry.from_spacing((19, 22, 17), (2, 2, 2)), "arbitrary", "MR")
    with pytest.raises(InputError, match=said):
        medldm.super_resolve(scan, model=model_3d, **arguments)


def test_samples_depend_on_their_seed_alone(model_2d):
    picture = np.random.default_rng(0).random((16, 16)).astype(np.float32)
    settings = {"model": model_2d, "noise_std": 0.1, "mode": "perceptual", "steps": 4, "value_range": (0, 1)}
    first = medldm.denoise(picture, seed=3, **settings)
    again = medldm.denoise(picture, seed=3, **settings)
    beside = medldm.denoise(picture, seed=3, samples=3, **settings)
    other = medldm.denoise(picture, seed=4, **settings)
    assert np.array_equal(first.array, again.array)
    np.testing.assert_allclose(beside.array, first.array, atol=1e-6)
    assert np.abs(other.array - first.array).max() > 1e-6


@pytest.mark.parametrize(("mode", "share"), [("perceptual", 0.2), (0.5, 0.1), ("fidelity", 0.0)])
def test_perceptual_mode_adds_noise_of_a_share_of_the_deviation(model_2d, mode, share):
    picture = np.random.default_rng(0).random((64, 64)).astype(np.float32)
    settings = {"model": model_2d, "noise_std": 0.1, "value_range": (0, 1)}
    mean, found = (medldm.denoise(picture, mode=each, **settings) for each in ("fidelity", mode))
    grain = (found.array - mean.array) / mean.uncertainty.array
    assert grain.std() == pytest.approx(share, rel=0.05) and abs(grain.mean()) <= 0.05 * share
    ratio = found.uncertainty.array / mean.uncertainty.array
    np.testing.assert_allclose(ratio, np.hypot(1, share), rtol=1e-5)


def test_spread_between_samples_joins_the_uncertainty(model_2d):
    picture = np.random.default_rng(0).random((16, 16)).astype(np.float32)
    settings = {"model": model_2d, "noise_std": 0.1, "mode": "perceptual", "steps": 4, "value_range": (0, 1)}
    one = medldm.denoise(picture, **settings).uncertainty.array
    three = medldm.denoise(picture, samples=3, **settings).uncertainty.array
    assert three.mean() > one.mean()


def test_a_3d_array_without_spacing_is_refused(model_3d):
    with pytest.raises(InputError, match="spacing"):
        medldm.denoise(head_like(), model=model_3d)


def test_values_that_are_not_finite_are_refused(model_3d):
    array = head_like()
    array[3, 4, 5] = np.nan
    with pytest.raises(InputError, match="1 values"):
        medldm.denoise(array, model=model_3d, spacing=(1, 1, 1))


@pytest.mark.parametrize("setting", [{"mode": "sharp"}, {"mode": 1.5}, {"samples": 0}, {"steps": 1}, {"noise_std": -1}])
def test_settings_without_sense_are_refused(model_2d, setting):
    with pytest.raises(InputError):
        medldm.denoise(np.eye(16), model=model_2d, **setting)


def test_another_modality_and_spacing_are_warned_of(model_3d):
    scan = Volume(head_like(), Geometry.from_spacing((19, 22, 17), (5, 2, 2)), "HU", "CT")
    warnings = medldm.denoise(scan, model=model_3d, noise_std=20.0).report["warnings"]
    assert any("CT" in w for w in warnings)
    assert any("mm" in w for w in warnings)


def test_a_window_in_hu_doubts_values_in_another_unit(model_3d):
    table = model_3d.pack.model_copy(update={"intensity": IntensityTable(kind="window", low=-1000, high=1000)})
    model = dataclasses.replace(model_3d, pack=table)
    grid = Geometry.from_spacing((19, 22, 17), (2, 2, 2))
    for unit, doubted in (("HU", False), ("Z_EFF", True)):
        doubts = model.fits(Volume(head_like(), grid, unit, "MR"))
        assert any(unit in doubt for doubt in doubts) == doubted


def test_the_spacing_that_counts_is_that_of_the_fine_grid(model_3d):
    scan = Volume(head_like((16, 8, 16)), Geometry.from_spacing((16, 8, 16), (2, 4, 2)), "arbitrary", "MR")
    assert model_3d.fits(scan)
    assert not medldm.super_resolve(scan, model=model_3d, scale=2).report["warnings"]


def test_progress_can_cancel(model_2d):
    done = []

    def stop(task, step, total):
        done.append(step)
        if step == 2:
            raise Cancelled("denoise", "a request to stop")

    with pytest.raises(Cancelled):
        medldm.denoise(np.eye(16), model=model_2d, noise_std=0.1, mode="perceptual", steps=8, progress=stop)
    assert done == [1, 2]


def test_tiles_of_the_head_equal_the_whole():
    head = MeasurementHead(2, channels=(8, 8), depth=1).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in head.parameters():
        parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    image = torch.rand(1, 1, 160, 200, generator=generator)
    y = Measurement(image, torch.full((1, 1, 1, 1), 0.1), torch.ones(1, 2, 1, 1))
    decoded = torch.rand(image.shape, generator=generator)
    with torch.no_grad():
        whole = head(decoded, y, torch.ones(1))
        tiled = merge_by_tiles(head, decoded, y, torch.ones(1), max_voxels=10_000)
    for a, b in zip(whole, tiled, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("mode", "steps"), [(0.3, 10), (0.9, 5), ("perceptual", 4), ("fidelity", 4)])
def test_progress_ends_where_it_says(model_2d, mode, steps):
    seen = []
    report = lambda task, done, total: seen.append((done, total))  # noqa: E731
    medldm.denoise(np.eye(16), model=model_2d, noise_std=0.1, mode=mode, steps=steps, samples=2, progress=report)
    assert seen[-1][0] == seen[-1][1] and [done for done, _ in seen] == list(range(1, len(seen) + 1))


def test_a_single_image_is_doubted_by_a_model_of_volumes(model_3d):
    scan = Volume(head_like((24, 20, 1)), Geometry.from_spacing((24, 20, 1), (1, 1, 1)), "arbitrary", "MR")
    assert any("single image" in warning for warning in model_3d.fits(scan))
    assert any("single image" in w for w in medldm.denoise(scan, model=model_3d, noise_std=5.0).report["warnings"])


def test_an_option_that_is_none_is_named(model_2d):
    with pytest.raises(TypeError, match="nois_std"):
        medldm.denoise(np.eye(16), model=model_2d, nois_std=0.1)


@pytest.mark.parametrize(
    ("size", "work"), [((256, 256, 192), 1.25), ((256, 256, 256), 1.25), ((320, 320, 320), 1.44), ((5000, 3000), 1.02)]
)
def test_tiles_fit_and_overlap_little(size, work):
    """Cubes, and what is left of the axes, read 2.1, 1.9 and 1.7 times the three volumes."""
    edges = least_work(size, 8, 32, 12_000_000)
    parts = list(tiles(size, edges, [32] * len(size)))
    read = [np.prod([s.stop - s.start for s in part.outer]) for part in parts]
    assert all(edge % 8 == 0 for edge in edges)
    assert max(read) <= 12_000_000
    assert sum(read) <= work * 1.005 * np.prod(size)


def test_tiles_are_small_where_none_fits():
    assert least_work((64, 64), 8, 32, 1000) == [8, 8]


def test_report_is_plain_data(model_2d):
    import json

    report = medldm.denoise(np.eye(16), model=model_2d, noise_std=0.1).report
    assert json.loads(json.dumps(report, allow_nan=True))["model"] == "tiny-2d"


def test_the_borders_of_the_latents_blocks_are_faint(model_2d):
    """An estimate that is the same in every block steps at their borders; in the mean with shifted blocks by half."""
    from medldm.restoration.estimate import posterior_mean

    def decoded(networks):
        seen = []
        measurement = Measurement(image, torch.full((1, 1, 1, 1), 0.1), torch.ones(1, 2, 1, 1))
        with torch.no_grad():
            posterior_mean(networks, networks.head("main"), measurement, lambda done, total, x: seen.append(x))
        return seen[0]

    image = torch.rand(1, 1, 32, 24, generator=torch.Generator().manual_seed(0))
    whole = decoded(model_2d.networks)
    assert whole.shape == image.shape
    ramp = torch.linspace(0, 1, 4).repeat(8)[:, None].expand(32, 24)
    networks = copy.deepcopy(model_2d.networks)
    networks.autoencoder.decode = lambda z: ramp[None, None].clone()
    steps = decoded(networks)[0, 0].diff(dim=0).abs()
    inside = steps[:-4].mean(1)
    assert float(ramp.diff(dim=0).abs().max()) == pytest.approx(1, abs=1e-6)
    assert float(inside.max()) < 0.6
