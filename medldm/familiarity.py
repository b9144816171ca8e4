"""How unlike the scans of a training a scan is: conformal p-values of its appearance, and the reason in words.

Pictures are held against a probabilistic PCA (Tipping and Bishop 1999) of those of the training, textures by a
Mahalanobis distance with shrunk covariance. A scan that lies wrongly, or whose grey values are inverted, would be more
likely if it were turned: the gain of each turn is a statistic, too, and so are the odds of a network that learned to
tell pictures that were altered, where there is one. The largest of all, each in deviations of held-out patients, is
compared with the largest of each held-out scan (conformal: Vovk et al. 2005; by folds of patients).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from medldm.alteration import WORDS, Alteration
from medldm.appearance import Appearance, Turn, turned, turns

Array = NDArray[np.float64]

ALPHA = 0.02  # scans of the training's kind that are warned of
FOLDS = 6
COMPONENTS = 60  # of the pictures, at most, and at most one for so many patients:
PATIENTS_A_COMPONENT = 5
SHRUNK = 0.15
USUAL = 1.0  # deviations of held-out patients
LEAST_PATIENTS = 20  # fewer cannot say what is rare


@dataclass(frozen=True, eq=False)
class Reference:
    """What scans of one kind look like, as arrays that are kept in a pack.

    mean, basis, variance, rest : of pictures, (D,), (C, D), (C,) and (1,): mean, components, their variance, that of
        each direction left
    texture_mean, texture_precision : (M,), (M, M)
    middle, spread : (S,) of the statistics of held-out scans
    largest : (N,) largest statistic of each held-out scan, in deviations, rising
    """

    mean: Array
    basis: Array
    variance: Array
    rest: Array
    texture_mean: Array
    texture_precision: Array
    middle: Array
    spread: Array
    largest: Array

    def to_arrays(self) -> dict[str, NDArray[np.float32] | NDArray[np.float16]]:
        kinds = {"mean": np.float16, "basis": np.float16}
        return {f.name: getattr(self, f.name).astype(kinds.get(f.name, np.float32)) for f in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> Reference:
        return cls(**{f.name: arrays[f.name].astype(np.float64) for f in fields(cls)})

    def energies(self, pictures: Array) -> tuple[Array, Array]:
        """Of pictures (N, ...): squared distance within the components, and outside of them."""
        apart = pictures.reshape(len(pictures), -1) - self.mean
        within = apart @ self.basis.T
        outside = np.maximum((apart**2).sum(1) - (within**2).sum(1), 1e-9)
        return (within**2 / (self.variance + self.rest)).sum(1) + 1e-9, outside / self.rest

    def statistics(self, pictures: Array, textures: Array, odds: Array | None = None) -> Array:
        """(N, S), the larger the stranger: three distances, what each turn gains, what inversion gains, and the odds
        (N,) that it was altered, if they are known."""
        inside, outside = self.energies(pictures)
        apart = textures - self.texture_mean
        texture = np.einsum("ni,ij,nj->n", apart, self.texture_precision, apart) + 1e-9
        scale = pictures[0].size
        gains = [(inside + outside - sum(self.energies(other))) / scale for other in _otherwise(pictures)]
        known = [] if odds is None else [odds]
        return np.stack([np.log(inside), np.log(outside), np.log(texture), *gains, *known], axis=1)

    def p_values(self, pictures: Array, textures: Array, odds: Array | None = None) -> Array:
        """(N,) conformal p-values: shares of held-out scans that are at least as strange."""
        most = ((self.statistics(pictures, textures, odds) - self.middle) / self.spread).max(1)
        return np.asarray((1 + (self.largest >= most[:, None]).sum(1)) / (len(self.largest) + 1))


def fit_reference(
    pictures: Array, textures: Array, patients: NDArray[np.integer], odds: Array | None = None
) -> Reference:
    """Of scans of one kind: pictures (N, ...), textures (N, M), the number of each scan's patient (N,), and the odds
    (N,) that it was altered, of a network that does not know the patient.

    Each scan is measured against a reference that was fitted without its patient.
    """
    found = []
    for fold in range(FOLDS):
        out = patients % FOLDS == fold
        if out.any() and not out.all():
            without = _fitted(pictures[~out], textures[~out], patients[~out])
            known = None if odds is None else odds[out]
            found.append(without.statistics(pictures[out], textures[out], known))
    held_out = np.concatenate(found)
    middle = np.median(held_out, axis=0)
    spread = np.maximum((np.percentile(held_out, 97.5, axis=0) - middle) / 2, 1e-3)
    whole = _fitted(pictures, textures, patients)
    largest = np.sort(((held_out - middle) / spread).max(1))
    arrays = {f.name: getattr(whole, f.name) for f in fields(whole)}
    return Reference(**{**arrays, "middle": middle, "spread": spread, "largest": largest})


def _fitted(pictures: Array, textures: Array, patients: NDArray[np.integer]) -> Reference:
    flat = pictures.reshape(len(pictures), -1)
    count = min(COMPONENTS, max(2, len(np.unique(patients)) // PATIENTS_A_COMPONENT), len(flat) - 1)
    mean = flat.mean(0)
    _, singular, directions = np.linalg.svd(flat - mean, full_matrices=False)
    variance = singular**2 / len(flat)
    rest = max(float(variance[count:].sum()) / (flat.shape[1] - count), 1e-9)
    covariance = np.cov(textures.T)
    covariance = (1 - SHRUNK) * covariance + SHRUNK * np.diag(np.diag(covariance)) + 1e-6 * np.eye(len(covariance))
    nothing = np.zeros(1)
    precision = np.linalg.inv(covariance).astype(np.float64)
    return Reference(
        mean, directions[:count], variance[:count], np.array([rest]), textures.mean(0), precision, *(nothing,) * 3
    )


def _otherwise(pictures: Array) -> list[Array]:
    """The same pictures, lying in every other way; and inverted."""
    return [*(turned(pictures, turn) for turn in turns(pictures.ndim - 1)), 1 - pictures]


def doubt(seen: Appearance, references: Sequence[Reference], alteration: Alteration | None = None) -> str:
    """Why a scan is not one of those that the references are of, in words; "" where it is like those of any."""
    picture, texture = seen.picture[None], seen.texture[None]
    odds = None if alteration is None else alteration.odds(picture)
    p = max(float(reference.p_values(picture, texture, odds)[0]) for reference in references)
    if p > ALPHA:
        return ""
    rare = f"more unusual than {100 * (1 - p):.3g} % of held-out scans"
    dims = picture.ndim - 1
    ways = zip([*turns(dims), None], _otherwise(picture), strict=True)
    right = [(gain, turn) for turn, other in ways if (gain := _gain(references, picture, other)) > 0]
    if right:
        return f"{_words(max(right, key=lambda pair: pair[0])[1], dims)} ({rare})"
    statistics = (references[0].statistics(picture, texture, odds)[0] - references[0].middle) / references[0].spread
    if alteration is not None and statistics.argmax() == len(statistics) - 1:
        likeliest = alteration.likeliest(seen.picture)
        if likeliest <= len(turns(dims)):
            return f"{_words(turns(dims)[likeliest - 1], dims)} ({rare})"
        if likeliest in WORDS:
            return f"{WORDS[likeliest]} ({rare})"
    if statistics[2] > max(statistics[:2]):
        return f"its grey values and texture are unlike those of the training's scans ({rare})"
    return f"it does not look like the training's scans ({rare}): another body part, view or kind of image?"


def _gain(references: Sequence[Reference], picture: Array, other: Array) -> float:
    """How much likelier a picture is when it is turned, if it is usual then; else 0."""
    gains = [0.0]
    for reference in references:
        energies = reference.energies(other)
        apart = (np.log(np.concatenate(energies)) - reference.middle[:2]) / reference.spread[:2]
        if apart.max() < USUAL:
            before, after = (inside + outside for inside, outside in (reference.energies(picture), energies))
            gains.append(float((before - after)[0]))
    return max(gains)


def _words(turn: Turn | None, dims: int) -> str:
    if turn is None:
        return "its grey values look inverted"
    if dims == 3:
        return "it seems to lie otherwise than its header says: turned or mirrored"
    order, signs = turn
    if order == (0, 1):
        if signs == (-1, -1):
            return "it looks upside down"
        return f"it looks mirrored, {'left to right' if signs == (-1, 1) else 'top to bottom'}"
    return "it looks turned by a quarter"
