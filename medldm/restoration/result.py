"""The answer of a restoration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medldm.volume import MAPS, QUANTITY, Volume


@dataclass(frozen=True, eq=False)
class Restoration:
    """A restored scan and how far to trust it.

    volume : the result, in the scan's unit; on its grid (super-resolution: on the finer one)
    array : the result in the shape, axis order, unit and scale of what was given
    residual : measurement minus (degraded) result, on the scan's grid
    uncertainty : standard deviation of the result's error, in the scan's unit, on the result's grid
    report : plain data: model, settings, noise level, checks, warnings, timings, versions

    The two maps say in their history what they are (`Volume.quantity`), and so in every file that is written of them.
    """

    volume: Volume
    array: NDArray[np.float32]
    residual: Volume
    uncertainty: Volume
    report: dict[str, Any]

    def __post_init__(self) -> None:
        for what in MAPS:
            object.__setattr__(self, what, _named(getattr(self, what), what))


def _named(volume: Volume, what: str) -> Volume:
    """The same volume, whose last step says what it is: a map beside a result must not pass for the result."""
    if volume.quantity == what:
        return volume
    last = volume.history[-1] if volume.history else {"step": "restore"}
    return volume.with_step({**last, "step": f"{last['step']} {what}", QUANTITY: what})
