"""Membership by loss: whether a model denoises what it was trained on better than what it never saw."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medldm.errors import MedldmError
from medldm.evaluate.listing import Entry, Progress
from medldm.evaluate.privacy import auc
from medldm.evaluate.scans import Scans
from medldm.volume import Volume

MEMBERS = 100  # scans a side

Losses = Callable[[Iterable[Volume]], dict[str, NDArray[np.float64]]]  # of each scan (N,), by the noise level's name


def membership_by(
    losses: Losses, training: Scans, held: Scans | None, seed: int, notes: list[str], progress: Progress | None
) -> dict[str, Any] | None:
    """AUC a noise level, of losses of the training against held-out ones, as plain data.

    None, and the reason in `notes`, where nothing was held out or the model does not take the scans.
    """
    if held is None:
        notes.append("membership by loss needs held-out real scans, and was left out")
        return None
    members, others = (_some(scans, seed) for scans in (training, held))
    try:
        low = losses(_read(members, "loss, training", progress))
        high = losses(_read(others, "loss, held out", progress))
    except MedldmError as failure:
        notes.append(f"membership by loss was left out: {failure}")
        return None
    patients = [entry.patient for entry in others]
    found = {name: auc(low[name], high[name], patients, seed).to_dict() for name in low}
    return {"training": len(members), "held_out": len(others), "auc": found}


def _some(scans: Scans, seed: int) -> list[Entry]:
    order = np.random.default_rng(seed).permutation(len(scans))[:MEMBERS]
    return [scans.entries[n] for n in np.sort(order)]


def _read(entries: Sequence[Entry], stage: str, progress: Progress | None) -> Iterator[Volume]:
    for number, entry in enumerate(entries, start=1):
        yield entry.read()
        if progress is not None:
            progress(stage, number, len(entries))
