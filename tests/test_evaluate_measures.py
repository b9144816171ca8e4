"""What an evaluation measures, against oracles: brute force, known answers, copies that were planted."""

import math
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, shift

from medldm.errors import InputError
from medldm.evaluate import privacy, quality
from medldm.evaluate.copies import Copies
from medldm.evaluate.listing import Entry
from medldm.evaluate.scans import BINS, OUTSIDE, RADII, Scans, histogram, spectrum, thumbnail


def points(count, seed=0, size=3, spread=1.0):
    return spread * np.random.default_rng(seed).standard_normal((count, size))


def patients_image(number, size=128):
    """A made chest: body, two lungs, ribs and a heart, all of which differ from patient to patient."""
    rng = np.random.default_rng(number)
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    image = 0.6 * ((x / rng.uniform(0.75, 0.95)) ** 2 + (y / 1.1) ** 4 < 1)
    for side in (-1, 1):
        at, tall = side * rng.uniform(0.3, 0.42), rng.uniform(0.45, 0.7)
        lung = ((x - at) / rng.uniform(0.2, 0.3)) ** 2 + ((y - rng.uniform(-0.2, 0.1)) / tall) ** 2 < 1
        image = image - lung * (0.35 + 0.1 * np.sin(rng.uniform(14, 22) * y + side * x * 4 + rng.uniform(0, 6)))
    image += 0.3 * ((x - rng.uniform(0, 0.25)) ** 2 + (y - rng.uniform(0.1, 0.4)) ** 2 < rng.uniform(0.04, 0.1))
    image += gaussian_filter(rng.standard_normal(image.shape), size / 24) * size / 60
    return gaussian_filter(image, 1).clip(0, 1).astype(np.float32)


def thumbs(images):
    return np.stack([thumbnail(np.asarray(image, dtype=np.float32)) for image in images])


# --- quality ---


def brute(reference, found, k):
    """Kynkäänniemi et al. 2019 and Naeem et al. 2020, scan by scan."""

    def radius(of, among):
        return sorted(math.dist(of, other) for other in among)[k]  # the first is the scan itself

    balls, ours = [radius(r, reference) for r in reference], [radius(f, found) for f in found]
    inside = [[math.dist(r, f) <= ball for f in found] for r, ball in zip(reference, balls, strict=True)]
    precision = np.mean([any(row[j] for row in inside) for j in range(len(found))])
    recall = np.mean([any(math.dist(r, f) <= own for f, own in zip(found, ours, strict=True)) for r in reference])
    density = sum(map(sum, inside)) / (k * len(found))
    return precision, recall, density, np.mean([any(row) for row in inside])


@pytest.mark.parametrize("k", [1, 3, 5])
def test_precision_recall_density_coverage_are_those_of_the_definition(k):
    reference, found = points(30), points(20, 1, spread=1.6)
    got = quality.manifolds(reference, found, patients=[str(n) for n in range(30)], k=k)
    expected = brute(reference, found, k)
    assert [own.mean for own in (got.precision, got.recall, got.density, got.coverage)] == pytest.approx(expected)
    assert 0.1 < expected[0] < 1
    assert got.precision.low <= got.precision.mean <= got.precision.high


def test_equal_sets_are_precise_and_covered_and_far_ones_are_not():
    a, names = points(40), [str(n) for n in range(40)]
    same, far = quality.manifolds(a, a, patients=names), quality.manifolds(a, a + 100, patients=names)
    assert (same.precision.mean, same.recall.mean, same.coverage.mean) == (1, 1, 1)
    assert same.density.mean >= 1
    assert (far.precision.mean, far.recall.mean, far.density.mean, far.coverage.mean) == (0, 0, 0, 0)


def test_a_set_of_one_image_over_and_over_is_precise_without_recall():
    a = points(40)
    got = quality.manifolds(a, a[:1] + 1e-3 * points(30, 2), patients=[str(n) for n in range(40)])
    assert got.precision.mean == 1
    assert got.recall.mean < 0.1 and got.coverage.mean < 0.6


def test_a_patient_counts_once_however_many_scans_there_are():
    a = np.concatenate([points(10), points(30, 1) + 50])
    patients = [str(n) for n in range(10)] + ["one"] * 30
    got = quality.manifolds(a, a[10:], patients=patients)
    assert got.coverage.mean == pytest.approx(1 / 11) and got.coverage.n == 11


