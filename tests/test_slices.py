"""A model of single images on a volume: the same as slice by slice, in the scan's own place, and it can be stopped."""

import dataclasses
import json
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import medldm
from medldm.cli import app
from medldm.errors import Cancelled, InputError
from medldm.geometry import Geometry
from medldm.restoration.noise_level import NoiseEstimate, estimate_over_slices
from medldm.volume import Volume
from tests.tiny import mask_model, tiny_model

OBLIQUE = np.array([[0.1, 0.9, 0.0, -30], [-0.9, 0.1, 0.4, 20], [0.1, -0.1, 5.0, 5], [0, 0, 0, 1.0]])


@pytest.fixture(scope="module")
def model_2d(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("packs"), 2)


@pytest.fixture(scope="module")
def masks_2d(tmp_path_factory):
    return mask_model(tmp_path_factory.mktemp("packs"), 2)


def torso(shape=(28, 24, 6), noise=20.0, seed=0, affine=OBLIQUE):
    """Smooth anatomy that changes from slice to slice, in thick slices."""
    grid = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    clean = 500 + 300 * np.sin(3 * grid[0]) * np.cos(2 * grid[1] + grid[2])
    noisy = clean + noise * np.random.default_rng(seed).standard_normal(shape)
    return Volume(noisy.astype(np.float32), Geometry(affine, shape), "arbitrary", "DX")


def slice_of(volume, axis, k):
    order = (*(a for a in range(3) if a != axis), axis)
    stack = volume.permute(order)
    return stack.crop((0, 0, k), (*stack.geometry.shape[:2], k + 1))


@settings(max_examples=12, deadline=None)
@given(
    shape=st.tuples(st.integers(9, 26), st.integers(9, 26), st.integers(2, 5)),
    axis=st.sampled_from([0, 1, 2]),
    noise=st.sampled_from([5.0, 40.0]),
    seed=st.integers(0, 99),
)
def test_a_volume_is_its_slices(model_2d, shape, axis, noise, seed):
    """Wherever the slices lie in the file: each comes out as it does alone, told the same range and level."""
    order = {0: (2, 0, 1), 1: (0, 2, 1), 2: (0, 1, 2)}[axis]
    scan = torso(shape, seed=seed).permute(order)
    range_, done = model_2d.value_range(scan), medldm.denoise(scan, model=model_2d, noise_std=noise)
    assert done.report["slices"] == shape[2] and scan.slice_axis == axis
    for k in (0, shape[2] - 1):
        alone = medldm.denoise(slice_of(scan, axis, k), model=model_2d, noise_std=noise, value_range=range_)
        for whole, part in (
            (done.volume, alone.volume),
            (done.residual, alone.residual),
            (done.uncertainty, alone.uncertainty),
        ):
            np.testing.assert_array_equal(slice_of(whole, axis, k).array, part.array)
            assert slice_of(whole, axis, k).geometry.isclose(part.geometry)


def test_the_result_lies_on_the_scans_own_grid_and_says_how_it_was_made(model_2d):
    scan = torso().permute((2, 0, 1)).flip((1,))
    done = medldm.denoise(scan, model=model_2d)
    assert done.volume.geometry.isclose(scan.geometry) and done.volume.unit == scan.unit
    np.testing.assert_allclose(done.residual.array, scan.array - done.array, atol=1e-3)
    assert (done.uncertainty.array > 0).all() and done.uncertainty.quantity == "uncertainty"
    assert done.report["slices"] == 6 and done.report["plane"] == done.volume.history[-1]["plane"] == "axial"
    assert done.volume.ai_processed and json.loads(json.dumps(done.report))


@pytest.mark.parametrize(("plane", "slices"), [("axial", 6), ("coronal", 28), ("sagittal", 24), (None, 6)])
def test_another_plane_can_be_chosen(model_2d, plane, slices):
    done = medldm.denoise(torso(), model=model_2d, noise_std=20.0, plane=plane)
    assert done.report["slices"] == slices and done.report["plane"] == (plane or "axial")
    assert done.array.shape == (28, 24, 6)


