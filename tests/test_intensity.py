import numpy as np
import pytest

from medldm.errors import InputError, PixelError
from medldm.geometry import Geometry
from medldm.intensity import Intensity
from medldm.volume import Volume


def volume(array, unit="arbitrary"):
    return Volume(np.asarray(array), Geometry.from_spacing(np.shape(array), (1, 1, 1)), unit)


def head(noise=0.0, seed=0):
    """A ball of value 500 in air of value 0, with Rician noise."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.arange(32) - 15.5] * 3, indexing="ij"))
    clean = 500.0 * (np.linalg.norm(grid, axis=0) < 11)
    return np.hypot(clean + noise * rng.normal(size=clean.shape), noise * rng.normal(size=clean.shape))


def test_window_maps_its_ends_to_0_and_1_and_clips_nothing():
    x = np.array([-3024.0, -1000, 0, 1000, 3000]).reshape(5, 1, 1)
    scaling = Intensity("window", -1000, 1000).fit(volume(x, "HU"))
    y = scaling.forward(x)
    np.testing.assert_allclose(y.ravel(), [-1.012, 0, 0.5, 1, 2])
    np.testing.assert_allclose(scaling.inverse(y), x)


def test_zero_floor_is_pure_scaling_by_the_foreground():
    scaling = Intensity("percentile", 0, 99.5, zero_floor=True).fit(volume(head()))
    assert scaling.offset == 0 and scaling.scale == pytest.approx(500)


def test_noise_widens_the_range_by_less_than_a_tenth():
    clean = Intensity("percentile", 0, 99.5, zero_floor=True).fit(volume(head()))
    noisy = Intensity("percentile", 0, 99.5, zero_floor=True).fit(volume(head(noise=50)))
    assert abs(noisy.scale / clean.scale - 1) < 0.1


def test_a_few_bright_voxels_do_not_become_the_foreground():
    array = head()
    array[0, 0, 0:2] = 1e5
    assert Intensity("percentile", 0, 99.5, zero_floor=True).fit(volume(array)).scale < 510


def test_percentiles_of_a_picture_ignore_single_pixels():
    image = np.full((32, 32, 1), 100.0)
    image[:, 16:] = 200
    image[5, 5], image[7, 20] = 0, 10000
    scaling = Intensity("percentile", 0.1, 99.9).fit(volume(image))
    assert (scaling.offset, scaling.scale) == (100, 100)


def test_grey_pictures_have_their_own_range():
    image = np.arange(64.0).reshape(8, 8, 1)
    for unit, top in (("grey8", 255), ("grey16", 65535)):
        scaling = Intensity("percentile", 0.1, 99.9).fit(volume(image, unit))
        assert (scaling.offset, scaling.scale) == (0, top)


def test_a_given_range_goes_first():
    scaling = Intensity("percentile", 0, 99.5, zero_floor=True).fit(volume(head()), value_range=(10, 30))
    assert (scaling.offset, scaling.scale) == (10, 20)
    with pytest.raises(InputError):
        Intensity("window", 0, 1).fit(volume(head()), value_range=(3, 3))


def test_noise_std_scales_without_the_offset():
    scaling = Intensity("window", -1000, 1000).fit(volume(np.arange(8.0).reshape(2, 2, 2), "HU"))
    assert scaling.std_forward(20) == pytest.approx(0.01)
    assert float(scaling.std_inverse(0.01)) == pytest.approx(20)


@pytest.mark.parametrize("bad", [np.zeros((4, 4, 4)), np.full((4, 4, 4), np.nan), np.full((4, 4, 1), np.inf)])
def test_images_without_contrast_or_with_nan_are_refused(bad):
    for intensity in (Intensity("window", 0, 1), Intensity("percentile", 0, 99, True), Intensity("percentile", 1, 99)):
        with pytest.raises(PixelError):
            intensity.fit(volume(bad))


def test_dict_round_trip_and_unknown_keys():
    intensity = Intensity("percentile", 0.1, 99.9, True)
    assert Intensity.from_dict(intensity.to_dict()) == intensity
    with pytest.raises(InputError, match="hihg"):
        Intensity.from_dict({"kind": "window", "low": 0, "hihg": 1})


@pytest.mark.parametrize("args", [("otsu", 0, 1), ("window", 1, 1), ("percentile", -1, 99), ("percentile", 0, 101)])
def test_impossible_settings_are_refused(args):
    with pytest.raises(InputError):
        Intensity(*args)


def picture_like(shape=(128, 128, 1)):
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape[:2]), indexing="ij"))
    return (120 + 80 * np.sin(3 * grid[0]) * np.cos(2 * grid[1]))[..., None]


def test_a_marker_does_not_become_the_range():
    rule = Intensity("percentile", 0.1, 99.9)
    marked = picture_like()
    marked[10:18, 10:18] = 3000
    marked[40:48, 90:98] = -3000
    clean, found = rule.fit(volume(picture_like())), rule.fit(volume(marked))
    assert (found.offset, found.scale) == pytest.approx((clean.offset, clean.scale), rel=0.03)


@pytest.mark.parametrize("hot", [0.002, 0.005])
def test_hot_voxels_and_metal_do_not_become_the_foreground(hot):
    rule, array = Intensity("percentile", 0, 99.5, zero_floor=True), head(noise=20)
    spots = np.random.default_rng(3).random(array.shape) < hot
    metal = array.copy()
    metal[12:18, 12:18, 12:18] = 15000
    clean = rule.fit(volume(array)).scale
    assert rule.fit(volume(np.where(spots, 15000, array))).scale == pytest.approx(clean, rel=0.15)
    assert rule.fit(volume(metal)).scale == pytest.approx(clean, rel=0.05)


@pytest.mark.parametrize(("gain", "shift"), [(0.01, -1.5), (2.0, -1000.0)])
def test_shifted_values_with_air_are_shifted_back(gain, shift):
    rule, array = Intensity("percentile", 0, 99.5, zero_floor=True), head(noise=20)
    plain, shifted = rule.fit(volume(array)), rule.fit(volume(gain * array + shift))
    assert shifted.offset == pytest.approx(shift, abs=0.02 * gain * plain.scale)
    assert shifted.scale == pytest.approx(gain * plain.scale, rel=0.03)


def test_a_few_negative_voxels_of_interpolation_pass():
    array = head(noise=5)
    array[::9, ::7, ::5] -= 12
    scaling = Intensity("percentile", 0, 99.5, zero_floor=True).fit(volume(array))
    assert array.min() < 0 and scaling.offset == 0


def test_negative_values_without_air_are_refused_until_a_range_is_given():
    rng = np.random.default_rng(0)
    scores = volume(rng.standard_normal((24, 24, 24)))
    rule = Intensity("percentile", 0, 99.5, zero_floor=True)
    with pytest.raises(PixelError, match="value_range"):
        rule.fit(scores)
    assert rule.fit(scores, (-3, 3)).offset == -3