def test_a_small_set_has_fewer_neighbours_and_one_scan_none():
    assert quality.manifolds(points(3), points(3), patients=list("abc")).precision.mean == 1
    with pytest.raises(InputError, match="at least 2 scans"):
        quality.manifolds(points(3), points(1), patients=list("abc"))


def test_diversity_is_between_patients():
    a = np.array([[0.0], [0.0], [3.0]])
    assert quality.diversity(a, ["x", "x", "y"]) == 3
    assert quality.diversity(a, ["x", "y", "z"]) == 2
    assert math.isnan(quality.diversity(a, ["x", "x", "x"]))


def test_intensities_that_are_shifted_are_as_far_apart_as_that():
    image = patients_image(0) * 0.5 + 0.2
    own, moved = (histogram(i.astype(np.float32))[0][None] for i in (image, image + 0.1))
    width = (1 + 2 * OUTSIDE) / BINS
    assert quality.intensity_distance(own, moved, width) == pytest.approx(0.1, abs=0.005)
    assert quality.intensity_distance(own, own, width) == 0


@pytest.mark.parametrize("shape", [(64, 48), (24, 20, 16)])
def test_a_wave_stands_at_its_frequency_in_the_spectrum(shape):
    along = np.arange(shape[0]).reshape(-1, *(1,) * (len(shape) - 1))
    wave = np.sin(2 * np.pi * 0.25 * along) * np.ones(shape)
    assert spectrum(wave.astype(np.float32)).argmax() in (RADII // 2 - 1, RADII // 2)


def test_blur_takes_fine_detail_away_and_noise_is_even():
    noise = np.random.default_rng(0).standard_normal((128, 128)).astype(np.float32)
    sharp, soft = spectrum(noise)[None], spectrum(gaussian_filter(noise, 1.0))[None]
    assert np.abs(10 * (sharp[0, 4:] - sharp[0, 4:].mean())).max() < 1
    lost = quality.spectrum_difference(soft, sharp)
    middle = (np.arange(RADII) + 0.5) / RADII * 0.5
    expected = 10 * np.log10(np.exp(-((2 * np.pi * middle) ** 2)))  # of a Gaussian of deviation 1
    assert lost[2:12] == pytest.approx(expected[2:12], abs=1)


def test_regions_have_their_size_and_are_told_apart(tmp_path):
    rng = np.random.default_rng(0)

    def label_maps(name, edge):
        folder = tmp_path / name
        folder.mkdir()
        for n in range(24):
            labels = np.zeros((24, 24, 24), dtype=np.uint8)
            labels[:10, :10, : 8 + n % 3] = 1
            size = edge + int(rng.integers(0, 3))
            labels[12 : 12 + size, 12:20, 12:20] = 7
            nib.save(nib.Nifti1Image(labels, np.diag([2.0, 1, 0.5, 1])), folder / f"{n}.nii.gz")
        return sorted(folder.iterdir(), key=lambda p: int(p.name.split(".")[0]))

    real, unit, left_out = quality.region_sizes(label_maps("real", 4))
    synthetic, _, _ = quality.region_sizes(label_maps("synthetic", 9))
    assert (unit, left_out, sorted(real)) == ("ml", [], [1, 7])
    assert real[1][:3] == pytest.approx([0.8, 0.9, 1.0])  # 100 x 8, 9, 10 voxels of 1 mm3
    rows = quality.compare_regions(real, synthetic)
    assert [(row["label"], row["differs"]) for row in rows] == [(1, False), (7, True)]
    assert rows[0]["ks"] == 0 and rows[1]["ks"] == 1
    assert rows[1]["real"]["mean"] == pytest.approx(real[7].mean())


def test_a_label_that_a_map_lacks_is_of_size_0_and_a_scan_is_no_label_map(tmp_path):
    paths = []
    for n, values in enumerate([np.full((4, 4, 4), 2.0), np.eye(4)[..., None] * np.ones(4), np.full((4, 4, 4), 0.5)]):
        nib.save(nib.Nifti1Image(values.astype(np.float32), np.eye(4)), tmp_path / f"{n}.nii.gz")
        paths.append(tmp_path / f"{n}.nii.gz")
    found, _, left_out = quality.region_sizes(paths)
    assert found[2].tolist() == [0.064, 0] and found[1].tolist() == [0, 0.016]
    ((name, why),) = left_out
    assert name == "2.nii.gz" and "whole numbers" in why and str(tmp_path) not in why


# --- privacy ---


def test_similarity_is_the_correlation_of_what_overlaps():
    a, b = thumbs([patients_image(0)]), thumbs([patients_image(1)])
    reach = privacy.REACH[2]
    middle = a[0, reach:-reach, reach:-reach]
    expected = -1.0
    for query in (middle, a[0][:, ::-1][reach:-reach, reach:-reach]):
        for i in range(2 * reach + 1):
            for j in range(2 * reach + 1):
                window = b[0, i : i + middle.shape[0], j : j + middle.shape[1]]
                expected = max(expected, np.corrcoef(query.ravel(), window.ravel())[0, 1])
    assert privacy.similarities(a, b)[0, 0] == pytest.approx(expected, abs=1e-5)
    assert expected < 0.9


def test_a_copy_is_alike_however_it_is_shifted_brightened_or_mirrored():
    image = patients_image(0)
    moved = np.roll(image, (4, -4), (0, 1))  # two voxels of the thumbnail
    versions = [image, moved, image[:, ::-1], 0.5 * image + 0.3]
    assert (privacy.similarities(thumbs(versions), thumbs([image])) > 0.98).all()
    flat = np.full((1, 64, 64), 0.5, dtype=np.float32)
    assert privacy.similarities(flat, flat)[0, 0] == 0  # nothing to compare, and no warning


def test_volumes_are_aligned_and_mirrored_left_to_right():
    head = gaussian_filter(np.random.default_rng(0).standard_normal((40, 44, 36)), 3).astype(np.float32)
    others = [gaussian_filter(np.random.default_rng(n).standard_normal(head.shape), 3) for n in (1, 2)]
    versions = [head, np.roll(head, (1, 1, -1), (0, 1, 2)), head[::-1]]
    assert (privacy.similarities(thumbs(versions), thumbs([head])) > 0.95).all()
    assert (privacy.similarities(thumbs(others), thumbs([head])) < 0.8).all()


def test_planted_copies_are_all_found_and_real_scans_are_not():
    training, held_out = ([patients_image(n) for n in numbers] for numbers in (range(120), range(200, 300)))
    rng = np.random.default_rng(0)
    known = thumbs(training)
    real = privacy.similarities(thumbs(held_out), known).max(1)
    limit = privacy.copy_limit(real)
    others = [patients_image(n) for n in range(400, 500)]
    assert (privacy.similarities(thumbs(others), known).max(1) > limit).mean() <= 0.05
    planted = {
        "exact": lambda x: x,
        "shifted": lambda x: shift(x, (2, -2), order=1, mode="nearest"),
        "brighter": lambda x: (1.2 * x).clip(0, 1),
        "darker": lambda x: 0.7 * x + 0.1,
        "noisy": lambda x: x + 0.03 * rng.standard_normal(x.shape),
        "blurred": lambda x: gaussian_filter(x, 1.5),
    }
    for name, change in planted.items():
        alike = privacy.similarities(thumbs([change(x) for x in training[:30]]), known)
        assert (alike.max(1) > limit).all(), name
        assert alike.argmax(1).tolist() == list(range(30)), name


def test_the_limit_lies_beyond_real_scans_and_a_few_twins_do_not_move_it():
    rng = np.random.default_rng(0)
    alike = np.tanh(0.9 + 0.12 * rng.standard_normal(400))
    limit = privacy.copy_limit(alike)
    assert limit == pytest.approx(math.tanh(0.9 + 4 * 0.12), abs=0.02)
    assert privacy.copy_limit(np.concatenate([alike, np.full(12, 0.999)])) == pytest.approx(limit, abs=0.01)
    assert privacy.copy_limit(np.full(30, 0.999)) == privacy.copy_limit([]) == privacy.HIGHEST


def test_auc_is_that_of_all_pairs_and_covers_chance():
    low, high = np.array([1.0, 2, 2]), np.array([2.0, 3])
    pairs = [(a < b) + 0.5 * (a == b) for a in low for b in high]
    assert privacy.auc(low, high).mean == pytest.approx(np.mean(pairs))
    assert privacy.auc(np.zeros(5), np.ones(5)).to_dict() == {"mean": 1, "low": 1, "high": 1, "n": 5}
    rng = np.random.default_rng(0)
    held = sum(
        (found := privacy.auc(rng.standard_normal(40), rng.standard_normal(50), seed=n)).low <= 0.5 <= found.high
        for n in range(60)
    )
    assert held >= 52


def test_patients_widen_the_interval_of_an_auc():
    rng = np.random.default_rng(0)
    low, centre = rng.standard_normal(200), rng.standard_normal(10)
    high = np.repeat(centre, 20) + 0.01 * rng.standard_normal(200)
    by_scan, by_patient = privacy.auc(low, high), privacy.auc(low, high, np.repeat(np.arange(10), 20))
    assert by_patient.mean == by_scan.mean and by_patient.n == 10
    assert by_patient.high - by_patient.low > 2 * (by_scan.high - by_scan.low)


def test_nearness_is_blind_to_a_common_factor():
    training, held = np.array([1.0, 2, 0, 0]), np.array([3.0, 2, 5, 0])
    assert privacy.nearness(training, held).tolist() == [0.25, 0.5, 0, 0.5]
    assert privacy.nearness(7 * training, 7 * held).tolist() == [0.25, 0.5, 0, 0.5]


def test_the_nearest_other_leaves_out_ones_own_patient():
    distances = np.array([[0.0, 2, 3], [1, 0, 5]])
    names = np.array(["a", "b", "a"])
    assert privacy.nearest_others(distances, names[:2], names).tolist() == [2, 1]
    assert privacy.nearest_others(distances[:, :1], names[:1], names[:1]).tolist() == [math.inf, math.inf]


# --- copies among sets ---


def made(numbers, change=lambda x: x, patients=None):
    """A set of made patients, whose features are their thumbnails."""
    numbers = list(numbers)
    looks = thumbs([change(patients_image(n, 64)) for n in numbers])
    none, names = np.zeros((len(numbers), 1)), patients or [f"patient {n}" for n in numbers]
    entries = tuple(Entry(f"{n}.png", Path(f"{n}.png"), name) for n, name in zip(numbers, names, strict=True))
    flat = looks.reshape(len(looks), -1).astype(np.float64)
    blank = ((1.0, 1.0, 1.0),) * len(numbers), ("",) * len(numbers)
    return Scans(entries, *blank, flat, {}, looks, none, none, none, ())


def test_other_patients_are_at_chance_and_noisy_copies_are_not():
    training, held = made(range(150)), made(range(500, 560))
    others = Copies(made(range(700, 800)), training, held, seed=0)
    assert others.table()["copies"] == 0
    for own in others.auc.values():
        for value in own.values():
            assert value.low < 0.5 < value.high and value.high - value.low < 0.3
    rng = np.random.default_rng(0)
    noisy = Copies(made(range(40), lambda x: x + 0.03 * rng.standard_normal(x.shape)), training, held, seed=0)
    assert noisy.table()["copies"] == 40 and noisy.table()["held_out_flagged_share"] <= 0.05
    for own in noisy.auc.values():
        assert own["closer_to_training"].low > 0.97 and own["closer_than_real"].low > 0.97
    assert [row["nearest"] for row in noisy.rows(0.9)] == [f"{n}.png" for n in range(40)]


def test_the_number_of_training_scans_is_no_sign_of_memory():
    """With 10 times as many scans in the training, the nearest one lies there nearly always; the AUC stays at 0.5."""
    found = Copies(made(range(700, 760)), made(range(200)), made(range(500, 520)), seed=0)
    for own in found.auc.values():
        assert own["closer_to_training"].low < 0.5 < own["closer_to_training"].high


def test_scans_that_repeat_each_other_are_counted():
    found = Copies(made([700, 700, 701, 702]), made(range(40)), made(range(500, 530)), seed=0)
    assert found.table()["synthetic_twins"] == 2


def test_a_patients_own_scans_do_not_move_the_limit():
    """Two scans of each training patient: they are alike, and are no reason to pass over copies."""
    twice = [n for n in range(30) for _ in range(2)]
    training = made(twice, patients=[f"patient {n}" for n in twice])
    found = Copies(made(range(10)), training, None, seed=0)
    assert found.limit < 0.98 and found.table()["copies"] == 10
    assert found.table()["held_out_flagged_share"] is None and set(found.auc["image"]) == {"closer_than_real"}
