"""What a model made is marked on the canvas for as long as it is visible, and so in every screenshot."""

from __future__ import annotations

from typing import Any

from napari.components.overlays import TextOverlay
from qtpy.QtCore import QObject, QTimer

from napari_medldm.layers import Entry, entry_of

TEXT = "AI-processed, research use only"
SYNTHETIC = "Synthetic, nobody's scan, research use only"
KEY = "medldm_mark"
LETTERS = 8  # that are made ready in one turn of the event loop
READY_MS = 50  # after the window was painted


def is_marked(viewer: Any) -> bool:
    """Whether the mark can be seen in what napari draws of a viewer."""
    overlay = viewer.canvas.overlays.get(KEY)
    return overlay is not None and overlay.visible and overlay.opacity == 1 and overlay.text in (TEXT, SYNTHETIC)


def mark_of(viewer: Any) -> str:
    """What is to be said of the layers that are seen, "" where no model made one of them."""
    entries = [entry_of(layer) for layer in viewer.layers if layer.visible]
    if not any(entry is not None and entry.made for entry in entries):
        return ""
    return SYNTHETIC if any(entry is not None and is_synthetic(entry) for entry in entries) else TEXT


def is_synthetic(entry: Entry) -> bool:
    """Whether nobody was scanned."""
    return entry.role == "synthetic" or entry.volume.synthetic


def update_mark(viewer: Any) -> None:
    """Show the mark where something made by a model is visible, hide it where nothing is."""
    overlay, text = viewer.canvas.overlays[KEY], mark_of(viewer)
    made = bool(text)
    if made and overlay.text != text:
        overlay.text = text
    if made and not overlay.visible:
        overlay.visible = True
    if (overlay.opacity == 1) != made:
        overlay.opacity, overlay.box = float(made), made


def get_ready(viewer: Any) -> bool:
    """Have the mark drawn, transparent, before it is needed: a few letters more at each call. Whether it is ready.

    Letters become textures when they are drawn first. All in one go would hold the window for 0.15 s under software
    OpenGL, and that when a preview comes.
    """
    overlay = viewer.canvas.overlays[KEY]
    if not overlay.visible:
        overlay.text, overlay.visible = TEXT[:LETTERS], True
    elif overlay.text not in (TEXT, SYNTHETIC):
        overlay.text = TEXT[: len(overlay.text) + LETTERS]
    return overlay.text in (TEXT, SYNTHETIC)


class ReadyMark(QTimer):
    """Makes the mark of a viewer ready, each few letters after the window was painted and nothing else is under way."""

    def __init__(self, viewer: Any, parent: QObject) -> None:
        super().__init__(parent)
        self.viewer, self._canvas = viewer, viewer.window._qt_viewer.canvas.native
        self.setSingleShot(True)
        self.setInterval(READY_MS)
        self.timeout.connect(self._go_on)
        self._canvas.frameSwapped.connect(self._painted)

    def _painted(self) -> None:
        self.start()

    def _go_on(self) -> None:
        if get_ready(self.viewer):  # else it is painted, which leads back here
            self._canvas.frameSwapped.disconnect(self._painted)


def keep_marked(viewer: Any) -> None:
    """Update the mark whenever layers come, go, or change their visibility; once a viewer is enough.

    Once it is ready, the mark is always drawn, and transparent where nothing is to be marked.
    """
    if KEY in viewer.canvas.overlays:
        return

    def watch(layer: Any) -> None:
        layer.events.visible.connect(lambda event: update_mark(viewer))

    def inserted(event: Any) -> None:
        watch(event.value)
        update_mark(viewer)

    # above, as notices cover the lower edge
    look = {"color": "orange", "font_size": 9, "position": "top_center", "box_color": (0, 0, 0, 0.8)}
    viewer.canvas.overlays[KEY] = TextOverlay(text=TEXT, opacity=0.0, box=False, visible=False, **look)
    for layer in viewer.layers:
        watch(layer)
    viewer.layers.events.inserted.connect(inserted)
    viewer.layers.events.removed.connect(lambda event: update_mark(viewer))
    update_mark(viewer)
