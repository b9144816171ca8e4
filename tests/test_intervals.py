"""Bootstrap intervals over patients."""

import numpy as np
import pytest

from medldm.errors import InputError
from medldm.evaluate.intervals import interval, mean_by_patient, paired_difference


def test_a_patient_counts_once_however_many_images_there_are():
    assert mean_by_patient([1.0, 3.0, 10.0], ["a", "a", "b"]) == {"a": 2.0, "b": 10.0}


def test_the_interval_holds_the_mean_and_has_the_normal_width():
    values = np.random.default_rng(3).normal(30, 2, 80)
    found = interval(values)
    assert found.mean == pytest.approx(values.mean())
    width = 2 * 1.96 * values.std() / np.sqrt(80)
    assert found.high - found.low == pytest.approx(width, rel=0.05)
    assert found.low < found.mean < found.high and found.n == 80


def test_intervals_cover_the_truth_as_often_as_they_say():
    random = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        found = interval(random.normal(0, 1, 30))
        covered += found.low <= 0 <= found.high
    assert 0.89 <= covered / 200 <= 0.985


def test_the_same_seed_gives_the_same_interval():
    values = [1.0, 2.0, 4.0, 8.0]
    assert interval(values) == interval(values)
    normal = np.random.default_rng(3).normal(30, 2, 80)
    assert interval(normal, seed=1) != interval(normal, seed=2)


def test_one_patient_gives_an_interval_of_no_width():
    found = interval([5.0])
    assert (found.low, found.mean, found.high, found.n) == (5.0, 5.0, 5.0, 1)


def test_pairing_removes_what_patients_have_in_common():
    random = np.random.default_rng(1)
    base = {f"p{i}": value for i, value in enumerate(random.normal(30, 5, 24))}
    better = {patient: value + 0.3 + random.normal(0, 0.05) for patient, value in base.items()}
    found = paired_difference(better, base)
    assert found.mean == pytest.approx(0.3, abs=0.05) and found.low > 0.2
    opposite = paired_difference(base, better)
    assert opposite.mean == pytest.approx(-found.mean) and opposite.high < -0.2


def test_pairs_go_by_name_not_by_order():
    found = paired_difference({"a": 1.0, "b": 5.0}, {"b": 4.0, "a": 0.0})
    assert (found.mean, found.low, found.high) == (1.0, 1.0, 1.0)


def test_what_is_no_sample_is_refused():
    with pytest.raises(InputError):
        interval([])
    with pytest.raises(InputError):
        interval([1.0, np.inf])
    with pytest.raises(InputError, match="same patients"):
        paired_difference({"a": 1.0}, {"b": 1.0})
    with pytest.raises(InputError):
        mean_by_patient([1.0], [])
