"""Noise of a CT, read in its soft tissue: of any colour, across any axis; slight noise is left to the finest detail."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from medldm.operators.measurement import Gaussian, Kernel
from medldm.restoration.noise_level import estimate_noise
from medldm.restoration.tissue_noise import LEAST_HU, estimate_in_tissue, noise_of

CT = SimpleNamespace(in_hu=True, noise="gaussian")
SPACING = (1.6, 1.6, 5.0)


def thorax(size=192, seed=0):
    """HU of a slice (size, size, 1): fat about muscle, lungs with vessels, a heart, a spine."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    hu = np.full((size, size), -1000.0)
    hu[np.hypot(x / 0.9, y / 0.7) < 1] = -100
    hu[np.hypot(x / 0.8, y / 0.6) < 1] = 50
    lung = np.hypot((np.abs(x) - 0.42) / 0.26, (y + 0.05) / 0.36) < 1
    hu[lung] = -850 + 250 * (rng.random((size, size)) < 0.05)[lung]
    hu[np.hypot(x / 0.07, (y - 0.4) / 0.08) < 1] = 350
    return hu[..., None]


def noisy(noise, hu, std, seed=1):
    image = torch.from_numpy(hu[..., 0])[None, None].float()
    return noise.sample(image, torch.tensor(float(std)), torch.Generator().manual_seed(seed))[0, 0].numpy()[..., None]


@pytest.mark.parametrize("std", [25.0, 80.0])
@pytest.mark.parametrize("noise", [Gaussian(), Kernel(1.0, 2 / 3), Kernel(1.0, 1.6)])
def test_noise_of_any_colour_is_found(noise, std):
    found = noise_of(noisy(noise, thorax(), std), CT, SPACING)
    assert found.sure and found.value == pytest.approx(std, rel=0.25)


def test_a_smooth_kernels_noise_is_found_for_the_most_part():
    scan = noisy(Kernel(0.5, 0.4), thorax(), 40.0)
    assert estimate_noise(scan).value < 5  # it has no finest detail at all
    assert 20 < noise_of(scan, CT, SPACING).value < 42


def test_a_finer_grid_is_looked_at_in_millimetres():
    """The same noise, of a kernel, on pixels half as wide."""
    fine = noisy(Kernel(1.0, 1 / 3), thorax(384), 40.0)
    assert estimate_noise(fine).value < 5
    assert noise_of(fine, CT, (0.8, 0.8, 5.0)).value == pytest.approx(40, rel=0.3)


def test_slight_noise_is_left_to_the_finest_detail():
    scan = noisy(Gaussian(), thorax(), 0.6 * LEAST_HU)
    assert noise_of(scan, CT, SPACING) == estimate_noise(scan)


def test_slices_lie_across_any_axis():
    scan = np.repeat(noisy(Kernel(), thorax(), 40.0), 3, axis=2)
    turned = noise_of(scan.transpose(2, 0, 1), CT, (5.0, 1.6, 1.6), across=0)
    assert turned.value == pytest.approx(noise_of(scan, CT, SPACING).value, rel=1e-9) and turned.value > 30


def test_what_was_filled_in_is_not_looked_at():
    scan = noisy(Kernel(), thorax(), 40.0)
    hidden = np.zeros(scan.shape, bool)
    hidden[:, :96] = True
    smooth = np.where(hidden, 50.0, scan)
    assert noise_of(smooth, CT, SPACING, ignore=hidden).value == pytest.approx(40, rel=0.25)


def test_where_there_is_no_tissue_or_no_hu_the_finest_detail_tells():
    air = noisy(Gaussian(), np.full((96, 96, 1), -1000.0), 30.0)
    assert estimate_in_tissue(np.full((96, 96, 1), 40.0), SPACING).value < 1e-9
    assert estimate_in_tissue(air, SPACING) is None and noise_of(air, CT, SPACING) == estimate_noise(air)
    scan = noisy(Kernel(), thorax(), 40.0)
    other = SimpleNamespace(in_hu=False, noise="rician")
    assert noise_of(scan + 1000, other, SPACING) == estimate_noise(scan + 1000, noise="rician")