@pytest.fixture(scope="module")
def axial(model_2d, tmp_path_factory):
    """A model of axial slices that lie as a radiologist looks at them."""
    pack = model_2d.pack.model_copy(update={"axcodes": "LPS"})
    return medldm.load_model(dataclasses.replace(model_2d, pack=pack).save(tmp_path_factory.mktemp("axial")))


@pytest.mark.parametrize("axcodes", ["LAS", "RAS", "PSR", "ILA", "SRP"])
@pytest.mark.parametrize("thick", [5.0, 1.0, 0.6])
def test_slices_are_turned_as_the_models_training_was(axial, axcodes, thick):
    """However a file is laid out, and also where its slices are thinner than its pixels are wide."""
    scan = torso(affine=np.diag([-0.9, -0.9, thick, 1]))
    assert scan.geometry.axcodes == ("L", "P", "S")
    turned, wanted = scan.reorient(axcodes), medldm.denoise(scan, model=axial, noise_std=20.0)
    done = medldm.denoise(turned, model=axial, noise_std=20.0)
    assert done.report["plane"] == "axial" and done.report["slices"] == 6
    assert done.volume.geometry.isclose(turned.geometry)
    np.testing.assert_allclose(done.volume.reorient("LPS").array, wanted.array, atol=1e-3)
    np.testing.assert_allclose(done.residual.reorient("LPS").array, wanted.residual.array, atol=1e-3)
    estimated = [medldm.estimate_noise(each, model=axial) for each in (scan, turned)]
    assert estimated[0] == pytest.approx(estimated[1], rel=1e-6)
    first = tuple(1 if code in "SI" else n for code, n in zip(axcodes, turned.array.shape, strict=True))
    alone = medldm.denoise(
        turned.crop((0, 0, 0), first), model=axial, noise_std=20.0, value_range=axial.value_range(scan)
    )
    k = 0 if "S" in axcodes else 5
    np.testing.assert_allclose(alone.volume.reorient("LPS").array[..., 0], wanted.array[..., k], atol=1e-3)


def test_slices_that_are_thick_in_another_plane_stay_as_they_lie(axial, model_2d):
    coronal = torso((28, 6, 24), affine=np.diag([-0.9, -4.0, 0.9, 1]))
    done = [medldm.denoise(coronal, model=model, noise_std=20.0) for model in (axial, model_2d)]
    assert [each.report["plane"] for each in done] == ["coronal", "coronal"]
    np.testing.assert_array_equal(done[0].array, done[1].array)


def test_a_plane_without_sense_is_refused(model_2d, tmp_path):
    with pytest.raises(InputError, match="oblique.*axial"):
        medldm.denoise(torso(), model=model_2d, plane="oblique")
    with pytest.raises(InputError, match="model of volumes"):
        medldm.denoise(torso(), model=tiny_model(tmp_path, 3), plane="axial", noise_std=20.0)


@pytest.mark.parametrize("noise", [8.0, 30.0])
def test_one_noise_level_for_all_slices_that_blank_ones_do_not_change(model_2d, noise):
    scan = torso((96, 80, 9), noise=noise)
    array = scan.array.copy()
    array[..., :2] = 0
    for values in (scan.array, array):
        report = medldm.denoise(scan.with_array(values), model=model_2d).report
        assert report["noise_std"] == pytest.approx(noise, rel=0.15) and report["noise_std_estimated"]
        assert not any("noise" in w for w in report["warnings"])


def test_the_level_of_slices_is_that_of_the_sure_ones():
    sure, doubtful, blank = NoiseEstimate(5, 6), NoiseEstimate(1, 9, "fine structure"), NoiseEstimate(0, 0)
    found = estimate_over_slices([blank, sure, doubtful, sure, sure, blank])
    assert found.value == 5 and found.sure
    assert estimate_over_slices([doubtful, doubtful, sure]).doubt == "fine structure"
    assert "differs from slice to slice" in estimate_over_slices([sure, NoiseEstimate(20, 21), sure]).doubt
    assert estimate_over_slices([blank, blank]).value == 0
    uneven = [doubtful, doubtful, sure, NoiseEstimate(20, 21)]  # each slice is given its own
    assert estimate_over_slices(uneven, followed=True) == NoiseEstimate(12.5, 13.5)


