"""Layers that come and go: what takes long is put off to other turns of the event loop, so that the window goes on.

napari makes a layer's drawing, controls and row in one go, which takes a tenth of a second, and painting the window
under software OpenGL about as long again. One after the other, with the loop running in between, they are not felt.
For each layer that goes, napari has Python collect its garbage in full, which takes 0.1 s and more; once for all of
them, a little later, is enough. Most of that time is for what was there before any scan was, modules and window: it is
set apart while a panel is open.
"""

from __future__ import annotations

import functools
import gc
import importlib
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import SimpleNamespace
from typing import Any

import numpy as np
from napari._vispy import canvas as drawing
from napari.layers import Image
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QWidget

TURN_MS = 30  # other events come first
COLLECT_MS = 1000  # until the voxels of layers that are gone are given back, when the window is painted anew


@functools.cache
def make_ready() -> None:
    """Make a first layer, which nobody sees, once in a process: what napari imports and parses for it takes 0.3 s.

    It is imported in a thread; the table of units does not bear to be parsed in one.
    """
    importing = threading.Thread(target=_import_first, daemon=True)
    importing.start()

    def make() -> None:
        if importing.is_alive():
            QTimer.singleShot(TURN_MS, make)
        else:
            first_layer()

    make()


@functools.cache
def first_layer() -> None:
    """Where a scan is asked for before that: at least not in the turn that shows it."""
    Image(np.zeros((2, 2, 2), np.float32), units="mm")


def _import_first() -> None:
    for name in ("scipy.spatial.transform", "xarray"):
        with suppress(ImportError):
            importlib.import_module(name)


class PaintLater(QTimer):
    """Nothing of a window is painted for a turn; gone with the window, if that goes first."""

    def __init__(self, window: QWidget) -> None:
        super().__init__(window)
        window.setUpdatesEnabled(False)
        self.setSingleShot(True)
        self.timeout.connect(self._paint)
        self.start(TURN_MS)

    def _paint(self) -> None:
        self.parent().setUpdatesEnabled(True)
        self.deleteLater()


def set_apart(viewer: Any) -> None:
    """Let full collections leave out what there is now. Not where a scan is there, which would be kept for good."""
    if not viewer.layers:
        gc.freeze()


def take_back() -> None:
    """Let full collections go through everything again."""
    gc.unfreeze()


@contextmanager
def without_collecting() -> Iterator[None]:
    """Keep full collections, Python's own and those that napari asks for, for another turn."""
    enabled, asked = gc.isenabled(), drawing.gc
    gc.disable()
    drawing.gc = SimpleNamespace(collect=lambda: None)
    try:
        yield
    finally:
        drawing.gc = asked
        if enabled:
            gc.enable()


def add_layer(viewer: Any, widget: QWidget, data: Any, attributes: dict[str, Any], kind: str = "image") -> Any:
    """A layer of `data`, "image" or "labels", painted a moment later. What is selected stays selected.

    widget : any in the window of the viewer
    """
    selection = viewer.layers.selection
    PaintLater(widget.window())
    before = selection.active
    with ExitStack() as stack:
        if before is not None:  # to select the new layer would lay out and paint its controls
            stack.enter_context(selection.events.blocker())
        stack.enter_context(without_collecting())
        layer = (viewer.add_labels if kind == "labels" else viewer.add_image)(data, **attributes)
        if before is not None:
            selection.active = before
    return layer


def remove_layers(viewer: Any, layers: Iterable[Any]) -> None:
    """Take those of `layers` that are there away, in one go; their memory is given back a moment later."""
    going = [layer for layer in layers if layer in viewer.layers]
    if not going:
        return
    with without_collecting(), viewer.layers.batched_update():
        for layer in going:
            viewer.layers.remove(layer)
    QTimer.singleShot(COLLECT_MS, lambda: gc.collect())
