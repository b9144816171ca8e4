"""What a model made is marked on the canvas for as long as it is visible, and so in every screenshot."""

from __future__ import annotations

from typing import Any

from napari_medldm.layers import entry_of

TEXT = "AI-processed, research use only"


def update_mark(viewer: Any) -> None:
    """Show the mark where a result is visible, hide it where none is."""
    entries = [entry_of(layer) for layer in viewer.layers if layer.visible]
    made = any(entry is not None and entry.role != "scan" for entry in entries)
    overlay = viewer.canvas.overlays.text if hasattr(viewer, "canvas") else viewer.text_overlay
    if made and overlay.text != TEXT:
        overlay.text, overlay.color, overlay.font_size = TEXT, "orange", 9
        overlay.position = "top_center"  # notices cover the lower edge
    if overlay.visible != made:
        overlay.visible = made


def keep_marked(viewer: Any) -> None:
    """Update the mark whenever layers come, go, or change their visibility."""

    def watch(layer: Any) -> None:
        layer.events.visible.connect(lambda event: update_mark(viewer))

    def inserted(event: Any) -> None:
        watch(event.value)
        update_mark(viewer)

    for layer in viewer.layers:
        watch(layer)
    viewer.layers.events.inserted.connect(inserted)
    viewer.layers.events.removed.connect(lambda event: update_mark(viewer))
    update_mark(viewer)
