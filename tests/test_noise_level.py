"""The estimate of the noise against noise of known deviation."""

import numpy as np
import pytest

from medldm.restoration.noise_level import estimate_noise_std


def smooth(shape):
    grid = np.stack(
        np.meshgrid(*(np.linspace(-1, 1, n) if n > 1 else np.zeros(1) for n in shape), indexing="ij")
    )
    return 0.5 + 0.3 * np.sin(3 * grid[0]) * np.cos(2 * grid[1]) + 0.1 * grid[2]


@pytest.mark.parametrize("shape", [(128, 96, 1), (40, 40, 30), (8, 64, 64)])
@pytest.mark.parametrize("noise_std", [0.01, 0.05, 0.2])
def test_gaussian_noise_on_a_smooth_image(shape, noise_std):
    noisy = smooth(shape) + noise_std * np.random.default_rng(0).standard_normal(shape)
    assert estimate_noise_std(noisy) == pytest.approx(noise_std, rel=0.12)


@pytest.mark.parametrize("noise_std", [0.02, 0.05, 0.15])
def test_rician_noise_is_read_in_the_air(noise_std):
    shape = (48, 48, 40)
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"))
    head = ((grid**2).sum(0) < 0.4) * (0.7 + 0.2 * np.sign(np.sin(9 * grid[0])))
    rng = np.random.default_rng(1)
    noisy = np.hypot(head + noise_std * rng.standard_normal(shape), noise_std * rng.standard_normal(shape))
    assert estimate_noise_std(noisy, noise="rician") == pytest.approx(noise_std, rel=0.1)


def test_a_masked_background_does_not_hide_the_noise():
    shape, noise_std = (48, 48, 40), 0.05
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"))
    inside = (grid**2).sum(0) < 0.6
    noisy = inside * (0.7 + noise_std * np.random.default_rng(2).standard_normal(shape))
    assert estimate_noise_std(noisy, noise="rician") == pytest.approx(noise_std, rel=0.15)


def test_suppressed_air_is_not_taken_for_the_noise():
    """Some scanners push the air towards 0, in steps of the rescale slope."""
    shape, noise_std = (48, 48, 40), 0.05
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"))
    inside = (grid**2).sum(0) < 0.5
    rng = np.random.default_rng(4)
    air = 0.002 * rng.integers(0, 2, shape)
    noisy = np.where(inside, 0.7 + noise_std * rng.standard_normal(shape), air)
    assert estimate_noise_std(noisy, noise="rician") == pytest.approx(noise_std, rel=0.15)


def test_the_unit_scales_with_the_image():
    noisy = smooth((64, 64, 1)) + 0.05 * np.random.default_rng(3).standard_normal((64, 64, 1))
    assert estimate_noise_std(1000 * noisy) == pytest.approx(1000 * estimate_noise_std(noisy), rel=1e-6)


def test_a_constant_image_has_no_noise():
    assert estimate_noise_std(np.ones((16, 16, 16))) == 0
