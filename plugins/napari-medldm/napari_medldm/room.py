"""The reading room: napari's window with its docks folded away, the strip at the right, and what is to be read."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import Qt

from napari_medldm.adding import PaintLater
from napari_medldm.panel import WIDTH, RestorePanel

if TYPE_CHECKING:
    import napari.viewer

SIZE = 1280, 720  # pixels, at least


class ReadingRoom(RestorePanel):
    """The strip, in a window that shows little else; its button brings napari's docks back."""

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__(viewer)
        self.docks.setChecked(False)


def enter(viewer: napari.viewer.Viewer) -> ReadingRoom:
    """Make a viewer the reading room."""
    PaintLater(viewer.window._qt_window)
    room = ReadingRoom(viewer)
    dock = viewer.window.add_dock_widget(room, name="medldm", area="right")
    viewer.window._qt_window.resizeDocks([dock], [WIDTH], Qt.Orientation.Horizontal)
    return room


def show(paths: Iterable[Path]) -> None:
    """Open the room with what lies at `paths`, and stay until its window is closed."""
    import napari

    viewer = napari.Viewer(title="medldm", show=True)
    viewer.window.resize(*SIZE)
    enter(viewer).opening.open(paths)
    napari.run()