def test_one_range_for_all_slices(model_2d):
    """A slice that is darker than the others stays so: its own range would make it as bright as they are."""
    scan = torso(noise=10.0)
    dark = scan.array.copy()
    dark[..., 3] = 0.1 * dark[..., 3]
    done = medldm.denoise(scan.with_array(dark), model=model_2d, noise_std=10.0)
    low, high = model_2d.value_range(scan.with_array(dark))
    assert done.report["intensity"] == pytest.approx({"offset": low, "scale": high - low})
    alone = medldm.denoise(slice_of(scan.with_array(dark), 2, 3), model=model_2d, noise_std=10.0)
    assert alone.report["intensity"]["scale"] < 0.5 * (high - low)


@pytest.mark.parametrize(
    ("asked", "shape", "factor"),
    [
        ({"scale": 2}, (56, 48, 6), [2, 2, 1]),
        ({"scale": (2, 2, 1)}, (56, 48, 6), [2, 2, 1]),
        ({"scale": (1, 2, 2), "plane": "coronal"}, (28, 48, 12), [1, 2, 2]),
        ({"target_spacing": tuple(s / f for s, f in zip(Geometry(OBLIQUE, (1, 1, 1)).spacing, (2, 2, 1), strict=True))},
         (56, 48, 6), [2, 2, 1]),
    ],
)  # fmt: skip
def test_slices_are_refined_in_their_plane(model_2d, asked, shape, factor):
    scan = torso(noise=0)
    done = medldm.super_resolve(scan, model=model_2d, noise_std=0, **asked)
    assert done.array.shape == shape and done.report["factor"] == factor
    assert done.volume.geometry.isclose(scan.geometry.zoom(factor))
    i, j, k = factor
    blocks = done.array.reshape(28, i, 24, j, 6, k).mean((1, 3, 5))
    np.testing.assert_allclose(blocks, scan.array, atol=1)


@pytest.mark.parametrize("asked", [{"scale": (1, 1, 2)}, {"scale": (2, 1, 1)}, {"target_spacing": (0.45, 0.45, 2.5)}])
def test_slices_are_not_refined_across(model_2d, asked):
    with pytest.raises(InputError, match="scale|target_spacing"):
        medldm.super_resolve(torso(), model=model_2d, **asked)


def test_a_region_is_filled_slice_by_slice_and_nothing_else_is_touched(masks_2d):
    scan = torso((40, 36, 7))
    mask = np.zeros(scan.array.shape, bool)
    mask[10:16, 8:15, 2:5] = mask[30, 30, 6] = True
    done = medldm.inpaint(scan, mask, model=masks_2d)
    assert np.array_equal(done.array[~mask], scan.array[~mask]) and not np.array_equal(done.array, scan.array)
    assert (done.uncertainty.array[mask] > 0).all() and not done.uncertainty.array[~mask].any()
    assert done.report["checks"]["voxels_filled"] == mask.sum() and done.report["slices"] == 7
    hidden = scan.with_array(np.where(mask, 1e6, scan.array))
    np.testing.assert_allclose(medldm.inpaint(hidden, mask, model=masks_2d).array, done.array, atol=1e-3)


def test_a_slice_that_is_all_mask_is_refused(masks_2d):
    mask = np.zeros((28, 24, 6), bool)
    mask[..., 3] = True
    with pytest.raises(InputError, match="slice 4"):
        medldm.inpaint(torso(), mask, model=masks_2d)


def test_a_bright_implant_is_counted_once_and_comes_back(model_2d):
    scan = torso((48, 48, 8), noise=10.0)
    array = scan.array.copy()
    array[10:13, 10:13, 2:5] = 30000
    done = medldm.denoise(scan.with_array(array), model=model_2d, noise_std=10.0)
    assert [w for w in done.report["warnings"] if w.startswith("27 voxels")]
    assert np.array_equal(done.array[10:13, 10:13, 2:5], array[10:13, 10:13, 2:5])


