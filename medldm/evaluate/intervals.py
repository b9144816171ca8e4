"""Means over patients with bootstrap intervals, and paired differences between methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medldm.errors import InputError

RESAMPLES = 10_000


@dataclass(frozen=True)
class Interval:
    """Mean over `n` patients with a percentile bootstrap interval (Efron 1979)."""

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"

    def to_dict(self) -> dict[str, float]:
        return {"mean": self.mean, "low": self.low, "high": self.high, "n": self.n}


def mean_by_patient(values: Sequence[float], patients: Sequence[str]) -> dict[str, float]:
    """Mean of each patient's images, so that a patient counts once however many images there are."""
    if len(values) != len(patients):
        raise InputError("intervals", f"{len(values)} values of {len(patients)} patients", "one patient a value")
    groups: dict[str, list[float]] = {}
    for value, patient in zip(values, patients, strict=True):
        groups.setdefault(patient, []).append(float(value))
    return {patient: float(np.mean(group)) for patient, group in groups.items()}


def interval(per_patient: Sequence[float], *, level: float = 0.95, seed: int = 0) -> Interval:
    """Mean and bootstrap interval of one value a patient.

    Patients are drawn with replacement, 10 000 times; the same `seed` gives the same interval.
    Raises InputError for no values or values that are not finite.
    """
    values = np.asarray(per_patient, dtype=np.float64)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise InputError("intervals", f"values of shape {values.shape}", "finite values, one a patient")
    picks = np.random.default_rng(seed).integers(0, len(values), (RESAMPLES, len(values)))
    tail = 50 * (1 - level)
    low, high = np.percentile(values[picks].mean(1), (tail, 100 - tail))
    return Interval(float(values.mean()), float(low), float(high), len(values))


def paired_difference(
    a: Mapping[str, float], b: Mapping[str, float], *, level: float = 0.95, seed: int = 0
) -> Interval:
    """Interval of a - b over the patients; both must hold the same ones. Raises InputError."""
    if set(a) != set(b):
        raise InputError("paired difference", f"{len(a)} and {len(b)} patients", "the same patients in both")
    return interval([a[patient] - b[patient] for patient in sorted(a)], level=level, seed=seed)
