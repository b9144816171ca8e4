"""Tools to measure with and their table, below the canvas, and the button that shows them."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Shapes
from qtpy.QtCore import QEvent, QObject, Qt, QTimer
from qtpy.QtGui import QKeySequence
from qtpy.QtWidgets import (
    QAbstractItemView,
    QApplication,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from medldm import MedldmError
from napari_medldm.active import ActiveScan
from napari_medldm.adding import remove_layers
from napari_medldm.captions import SAID, size_of
from napari_medldm.layers import entry_of, root_of
from napari_medldm.measure import COLUMNS, cells, measure
from napari_medldm.regions import DRAWN_ON, TO_MEASURE, shapes_on, start_painting

if TYPE_CHECKING:
    import napari.viewer

TOOLS = {"Length": "add_line", "Rectangle": "add_rectangle", "Ellipse": "add_ellipse", "Polygon": "add_polygon"}
HEIGHT, LAID_OUT_MS = 190, 500  # pixels: a table of a few rows
_COLOUR = "#ffd400"
_SOON_MS = 50  # a drag changes a shape many times
_HINT = "Choose what to draw, and draw it on the image; Volume is a brush."


class MeasurePanel(QWidget):
    """Tools to draw with, and a table that follows what is drawn: one row an image and region.

    active : None where no other panel follows the scans of the window
    """

    def __init__(self, viewer: napari.viewer.Viewer, active: ActiveScan | None = None) -> None:
        super().__init__()
        self.viewer, self.active = viewer, active
        self.rows: list[dict[str, Any]] = []
        self.tools = {name: QPushButton(name) for name in (*TOOLS, "Volume")}
        self.clear, self.copy = QPushButton("Clear"), QPushButton("Copy table")
        self.clear.setToolTip("Take all that was drawn to be measured on this scan away.")
        self.copy.setToolTip("Separated by tabs, as spreadsheets take it (Ctrl+C in the table).")
        self.table, self.message = QTableWidget(0, len(COLUMNS)), QLabel(_HINT)
        self.table.setHorizontalHeaderLabels(COLUMNS)
        self.table.verticalHeader().hide()
        self.table.verticalHeader().setDefaultSectionSize(22)
        self.table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.message.setWordWrap(True)
        buttons = QHBoxLayout()
        for name, button in self.tools.items():
            button.clicked.connect(partial(self.draw, name))
            buttons.addWidget(button)
        buttons.addStretch(1)
        buttons.addWidget(self.clear)
        buttons.addWidget(self.copy)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(6, 2, 6, 2)
        layout.addLayout(buttons)
        layout.addWidget(self.table)
        layout.addWidget(self.message)
        self.clear.clicked.connect(self.clear_drawn)
        self.copy.clicked.connect(self.copy_table)
        self.table.installEventFilter(self)
        self._soon = QTimer(self)
        self._soon.setSingleShot(True)
        self._soon.setInterval(_SOON_MS)
        self._soon.timeout.connect(self.update_table)
        self._watched: list[Any] = []
        self._connections = [
            (viewer.layers.events.inserted, self._changed),
            (viewer.layers.events.removed, self._changed),
        ]
        for emitter, callback in self._connections:
            emitter.connect(callback)
        if active is not None:
            active.changed.connect(self._changed)
        self._changed()

    # --- what is drawn ---

    def draw(self, tool: str, *_: Any) -> None:
        """Take a tool in hand, on a layer of its own for the scan that is shown."""
        source = self._source()
        if source is None:
            self.message.setText("Open a scan first.")
            return
        drawn = [each for each in self._own(source) if isinstance(each, Shapes) == (tool in TOOLS)]
        if drawn:
            layer = drawn[0]
        else:
            layer = self._new_shapes(source) if tool in TOOLS else start_painting(self.viewer, source)
            layer.metadata[TO_MEASURE] = True
            self._changed()
        layer.visible = True
        self.viewer.layers.selection.active = layer
        layer.mode = TOOLS.get(tool, "paint")  # selecting a layer would put its tool away

    def clear_drawn(self) -> None:
        source = self._source()
        remove_layers(self.viewer, [] if source is None else self._own(source))

    def _source(self) -> Any | None:
        """The layer of the scan that is measured."""
        if self.active is not None:
            return self.active.layer
        shown = [layer for layer in reversed(self.viewer.layers) if layer.visible and entry_of(layer)]
        return shown[0] if shown else None

    def _own(self, source: Any) -> list[Any]:
        """Layers that were drawn here, on a scan."""
        measured = [layer for layer in self.viewer.layers if TO_MEASURE in layer.metadata]
        return [layer for layer in measured if layer.metadata[DRAWN_ON] == root_of(source)]

    def _new_shapes(self, source: Any) -> Shapes:
        layer = self.viewer.add_shapes(
            ndim=3,
            name=f"measured on {root_of(source)}",
            scale=source.scale,
            translate=source.translate,
            units=source.units,
            axis_labels=source.axis_labels,
            edge_color=_COLOUR,
            face_color="transparent",
            edge_width=0.4,
            features={SAID: np.empty(0, dtype=object)},
            metadata={DRAWN_ON: root_of(source)},
        )
        layer.feature_defaults = {SAID: ""}
        return layer

    # --- what is said of it ---

    def _changed(self, event: Any = None) -> None:
        """What is drawn on another scan is not shown on this one."""
        source = self._source()
        root = None if source is None else root_of(source)
        for layer in self.viewer.layers:
            if TO_MEASURE in layer.metadata and self.active is not None and layer.metadata[DRAWN_ON] != root:
                layer.visible = False
            elif TO_MEASURE in layer.metadata and layer not in self._watched:
                self._watched.append(layer)
                (layer.events.data if isinstance(layer, Shapes) else layer.events.paint).connect(self._later)
        if source is not None:
            for layer in self._own(source):
                layer.visible = True
        self._watched = [layer for layer in self._watched if layer in self.viewer.layers]
        self._later()

    def _later(self, event: Any = None) -> None:
        self._soon.start()

    def update_table(self) -> None:
        """Measure anew, and write the sizes beside the shapes."""
        try:
            self.rows = measure(self.viewer)
            self.message.setText("" if self.rows else _HINT)
        except MedldmError as failure:
            self.rows = []
            self.message.setText(_HINT if failure.got in ("nothing drawn", "no scan") else str(failure))
        self.table.setRowCount(len(self.rows))
        for index, row in enumerate(self.rows):
            for column, text in enumerate(cells(row)):
                self.table.setItem(index, column, QTableWidgetItem(text))
        self.table.resizeColumnsToContents()
        source = self._source()
        for layer in [] if source is None else self._own(source):
            if isinstance(layer, Shapes):
                said = [size_of(each.size, each.unit) for each in shapes_on(self.viewer, source, layer)]
                if list(layer.features.get(SAID, ())) != said:
                    layer.features = {SAID: np.array(said, dtype=object)}

    def copy_table(self) -> None:
        """To the clipboard: a line of names, then a line a row."""
        lines = [COLUMNS, *(cells(row, digits=7) for row in self.rows)]
        QApplication.clipboard().setText("\n".join("\t".join(line) for line in lines))
        self.message.setText(f"{len(self.rows)} rows copied.")

    def eventFilter(self, table: QObject, event: QEvent) -> bool:
        """Qt would copy a single cell."""
        if event.type() == QEvent.Type.KeyPress and event.matches(QKeySequence.StandardKey.Copy):
            self.copy_table()
            return True
        return super().eventFilter(table, event)

    def end(self) -> None:
        """Follow the viewer no more; safe to call again."""
        self._soon.stop()
        for emitter, callback in self._connections:
            emitter.disconnect(callback)
        self._connections.clear()

    def closeEvent(self, event: Any) -> None:
        self.end()
        super().closeEvent(event)


class MeasureButton(QPushButton):
    """Shows the tools below the canvas, and puts them away."""

    def __init__(self, viewer: Any, active: ActiveScan) -> None:
        super().__init__("Measure")
        self.viewer, self.active = viewer, active
        self.panel: MeasurePanel | None = None
        self._dock: Any = None
        self._height = 1
        self._laid_out = QTimer(self)  # until when docks have their sizes
        self._laid_out.setSingleShot(True)
        self._laid_out.setInterval(LAID_OUT_MS)
        self._laid_out.timeout.connect(lambda: viewer.canvas.events.size.disconnect(self._zoom))
        self.setCheckable(True)
        self.setToolTip("Lengths, areas and volumes, and what lies in them, below the canvas.")
        self.toggled.connect(self._show)

    def _show(self, on: bool) -> None:
        self._height = self.viewer.canvas.size[0]
        self.viewer.canvas.events.size.connect(self._zoom)
        self._laid_out.start()
        if on and self.panel is None:
            self.panel = MeasurePanel(self.viewer, self.active)
            self._dock = self.viewer.window.add_dock_widget(self.panel, name="measure", area="bottom")
            self._dock.visibilityChanged.connect(self._follow)
            window = self.viewer.window._qt_window  # the strip keeps its height, the canvas most of its own
            window.setCorner(Qt.Corner.BottomRightCorner, Qt.DockWidgetArea.RightDockWidgetArea)
            window.resizeDocks([self._dock], [HEIGHT], Qt.Orientation.Vertical)
        if self.panel is not None and self.panel.parent() is not None:
            self._dock.setVisible(on)

    def _zoom(self, event: Any = None) -> None:
        """What was seen stays in sight."""
        height = self.viewer.canvas.size[0]
        self.viewer.scene.camera.zoom *= height / self._height
        self._height = height

    def _follow(self, visible: bool) -> None:
        """The dock was closed by its own button, for good."""
        if self.panel is not None and self.panel.parent() is None:
            self.end()
            self.setChecked(False)

    def end(self) -> None:
        """Take the tools away; safe to call again."""
        panel, self.panel = self.panel, None
        if panel is not None:
            panel.end()
            if panel.parent() is not None:
                self.viewer.window.remove_dock_widget(self._dock)
            panel.deleteLater()
            self._dock = None
