"""The mouse of a reading station: wheel, right drag, middle drag, double click, and the line of the wipe.

Taken before napari sees it; the left button stays napari's, to draw, to paint, to move the crosshair.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from qtpy.QtCore import QEvent, QObject, QPointF, Qt, Signal

from napari_medldm.active import ActiveScan
from napari_medldm.layers import entry_of, family

NOTCH = 120  # of a wheel, in eighths of a degree
ZOOM_A_NOTCH = 1.15
DRAG_PX = 250.0  # to the right, to make a window e times as wide; down, to move it by its width
GRIP_PX = 7.0  # so near is on the line
_LEFT, _RIGHT, _MIDDLE = Qt.MouseButton.LeftButton, Qt.MouseButton.RightButton, Qt.MouseButton.MiddleButton


class ReadingMouse(QObject):
    """Of one canvas of napari and its viewer.

    border : pixel at which the line of the wipe stands, None where there is none
    enlarge : a double click: this view large, and back
    windowed : the window was changed by hand; wiped(pixel) : the line was dragged
    """

    windowed = Signal()
    wiped = Signal(float)
    enlarge = Signal()

    def __init__(
        self, canvas: Any, viewer: Any, active: ActiveScan, border: Callable[[], float | None] = lambda: None
    ) -> None:
        self.native = canvas.canvas.native
        super().__init__(self.native)
        self.viewer, self.active, self.border = viewer, active, border
        self._turned = 0.0
        self._drag: Callable[[QPointF], None] | None = None
        self._button: Any = None
        self._cursor: Any = None
        self.native.installEventFilter(self)

    def let_go(self) -> None:
        """The mouse is napari's again; safe to call again."""
        self._end_drag()
        self.native.removeEventFilter(self)

    def eventFilter(self, native: QObject, event: QEvent) -> bool:
        kind = event.type()
        if kind == QEvent.Type.Wheel:
            return self._wheel(event)
        if kind == QEvent.Type.MouseButtonPress:
            return self._press(event)
        if kind == QEvent.Type.MouseMove:
            return self._move(event)
        if kind == QEvent.Type.MouseButtonRelease and event.button() == self._button:
            self._end_drag()
            return True
        if kind == QEvent.Type.MouseButtonDblClick:
            return self._double(event)
        return False

    # --- wheel ---

    def _wheel(self, event: Any) -> bool:
        held, notches = event.modifiers(), event.angleDelta().y() / NOTCH
        if self.viewer.dims.ndim != 3 or self.viewer.dims.ndisplay == 3 or not notches:
            return False
        if held == Qt.KeyboardModifier.ControlModifier:
            self._zoom(event.position(), ZOOM_A_NOTCH**notches)
            return True
        if held != Qt.KeyboardModifier.NoModifier:
            return False
        self._turned -= notches  # towards the reader: on to the next
        steps = int(self._turned)
        self._turned -= steps
        if steps:
            dims = self.viewer.dims
            axis = dims.order[0]
            step = int(np.clip(dims.current_step[axis] + steps, 0, dims.nsteps[axis] - 1))
            dims.set_current_step(axis, step)
        return True

    def _zoom(self, at: QPointF, factor: float) -> None:
        """What is under the cursor stays there."""
        camera = self.viewer.scene.camera
        away = np.array([at.y() - self.native.height() / 2, at.x() - self.native.width() / 2])
        if self.viewer.canvas.grid.enabled:
            away[1] = at.x() % (self.native.width() / 2) - self.native.width() / 4
        self._shift(away / camera.zoom * (1 - 1 / factor))
        camera.zoom *= factor

    def _shift(self, by: Any) -> None:
        """Look at a place that is `by` mm lower and more to the right of the canvas."""
        camera = self.viewer.scene.camera
        signs = [1 if str(way) in ("down", "right") else -1 for way in camera.orientation[1:]]
        center = np.array(camera.center)
        center[-2:] += np.multiply(by, signs)
        camera.center = tuple(center)

    # --- drags ---

    def _press(self, event: Any) -> bool:
        if self._drag is not None:
            return True  # another button meanwhile
        at, flat = event.position(), self.viewer.dims.ndisplay == 2
        if event.button() == _RIGHT:
            self._drag = self._windowing(at)
        elif event.button() == _MIDDLE and flat:
            self._drag = self._panning(at)
        elif event.button() == _LEFT and flat and self._on_border(at):
            self._drag = lambda now: self.wiped.emit(now.x())
        self._button = event.button() if self._drag is not None else None
        return self._drag is not None

    def _move(self, event: Any) -> bool:
        if self._drag is not None:
            self._drag(event.position())
            return True
        on_line = not event.buttons() and self._on_border(event.position())
        if on_line and self._cursor is None:
            self._cursor = self.native.cursor()
            self.native.setCursor(Qt.CursorShape.SplitHCursor)
        elif not on_line and self._cursor is not None:
            self.native.setCursor(self._cursor)
            self._cursor = None
        return False

    def _end_drag(self) -> None:
        if self._button == _RIGHT:
            self.windowed.emit()
        self._drag = self._button = None

    def _on_border(self, at: QPointF) -> bool:
        border = self.border()
        return border is not None and abs(at.x() - border) <= GRIP_PX

    def _panning(self, start: QPointF) -> Callable[[QPointF], None]:
        last = start

        def pan(now: QPointF) -> None:
            nonlocal last
            away, last = last - now, now
            self._shift(np.array([away.y(), away.x()]) / self.viewer.scene.camera.zoom)

        return pan

    def _windowing(self, start: QPointF) -> Callable[[QPointF], None] | None:
        """To the right wider, down to higher values; of a residual, how much has the full colour."""
        shown = [layer for layer in self.active.family() if layer.visible]
        maps = [layer for layer in shown if entry_of(layer).role == "residual"]
        layers = maps or (family(self.active.viewer, self.active.layer) if shown else [])
        if not layers:
            return None
        low, high = layers[0].contrast_limits
        width, level = high - low, (high + low) / 2

        def window(now: QPointF) -> None:
            right, down = (now - start).x() / DRAG_PX, (now - start).y() / DRAG_PX
            half = max(width * np.exp(right), 1e-6) / 2
            middle = level if maps else level + width * down
            for layer in layers:
                layer.contrast_limits = (middle - half, middle + half)
                entry_of(layer).window = ""

        return window

    # --- double click ---

    def _double(self, event: Any) -> bool:
        selected = self.viewer.layers.selection.active
        drawing = selected is not None and str(selected.mode) not in ("pan_zoom", "Mode.PAN_ZOOM")
        if event.button() == _LEFT and self._on_border(event.position()):
            return True
        if event.button() != _LEFT or drawing or self.active.layer is None:
            return False
        self.enlarge.emit()
        return True
