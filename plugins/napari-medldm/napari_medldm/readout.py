"""What lies under the cursor, in the status bar: the values of scan and result, and the interval of the latter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from qtpy.QtWidgets import QLabel

from napari_medldm.active import ActiveScan
from napari_medldm.compare import Comparison
from napari_medldm.layers import entry_of
from napari_medldm.slices import SlicedArray

LEVEL = 0.95  # share of the voxels that the interval holds
NORMAL_95 = 1.96  # deviations to either side that hold as many where the model was not calibrated


class Readout(QLabel):
    """Follows the cursor in `viewer` and, after `listen`, in others."""

    def __init__(self, active: ActiveScan, comparison: Callable[[], Comparison | None]) -> None:
        super().__init__()
        self.active, self.comparison = active, comparison
        self._cursors: list[Any] = []
        self._position: Any = ()
        self.setContentsMargins(0, 0, 12, 0)
        self.setToolTip(
            "95 %: where the value without noise lies in 95 of 100 voxels, by what is known of the model's errors."
        )
        self.listen(active.viewer)

    def listen(self, viewer: Any) -> None:
        viewer.cursor.events.position.connect(self._moved)
        self._cursors.append(viewer.cursor)

    def ignore(self) -> None:
        """Follow nothing any more."""
        for cursor in self._cursors:
            cursor.events.position.disconnect(self._moved)
        self._cursors.clear()

    def _moved(self, event: Any) -> None:
        self._position = event.source.position
        self.again()

    def again(self) -> None:
        """The cursor is where it was, but what lies there may be another scan, or none."""
        self.setText(self.describe(self._position))

    def describe(self, position: Any) -> str:
        """Of a place in napari's world, mm; "" outside of the scan."""
        scan = self.active.layer
        if scan is None or len(position) != 3:
            return ""
        unit = entry_of(scan).volume.unit
        unit = "" if unit in ("arbitrary", "grey8", "grey16") else f" {unit}"
        comparison = self.comparison()
        if comparison is None:
            value = _value(scan, position)
            return "" if value is None else f"Value {_digits(value)}{unit}"
        before, after = _value(comparison.source, position), _value(comparison.result, position)
        if after is None:
            return ""
        text = "" if before is None else f"Original {_digits(before)}{unit} · "
        text += f"Restored {_digits(after)}{unit}"
        spread = _value(comparison.uncertainty, position)
        if before is not None and before == after:
            return f"{text} · unchanged"
        if spread is None or spread <= 0:
            return text
        low, high = after - NORMAL_95 * spread, after + NORMAL_95 * spread
        if comparison.bounds is not None:
            index = _index(comparison.result, position)
            low, high = (float(bound[index]) for bound in comparison.bounds)
        return f"{text} · 95 %: {_digits(low)} to {_digits(high)}"


def _value(layer: Any, position: Any) -> float | None:
    """The nearest voxel's; None outside, and where it would have to be read from a file."""
    index = _index(layer, position)
    if isinstance(layer.data, SlicedArray) or min(index) < 0 or (np.array(index) >= layer.data.shape).any():
        return None
    value = float(layer.data[index])
    return value if np.isfinite(value) else None


def _index(layer: Any, position: Any) -> tuple[int, ...]:
    return tuple(int(n) for n in np.rint(layer.world_to_data(position)))


def _digits(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"
