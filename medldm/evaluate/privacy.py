"""Whether synthetic scans are copies of the training's: by image, by features, by a model's own loss."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medldm.evaluate.intervals import Interval
from medldm.evaluate.scans import Values

REACH = {2: 3, 3: 2}  # voxels of a thumbnail that a copy may be shifted by: 5 % of an edge
TAIL = 4.0  # deviations, of the normal distribution that similarities to the nearest scan follow once transformed
SHARE = 0.95  # of real scans that must pass in any case
HIGHEST = 0.98  # what is this alike is a copy, whatever else is
FEWEST = 20  # held-out patients that are enough to find the limit by
RESAMPLES = 1000
_AT_ONCE = 256
Numbers = NDArray[np.float64]


def similarities(a: Values, b: Values) -> Numbers:
    """Normalised correlation of all pairs of thumbnails, (M, *S) and (N, *S) -> (M, N), at the best alignment.

    The middle of each of `a` is laid on each of `b`, shifted by up to `REACH` voxels each way, and mirrored along its
    last axis (images) or first (volumes): left and right. 1 for a copy, whatever its brightness and contrast.
    """
    dims = a.ndim - 1
    reach, edge = REACH[dims], a.shape[1]
    middle = (slice(None), *(slice(reach, edge - reach),) * dims)
    side = -1 if dims == 2 else 1
    queries = [_unit(part[middle]) for part in (a, np.flip(a, side))]
    best = np.full((len(a), len(b)), -1.0, dtype=np.float32)
    for start in range(0, len(b), _AT_ONCE):
        rows = slice(start, start + _AT_ONCE)
        for offsets in itertools.product(range(2 * reach + 1), repeat=dims):
            window = (rows, *(slice(o, o + edge - 2 * reach) for o in offsets))
            shifted = _unit(b[window]).T
            for query in queries:
                np.maximum(best[:, rows], query @ shifted, out=best[:, rows])
    return best.astype(np.float64)


def _unit(parts: Values) -> Values:
    """(N, S) vectors of mean 0 and length 1; 0 for a constant."""
    flat = parts.reshape(len(parts), math.prod(parts.shape[1:]))
    flat = flat - flat.mean(1, keepdims=True)
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    return np.asarray(np.divide(flat, length, out=np.zeros_like(flat), where=length > 1e-6))


def nearest_others(distances: Numbers, of_rows: NDArray[np.str_], of_columns: NDArray[np.str_]) -> Numbers:
    """The least of each row (M, N) -> (M,), columns of the row's own patient left out; inf where none is left."""
    masked: Numbers = np.where(of_rows[:, None] == of_columns[None], np.inf, distances)
    return np.asarray(masked.min(1))


def copy_limit(similarity: Sequence[float] | Numbers) -> float:
    """Similarity above which a scan is a copy, by those of real scans to the nearest of another patient.

    Four deviations above the middle, both robust, of z = artanh r (Fisher), and never below what 5 % of these real
    scans exceed; 0.98 at most.
    """
    values = np.asarray(similarity, dtype=np.float64)
    if not len(values):
        return HIGHEST
    z = np.arctanh(values.clip(-0.9999, 0.9999))
    middle = float(np.median(z))
    spread = 1.4826 * float(np.median(np.abs(z - middle)))
    tail = math.tanh(middle + TAIL * spread)
    return min(max(tail, float(np.quantile(values, SHARE, method="higher"))), HIGHEST)


def nearness(to_training: Numbers, to_held_out: Numbers) -> Numbers:
    """Share of the way from the nearest training scan (0) to the nearest held-out one (1), of the distances (N,).

    A ratio: blur or grain that takes a scan away from both cancels out.
    """
    total = to_training + to_held_out
    return np.divide(to_training, total, out=np.full_like(total, 0.5), where=total > 0)


def auc(low: Numbers, high: Numbers, groups: Sequence[str] | NDArray[np.str_] | None = None, seed: int = 0) -> Interval:
    """Probability that a value of `low` (M,) lies below one of `high` (N,), ties counting half: Mann and Whitney.

    groups : the patient of each of `high`; both sets are drawn 1000 times with replacement for the interval.
    """
    rng = np.random.default_rng(seed)
    below = (low[:, None] < high[None]) + 0.5 * (low[:, None] == high[None])
    names, index = np.unique(np.arange(len(high)) if groups is None else np.asarray(groups), return_inverse=True)
    by_patient = np.zeros((len(low), len(names)))
    np.add.at(by_patient.T, index, below.T)
    counts = np.bincount(index)
    rows = rng.multinomial(len(low), np.full(len(low), 1 / len(low)), RESAMPLES)
    columns = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), RESAMPLES)
    drawn = np.einsum("rp,rp->r", rows @ by_patient, columns) / (len(low) * (columns @ counts))
    bounds = np.percentile(drawn, (2.5, 97.5))
    return Interval(float(below.mean()), float(bounds[0]), float(bounds[1]), min(len(low), len(names)))
