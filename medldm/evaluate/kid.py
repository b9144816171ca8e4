"""Kernel inception distance (Binkowski et al. 2018): how far two sets of images are apart as distributions."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medldm.errors import InputError
from medldm.evaluate.intervals import Interval

SCALE = 1000
DEGREE = 3
FEWEST = 50
RESAMPLES = 1000

Matrix = NDArray[np.float64]


def polynomial_kernel(a: Matrix, b: Matrix) -> Matrix:
    """(x . y / d + 1)^3 of all pairs: (M, d), (N, d) -> (M, N)."""
    kernel: Matrix = (a @ b.T / a.shape[1] + 1) ** DEGREE
    return kernel


def kid(
    a: ArrayLike,
    b: ArrayLike,
    *,
    groups_a: ArrayLike | None = None,
    groups_b: ArrayLike | None = None,
    paired: bool = False,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Unbiased squared maximum mean discrepancy, times 1000, with a bootstrap interval over patients.

    a, b : features (M, d) and (N, d), as of `medldm.evaluate.features`
    groups_a, groups_b : whose image each is (M,), (N,); without, each is a patient of its own. Only pairs of
        different patients enter, so that slices of one head do not pass for independent images.
    paired : both sets are of the same patients (reconstructions against originals), who are then left out of the
        cross term and drawn together. That is Gretton et al. 2012, lemma 6, which holds for dependent pairs;
        equal sets give 0.

    Patients are drawn 1000 times with replacement; the same `seed` gives the same interval, whose `n` is the
    smaller number of patients. The value may be a little below 0. Where both distributions are alike the interval
    is too wide rather than too narrow (the statistic is degenerate there: Arcones and Gine 1992).

    Warns (UserWarning) below 50 patients in a set. Raises InputError for fewer than 2, features that do not match
    or are not finite, or paired sets of different patients.
    """
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise InputError("kid", f"features of shapes {x.shape} and {y.shape}", "(M, d) and (N, d)")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise InputError("kid", "features that are not finite", "finite features")
    names_x, in_x = _patients(groups_a, len(x))
    names_y, in_y = _patients(groups_b, len(y))
    fewest = min(len(names_x), len(names_y))
    if fewest < 2:
        raise InputError("kid", f"{fewest} patients in a set", "at least 2")
    if paired and not np.array_equal(names_x, names_y):
        raise InputError("kid", "paired sets of different patients", "the same patients in both")
    if fewest < FEWEST:
        warnings.warn(
            f"kid: {fewest} patients in a set; below {FEWEST} the distance is uncertain, look at its interval",
            stacklevel=2,
        )
    sums = [
        _between(polynomial_kernel(x, x), in_x, in_x, others_only=True),
        _between(polynomial_kernel(y, y), in_y, in_y, others_only=True),
        _between(polynomial_kernel(x, y), in_x, in_y, others_only=paired),
    ]
    value = float(_distance(sums, np.ones((1, len(names_x))), np.ones((1, len(names_y))))[0])
    rng = np.random.default_rng(seed)
    drawn_x = _resampled(rng, len(names_x))
    drawn = _distance(sums, drawn_x, drawn_x if paired else _resampled(rng, len(names_y)))
    tail = 50 * (1 - level)
    low, high = np.nanpercentile(drawn, (tail, 100 - tail))  # nan: one patient was drawn throughout
    return Interval(value, float(low), float(high), fewest)


def _patients(groups: ArrayLike | None, count: int) -> tuple[NDArray[np.generic], NDArray[np.intp]]:
    """The patients, and the number of each image's one."""
    labels = np.arange(count) if groups is None else np.asarray(groups)
    if labels.shape != (count,):
        raise InputError("kid", f"{labels.size} groups of {count} features", "one group a feature")
    names, index = np.unique(labels, return_inverse=True)
    return names, index


def _between(
    kernel: Matrix, rows: NDArray[np.intp], columns: NDArray[np.intp], *, others_only: bool
) -> tuple[Matrix, Matrix]:
    """Sum of the kernel over each two patients' images, and how many pairs those are."""
    summed = np.zeros((rows.max() + 1, columns.max() + 1))
    by_row = np.zeros((rows.max() + 1, len(columns)))
    np.add.at(by_row, rows, kernel)
    np.add.at(summed.T, columns, by_row.T)
    pairs = np.outer(np.bincount(rows), np.bincount(columns)).astype(np.float64)
    if others_only:
        np.fill_diagonal(summed, 0)
        np.fill_diagonal(pairs, 0)
    return summed, pairs


def _resampled(rng: np.random.Generator, patients: int) -> Matrix:
    """How often each patient was drawn: (RESAMPLES, patients)."""
    return rng.multinomial(patients, np.full(patients, 1 / patients), RESAMPLES).astype(np.float64)


def _distance(sums: list[tuple[Matrix, Matrix]], of_x: Matrix, of_y: Matrix) -> Matrix:
    """Times 1000, for each row of weights (R, patients)."""
    means = []
    for (summed, pairs), left, right in zip(sums, (of_x, of_y, of_x), (of_x, of_y, of_y), strict=True):
        total, count = (np.einsum("rp,rp->r", left @ matrix, right) for matrix in (summed, pairs))
        means.append(np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0))
    distance: Matrix = SCALE * (means[0] + means[1] - 2 * means[2])
    return distance
