"""Copies of training scans among synthetic ones: which, how near, and what chance would give."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medldm.evaluate import privacy, quality
from medldm.evaluate.intervals import Interval
from medldm.evaluate.scans import Scans

Numbers = NDArray[np.float64]
Measure = Callable[[Scans, Scans], Numbers]
AMONG = 500  # training scans that are held against the others, where held-out ones do not do


@dataclass(frozen=True)
class _Distances:
    """Of all pairs of two sets; `real` are held-out scans to the training's, `among` training scans to each other."""

    fake: Numbers
    real: Numbers
    among: Numbers
    fake_to_held: Numbers
    held_to_held: Numbers

    @classmethod
    def of(cls, measure: Measure, fake: Scans, training: Scans, held: Scans | None, some: Scans) -> _Distances:
        none = np.zeros((0, 0))
        return cls(
            measure(fake, training),
            measure(held, training) if held else np.zeros((0, len(training))),
            measure(some, training),
            measure(fake, held) if held else none,
            measure(held, held) if held else none,
        )


class Copies:
    """Each synthetic scan's nearest training scan, held against what real scans of other patients are near to.

    similarity, nearest : of each synthetic scan (M,) to that training scan, and its number
    real_similarity : of real scans to the nearest training scan of another patient: of held-out ones, or, where there
        are too few, of the training's too
    limit : similarity above which a scan is a copy
    """

    def __init__(self, fake: Scans, training: Scans, held: Scans | None, seed: int) -> None:
        self.fake, self.training, self.held, self.seed = fake, training, held, seed
        chosen = np.sort(np.random.default_rng(seed).permutation(len(training))[:AMONG])
        enough = held is not None and len(set(held.patients)) >= privacy.FEWEST
        self.some = training.part(chosen[:0] if enough else chosen)
        image, features = (
            _Distances.of(measure, fake, training, held, self.some)
            for measure in (
                lambda a, b: 1 - privacy.similarities(a.thumbs, b.thumbs),
                lambda a, b: quality.distances(a.vectors, b.vectors),
            )
        )
        self.nearest = image.fake.argmin(1)
        self.similarity = 1 - image.fake.min(1)
        self.feature_distance = features.fake[np.arange(len(fake)), self.nearest]
        of_held = 1 - self._to_training(image.real, held)
        self.real_similarity = np.concatenate([of_held, 1 - self._to_training(image.among, self.some)])
        self.limit = privacy.copy_limit(self.real_similarity)
        self.held_flagged = float((of_held > self.limit).mean()) if len(of_held) else None
        twins = privacy.similarities(fake.thumbs, fake.thumbs)
        np.fill_diagonal(twins, -1)
        self.twins = int((twins.max(1) > self.limit).sum())
        self.of_held_out = 0
        names = np.array([f"synthetic {n}" for n in range(len(fake))], dtype="U64")
        if held is not None:  # a copy of a held-out scan counts as that patient's: it cannot speak for the training
            equal = 1 - image.fake_to_held.min(1) > self.limit
            names[equal] = held.patients[image.fake_to_held.argmin(1)[equal]]
            self.of_held_out = int(equal.sum())
        self.auc = {name: self._auc(own, names) for name, own in (("image", image), ("features", features))}

    def _to_training(self, distances: Numbers, rows: Scans | None) -> Numbers:
        """Of each scan to the nearest training scan of another patient."""
        if rows is None or not len(rows):
            return np.zeros(0)
        return privacy.nearest_others(distances, rows.patients, self.training.patients)

    def _auc(self, distances: _Distances, names: NDArray[np.str_]) -> dict[str, Interval]:
        """Nearer to the training than real scans are; and, where scans were held out, than to those."""
        fake, held = distances.fake.min(1), self.held
        if held is None:
            real = self._to_training(distances.among, self.some)
            return {"closer_than_real": privacy.auc(fake, real, seed=self.seed)}
        real = self._to_training(distances.real, held)
        to_held = privacy.nearest_others(distances.fake_to_held, names, held.patients)
        between = privacy.nearest_others(distances.held_to_held, held.patients, held.patients)
        ratio, of_real = privacy.nearness(fake, to_held), privacy.nearness(real, between)
        return {
            "closer_to_training": privacy.auc(ratio, of_real, held.patients, self.seed),
            "closer_than_real": privacy.auc(fake, real, held.patients, self.seed),
        }

    def table(self) -> dict[str, Any]:
        """The figures as plain data."""
        copied = self.similarity > self.limit
        return {
            "copies": int(copied.sum()),
            "copies_share": float(copied.mean()),
            "copy_similarity": self.limit,
            "calibrated_on": len(self.real_similarity),
            "held_out_flagged_share": self.held_flagged,
            "copies_of_held_out": self.of_held_out,
            "synthetic_twins": self.twins,
            "auc": {name: {kind: value.to_dict() for kind, value in own.items()} for name, own in self.auc.items()},
        }

    def rows(self, highest: float) -> list[dict[str, Any]]:
        """A row a synthetic scan. highest : similarity that is kept"""
        return [
            {
                "file": entry.name,
                "nearest": self.training.entries[self.nearest[n]].name,
                "similarity": float(self.similarity[n]),
                "feature_distance": float(self.feature_distance[n]),
                "copy": bool(self.similarity[n] > self.limit),
                "kept": bool(self.similarity[n] <= highest),
            }
            for n, entry in enumerate(self.fake.entries)
        ]
