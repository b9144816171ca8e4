"""Intervals that hold what they promise: multiples of the predicted deviation, found on patients that were kept aside.

The score of a voxel is |truth - result| / deviation (split conformal prediction: Vovk et al. 2005; Angelopoulos and
Bates 2021). Voxels are told apart by what can be seen of them (Mondrian groups): the decile of their deviation, and a
region. In each group the multiple is the smallest that misses a share `1 - level` of a further patient's voxels at most
(conformal risk control: Angelopoulos et al. 2022). It is patients that are exchangeable, not voxels, so the correction
for their number is by patients; one of whom more than twice that share is missed counts as twice.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from medldm.errors import InputError, ModelError

Array = NDArray[np.float32]
Groups = tuple[NDArray[np.int64], NDArray[np.int64]]

LEVELS = (0.5, 0.68, 0.8, 0.9, 0.95, 0.98)
DECILES = 10
REGIONS = ("air", "dark", "middle", "bright", "edge")
AIR = 0.05  # of the range; less is nothing, or next to it
EDGES = 0.85  # share of what is not air whose gradient is no edge
TIMES_MISSED = 2.0  # what the worst patient counts for
LEAST_PATIENTS = 8
LEAST_VOXELS = 20  # of a patient in a group; of fewer no share is taken
FAINTEST = 1e-7  # deviation, of the range
BEYOND = 1.5  # noise so many times as strong as any that was calibrated is not judged
MULTIPLES = np.geomspace(0.02, 40, 1200)


class Case(NamedTuple):
    """What makes restorations alike: factor of the coarsest axis (1: none), noise as a share of the range."""

    task: str
    factor: float
    noise_std: float


class Seen(NamedTuple):
    """Voxels of one patient in one case, (N,) each: score, logarithm of the deviation, value, gradient."""

    score: Array
    log_std: Array
    value: Array
    gradient: Array

    @classmethod
    def of(cls, truth: Array, image: Array, std: Array, flat: int | None = None) -> Seen:
        """Of a result (I, J, K) beside its truth, all in the model's range; `flat`: an axis across single images."""
        std = np.maximum(std, FAINTEST)
        parts = (np.abs(truth - image) / std, np.log(std), image, gradient_of(image, flat))
        return cls(*(np.asarray(part, dtype=np.float32).ravel() for part in parts))

    def some(self, count: int, rng: np.random.Generator) -> Seen:
        """`count` of the voxels, drawn at random."""
        if len(self.score) <= count:
            return self
        drawn = rng.choice(len(self.score), count, replace=False)
        return Seen(*(part[drawn] for part in self))


@dataclass(frozen=True, eq=False)
class Row:
    """What was found in one case.

    deciles : (9,) rising logarithms of the deviation between deciles
    borders : (3,) values between dark, middle and bright; gradient from which on it is an edge
    multiples : (levels, deciles, regions) of the deviation
    patients : how many it was found on
    """

    case: Case
    deciles: Array
    borders: Array
    multiples: Array
    patients: int


