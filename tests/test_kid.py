"""The kernel inception distance: against a double loop, unbiased, and in the order of severity."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from medldm.errors import InputError
from medldm.evaluate.features import image_features, plane_features
from medldm.evaluate.kid import kid, polynomial_kernel
from medldm.nets.efficientnet import EfficientNetLite0

pytestmark = pytest.mark.filterwarnings("ignore:kid")


@pytest.fixture(scope="module")
def network():
    return EfficientNetLite0.pretrained()


def features(count, seed=0, shift=0.0, size=12):
    return np.random.default_rng(seed).standard_normal((count, size)) + shift


def naive_kid(a, b, groups_a, groups_b, paired=False):
    """Binkowski et al. 2018, eq. 4, pair by pair; pairs of one patient are left out."""

    def mean(x, y, of_x, of_y, others_only):
        values = []
        for u, p in zip(x, of_x, strict=True):
            for v, q in zip(y, of_y, strict=True):
                if not (others_only and p == q):
                    values.append((sum(s * t for s, t in zip(u, v, strict=True)) / len(u) + 1) ** 3)
        return sum(values) / len(values)

    within = mean(a, a, groups_a, groups_a, True) + mean(b, b, groups_b, groups_b, True)
    return 1000 * (within - 2 * mean(a, b, groups_a, groups_b, paired))


def test_kid_is_that_of_the_definition():
    a, b = features(9), features(7, 1, 0.3)
    expected = naive_kid(a, b, range(9), range(7))
    assert kid(a, b).mean == pytest.approx(expected)
    assert abs(expected) > 1


def test_kid_is_that_of_torchmetrics():
    referee = pytest.importorskip("torchmetrics.image.kid").poly_mmd
    import torch

    a, b = features(11), features(11, 1, 0.3)  # it knows sets of one size only
    assert kid(a, b).mean == pytest.approx(1000 * referee(torch.from_numpy(a), torch.from_numpy(b)).item())


@pytest.mark.parametrize("paired", [False, True])
def test_images_of_one_patient_are_not_compared_with_each_other(paired):
    a, b = features(9), features(7, 1, 0.3)
    groups_a, groups_b = list("ccaaabbcd"), list("abbbccd")
    expected = naive_kid(a, b, groups_a, groups_b, paired)
    got = kid(a, b, groups_a=groups_a, groups_b=groups_b, paired=paired)
    assert got.mean == pytest.approx(expected)
    assert got.n == 4


def test_equal_paired_sets_are_at_distance_zero():
    a = features(20)
    got = kid(a, a, paired=True)
    assert (got.mean, got.low, got.high) == pytest.approx((0, 0, 0), abs=1e-9)
    assert kid(a, a).mean < -10  # taken as independent, equal sets look closer than they could be


@pytest.mark.parametrize("paired", [False, True])
def test_equal_distributions_are_at_distance_zero_on_average(paired):
    """200 splits: their mean is 0 within 3 standard errors, and the biased estimate's is not."""
    values, biased = [], []
    for seed in range(200):
        a = features(12, 2 * seed)
        b = 0.6 * a + 0.8 * features(12, 2 * seed + 1) if paired else features(12, 2 * seed + 1)
        values.append(kid(a, b, paired=paired).mean)
        own, other, cross = (polynomial_kernel(x, y).mean() for x, y in ((a, a), (b, b), (a, b)))
        biased.append(1000 * (own + other - 2 * cross))
    error = np.std(values, ddof=1) / np.sqrt(len(values))
    assert abs(np.mean(values)) < 3 * error
    assert abs(np.mean(biased)) > 10 * error


@pytest.mark.parametrize("paired", [False, True])
def test_the_interval_covers_the_truth(paired, monkeypatch):
    """Of 60 samples of shifted distributions, the 90 % interval holds the large-sample value in most."""
    a = features(3000, 1)
    b = a + 0.5 + 0.3 * features(3000, 2) if paired else features(3000, 2, 0.5)
    with monkeypatch.context() as without_interval:
        without_interval.setattr("medldm.evaluate.kid.RESAMPLES", 2)
        truth = kid(a, b, paired=paired).mean
    held = 0
    for n in range(60):
        part = slice(50 * n, 50 * n + 50)
        got = kid(a[part], b[part], paired=paired, level=0.9)
        held += got.low <= truth <= got.high
    assert held >= 48


