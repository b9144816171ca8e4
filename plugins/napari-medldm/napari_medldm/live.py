"""The layer in which a restoration appears: hidden, then previews, at last the result.

One layer for all of it, because adding one holds the window for a tenth of a second, and changing its data does not.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from qtpy.QtCore import QObject, QTimer

from medldm import Volume
from napari_medldm.layers import KEY, derived_layer, look_of

PREVIEW_MS = 250  # at most so often


class Live(QObject):
    """Layer of a restoration of `source` that has just begun.

    volume : the scan; scale : how much finer the result's grid will be, an axis of the scan
    """

    def __init__(self, viewer: Any, source: Any, volume: Volume, scale: tuple[int, int, int], parent: QObject) -> None:
        super().__init__(parent)
        self.viewer, self.source = viewer, source
        geometry = volume.geometry if max(scale) == 1 else volume.geometry.zoom(scale)
        nothing = Volume(np.broadcast_to(np.float32(0), geometry.shape), geometry, volume.unit, volume.modality)
        data, attributes, _ = derived_layer(nothing, "preview", source, {}, **look_of(source))
        self.layer = viewer.add_image(data, visible=False, **attributes)
        self._next: Volume | None = None
        self._seen = False
        self._timer = QTimer(self)
        self._timer.setInterval(PREVIEW_MS)
        self._timer.timeout.connect(self._show_next)

    def alive(self) -> bool:
        return self.layer in self.viewer.layers

    def preview(self, volume: Volume) -> None:
        """Show an estimate soon; of several in short order the last."""
        self._next = volume
        if not self._timer.isActive():
            self._show_next()
            self._timer.start()

    def finish(self, volume: Volume, report: dict[str, Any]) -> Any:
        """Turn the layer into that of the result, and return it."""
        self._timer.stop()
        data, attributes, _ = derived_layer(volume, "result", self.source, report, **look_of(self.source))
        if not self.alive():  # the user took it away
            return self.viewer.add_image(data, **attributes)
        self._seen = False
        self._show(data, attributes)
        for name, value in look_of(self.source).items():
            setattr(self.layer, name, value)
        self.layer.name = attributes["name"]
        return self.layer

    def discard(self) -> None:
        """Take the layer away: there is no result."""
        self._timer.stop()
        if self.alive():
            self.viewer.layers.remove(self.layer)

    def _show_next(self) -> None:
        volume, self._next = self._next, None
        if volume is None or not self.alive():
            self._timer.stop()
            return
        data, attributes, _ = derived_layer(volume, "preview", self.source, {}, **look_of(self.source))
        self._show(data, attributes)

    def _show(self, data: Any, attributes: dict[str, Any]) -> None:
        self.layer.metadata = {KEY: attributes["metadata"][KEY]}
        self.layer.data = data
        self.layer.scale, self.layer.translate = attributes["scale"], attributes["translate"]
        if not self._seen:  # once: whoever hides it wants to see the scan meanwhile
            self.layer.visible = self._seen = True
