"""How alike two sets of scans are: as distributions of features, in intensity, in detail, in the size of regions."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medldm.errors import InputError
from medldm.evaluate.features import Features
from medldm.evaluate.intervals import Interval, interval, mean_by_patient
from medldm.io import read

NEIGHBOURS = 5
SEPARATE = 0.01  # p, shared by all labels, below which a region's sizes count as different
Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Manifolds:
    """precision : share of the set within the reference; recall : share of the reference within the set (Kynkäänniemi
    et al. 2019); density, coverage : the same two, less moved by outliers (Naeem et al. 2020); all 1 for equal sets"""

    precision: Interval
    recall: Interval
    density: Interval
    coverage: Interval


def distances(a: Features, b: Features) -> Numbers:
    """Euclidean distances of all pairs: (M, d), (N, d) -> (M, N)."""
    squared = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * (a @ b.T)
    return np.asarray(np.sqrt(squared.clip(0)))


def manifolds(
    reference: Features, features: Features, *, patients: Sequence[str], k: int = NEIGHBOURS, seed: int = 0
) -> Manifolds:
    """Precision, recall, density and coverage of `features` (M, d) by `reference` (N, d).

    patients : of the reference; its means are over them, and its intervals
    k : neighbours that make up a scan's ball; fewer where a set has no more

    Intervals are those of the means, the other set taken as it is. Raises InputError below 2 scans a set.
    """
    if min(len(reference), len(features)) < 2:
        raise InputError("manifolds", f"sets of {len(reference)} and {len(features)}", "at least 2 scans each")
    across = distances(reference, features)
    of_reference, near = _radii(reference, k)
    of_features, _ = _radii(features, k)
    inside = across <= of_reference[:, None]

    def over_patients(values: NDArray[Any]) -> Interval:
        return interval(list(mean_by_patient(values.tolist(), patients).values()), seed=seed)

    return Manifolds(
        precision=interval(inside.any(0).astype(float).tolist(), seed=seed),
        recall=over_patients((across <= of_features[None]).any(1).astype(float)),
        density=interval((inside.sum(0) / near).tolist(), seed=seed),
        coverage=over_patients(inside.any(1).astype(float)),
    )


def _radii(features: Features, k: int) -> tuple[Numbers, int]:
    """Distance of each scan to its k-th neighbour, and the k that there is."""
    k = min(k, len(features) - 1)
    within = distances(features, features)
    np.fill_diagonal(within, np.inf)
    return np.partition(within, k - 1, axis=1)[:, k - 1], k


def diversity(features: Features, patients: Sequence[str]) -> float:
    """Mean distance of two scans of different patients; nan for one patient."""
    names = np.asarray(patients)
    other = names[:, None] != names[None]
    return float(distances(features, features)[other].mean()) if other.any() else float("nan")


def intensity_distance(a: Numbers, b: Numbers, width: float) -> float:
    """Earth mover's distance (Wasserstein 1) of the mean histograms (N, BINS), whose bins are `width` wide."""
    return float(np.abs(np.cumsum(a.mean(0) - b.mean(0))).sum() * width)


def spectrum_difference(a: Numbers, b: Numbers) -> Numbers:
    """Mean spectrum (N, RADII) of the first over that of the second, in dB; positive where it has more detail."""
    difference: Numbers = 10 * (a.mean(0) - b.mean(0))
    return difference


def region_sizes(paths: Sequence[Path]) -> tuple[dict[int, Numbers], str, list[tuple[str, str]]]:
    """Volume of each label > 0 in each label map, in ml (images: area in cm2); its unit; maps that cannot be read.

    A label that a map lacks has the size 0 there.
    """
    found: list[dict[int, float]] = []
    left_out: list[tuple[str, str]] = []
    unit = "ml"
    for path in paths:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what a reader mended is for `medldm check` to tell
                volume = read(path)
            if not (volume.array == np.rint(volume.array)).all():
                raise InputError(path.name, "values that are no whole numbers", "a label map")
        except InputError as failure:
            left_out.append((path.name, str(failure).replace(str(path), path.name)))
            continue
        sides = [s for s, n in zip(volume.geometry.spacing, volume.array.shape, strict=True) if n > 1]
        flat = len(sides) < 3
        unit = "cm2" if flat else "ml"
        cell = float(np.prod(sides)) / (100 if flat else 1000)
        values, counts = np.unique(volume.array, return_counts=True)
        found.append({int(v): cell * int(n) for v, n in zip(values, counts, strict=True) if v > 0})
    labels = sorted({label for own in found for label in own})
    return {label: np.array([own.get(label, 0.0) for own in found]) for label in labels}, unit, left_out


def compare_regions(real: dict[int, Numbers], synthetic: dict[int, Numbers]) -> list[dict[str, Any]]:
    """A row a label: means, deviations, Kolmogorov and Smirnov's distance and p, and whether they differ.

    They do where p is below 0.01, shared among the labels (Bonferroni).
    """
    from scipy.stats import ks_2samp

    labels, rows = sorted(set(real) | set(synthetic)), []
    counts = [len(next(iter(own.values()), ())) for own in (real, synthetic)]
    for label in labels:
        a, b = (own.get(label, np.zeros(n)) for own, n in zip((real, synthetic), counts, strict=True))
        found = ks_2samp(a, b)
        rows.append(
            {
                "label": label,
                "real": {"mean": float(a.mean()), "std": float(a.std()), "n": len(a)},
                "synthetic": {"mean": float(b.mean()), "std": float(b.std()), "n": len(b)},
                "ks": float(found.statistic),
                "p": float(found.pvalue),
                "differs": bool(found.pvalue < SEPARATE / len(labels)),
            }
        )
    return rows
