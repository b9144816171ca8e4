"""Windows to look at a scan through: by centre and width in HU, or by percentiles where values mean nothing."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from medldm import LazyScan, MedldmError, Volume
from medldm.appearance import seem_hu

CT = {  # centre, width in HU: the values in common use (Radiopaedia, "Windowing (CT)")
    "soft tissue": (40, 400),
    "liver": (30, 150),
    "mediastinum": (50, 350),
    "lung": (-600, 1500),
    "bone": (400, 1800),
    "brain": (40, 80),
    "stroke": (40, 40),
    "temporal bone": (600, 2800),
}
PERCENTILES = {
    "1 to 99.5 %": (1.0, 99.5),
    "2 to 98 %": (2.0, 98.0),
    "5 to 90 %": (5.0, 90.0),
    "whole range": (0.0, 100.0),
}
SAMPLED = 2_000_000
_LOOKED_AT, _OF_A_SLICE = 5, 100_000  # slices of a scan that is read slice by slice, values of each
_known: WeakKeyDictionary[LazyScan, NDArray[np.float32]] = WeakKeyDictionary()

_seem_hu: WeakKeyDictionary[Volume | LazyScan, bool] = WeakKeyDictionary()
_limits: WeakKeyDictionary[Volume | LazyScan, dict[str, tuple[float, float]]] = WeakKeyDictionary()


def values_of(volume: Volume | LazyScan) -> NDArray[np.float32]:
    """Some values of a scan, at even distances; of one that is read slice by slice, those of a few slices."""
    if isinstance(volume, Volume):
        return volume.array.ravel(order="K")[:: max(1, volume.array.size // SAMPLED)]  # as it lies: no copy
    if volume not in _known:
        _known[volume] = _values_of_slices(volume)
    return _known[volume]


def _values_of_slices(scan: LazyScan) -> NDArray[np.float32]:
    found, count = [], scan.shape[2]
    for k in sorted({int((n + 0.5) * count / _LOOKED_AT) for n in range(_LOOKED_AT)}):
        try:
            plane = scan.plane(k).ravel()
        except MedldmError:
            continue  # it is named when it is looked at
        found.append(plane[:: max(1, plane.size // _OF_A_SLICE)])
    return np.concatenate(found) if found else np.zeros(1, np.float32)


def windows_for(volume: Volume | LazyScan) -> tuple[str, ...]:
    """Names of the windows that suit a scan's values; the first is the one it is opened with."""
    return tuple(CT if _in_hu(volume) else PERCENTILES)


def limits(volume: Volume | LazyScan, name: str = "") -> tuple[float, float]:
    """Lowest and highest value of a window, in the scan's unit; the first of `windows_for` for "".

    Raises KeyError for a name that is none of them.
    """
    if _in_hu(volume):
        centre, width = CT[name or "soft tissue"]
        return centre - width / 2, centre + width / 2
    if volume.unit == "grey8" and not name:
        return 0.0, 255.0
    name = name or next(iter(PERCENTILES))
    found = _limits.setdefault(volume, {})
    if name not in found:
        low, high = (float(v) for v in np.percentile(values_of(volume), PERCENTILES[name]))
        found[name] = low, high if high > low else low + 1
    return found[name]


def _in_hu(volume: Volume | LazyScan) -> bool:
    """Whether values are HU: as the file says, or, since NIfTI says no unit, as they lie."""
    if volume.unit != "arbitrary":
        return volume.unit == "HU"
    if volume not in _seem_hu:
        _seem_hu[volume] = seem_hu(values_of(volume))
    return _seem_hu[volume]
