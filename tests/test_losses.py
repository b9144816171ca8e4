"""Terms of the reconstruction's loss: against naive loops, and what each of them punishes."""

import numpy as np
import pytest
import torch

from medldm.nets.efficientnet import EfficientNetLite0, wide_planes
from medldm.training.losses import (
    PerceptualDistance,
    lost_gradient,
    slice_places,
    spectral_distance,
)

TERMS = {"gradient": lost_gradient, "spectral": spectral_distance}


@pytest.fixture(scope="module")
def perceptual():
    return PerceptualDistance()


@pytest.fixture(scope="module")
def photograph():
    """A grey photograph with sharp edges and fine texture, 128 x 128, in [0, 1]."""
    from skimage.data import camera

    return camera()[:512, :512].reshape(128, 4, 128, 4).mean((1, 3)) / 255


def tensor(image):
    return torch.from_numpy(np.ascontiguousarray(image)).float()[None, None]


def images(shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def blurred_and_noisy(image, sigma=1.0):
    """The image blurred, and with white noise of the same squared error."""
    from scipy.ndimage import gaussian_filter

    blurred = gaussian_filter(image, sigma)
    noise = np.random.default_rng(0).standard_normal(image.shape)
    noise *= np.sqrt(((blurred - image) ** 2).mean() / (noise**2).mean())
    return blurred, image + noise


def naive_perceptual(network, a, b):
    """Zhang et al. 2018, eq. 1 with unit weights, position by position."""
    total = 0.0
    with torch.no_grad():
        pairs = list(zip(network.stages(a[None]), network.stages(b[None]), strict=True))
    for x, y in pairs:
        x, y = x[0].double().numpy(), y[0].double().numpy()
        values = []
        for i, j in np.ndindex(x.shape[1:]):
            u, v = x[:, i, j], y[:, i, j]
            values.append(((u / np.linalg.norm(u) - v / np.linalg.norm(v)) ** 2).sum())
        total += np.mean(values)
    return total / len(pairs)


def test_perceptual_distance_is_that_of_the_definition_for_each_example(perceptual):
    a, b = images((2, 1, 48, 40)), images((2, 1, 48, 40), 1)
    with torch.no_grad():
        got = perceptual(a, b)
    expected = [naive_perceptual(perceptual.network, x, y) for x, y in zip(a, b, strict=True)]
    assert got.numpy() == pytest.approx(expected, rel=1e-4)
    assert abs(expected[0] - expected[1]) > 1e-4  # or examples could have been mixed up


def test_perceptual_distance_of_a_volume_is_that_of_the_slices_cut_from_it(perceptual):
    a, b = images((2, 1, 20, 24, 28)), images((2, 1, 20, 24, 28), 1)
    places = slice_places(2, 2, torch.Generator().manual_seed(5))
    expected = []
    for n in range(2):
        values = []
        for axis in range(3):
            for place in places[n, axis].tolist():
                at = int(place * a.shape[2 + axis])
                x, y = (np.take(v[n, 0].numpy(), at, axis) for v in (a, b))
                values.append(float(perceptual(tensor(x), tensor(y))))
        expected.append(np.mean(values))
    assert perceptual(a, b, places).numpy() == pytest.approx(expected, rel=1e-4)


def test_a_thin_stack_is_judged_in_its_own_plane(perceptual):
    assert wide_planes(torch.Size((40, 3, 40))) == [1]
    assert wide_planes(torch.Size((4, 5, 3))) == [2]
    assert wide_planes(torch.Size((16, 20, 16))) == [0, 1, 2]
    a, b = images((1, 1, 40, 1, 40)), images((1, 1, 40, 1, 40), 1)
    got = perceptual(a, b, slice_places(1, 1, torch.Generator().manual_seed(0)))
    assert torch.allclose(got, perceptual(a[:, :, :, 0], b[:, :, :, 0]))


def test_slices_are_the_generators_alone_and_lie_everywhere():
    first, second = (slice_places(40, 5, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, slice_places(40, 5, torch.Generator().manual_seed(4)))
    for axis in range(3):
        assert set((first[:, axis] * 4).long().flatten().tolist()) == {0, 1, 2, 3}


@pytest.mark.parametrize("shape", [(2, 1, 32, 32), (1, 1, 16, 16, 20), (1, 1, 20, 1, 20)])
@pytest.mark.parametrize("flat", [False, True])
def test_equal_images_give_zero_with_a_gradient_of_zero(perceptual, shape, flat):
    truth = torch.zeros(shape) if flat else images(shape)
    places = slice_places(shape[0], 2, torch.Generator().manual_seed(0))
    for term in (lambda a, b: perceptual(a, b, places if a.ndim == 5 else None), *TERMS.values()):
        estimate = truth.clone().requires_grad_()
        value = term(estimate, truth)
        assert value.shape == (shape[0],)
        assert value.abs().max() == 0
        value.sum().backward()
        assert torch.equal(estimate.grad, torch.zeros(shape))


def test_the_gradient_of_the_perceptual_distance_is_its_slope(perceptual, photograph):
    blurred, _ = blurred_and_noisy(photograph[:64, :64])
    image, truth = tensor(blurred).requires_grad_(), tensor(photograph[:64, :64])
    perceptual(image, truth).sum().backward()
    length = image.grad.norm()
    step = 1e-4 * image.grad / length
    with torch.no_grad():
        rise = perceptual(image + step, truth) - perceptual(image - step, truth)
    assert rise.item() / 2e-4 == pytest.approx(length.item(), rel=0.03)


def test_lost_gradient_is_that_of_the_definition():
    a, b = images((1, 1, 5, 6, 4)), images((1, 1, 5, 6, 4), 1)
    x, y = a[0, 0].numpy(), b[0, 0].numpy()
    axes = []
    for axis in range(3):
        values = []
        for at in np.ndindex(*(n - (k == axis) for k, n in enumerate(x.shape))):
            after = tuple(n + (k == axis) for k, n in enumerate(at))
            values.append(max(abs(y[after] - y[at]) - abs(x[after] - x[at]), 0))
        axes.append(np.mean(values))
    assert lost_gradient(a, b).item() == pytest.approx(np.mean(axes), rel=1e-5)


def test_a_gain_of_contrast_moves_the_whole_spectrum_and_loses_no_gradient():
    """log |2 F| - log |F| is log 2 at each frequency well above the floor."""
    x = 100 * images((1, 1, 16, 12))
    assert spectral_distance(2 * x, x).item() == pytest.approx(np.log(2), rel=1e-3)
    assert lost_gradient(2 * x, x).item() == 0
    half = x.diff(dim=2).abs().mean() / 4 + x.diff(dim=3).abs().mean() / 4
    assert lost_gradient(x / 2, x).item() == pytest.approx(half.item(), rel=1e-5)


def test_spectral_distance_sees_a_cosine_where_it_is():
    """A cosine of amplitude A holds A sqrt(N) / 2 at its one frequency of the half spectrum (Parseval)."""
    n, amplitude = 32, 0.2
    wave = amplitude * torch.cos(2 * torch.pi * 5 * torch.arange(n) / n).expand(n, n)
    got = spectral_distance(wave[None, None], torch.zeros(1, 1, n, n)).item()
    power = (amplitude * n / 2) ** 2
    assert got == pytest.approx(0.5 * np.log(power / 1e-6 + 1) / (n * (n // 2 + 1)), rel=1e-3)


@pytest.mark.parametrize("sigma", [0.6, 1.0, 2.0])
def test_at_equal_squared_error_blur_is_punished_more_than_noise(perceptual, photograph, sigma):
    """The features find noise worse; the other two terms are there to find blur worse."""
    truth = tensor(photograph)
    blurred, noisy = map(tensor, blurred_and_noisy(photograph, sigma))
    assert (blurred - truth).square().mean().item() == pytest.approx((noisy - truth).square().mean().item())
    assert perceptual(blurred, truth) < perceptual(noisy, truth)
    for name, term in TERMS.items():
        assert term(blurred, truth) > 1.5 * term(noisy, truth), name


@pytest.mark.parametrize("name", TERMS)
def test_more_blur_costs_more(photograph, name):
    truth = tensor(photograph)
    costs = [TERMS[name](tensor(blurred_and_noisy(photograph, sigma)[0]), truth) for sigma in (0.4, 0.8, 1.6)]
    assert costs == sorted(costs)


def test_half_precision_around_changes_nothing(perceptual):
    a, b = images((1, 1, 32, 32)), images((1, 1, 32, 32), 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        within = [perceptual(a, b), *(term(a, b) for term in TERMS.values())]
    outside = [perceptual(a, b), *(term(a, b) for term in TERMS.values())]
    assert all(torch.equal(x, y) for x, y in zip(within, outside, strict=True))


def test_the_network_is_shared_not_copied():
    network = EfficientNetLite0()
    assert PerceptualDistance(network).network is network
