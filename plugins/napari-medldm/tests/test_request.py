"""Regions: outside bit for bit, inside as the whole scan would be."""

import dataclasses

import numpy as np
import pytest
from napari_medldm.measure import statistics
from napari_medldm.request import Request, refined, region_of_slice, run, run_region

import medldm
from medldm import MedldmError


def nothing(text, done, total):
    pass


def test_a_request_is_plain_data():
    request = Request("super-resolve", "m", scale=(1, 1, 2), noise_std=3.0)
    assert Request.from_dict(request.to_dict()) == request


def test_outside_a_region_nothing_changes(noisy_scan, pack):
    mask = np.zeros(noisy_scan.array.shape, bool)
    mask[5:15, 6:18, 4:12] = True
    result = run_region(noisy_scan, mask, Request("denoise", pack, noise_std=20.0), pack, nothing)
    np.testing.assert_array_equal(result.array[~mask], noisy_scan.array[~mask])
    assert (result.array[mask] != noisy_scan.array[mask]).mean() > 0.5
    np.testing.assert_array_equal(result.residual.array, noisy_scan.array - result.array)
    assert (result.uncertainty.array[~mask] == 0).all()
    assert result.volume.history[-1]["region_voxels"] == mask.sum()


def test_a_slice_is_restored_as_in_the_whole(noisy_scan, pack):
    """Exactly, where the context covers all that is left of the scan."""
    request = Request("denoise", pack, noise_std=20.0)
    whole = run(noisy_scan, request, pack, nothing, None)
    mask = region_of_slice(noisy_scan, 2, 7)
    part = run_region(noisy_scan, mask, request, pack, nothing)
    np.testing.assert_allclose(part.array[..., 7], whole.array[..., 7], rtol=1e-4, atol=1e-2)
    np.testing.assert_array_equal(np.delete(part.array, 7, 2), np.delete(noisy_scan.array, 7, 2))


def test_a_request_gives_what_the_api_gives(noisy_scan, pack):
    request = Request("denoise", pack, mode=1.0, samples=2, steps=3, seed=5)
    ours = run(noisy_scan, request, pack, nothing, None)
    api = medldm.denoise(noisy_scan, model=pack, mode=1.0, samples=2, steps=3, seed=5)
    np.testing.assert_array_equal(ours.array, api.array)
    np.testing.assert_array_equal(ours.uncertainty.array, api.uncertainty.array)


def test_impossible_regions_are_refused(noisy_scan, pack):
    empty = np.zeros(noisy_scan.array.shape, bool)
    with pytest.raises(MedldmError, match="empty region"):
        run_region(noisy_scan, empty, Request("denoise", pack), pack, nothing)
    with pytest.raises(MedldmError, match="super-resolve"):
        run_region(noisy_scan, ~empty, Request("super-resolve", pack, scale=(1, 1, 2)), pack, nothing)


def test_statistics_by_hand():
    table = statistics(np.array([2.0, 4.0, 6.0]), np.array([10.0, 12.0, 14.0]))
    assert (table["mean"], table["SD"], table["SNR"], table["CNR"]) == pytest.approx((4, 2, 2, 4))


@pytest.fixture(scope="module")
def flat_pack(tmp_path_factory):
    """Folder of a tiny model of single images."""
    from tests.tiny import tiny_model

    folder = tmp_path_factory.mktemp("packs")
    tiny_model(folder, 2, scale=0.05)
    return str(folder / "tiny-2d")


def test_a_model_of_single_images_takes_a_volume_as_the_api_does(noisy_scan, flat_pack):
    request, said = Request("denoise", flat_pack, noise_std=20.0), []
    ours = run(noisy_scan, request, flat_pack, lambda text, done, total: said.append((done, total)), None)
    api = medldm.denoise(noisy_scan, model=flat_pack, noise_std=20.0)
    np.testing.assert_array_equal(ours.array, api.array)
    assert ours.report["slices"] == 16 and said[-1] == (48, 48)
    part = run_region(noisy_scan, region_of_slice(noisy_scan, 2, 7), request, flat_pack, nothing)
    np.testing.assert_allclose(part.array[..., 7], ours.array[..., 7], rtol=1e-5, atol=1e-3)
    assert "slices" not in part.report  # a picture


def test_what_is_refined_depends_on_what_the_model_sees(noisy_scan):
    thick = dataclasses.replace(noisy_scan, geometry=medldm.Geometry.from_spacing(noisy_scan.array.shape, (5, 1, 1)))
    assert refined(thick, 2, None) == (2, 1, 1) and refined(thick, 2, 0) == (1, 2, 2)
    single = thick.crop((0, 0, 3), (20, 24, 4))
    assert refined(single, 2, 2) == refined(single, 2, None) == (2, 2, 1)
