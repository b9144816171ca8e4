"""PSNR, SSIM and HaarPSI against deliberately naive second implementations."""

import math

import numpy as np
import pytest

from medldm.errors import InputError
from medldm.evaluate.similarity import haarpsi, psnr, ssim


def images(shape=(24, 20), seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.random(shape)
    return truth + 0.1 * rng.standard_normal(shape), truth


def naive_ssim(a, b, data_range):
    """Wang et al. 2004, eq. 13, window by window over the places where the whole window fits."""
    radius, sigma = 5, 1.5
    axis = np.arange(-radius, radius + 1)
    one = np.exp(-(axis**2) / (2 * sigma**2))
    weights = one
    for _ in range(a.ndim - 1):
        weights = np.multiply.outer(weights, one)
    weights /= weights.sum()
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    values = []
    for centre in np.ndindex(*(n - 2 * radius for n in a.shape)):
        window = tuple(slice(c, c + 2 * radius + 1) for c in centre)
        x, y = a[window], b[window]
        mx, my = (weights * x).sum(), (weights * y).sum()
        vx, vy = (weights * (x - mx) ** 2).sum(), (weights * (y - my) ** 2).sum()
        cov = (weights * (x - mx) * (y - my)).sum()
        values.append((2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2)))
    return float(np.mean(values))


def test_psnr_is_that_of_the_definition():
    a, b = images()
    error = sum((x - y) ** 2 for x, y in zip(a.ravel(), b.ravel(), strict=True)) / a.size
    assert psnr(a, b, data_range=2.0) == pytest.approx(20 * math.log10(2.0) - 10 * math.log10(error))


def test_psnr_of_a_tenth_of_the_range_is_20_db():
    assert psnr(np.full((4, 4), 0.6), np.full((4, 4), 0.5)) == pytest.approx(20.0)


def test_psnr_sees_only_the_mask():
    a, b = images()
    mask = np.zeros(a.shape, dtype=bool)
    mask[3:9, 4:8] = True
    inside = psnr(a[3:9, 4:8], b[3:9, 4:8])
    a[~mask] = 1e6
    assert psnr(a, b, mask=mask) == pytest.approx(inside)


def test_equal_images_have_infinite_psnr_and_ssim_one():
    _, b = images()
    assert psnr(b, b) == math.inf
    assert ssim(b, b) == pytest.approx(1.0)


@pytest.mark.parametrize("shape", [(24, 20), (13, 14, 12)])
def test_ssim_is_that_of_the_paper(shape):
    a, b = images(shape)
    assert ssim(a, b) == pytest.approx(naive_ssim(a, b, 1.0), abs=1e-9)
    assert ssim(100 * a, 100 * b, data_range=100.0) == pytest.approx(naive_ssim(a, b, 1.0), abs=1e-9)


def test_ssim_with_a_mask_is_that_of_its_bounding_box():
    a, b = images((30, 28))
    mask = np.zeros(a.shape, dtype=bool)
    mask[4, 7] = mask[22, 25] = True
    assert ssim(a, b, mask=mask) == pytest.approx(naive_ssim(a[4:23, 7:26], b[4:23, 7:26], 1.0), abs=1e-9)


def test_an_axis_of_length_one_changes_nothing():
    a, b = images()
    assert ssim(a[:, :, None], b[:, :, None]) == ssim(a, b)
    assert psnr(a[:, :, None], b[:, :, None]) == psnr(a, b)


