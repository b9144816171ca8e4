"""What an empty window says: how to begin, with buttons to do so."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import QEvent, QObject, Qt
from qtpy.QtWidgets import QHBoxLayout, QLabel, QPushButton, QVBoxLayout, QWidget

from napari_medldm._sample import noisy_head
from napari_medldm.adding import add_layer, first_layer
from napari_medldm.background import in_background
from napari_medldm.opening import FOLDER, OpenBox

_TEXT = """<h2>Drop a scan anywhere in this window</h2>
<p>a DICOM folder, a NIfTI file, a zip file, or a grey picture</p>"""
_THEN = "Then: Restore, look at what was taken away (F8), and save. Nothing leaves this machine. Research use only."


class Welcome(QWidget):
    """Covers the canvas while no layer is there, in place of napari's own words; drops are taken on it as well."""

    def __init__(self, viewer: Any, box: OpenBox) -> None:
        self.viewer = viewer
        self._canvas = viewer.window._qt_viewer.canvas.native
        super().__init__(self._canvas)
        self.setAcceptDrops(True)
        self.setAttribute(Qt.WidgetAttribute.WA_StyledBackground)
        self.folder, self.sample = QPushButton("Open a folder …"), QPushButton("Try a sample")
        self.folder.clicked.connect(lambda: box.ask(FOLDER))
        self.sample.clicked.connect(self._make_sample)
        self.sample.setToolTip("The mean of 152 heads, with noise: nothing is downloaded, and no patient is shown.")
        text, then = QLabel(_TEXT), QLabel(_THEN)
        buttons = QHBoxLayout()
        buttons.setSpacing(12)
        buttons.addStretch(1)
        for button in (self.folder, self.sample):
            button.setMinimumSize(180, 40)
            buttons.addWidget(button)
        buttons.addStretch(1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(32, 32, 32, 32)
        layout.setSpacing(16)
        layout.addStretch(1)
        for each in (text, then):
            each.setWordWrap(True)
            each.setAlignment(Qt.AlignmentFlag.AlignCenter)
        layout.addWidget(text)
        layout.addLayout(buttons)
        layout.addWidget(then)
        layout.addStretch(1)
        self._others = viewer.window._qt_viewer.show_welcome_screen
        viewer.window._qt_viewer.show_welcome_screen = False
        self._canvas.installEventFilter(self)
        self._events = (viewer.layers.events.inserted, viewer.layers.events.removed)
        for emitter in self._events:
            emitter.connect(self._follow)
        self._follow()

    def _make_sample(self) -> None:
        """A head, which the model of the brain knows; it is made in the background."""
        self.sample.setEnabled(False)
        first_layer()
        in_background(noisy_head, self._show_sample)

    def _show_sample(self, made: list[Any]) -> None:
        ((data, attributes, _),) = made
        add_layer(self.viewer, self, data, attributes)
        self.sample.setEnabled(True)

    def end(self) -> None:
        """Leave the window to napari's own words."""
        if not self._events:
            return
        for emitter in self._events:
            emitter.disconnect(self._follow)
        self._events = ()
        self._canvas.removeEventFilter(self)
        self.viewer.window._qt_viewer.show_welcome_screen = self._others
        self.hide()
        self.deleteLater()

    def eventFilter(self, canvas: QObject, event: QEvent) -> bool:
        """As large as the canvas."""
        if event.type() == QEvent.Type.Resize:
            self.setGeometry(self._canvas.rect())
        return False

    def _follow(self, event: Any = None) -> None:
        self.setGeometry(self._canvas.rect())
        self.setVisible(not self.viewer.layers)
