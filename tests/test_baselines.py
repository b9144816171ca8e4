"""Classical methods: what each must do by its definition, and the figures that the protocol states."""

import numpy as np
import pytest

from medldm.errors import InputError
from medldm.evaluate import baselines
from medldm.evaluate.similarity import psnr


def smooth(shape, seed=0):
    """A smooth image in [0, 1]."""
    axes = np.meshgrid(*(np.linspace(0, 3, n) for n in shape), indexing="ij")
    return 0.5 + 0.4 * np.sin(sum((a + seed) * (i + 1) for i, a in enumerate(axes)))


@pytest.mark.parametrize("method", [baselines.non_local_means, baselines.wavelet, baselines.total_variation])
def test_denoisers_remove_noise_from_a_smooth_image(method):
    if method is baselines.wavelet:
        pytest.importorskip("pywt")
    truth = smooth((64, 64))
    noisy = truth + 0.1 * np.random.default_rng(0).standard_normal(truth.shape)
    assert psnr(method(noisy, 0.1), truth) > psnr(noisy, truth) + 6


def test_non_local_means_scales_with_the_unit():
    noisy = smooth((32, 32)) + 0.1 * np.random.default_rng(0).standard_normal((32, 32))
    np.testing.assert_allclose(
        baselines.non_local_means(1000 * noisy, 100.0),
        1000 * baselines.non_local_means(noisy, 0.1),
        rtol=1e-6,
    )


def test_debiasing_gives_a_strong_signal_back():
    """The mean square of a Rician signal is A^2 + 2 s^2, its mean near A + s^2 / 2A: debiased it is near A."""
    random = np.random.default_rng(0)
    real, imaginary = random.standard_normal((2, 400_000))
    mean = np.sqrt((10 + real) ** 2 + imaginary**2).mean()
    assert mean == pytest.approx(10.05, abs=0.005)
    assert baselines.debias(np.array([mean]), 1.0)[0] == pytest.approx(10.0, abs=0.005)
    assert baselines.debias(np.array([0.5]), 1.0)[0] == 0.0


def test_block_average_is_the_mean_of_each_block():
    image = np.random.default_rng(0).random((6, 8, 4))
    result = baselines.block_average(image, (3, 2, 1))
    assert result.shape == (2, 4, 4)
    for i, j, k in np.ndindex(*result.shape):
        assert result[i, j, k] == pytest.approx(image[3 * i : 3 * i + 3, 2 * j : 2 * j + 2, k].mean())


def test_block_average_refuses_what_is_no_multiple():
    with pytest.raises(InputError, match="whole blocks"):
        baselines.block_average(np.zeros((6, 7)), (2, 2))
    with pytest.raises(InputError, match="whole blocks"):
        baselines.block_average(np.zeros((6, 6)), (2,))


def test_interpolation_pins_the_outer_edges():
    """A ramp over voxel centres stays the same ramp: fine centre (i + 0.5) / f - 0.5 in coarse voxels."""
    coarse = np.arange(12.0)[:, None] * np.ones((1, 12))
    fine = baselines.interpolate(coarse, (3, 1), order=1)
    expected = (np.arange(36) + 0.5) / 3 - 0.5
    np.testing.assert_allclose(fine[3:-3, 5], expected[3:-3], atol=1e-9)


def test_back_projection_agrees_with_the_measurement_and_with_the_truth_more_than_cubic():
    truth = smooth((16, 24, 8)) + 0.05 * np.random.default_rng(0).standard_normal((16, 24, 8))
    y = baselines.block_average(truth, (1, 2, 1))
    cubic = baselines.interpolate(y, (1, 2, 1))
    projected = baselines.back_projected(y, (1, 2, 1))

    def misfit(x):
        return np.abs(baselines.block_average(x, (1, 2, 1)) - y).max()

    assert misfit(projected) < 0.1 * misfit(cubic)
    assert psnr(projected, truth) > psnr(cubic, truth)


def test_one_step_of_back_projection_is_the_formula():
    y = np.random.default_rng(0).random((6, 6))
    u = baselines.interpolate(y, (2, 2))
    u = u + baselines.interpolate(y - baselines.block_average(u, (2, 2)), (2, 2))
    np.testing.assert_array_equal(baselines.back_projected(y, (2, 2), rounds=1), u)


def test_the_first_radiographs_give_the_figures_of_the_protocol(data_dir, monkeypatch):
    """Means over the first four test patients, measured once with scikit-image called directly."""
    from benchmarks import protocol

    monkeypatch.setenv("MEDLDM_DATA", str(data_dir))
    cases = protocol.chest_cases(4)
    assert [case.index for case in cases] == [0, 1, 2, 3] and cases[0].truth.shape == (256, 256)
    cubic = [c.score(baselines.interpolate(protocol.in_plane(c, 4), (4, 4)))["psnr"] for c in cases]
    assert np.mean(cubic) == pytest.approx(33.23, abs=0.01)
    noisy = [c.score(protocol.gaussian(c, 0.1))["psnr"] for c in cases]
    assert np.mean(noisy) == pytest.approx(20.29, abs=0.01)


def test_the_first_head_gives_the_figures_of_the_protocol(data_dir, monkeypatch):
    from benchmarks import protocol

    monkeypatch.setenv("MEDLDM_DATA", str(data_dir))
    (case,) = protocol.brain_cases(1)
    assert case.score(protocol.rician(case, 0.05))["psnr"] == pytest.approx(26.05, abs=0.01)
    y = protocol.through_plane(case, 2)
    assert y.shape == (120, 60, 90)
    assert case.score(baselines.back_projected(y, (1, 2, 1)))["psnr"] == pytest.approx(25.31, abs=0.01)