def test_the_same_seed_gives_the_same_interval():
    a, b = features(20), features(20, 1, 0.2)
    assert kid(a, b, seed=3) == kid(a, b, seed=3)
    assert kid(a, b, seed=3) != kid(a, b, seed=4)
    assert kid(a, b).low < kid(a, b).mean < kid(a, b).high


def textures(count, seed=0, size=64):
    """Crops of the photographs that scikit-image ships."""
    from skimage import data

    rng = np.random.default_rng(seed)
    crops = []
    for n in range(count):
        picture = (data.camera, data.brick, data.grass, data.gravel)[n % 4]()
        i, j = rng.integers(0, 512 - size, 2)
        crops.append(picture[i : i + size, j : j + size] / 255)
    return crops


def test_more_blur_is_further_away(network):
    crops = textures(24)
    truth = image_features(crops, network)
    found = [
        kid(image_features([gaussian_filter(crop, sigma) for crop in crops], network), truth, paired=True)
        for sigma in (0.5, 1.0, 2.0)
    ]
    assert found[0].mean > 0
    assert found[0].high < found[1].low
    assert found[1].high < found[2].low


def test_features_are_the_networks_of_the_resized_image(network):
    """An image of blocks of 2 x 2 equal pixels, 448 wide: halved with antialiasing it is the blocks again, nearly."""
    small = gaussian_filter(np.random.default_rng(0).random((224, 224)), 3)
    small = (small - small.min()) / np.ptp(small)
    big = small.repeat(2, 0).repeat(2, 1)
    a, b = image_features([small], network), image_features([big], network)
    other = image_features([small.T], network)
    assert a.shape == (1, 1280)
    assert np.linalg.norm(a - b) < 0.2 * np.linalg.norm(a - other)


def test_fine_texture_is_averaged_before_it_is_dropped(network):
    """A chessboard of single pixels, four to each that is kept, is plain grey from afar."""
    chess = np.indices((896, 896)).sum(0) % 2
    grey = image_features([np.full((896, 896), 0.5)], network)
    assert np.abs(image_features([chess], network) - grey).max() < 0.02 * np.abs(grey).max()


def test_features_do_not_depend_on_their_neighbours(network):
    crops = textures(18, size=32)
    together = image_features(crops, network)
    assert together[17] == pytest.approx(image_features(crops[17:], network)[0], abs=1e-5)
    assert np.abs(together[0] - together[1]).max() > 0.05


def test_planes_are_named_by_where_the_axes_lead(network):
    volume = gaussian_filter(np.random.default_rng(0).random((20, 24, 28)), 1)
    found = plane_features([volume, 1 - volume], "PSR", network, slices=2)
    assert set(found) == {"axial", "coronal", "sagittal"}
    expected = {"coronal": volume[[7, 13]], "axial": volume[:, [8, 15]].transpose(1, 0, 2)}
    for name, slices in expected.items():
        values, owners = found[name]
        assert owners.tolist() == [0, 0, 1, 1]
        assert values[:2] == pytest.approx(image_features(slices, network), abs=1e-5)


def test_a_thin_stack_has_one_plane(network):
    found = plane_features([np.random.default_rng(0).random((24, 20, 3))] * 2, "LPS", network)
    assert set(found) == {"axial"}
    assert found["axial"][1].tolist() == [0, 0, 0, 1, 1, 1]


def test_few_images_are_warned_of():
    with pytest.warns(UserWarning, match="49 patients"):
        kid(features(49), features(60, 1))


def test_what_cannot_be_compared_is_refused(network):
    for a, b, words in [
        (features(5), features(5, size=3), "shapes"),
        (features(1), features(5), "at least 2"),
        (np.full((5, 12), np.nan), features(5), "not finite"),
    ]:
        with pytest.raises(InputError, match=words):
            kid(a, b)
    with pytest.raises(InputError, match="same patients"):
        kid(features(5), features(6), paired=True)
    with pytest.raises(InputError, match="one group a feature"):
        kid(features(5), features(6), groups_a=[1, 2])
    with pytest.raises(InputError, match="no images"):
        image_features([], network)
    with pytest.raises(InputError, match="finite grey image"):
        image_features([np.zeros((4, 4, 3))], network)
    with pytest.raises(InputError, match="one letter"):
        plane_features([np.zeros((20, 20, 20))], "RLS", network)
