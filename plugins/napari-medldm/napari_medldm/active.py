"""The one scan that the window is about: that of the selected layer. Its slices, its place and zoom, nothing else."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import QObject, Signal

from napari_medldm.compare import show_plane
from napari_medldm.layers import Seen, entry_of, family
from napari_medldm.orientation import acquired_plane

CHOSEN = ("scan", "result", "synthetic")


def to_slices(dims: Any) -> None:
    """Where the cursor stands, to the nearest slices: between two of them, as in the middle of an even number, napari
    shows one of them and nothing that is drawn."""
    dims.set_current_step(tuple(range(dims.ndim)), dims.current_step)


class ActiveScan(QObject):
    """Follows the selected layer of a viewer, and shows one scan, with what was made of it, at a time.

    `changed` is emitted when another scan became the active one, `listed` when scans came, went or got another name.
    Sliders run over the active scan alone; where it was looked at is kept for when it is chosen again.
    """

    changed = Signal()
    listed = Signal()

    def __init__(self, viewer: Any, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.viewer, self.layer = viewer, None
        self._setting = False
        self._connections = [
            (viewer.layers.selection.events.active, self._selected),
            (viewer.layers.events.inserted, self._listed),
            (viewer.layers.events.removed, self._listed),
            (viewer.layers.events.reordered, self._listed),
            (viewer.dims.events.range, self._keep_range),
        ]
        for emitter, callback in self._connections:
            emitter.connect(callback)
        self._selected()

    def scans(self) -> list[Any]:
        """Layers that can be the active one."""
        return [layer for layer in self.viewer.layers if (e := entry_of(layer)) and e.role in CHOSEN]

    def drawn(self) -> Any | None:
        """The active scan, if a model drew it and nobody was scanned."""
        return self.layer if self.layer is not None and entry_of(self.layer).role == "synthetic" else None

    def choose(self, layer: Any) -> None:
        """Select a layer, and with it its scan."""
        self.viewer.layers.selection.active = layer

    def shows(self, layer: Any) -> bool:
        """Whether a layer is the active scan, or was made of it or of what it was made of."""
        return self.layer is not None and layer in self.family()

    def family(self) -> list[Any]:
        """The active scan, and all that belongs to it."""
        return [] if self.layer is None else family(self.viewer, self.layer, None)

    def close(self) -> None:
        """Follow nothing any more."""
        for emitter, callback in self._connections:
            emitter.disconnect(callback)
        self._connections.clear()

    # --- which one ---

    def _selected(self, event: Any = None) -> None:
        scan = self._scan_of(self.viewer.layers.selection.active)
        if scan is None and (self.layer is None or self.layer not in self.viewer.layers):
            scan = next(reversed(self.scans()), None)
        elif scan is None:
            return  # several, or something that is drawn on the scan
        if scan is not self.layer:
            self._switch(scan)

    def _scan_of(self, layer: Any) -> Any | None:
        entry = None if layer is None else entry_of(layer)
        if entry is None or entry.role in CHOSEN:
            return layer if entry is not None else None
        return next((each for each in self.viewer.layers if each.name == entry.of), None)

    def _listed(self, event: Any = None) -> None:
        for layer in self.scans():
            layer.events.name.disconnect(self._renamed)
            layer.events.name.connect(self._renamed)
        self._selected()
        self._keep_range()
        self.listed.emit()

    def _renamed(self, event: Any = None) -> None:
        self.listed.emit()

    # --- how it is shown ---

    def _switch(self, scan: Any | None) -> None:
        before, self.layer = self.layer, scan
        related = scan is not None and before in family(self.viewer, scan, None)
        if not related and before is not None and before in self.viewer.layers:
            self._remember(before)
        if scan is not None and not related:
            self._show(scan)
        self.changed.emit()

    def _remember(self, layer: Any) -> None:
        if self.viewer.dims.ndim == 3:
            camera = self.viewer.scene.camera
            entry_of(layer).seen = Seen(self.viewer.dims.order, self.viewer.dims.point, camera.center, camera.zoom)

    def _show(self, scan: Any) -> None:
        own = self.family()
        for layer in self.viewer.layers:
            if entry_of(layer) is not None and layer not in own:
                layer.visible = False
        if not any(layer.visible for layer in own):
            scan.visible = True
        if self.viewer.dims.ndim != 3:
            return
        entry, dims, camera = entry_of(scan), self.viewer.dims, self.viewer.scene.camera
        self._keep_range()
        if entry.seen is None:
            if dims.ndisplay == 2:
                show_plane(self.viewer, acquired_plane(entry.volume))
            dims.point = scan.extent.world.mean(axis=0)
            to_slices(dims)
            self.viewer.reset_view(layers=own)
            return
        dims.order, dims.point = entry.seen.order, entry.seen.point
        camera.center, camera.zoom = entry.seen.center, entry.seen.zoom

    def _keep_range(self, event: Any = None) -> None:
        """Let sliders run over the active scan, not over all that are open."""
        own = self.family()
        if self._setting or not own or self.viewer.dims.ndim != 3 or self.layer not in self.viewer.layers:
            return
        extent = self.viewer.layers.get_extent(own)
        wanted = tuple(zip(*extent.world, extent.step, strict=True))
        if tuple(map(tuple, self.viewer.dims.range)) != wanted:
            self._setting = True
            self.viewer.dims.range = wanted
            self._setting = False
