"""The button that shows napari's own docks, and folds them away."""

from __future__ import annotations

from typing import Any

from qtpy.QtWidgets import QPushButton


class DocksButton(QPushButton):
    """List of layers and their controls, at the left of the window."""

    def __init__(self, viewer: Any) -> None:
        super().__init__("Layers")
        self.viewer = viewer
        self.setCheckable(True)
        self.setChecked(True)
        self.setToolTip("Napari's own list of layers and their controls, at the left.")
        self.toggled.connect(self._show)

    def _show(self, on: bool) -> None:
        canvas = self.viewer.window._qt_viewer
        for dock in (canvas.dockLayerControls, canvas.dockLayerList):
            dock.setVisible(on)
