"""The estimate of the noise against noise of known deviation."""

import numpy as np
import pytest

from medldm.restoration.noise_level import estimate_noise, estimate_noise_std


def smooth(shape):
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) if n > 1 else np.zeros(1) for n in shape), indexing="ij"))
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


def rician(clean, noise_std, seed=5):
    rng = np.random.default_rng(seed)
    shape = clean.shape
    return np.hypot(clean + noise_std * rng.standard_normal(shape), noise_std * rng.standard_normal(shape))


def textured(shape, seed=6, strength=0.04):
    """Fine structure that is strong in places: what anatomy is to an estimate of the noise."""
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"))
    fine = np.random.default_rng(seed).standard_normal(shape)
    return 0.7 + strength * (1.1 + np.sin(7 * grid[0]) * np.cos(5 * grid[1])) * fine


@pytest.mark.parametrize("noise_std", [0.03, 0.05, 0.1])
def test_dark_tissue_is_not_taken_for_air(noise_std):
    shape = (40, 40, 30)
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"))
    dark = np.hypot(grid[0], grid[1]) < 0.5
    found = estimate_noise_std(rician(np.where(dark, 1.6 * noise_std, 0.7), noise_std), noise="rician")
    assert found == pytest.approx(noise_std, rel=0.2)


def test_more_noise_is_never_less():
    """Air that a scanner has pushed to 0 says what the noise is at least; fine structure only what it is at most."""
    shape = (48, 48, 40)
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"))
    head = np.where((grid**2).sum(0) < 0.5, textured(shape), 0.002 * np.random.default_rng(4).integers(0, 2, shape))
    found = [estimate_noise_std(rician(head, level) if level else head, noise="rician") for level in (0, 0.005, 0.02)]
    assert found[0] <= found[1] <= found[2]
    assert found[1:] == pytest.approx([0.005, 0.02], rel=0.2)


@pytest.mark.parametrize("noise_std", [0.05, 0.1, 0.2])
def test_saturated_parts_do_not_decide(noise_std):
    picture = 255 * np.clip(np.linspace(-0.6, 1.6, 160), 0, 1)[:, None] * np.ones((1, 128))
    noisy = picture + 255 * noise_std * np.random.default_rng(7).standard_normal(picture.shape)
    found = estimate_noise_std(np.clip(np.rint(noisy), 0, 255)[..., None])
    assert found / 255 == pytest.approx(noise_std, rel=0.12)


def test_magnitudes_without_air_are_not_narrowed():
    shape, noise_std = (48, 48, 40), 0.2
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"))
    inside = (grid**2).sum(0) < 0.6
    found = estimate_noise_std(inside * rician(np.full(shape, 0.5), noise_std), noise="rician")
    assert found == pytest.approx(noise_std, rel=0.08)


@pytest.mark.parametrize("slices", [2, 3])
@pytest.mark.parametrize("noise_std", [0.05, 0.1])
def test_a_few_slices_are_enough(slices, noise_std):
    found = estimate_noise_std(rician(textured((64, 64, slices), strength=0.02), noise_std), noise="rician")
    assert found == pytest.approx(noise_std, rel=0.2)


def test_an_estimate_knows_its_doubt():
    shape = (48, 48, 40)
    clean, noisy = estimate_noise(textured(shape)), estimate_noise(smooth(shape) + 0.05 * textured(shape, strength=1))
    assert "fine structure" in clean.doubt and not clean.sure and clean.value < 0.5 * clean.most
    even = estimate_noise(smooth(shape) + 0.05 * np.random.default_rng(8).standard_normal(shape))
    assert even.sure and not even.doubt
    assert noisy.most > noisy.value
    assert "few voxels" in estimate_noise(np.random.default_rng(9).random((12, 10, 1))).doubt


def test_what_was_filled_in_is_left_out():
    noisy = smooth((96, 96, 1)) + 0.05 * np.random.default_rng(3).standard_normal((96, 96, 1))
    filled = np.zeros(noisy.shape, dtype=bool)
    filled[:, :40] = True
    hidden = np.where(filled, smooth((96, 96, 1)), noisy)
    assert estimate_noise(hidden, ignore=filled).value == pytest.approx(0.05, rel=0.1)


@pytest.mark.parametrize("noise_std", [0.0, 0.005, 0.01])
def test_two_slices_of_fine_structure_are_not_taken_for_noise(noise_std):
    """However alike its windows are: one difference across leaves the anatomy in."""
    clean = 0.7 + 0.02 * np.random.default_rng(6).standard_normal((64, 64, 2))
    found = estimate_noise(rician(clean, noise_std), noise="rician")
    assert found.value <= 1.05 * noise_std and found.doubt and found.most > 0.01


def test_the_more_doubt_the_less_is_taken():
    """Of the detail of the calmest parts a smaller share, the less alike the windows are."""
    shares = []
    for strength in (0.035, 0.04, 0.05):
        grid = np.meshgrid(*(np.linspace(-1, 1, n) for n in (48, 48, 40)), indexing="ij")
        loud = np.random.default_rng(6).standard_normal(grid[0].shape) * (
            1.1 + np.sin(7 * grid[0]) * np.cos(5 * grid[1])
        )
        noise = 0.02 * np.random.default_rng(7).standard_normal(grid[0].shape)
        found = estimate_noise(0.7 + strength * loud + noise)
        assert found.doubt
        shares.append(found.value / found.most)
    assert shares == sorted(shares, reverse=True) and shares[-1] < 0.25
