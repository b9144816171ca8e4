"""What speaks against restoring a scan with a model, found without holding the window."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from functools import partial
from weakref import WeakKeyDictionary

from qtpy.QtCore import QObject, Signal

from medldm import LazyScan, MedldmError, Volume
from medldm.calibration import doubts_of
from medldm.installed import read_tables
from napari_medldm.background import in_background

AT_ONCE = 2**21  # voxels that are looked at in a turn of the event loop; all those of 300 slices of 512 take a second
AS_IT_IS = (1, 1, 1)  # not refined
LOOKING = "Looking whether the scan is like those that the model knows …"


class Doubts(QObject):
    """About scans and models, each pair looked at once; `known` is emitted when a thread has looked at one."""

    known = Signal()

    def __init__(self, parent: QObject) -> None:
        super().__init__(parent)
        self._seen: WeakKeyDictionary[Volume, set[str]] = WeakKeyDictionary()
        self._under_way: set[str] = set()

    def of(self, model: str, scan: Volume | LazyScan | None, factor: tuple[int, int, int]) -> list[str] | None:
        """Why a scan is not for a model, in words; None while a thread still looks at it."""
        if scan is None:
            return []
        large = isinstance(scan, Volume) and scan.array.size > AT_ONCE
        if isinstance(scan, Volume) and large and model not in self._seen.setdefault(scan, set()):
            self._start(model, scan, factor)
            return None
        return _doubts(model, scan, factor)

    def least(self, models: Sequence[str], scan: Volume | LazyScan) -> str | None:
        """Of models, the one that doubts a scan least, and of several the first; None while a thread still looks."""
        said = {model: self.of(model, scan, AS_IT_IS) for model in _at_least(models, scan)}
        found = {model: len(each) for model, each in said.items() if each is not None}
        return min(found, key=found.__getitem__) if len(found) == len(said) else None

    def _start(self, model: str, scan: Volume, factor: tuple[int, int, int]) -> None:
        pair = f"{model} {id(scan)}"  # the thread holds the scan, so that no other has its number
        if pair not in self._under_way:
            self._under_way.add(pair)
            look, end = partial(_doubts, model, scan, factor), partial(self._under_way.discard, pair)
            in_background(look, partial(self._looked, model, scan), finished=end)

    def _looked(self, model: str, scan: Volume, said: list[str]) -> None:
        self._seen.setdefault(scan, set()).add(model)  # the model's own table has the words now
        self.known.emit()


def look_beforehand(models: Sequence[str], scan: Volume | LazyScan | None) -> None:
    """In the thread that has read a scan: one that is small need not be looked at while it is shown."""
    if isinstance(scan, Volume) and scan.array.size <= AT_ONCE:
        for model in _at_least(models, scan):
            _doubts(model, scan, AS_IT_IS)


def _at_least(models: Sequence[str], scan: Volume | LazyScan) -> list[str]:
    """Those that doubt a scan least before its looks are asked: kind, grid, unit."""
    counts: dict[str, int] = {}
    for model in models:
        with contextlib.suppress(MedldmError):  # it is said when the model is to be loaded
            counts[model] = len(read_tables(model).doubts(scan))
    return [model for model, count in counts.items() if count == min(counts.values())] or list(models)


def _doubts(model: str, scan: Volume | LazyScan, factor: tuple[int, int, int]) -> list[str]:
    with contextlib.suppress(MedldmError):  # it is said when the model is to be loaded
        return doubts_of(model, scan, factor)
    return []
