"""OpenGL contexts of several canvases in one process: what a layer held is freed in the one it was made in.

napari 0.9 frees the shaders of a removed layer in whatever context is current. Where that is another canvas's, or
the one in which Qt puts the window together, Mesa draws the next frame without a shader if it begins with the very
program that the last one ended with, and the process dies in glDrawArrays or glDrawElements.
"""

from __future__ import annotations

import contextlib
import weakref
from typing import Any

from napari.qt import QtViewer
from qtpy.QtWidgets import QApplication

_guarded: weakref.WeakSet[QtViewer] = weakref.WeakSet()


def guard_canvases() -> None:
    """Make a canvas's context current before what its layers held is freed; for all there are, once each."""
    for canvas in QApplication.allWidgets():
        if isinstance(canvas, QtViewer) and canvas not in _guarded:
            _guarded.add(canvas)
            _guard(canvas)


def _guard(canvas: QtViewer) -> None:
    native = weakref.ref(canvas.canvas.native)

    def make_current(event: Any = None) -> None:
        widget = native()
        with contextlib.suppress(RuntimeError):  # deleted with its window
            if widget is not None:
                widget.makeCurrent()

    # napari calls what it takes for its own first, by the module's name, and it is its own callback that frees
    make_current.__module__ = QtViewer.__module__
    for event in (canvas.viewer.layers.events.removed, canvas.viewer.layers.events.end_batch):
        event.connect(make_current, position="first")