def naive_haarpsi(a, b, slices=None):
    """Reisenhofer et al. 2018, eqs. 6 to 11, pixel by pixel; `slices`: lists of 2D slices weighted together."""
    up = down = 0.0
    for x, y in slices or [(a, b)]:
        x, y = (np.pad(255 * v, [(0, n % 2) for n in v.shape]) for v in (x, y))
        x, y = ((v[::2, ::2] + v[1::2, ::2] + v[::2, 1::2] + v[1::2, 1::2]) / 4 for v in (x, y))
        wide = [np.pad(v, 8) for v in (x, y)]
        for i, j in np.ndindex(x.shape):
            for turned in (False, True):
                g = {}
                for size in (2, 4, 8):
                    half = size // 2
                    filter_ = np.ones((size, size)) / size
                    filter_[:half] *= -1
                    filter_ = filter_.T if turned else filter_
                    window = slice(i + 9 - half, i + 9 + half), slice(j + 9 - half, j + 9 + half)
                    g[size] = [abs((filter_ * v[window]).sum()) for v in wide]
                similar = sum((2 * p * q + 30) / (p * p + q * q + 30) for p, q in (g[2], g[4])) / 2
                up += max(g[8]) / (1 + math.exp(-4.2 * similar))
                down += max(g[8])
    return (math.log((up / down) / (1 - up / down)) / 4.2) ** 2


@pytest.mark.parametrize("shape", [(24, 20), (17, 30), (16, 16)])
def test_haarpsi_is_that_of_the_paper(shape):
    a, b = images(shape)
    expected = naive_haarpsi(a, b)
    assert 0.2 < expected < 0.95
    assert haarpsi(a, b) == pytest.approx(expected, abs=1e-9)
    assert haarpsi(b, a) == pytest.approx(expected, abs=1e-9)
    assert haarpsi(100 * a, 100 * b, data_range=100.0) == pytest.approx(expected, abs=1e-9)


def test_haarpsi_of_a_volume_is_that_of_its_slices_across_each_axis():
    a, b = images((16, 17, 18))
    pairs = [(np.take(a, n, axis), np.take(b, n, axis)) for axis in range(3) for n in range(a.shape[axis])]
    assert haarpsi(a, b) == pytest.approx(naive_haarpsi(a, b, pairs), abs=1e-9)


def test_haarpsi_of_a_thin_stack_is_that_of_its_wide_slices():
    a, b = images((20, 3, 18))
    pairs = [(a[:, n], b[:, n]) for n in range(3)]
    assert haarpsi(a, b) == pytest.approx(naive_haarpsi(a, b, pairs), abs=1e-9)


def test_haarpsi_is_one_for_equal_images_and_falls_with_noise():
    _, b = images((40, 40))
    noise = np.random.default_rng(1).standard_normal(b.shape)
    found = [haarpsi(b + s * noise, b) for s in (0, 0.02, 0.05, 0.1, 0.2)]
    assert found[0] == pytest.approx(1)
    assert found == sorted(found, reverse=True)
    assert found[-1] < 0.7
    assert haarpsi(np.zeros((16, 16)), np.zeros((16, 16))) == 1


def test_haarpsi_with_a_mask_is_that_of_its_bounding_box():
    a, b = images((30, 28))
    mask = np.zeros(a.shape, dtype=bool)
    mask[4, 7] = mask[22, 25] = True
    assert haarpsi(a, b, mask=mask) == haarpsi(a[4:23, 7:26], b[4:23, 7:26])


@pytest.mark.parametrize("metric", [psnr, ssim, haarpsi])
def test_what_cannot_be_compared_is_refused(metric):
    a, b = images()
    with pytest.raises(InputError, match="equal shapes"):
        metric(a, b[:-1])
    with pytest.raises(InputError, match="empty mask"):
        metric(a, b, mask=np.zeros(a.shape, dtype=bool))
    a[0, 0] = np.nan
    with pytest.raises(InputError, match="not finite"):
        metric(a, b)


def test_an_image_smaller_than_the_window_is_refused():
    a, b = images((10, 40))
    with pytest.raises(InputError, match="11 voxels"):
        ssim(a, b)


@pytest.mark.parametrize("shape", [(15, 40), (40,), (40, 15, 15)])
def test_an_image_smaller_than_the_wavelets_is_refused(shape):
    a, b = images(shape)
    with pytest.raises(InputError, match="16 voxels"):
        haarpsi(a, b)
