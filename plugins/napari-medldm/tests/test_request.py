"""Regions: outside bit for bit, inside as the whole scan would be."""

import numpy as np
import pytest
from napari_medldm.measure import statistics
from napari_medldm.request import Request, region_of_slice, run, run_region

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
