"""A large scan as an array for napari: its slices are read when they are looked at, and the last ones kept."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
from napari.utils.notifications import show_info, show_warning
from numpy.typing import NDArray

from medldm import LazyScan, MedldmError
from napari_medldm.orientation import PLANES, Display

MOST_AT_ONCE = 32  # slices that are read for one picture; a plane across more of them needs the whole scan
KEPT_BYTES = 2**28  # of the slices that were looked at last


class SlicedArray:
    """The voxels of a `LazyScan` in napari's order of axes.

    A slice that cannot be read is empty (NaN), and so is a picture that would need more than `MOST_AT_ONCE` slices;
    why is said once each.
    """

    dtype = np.dtype(np.float32)
    ndim = 3

    def __init__(self, scan: LazyScan, display: Display, name: str) -> None:
        self.scan, self.display, self.name = scan, display, name
        self.shape: tuple[int, ...] = tuple(scan.shape[axis] for axis in display.axes)
        self.damaged: set[int] = set()
        self._told = False
        self._kept: OrderedDict[int, NDArray[np.float32]] = OrderedDict()
        self._most_kept = max(2, KEPT_BYTES // (4 * scan.shape[0] * scan.shape[1]))
        self._lock = threading.Lock()  # napari may slice in threads

    @property
    def size(self) -> int:
        return int(np.prod(self.shape))

    @property
    def plane(self) -> str:
        """The plane that is nearest to the slices as they were acquired."""
        return list(PLANES)[self.display.axes.index(2)]

    def __getitem__(self, key: Any) -> NDArray[np.float32]:
        """What is to be shown, from slices and numbers, an axis each; never raises for the sake of the scan."""
        return self._block(key, self._shown)

    def block(self, key: Any) -> NDArray[np.float32]:
        """The same as it is in the scan, however many slices it takes. Raises MedldmError for a damaged one."""
        return self._block(key, lambda numbers: [self._plane(k) for k in numbers])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self.block((slice(None),) * 3), dtype=dtype)

    def __deepcopy__(self, memo: Any) -> SlicedArray:
        """Itself: nothing in it can be changed, and a duplicate of the layer shows the same file."""
        return self

    def _block(self, key: Any, planes_of: Callable[[range], list[Any]]) -> NDArray[np.float32]:
        key = tuple(key) if isinstance(key, tuple) else (key,)
        if Ellipsis in key:
            at = key.index(Ellipsis)
            key = (*key[:at], *(slice(None),) * (4 - len(key)), *key[at + 1 :])
        key = (*key, *(slice(None),) * (3 - len(key)))
        spans = [range(n)[part] for n, part in zip(self.shape, key, strict=True)]
        alone = tuple(axis for axis, span in enumerate(spans) if isinstance(span, int))
        ranges = [range(span, span + 1) if isinstance(span, int) else span for span in spans]
        i, j, k = (ranges[axis] for axis in np.argsort(self.display.axes))
        block = np.full((len(i), len(j), len(k)), np.nan, dtype=np.float32)
        for number, plane in enumerate(planes_of(k)):
            if plane is not None:
                block[..., number] = plane[_slice(i), _slice(j)]
        return self.display.forward(block).squeeze(alone)

    def _shown(self, numbers: range) -> list[NDArray[np.float32] | None]:
        if len(numbers) > MOST_AT_ONCE:
            if not self._told:
                self._told = True
                show_info(f"{self.name}: {self.why_not()}")
            return []
        return [self._plane_or_none(k) for k in numbers]

    def why_not(self) -> str:
        """Why some planes are empty, in one sentence."""
        return f"a large scan, read slice by slice: other planes than {self.plane} and 3D need it whole"

    def _plane_or_none(self, k: int) -> NDArray[np.float32] | None:
        if k in self.damaged:
            return None
        try:
            return self._plane(k)
        except MedldmError as failure:
            self.damaged.add(k)
            show_warning(f"{self.name}: slice {k + 1} of {self.scan.shape[2]} cannot be shown: {failure}")
            return None

    def _plane(self, k: int) -> NDArray[np.float32]:
        with self._lock:
            if k in self._kept:
                self._kept.move_to_end(k)
                return self._kept[k]
        plane = self.scan.plane(k)
        with self._lock:
            self._kept[k] = plane
            while len(self._kept) > self._most_kept:
                self._kept.popitem(last=False)
        return plane


def _slice(span: range) -> slice:
    return slice(span.start, span.stop if span.stop >= 0 else None, span.step)