@dataclass(frozen=True, eq=False)
class Intervals:
    """Of one model, as its pack keeps them.

    rows : of every case that was calibrated
    weights_sha256 : of the weights that they hold for
    floor : whether values cannot be negative in the model's range
    """

    rows: tuple[Row, ...]
    weights_sha256: str
    floor: bool = False

    def half_width(
        self, image: Array, std: Array, case: Case, level: float, *, flat: int | None = None, where: str = "interval"
    ) -> Array:
        """Half the interval's width, (I, J, K), in the model's range, as are `image` and its deviation `std`.

        flat : an axis across single images, along which nothing is compared; where : names the model
        Raises InputError for a level that is not between 0.5 and 0.98, ModelError for a case that is not known.
        """
        below, share = level_share(level)
        row = self._row(case, where)
        multiples = (1 - share) * row.multiples[below] + share * row.multiples[below + 1]
        return np.asarray(std * multiples[_groups(row, image, std, flat)], np.float32)

    def groups(
        self, image: Array, std: Array, case: Case, *, flat: int | None = None, where: str = "interval"
    ) -> Groups:
        """Decile and region (I, J, K) of every voxel, as numbers; the arguments are those of `half_width`."""
        return _groups(self._row(case, where), image, std, flat)

    def check(self, case: Case, where: str) -> None:
        """Raises ModelError for a case that is not known."""
        self._row(case, where)

    def _row(self, case: Case, where: str) -> Row:
        """Between the rows on either side of a case. Raises ModelError."""
        rows = [row for row in self.rows if row.case.task == case.task]
        if not rows:
            known = ", ".join(sorted({row.case.task for row in self.rows})) or "none"
            raise ModelError(where, f"{case.task} of a model with intervals for {known}", "a task of these")
        factors = sorted({row.case.factor for row in rows})
        if not factors[0] <= case.factor <= factors[-1]:
            expected = f"{factors[0]:g} to {factors[-1]:g}, which were calibrated"
            raise ModelError(where, f"a factor of {case.factor:g}", expected)
        of_factor = [_by_noise([r for r in rows if r.case.factor == f], case.noise_std, where) for f in factors]
        return _mixed(of_factor, [np.log(f) for f in factors], float(np.log(case.factor)))

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        arrays = {
            name: np.stack([getattr(row, name) for row in self.rows]).astype(np.float32)
            for name in ("deciles", "borders", "multiples")
        }
        cases = np.array([(*row.case[1:], row.patients) for row in self.rows], dtype=np.float32)
        return {**arrays, "cases": cases}

    def to_facts(self) -> str:
        tasks = [row.case.task for row in self.rows]
        told = {"tasks": tasks, "levels": LEVELS, "weights_sha256": self.weights_sha256, "floor": self.floor}
        return json.dumps(told)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]], facts: str) -> Intervals:
        """Raises ValueError or KeyError for what `to_arrays` and `to_facts` did not leave."""
        told = json.loads(facts)
        if tuple(told["levels"]) != LEVELS or arrays["multiples"].shape[1:] != (len(LEVELS), DECILES, len(REGIONS)):
            raise ValueError("levels")
        rows = [
            Row(Case(task, float(case[0]), float(case[1])), deciles, borders, multiples, int(case[2]))
            for task, case, deciles, borders, multiples in zip(
                told["tasks"],
                arrays["cases"].astype(np.float64).round(6),
                *(arrays[name].astype(np.float32) for name in ("deciles", "borders", "multiples")),
                strict=True,
            )
        ]
        return cls(tuple(rows), str(told["weights_sha256"]), bool(told["floor"]))


def _groups(row: Row, image: Array, std: Array, flat: int | None) -> Groups:
    decile = np.searchsorted(row.deciles, np.log(np.maximum(std, FAINTEST)))
    return decile, regions_of(image, gradient_of(image, flat), row.borders)


def uncalibrated(where: str) -> ModelError:
    """Why there is no interval, and how to get one."""
    got, expected = "no intervals", "some that were calibrated with these weights"
    return ModelError(where, got, expected, "medldm calibrate MODEL --data DATA --intervals")


def level_share(level: float) -> tuple[int, float]:
    """Which of `LEVELS` a level follows, and how far it is on the way to the next. Raises InputError."""
    number = float(level) if isinstance(level, int | float | np.number) else np.nan
    if not LEVELS[0] <= number <= LEVELS[-1]:
        raise InputError("level", repr(level), f"a share from {LEVELS[0]:g} to {LEVELS[-1]:g}", "0.9 is usual")
    below = min(int(np.searchsorted(LEVELS, number, side="right")) - 1, len(LEVELS) - 2)
    low, high, here = (-np.log(1 - value) for value in (LEVELS[below], LEVELS[below + 1], number))
    return below, float((here - low) / (high - low))


def gradient_of(image: Array, flat: int | None = None) -> Array:
    """Length of the gradient of (I, J, K), a voxel; `flat`: an axis that it has no part along."""
    axes = [axis for axis, n in enumerate(image.shape) if n > 1 and axis != flat]
    return np.asarray(np.sqrt(sum(np.gradient(image, axis=axis) ** 2 for axis in axes) + np.zeros(image.shape)))


def regions_of(value: Array, gradient: Array, borders: Array) -> NDArray[np.int64]:
    """Numbers of `REGIONS`: what is darker than `AIR`, edges, and three ranges of values of the rest."""
    region = np.asarray(1 + (value >= borders[0]).astype(np.int64) + (value >= borders[1]), dtype=np.int64)
    region[gradient >= borders[2]] = REGIONS.index("edge")
    region[value < AIR] = REGIONS.index("air")
    return region


