"""The layer in which a restoration appears: previews at first, at last the result.

One layer for both, added when there is something to be seen: adding holds the window, changing its data does not.
"""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QWidget

from medldm import Volume
from napari_medldm.active import ActiveScan
from napari_medldm.adding import add_layer, remove_layers
from napari_medldm.layers import KEY, derived_layer, look_of

PREVIEW_MS = 250  # at most so often


class Live(QTimer):
    """The layer of a restoration of the layer `source`; `layer` is None until something is shown.

    It is visible as long as its scan is the active one.
    """

    def __init__(self, active: ActiveScan, source: Any, parent: QWidget) -> None:
        super().__init__(parent)
        self.viewer, self.active, self.source, self.layer = active.viewer, active, source, None
        self._next: Volume | None = None
        self.setInterval(PREVIEW_MS)
        self.timeout.connect(self._show_next)

    def alive(self) -> bool:
        """Whether nothing was shown yet, or the user has left it there."""
        return self.layer is None or self.layer in self.viewer.layers

    def preview(self, volume: Volume) -> None:
        """Show an estimate soon; of several in short order the last."""
        self._next = volume
        if not self.isActive():
            self._show_next()
            self.start()

    def finish(self, volume: Volume, report: dict[str, Any]) -> Any:
        """Turn the layer into that of the result, and return it."""
        self.stop()
        if not self.alive():
            self.layer = None
        self._show(volume, "result", report)
        for name, value in look_of(self.source).items():
            setattr(self.layer, name, value)
        self.layer.visible = self.active.shows(self.source)
        self.deleteLater()
        return self.layer

    def discard(self) -> None:
        """Take the layer away: there is no result."""
        self.stop()
        remove_layers(self.viewer, [self.layer])
        self.deleteLater()

    def _show_next(self) -> None:
        volume, self._next = self._next, None
        if volume is None or not self.alive():
            self.stop()
            return
        self._show(volume, "preview", {})

    def _show(self, volume: Volume, role: str, report: dict[str, Any]) -> None:
        data, attributes, _ = derived_layer(volume, role, self.source, report, **look_of(self.source))
        if self.layer is None:
            attributes["visible"] = self.active.shows(self.source)
            self.layer = add_layer(self.viewer, self.parent(), data, attributes)
            return
        self.layer.metadata = {KEY: attributes["metadata"][KEY]}
        self.layer.data = data
        self.layer.scale, self.layer.translate = attributes["scale"], attributes["translate"]
        self.layer.name = attributes["name"]
