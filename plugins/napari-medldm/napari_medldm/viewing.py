"""How scans are shown: plane, window, three linked views, and oblique scans straightened to be looked at."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from napari.utils.notifications import show_error
from qtpy.QtCore import Qt, QTimer, Signal
from qtpy.QtWidgets import QComboBox, QDockWidget, QGridLayout, QLabel, QPushButton, QWidget

from medldm import LazyScan, MedldmError
from napari_medldm.active import ActiveScan
from napari_medldm.adding import PaintLater
from napari_medldm.background import in_background
from napari_medldm.compare import show_plane
from napari_medldm.keys import THREE_PLANES
from napari_medldm.layers import OBLIQUE_DEG, derived_layer, entry_of, family, hold, look_of, oblique_note
from napari_medldm.orientation import PLANES
from napari_medldm.straighten import straightened
from napari_medldm.windows import limits, windows_for

VIEWS_SHARE = 0.3  # of the width of the window
LAID_OUT_MS = 500  # until when docks have their sizes
BY_HAND = "by hand"


class ViewBox(QWidget):
    """Acts on the active scan, and on all that was made of it; `opened` is emitted when the other planes are there."""

    opened = Signal()

    def __init__(self, active: ActiveScan) -> None:
        super().__init__()
        viewer = active.viewer
        self.viewer, self.active, self.views, self._dock = viewer, active, None, None
        self._keep: Callable[[], None] | None = None  # what was looked at, while docks take their sizes
        self._laid_out = QTimer(self)
        self._laid_out.setSingleShot(True)
        self._laid_out.setInterval(LAID_OUT_MS)
        self._laid_out.timeout.connect(self._let_go)
        self._before: str | None = None  # the plane to go back to from one that was made large
        self.plane, self.window_ = QComboBox(), QComboBox()
        self.plane.addItems(PLANES)
        self.orthogonal = QPushButton("3 planes")
        self.orthogonal.setCheckable(True)
        self.straighten, self.note = QPushButton("add a copy along the patient's axes"), QLabel()
        self.load = QPushButton("read it whole")
        self.note.setWordWrap(True)
        tips = {
            self.window_: "Kept for each scan, and the same for what was made of it.",
            self.orthogonal: f"Axial, coronal and sagittal linked ({THREE_PLANES}); a double click makes one large.",
            self.load: "All planes and 3D can be shown then; it takes as much memory as it has voxels, times four.",
            self.straighten: "Adds a resampled copy, to be looked at alone: it is neither restored nor saved.",
        }
        for box in (self.plane, self.window_):
            box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        for widget, text in tips.items():
            widget.setToolTip(text)
        layout = QGridLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        for column, (widget, stretch) in enumerate(((self.plane, 2), (self.window_, 3), (self.orthogonal, 1))):
            layout.addWidget(widget, 0, column)
            layout.setColumnStretch(column, stretch)
        for row, widget in enumerate((self.note, self.straighten, self.load), start=1):
            layout.addWidget(widget, row, 0, 1, 3)
        self.plane.currentTextChanged.connect(self._plane)
        viewer.dims.events.order.connect(self._show_order)
        self.window_.currentTextChanged.connect(self._window)
        self.orthogonal.toggled.connect(self._orthogonal)
        self.straighten.clicked.connect(self._straighten)
        self.load.clicked.connect(self._load)
        self.follow()

    def follow(self) -> None:
        """Show what is true of the chosen scan."""
        source = self.active.layer
        entry = None if source is None else entry_of(source)
        large = entry is not None and isinstance(entry.volume, LazyScan)
        notes = [source.data.why_not()] if large else []
        notes += [] if entry is None else filter(None, [oblique_note(entry)])
        self.note.setText("; ".join(notes))
        self.note.setVisible(bool(notes))
        self.load.setVisible(large)
        self.straighten.setVisible(entry is not None and not large and entry.display.tilt_deg > OBLIQUE_DEG)
        self._show_order()
        self.window_.blockSignals(True)
        self.window_.clear()
        if entry is not None:
            self.window_.addItems([BY_HAND, *windows_for(entry.volume)])
            scan = next((e for e in map(entry_of, family(self.viewer, source)) if not e.of), entry)
            name = entry.window or windows_for(scan.volume)[0]
            if np.allclose(source.contrast_limits, limits(scan.volume, name)):
                self.window_.setCurrentText(name)
        self.window_.blockSignals(False)

    def _plane(self, plane: str) -> None:
        show_plane(self.viewer, plane)
        if self.active.layer is not None:
            self.viewer.reset_view(layers=self.active.family())

    def _show_order(self, event: Any = None) -> None:
        """Say which plane is shown, however it came."""
        plane = next((name for name, order in PLANES.items() if order[0] == self.viewer.dims.order[0]), "")
        self.plane.blockSignals(True)
        self.plane.setCurrentText(plane)
        self.plane.blockSignals(False)

    def _window(self, name: str) -> None:
        source = self.active.layer
        if source is None or name in ("", BY_HAND):
            return
        chosen = limits(entry_of(source).volume, name)
        for layer in family(self.viewer, source):
            layer.contrast_limits = chosen
            entry_of(layer).window = name

    # --- three planes ---

    def _orthogonal(self, on: bool) -> None:
        if self.views is not None and self.views.parent() is None:  # the dock was closed by its own button
            self.close_views()
        if not on and self.views is None:
            return
        keep = self._looked_at()
        PaintLater(self.viewer.window._qt_window)
        if not on:
            self.views.unlink()
            self._dock.hide()
        else:
            if self.views is None:
                from napari_medldm.orthogonal import OrthogonalViews

                self.views = OrthogonalViews(self.active)
                self._dock = self.viewer.window.add_dock_widget(self.views, name="three planes", area="right")
                self._stand_beside_the_canvas()
                self.views.enlarged.connect(self._enlarge)
                self.views.windowed.connect(self.follow)
                self.opened.emit()
            self._dock.show()
            window = self.viewer.window._qt_window
            window.resizeDocks([self._dock], [int(VIEWS_SHARE * window.width())], Qt.Orientation.Horizontal)
            self.views.link()
        self._let_go()
        self._keep = keep
        self.viewer.canvas.events.size.connect(keep)
        QTimer.singleShot(0, keep)
        self._laid_out.start()

    def _let_go(self) -> None:
        """The camera is the user's again."""
        self._laid_out.stop()
        if self._keep is not None:
            self.viewer.canvas.events.size.disconnect(self._keep)
            self._keep = None

    def _stand_beside_the_canvas(self) -> None:
        """Between the canvas and the dock that this box is in."""
        window, own = self.viewer.window._qt_window, self.parent()
        while own is not None and not isinstance(own, QDockWidget):
            own = own.parent()
        right = Qt.DockWidgetArea.RightDockWidgetArea
        if own is not None and not own.isFloating() and window.dockWidgetArea(own) == right:
            window.splitDockWidget(self._dock, own, Qt.Orientation.Horizontal)

    def enlarge(self) -> None:
        """The main canvas alone, and back to the plane and the views that there were."""
        before, self._before = self._before, None
        if before is not None and not self.orthogonal.isChecked():
            self.plane.setCurrentText(before)
        self.orthogonal.toggle()

    def _enlarge(self, plane: str) -> None:
        self._before = self.plane.currentText()
        self.plane.setCurrentText(plane)
        self.orthogonal.toggle()

    def _looked_at(self) -> Callable[[], None]:
        """What puts the camera back to where it looks now, the zoom in proportion to the canvas."""
        camera, layers = self.viewer.scene.camera, self.active.family() or None
        center, zoom = camera.center, camera.zoom
        self.viewer.reset_view(layers=layers)
        shift, factor = np.subtract(center, camera.center), zoom / camera.zoom
        camera.center, camera.zoom = center, zoom
        if not self.viewer.layers:  # nothing is looked at yet; what comes is to be seen whole
            shift, factor = np.zeros(3), 1.0

        def again(event: Any = None) -> None:
            there = [layer for layer in layers or () if layer in self.viewer.layers]  # they may go meanwhile
            self.viewer.reset_view(layers=there or None)
            camera.center, camera.zoom = tuple(np.add(camera.center, shift)), camera.zoom * factor
            if self.views is not None:
                self.views.fit()

        return again

    def end(self) -> None:
        """Follow the viewer no more."""
        self._let_go()
        self.viewer.dims.events.order.disconnect(self._show_order)
        self.close_views()

    def close_views(self) -> None:
        """Take the three views away for good."""
        views, self.views = self.views, None
        if views is not None:
            views.close_views()
            if views.parent() is not None:
                self.viewer.window.remove_dock_widget(self._dock)
            views.deleteLater()
            self._dock = None

    # --- large and oblique scans ---

    def _load(self) -> None:
        """Read the chosen scan whole, in the background."""
        source = self.active.layer
        entry = None if source is None else entry_of(source)
        if entry is None or not isinstance(entry.volume, LazyScan):
            return
        self.load.setEnabled(False)
        self.load.setText("reading …")

        def show(volume: Any) -> None:
            hold(source, volume)

        def fail(failure: Exception) -> None:
            known = isinstance(failure, MedldmError)
            show_error(str(failure) if known else f"{source.name}: not enough memory, or it cannot be read any more")

        def end() -> None:
            self.load.setEnabled(True)
            self.load.setText("read it whole")
            self.follow()

        in_background(entry.volume.load, show, fail, end)

    def _straighten(self) -> None:
        """Resample in the background; the copy is a layer of its own."""
        source = self.active.layer
        entry = entry_of(source)

        def show(volume: Any) -> None:
            data, attributes, _ = derived_layer(volume, "display", source, entry.report, **look_of(source))
            attributes["name"] = f"{source.name} · for display only"
            self.viewer.add_image(data, **attributes)
            source.visible = False

        in_background(partial(straightened, entry.volume), show)
