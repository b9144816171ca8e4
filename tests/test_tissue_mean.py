"""Soft tissue of a restored CT has the measurement's mean; lung and bone are left."""

import numpy as np
import pytest
from scipy import ndimage

from medldm.operators.measurement import Gaussian, Kernel
from medldm.restoration.tissue_mean import with_tissue_means
from tests.test_tissue_noise import noisy, thorax

SPACING = 1.6


def inside(hu, low, high, size=7):
    return ndimage.binary_erosion((hu > low) & (hu < high), np.ones((size, size)))


@pytest.mark.parametrize("noise", [Gaussian(), Kernel()])
@pytest.mark.parametrize("bias", [-4.0, 3.0])
def test_a_bias_in_soft_tissue_is_taken_back(noise, bias):
    truth = thorax()[..., 0].astype(np.float32)
    muscle, lung, bone = inside(truth, 0, 80), inside(truth, -1100, -900), inside(truth, 300, 400, 3)
    result = truth + bias
    found = with_tissue_means(result, noisy(noise, truth[..., None], 60.0)[..., 0], SPACING)
    assert abs((found - truth)[muscle].mean()) < 1.3  # what 60 HU of noise leave of a mean over so much tissue
    assert abs((found - result)[lung]).max() < 0.01
    assert abs((found - result)[bone]).max() < 0.2


def test_of_what_is_no_noise_little_comes_back():
    """A small bright spot that the result lacks is not spread over the tissue around it: 5 pixels of 500 HU."""
    truth = np.full((96, 96), 40.0, np.float32)
    measured = truth.copy()
    measured[40, 40:45] += 500
    assert abs(with_tissue_means(truth, measured, SPACING) - truth).max() < 2


def test_a_result_that_is_the_measurement_stays():
    scan = noisy(Gaussian(), thorax(), 20.0)[..., 0]
    assert np.abs(with_tissue_means(scan, scan, SPACING) - scan).max() < 1e-3
