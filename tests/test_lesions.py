"""`benchmarks.lesions` measures what it says: against volumes that are known, and results that are."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy import ndimage

from benchmarks import lesions
from benchmarks.methods import Method
from benchmarks.protocol import Case

RNG = np.random.default_rng(0)
AREA = dataclasses.replace(lesions.AREAS["chest"], methods=())


def case(size: int = 160) -> Case:
    return Case("somebody", 0, np.full((size, size), 0.5))


@pytest.mark.parametrize(("ndim", "diameter"), [(2, 2.5), (2, 6.0), (3, 2.0), (3, 5.0)])
def test_a_ball_has_its_volume(ndim: int, diameter: float) -> None:
    wanted = np.pi * diameter**2 / 4 if ndim == 2 else np.pi * diameter**3 / 6
    assert lesions.ball(ndim, diameter).sum() == pytest.approx(wanted, rel=0.05)


def test_lesions_lie_apart_and_inside() -> None:
    found = lesions.places(case(), lesions.CHEST_MM)
    assert len(found) >= 8
    apart = [np.linalg.norm(np.subtract(a, b)) for i, a in enumerate(found) for b in found[:i]]
    assert min(apart) * lesions.CHEST_MM > lesions.APART_MM
    assert all(160 // 5 <= c < 160 - 160 // 5 for place in found for c in place)


def test_what_leaves_a_scan_as_it_is_keeps_all_and_what_blurs_it_less_of_the_small() -> None:
    left = lesions.of_case(AREA, Method("nothing", lambda case, y, s: y), case())
    assert all(value == pytest.approx(1) for values in left.values() for value in values)
    blurred = lesions.of_case(AREA, Method("blur", lambda case, y, s: ndimage.gaussian_filter(y, 2)), case())
    means = [np.mean(blurred[diameter]) for diameter in lesions.DIAMETERS_MM]
    assert 0 < means[0] < means[1] < means[2] < means[3] < 0.9


def test_half_of_a_contrast_counts_as_half_and_what_the_scan_shows_there_as_nothing() -> None:
    textured = Case("somebody", 0, 0.5 + 0.1 * ndimage.gaussian_filter(RNG.standard_normal((160, 160)), 3))
    half = lesions.of_case(AREA, Method("half", lambda case, y, s: textured.truth + (y - textured.truth) / 2), textured)
    assert all(value == pytest.approx(0.5) for values in half.values() for value in values)


def test_a_spot_that_a_method_makes_up_is_found_and_noise_alone_is_none() -> None:
    blank = lesions.phantoms(AREA, case())[0]

    def invents(case: Case, y: np.ndarray, level: float) -> np.ndarray:
        result = case.truth.copy()
        result[78:83, 78:83] += 0.15
        return result

    assert max(lesions.worst_error(AREA, Method("noisy", lambda case, y, s: y), blank).values()) < lesions.MOST_SIGMA
    assert max(lesions.worst_error(AREA, Method("invents", invents), blank).values()) > lesions.MOST_SIGMA