def fit_row(case: Case, patients: Sequence[Seen]) -> Row:
    """Of the voxels of several patients, those of each together. Raises InputError for fewer than 8 patients."""
    if len(patients) < LEAST_PATIENTS:
        raise InputError("intervals", f"{len(patients)} patients", f"at least {LEAST_PATIENTS} that were kept aside")
    pooled = Seen(*(np.concatenate(parts) for parts in zip(*patients, strict=True)))
    deciles = np.quantile(pooled.log_std, np.arange(1, DECILES) / DECILES).astype(np.float32)
    something = pooled.value >= AIR
    if not something.any():
        something[:] = True
    border = float(np.quantile(pooled.gradient[something], EDGES))
    inner = pooled.value[something & (pooled.gradient < border)]
    thirds = np.quantile(inner if len(inner) else pooled.value, (1 / 3, 2 / 3))
    borders = np.array([*thirds, border], dtype=np.float32)

    missed = np.full((len(patients), DECILES, len(REGIONS), len(MULTIPLES)), np.nan, dtype=np.float32)
    by_decile = np.full((len(patients), DECILES, len(MULTIPLES)), np.nan, dtype=np.float32)
    for number, seen in enumerate(patients):
        decile = np.searchsorted(deciles, seen.log_std)
        region = regions_of(seen.value, seen.gradient, borders)
        for d in range(DECILES):
            by_decile[number, d] = _missed(seen.score[decile == d])
            for r in range(len(REGIONS)):
                missed[number, d, r] = _missed(seen.score[(decile == d) & (region == r)])
    whole = np.stack([_missed(seen.score) for seen in patients])
    multiples = np.empty((len(LEVELS), DECILES, len(REGIONS)), dtype=np.float32)
    for index, level in enumerate(LEVELS):
        for d in range(DECILES):
            for r in range(len(REGIONS)):
                multiples[index, d, r] = _first_known(
                    lambda shares, level=level: multiple(shares, level),  # type: ignore[misc]
                    (missed[:, d, r], by_decile[:, d], whole),
                )
    return Row(case, deciles, borders, multiples, len(patients))


def _missed(scores: Array) -> Array:
    """Share of the voxels that an interval of each of `MULTIPLES` misses; nan for too few voxels."""
    if len(scores) < LEAST_VOXELS:
        return np.full(len(MULTIPLES), np.nan, dtype=np.float32)
    inside = np.searchsorted(np.sort(scores), MULTIPLES, side="right")
    return np.asarray(1 - inside / len(scores), dtype=np.float32)


def multiple(missed: Array, level: float) -> float:
    """The smallest multiple that risk control allows.

    missed : (patients, multiples) share of each patient's voxels that each of `MULTIPLES` misses
    nan where no multiple is large enough, or the patients are too few.
    """
    known = missed[~np.isnan(missed[:, 0])]
    allowed, count = 1 - level, len(known)
    most = min(1.0, TIMES_MISSED * allowed)
    if count < LEAST_PATIENTS:
        return float("nan")
    risk = (np.minimum(known, most).sum(0, dtype=np.float64) + most) / (count + 1)
    fits = risk <= allowed + 1e-9
    return float(MULTIPLES[int(fits.argmax())]) if fits.any() else float("nan")


def _first_known(find: Callable[[Array], float], groups: Sequence[Array]) -> float:
    """Of a group, else of the wider one that it is a part of; the largest multiple where none says any."""
    for group in groups:
        found = find(group)
        if not np.isnan(found):
            return found
    return float(MULTIPLES[-1])


def _by_noise(rows: Sequence[Row], noise_std: float, where: str) -> Row:
    """The row of a noise level: even in its logarithm between two; the lightest holds for all that is lighter."""
    heaviest = max(row.case.noise_std for row in rows)
    if noise_std > BEYOND * heaviest:
        got, expected = f"noise of {noise_std:.2g} of the range", f"at most {BEYOND * heaviest:.2g}, as was calibrated"
        raise ModelError(where, got, expected)
    ordered = sorted(rows, key=lambda row: row.case.noise_std)
    lightest = min((row.case.noise_std for row in rows if row.case.noise_std), default=1.0) / 10
    at = [np.log(max(row.case.noise_std, lightest)) for row in ordered]
    return _mixed(ordered, at, float(np.log(max(noise_std, lightest))))


def _mixed(rows: Sequence[Row], at: Sequence[float], here: float) -> Row:
    """Between the two rows that lie on either side of `here`; the first or the last beyond."""
    after = min(max(int(np.searchsorted(at, here)), 1), len(rows) - 1)
    if len(rows) == 1:
        return rows[0]
    a, b = rows[after - 1], rows[after]
    share = np.float32(np.clip((here - at[after - 1]) / (at[after] - at[after - 1]), 0, 1))

    def mixed(one: Array, other: Array) -> Array:
        return np.asarray((1 - share) * one + share * other, dtype=np.float32)

    return Row(
        a.case,
        mixed(a.deciles, b.deciles),
        mixed(a.borders, b.borders),
        mixed(a.multiples, b.multiples),
        min(a.patients, b.patients),
    )