def test_progress_runs_through_all_slices_and_stops_between_them(model_2d):
    seen = []
    medldm.denoise(torso(), model=model_2d, noise_std=20.0, progress=lambda task, *at: seen.append(at))
    assert seen == [(n, 18) for n in range(1, 19)]
    shown = []
    more = {"samples": 2, "steps": 3, "preview": shown.append}
    medldm.denoise(torso(), model=model_2d, noise_std=20.0, **more)
    assert len(shown) == 36 and all(part.geometry.shape == (28, 24, 1) for part in shown)

    def stop(task, done, total):
        if done > 4:
            raise Cancelled("denoise", "a request to stop")

    with pytest.raises(Cancelled):
        medldm.denoise(torso(), model=model_2d, noise_std=20.0, progress=stop)


def test_the_grain_of_slices_differs(model_2d):
    scan = torso()
    alike = scan.with_array(np.repeat(scan.array[:, :, :1], scan.array.shape[2], axis=2))
    settings = {"model": model_2d, "noise_std": 20.0, "seed": 5}
    mean = medldm.denoise(alike, **settings)
    found = medldm.denoise(alike, mode="perceptual", **settings)
    grain = found.array - mean.array
    assert found.report["seed"] == 5 and np.abs(grain).max() > 0
    together = np.corrcoef(grain.reshape(-1, grain.shape[2]).T)
    assert np.abs(together - np.eye(len(together))).max() < 0.2


def test_memory_does_not_grow_with_the_slices_beyond_scan_and_results(model_2d):
    def peak(count):
        scan = torso((64, 64, count))
        tracemalloc.start()
        medldm.denoise(scan, model=model_2d, noise_std=20.0, value_range=(0, 1000))
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(30)  # what is imported and kept once
    slice_bytes = 4 * 64 * 64
    assert peak(120) - peak(30) < 90 * slice_bytes * 3.5  # result, residual, uncertainty


def command(*words, check=0):
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == check, done.output
    return done


def test_the_command_line_takes_a_volume(model_2d, tmp_path):
    model_2d.save(tmp_path / "pack")
    medldm.write(torso(), tmp_path / "scan.nii.gz")
    common = ["-i", tmp_path / "scan.nii.gz", "--model", tmp_path / "pack", "--noise-std", "20"]
    told = command("denoise", *common, "-o", tmp_path / "out.nii.gz", "--json", "--plane", "coronal")
    assert json.loads(told.stdout)["plane"] == "coronal" and json.loads(told.stdout)["slices"] == 28
    expected = medldm.denoise(tmp_path / "scan.nii.gz", model=model_2d, noise_std=20.0, plane="coronal")
    np.testing.assert_allclose(medldm.read(tmp_path / "out.nii.gz").array, expected.array, rtol=1e-5, atol=1e-2)
    refused = command("denoise", *common, "-o", tmp_path / "no.nii.gz", "--plane", "slanted", check=2)
    assert "slanted" in refused.stderr and not (tmp_path / "no.nii.gz").exists()
    command("superres", *common, "-o", tmp_path / "fine.nii.gz", "--scale", "2")
    assert medldm.read(tmp_path / "fine.nii.gz").array.shape == (56, 48, 6)


def test_how_long_it_will_take_is_said_before(model_2d, tmp_path):
    """Once, early: of many slices, of a large volume; not of what is soon done."""
    said, done = [], []
    told = {"progress": lambda *at: done.append(at), "forecast": lambda *cost: said.append((*cost, len(done)))}
    medldm.denoise(torso((28, 24, 5)), model=model_2d, noise_std=20.0, **told)
    assert not said
    medldm.denoise(torso((28, 24, 40)), model=model_2d, noise_std=20.0, **told)
    ((seconds, memory, at),) = said
    assert 0 < seconds < 60 and memory > 4 * 28 * 24 * 40 and at == 15 + 3
    said.clear(), done.clear()
    medldm.denoise(torso((160, 144, 128)), model=tiny_model(tmp_path, 3), noise_std=20.0, **told)
    ((seconds, memory, at),) = said
    assert 0 < seconds < 600 and at == 0
