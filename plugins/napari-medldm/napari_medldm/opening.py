"""Opening what is dropped on the window, or named: read in a thread, chosen where there are several, then shown."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from napari.layers import Image, Labels
from qtpy.QtCore import QEvent, QObject, Qt, QTimer, Signal
from qtpy.QtWidgets import QDialog, QFileDialog, QHBoxLayout, QLineEdit, QPushButton, QWidget

import medldm
from medldm import MedldmError
from napari_medldm._reader import Opened, layer_of, look_into
from napari_medldm.adding import add_layer, first_layer
from napari_medldm.background import in_background
from napari_medldm.chooser import Chooser

_DRAGS = (QEvent.Type.DragEnter, QEvent.Type.DragMove)
FOLDER, FILES = QFileDialog.FileMode.Directory, QFileDialog.FileMode.ExistingFiles
LAYER_MS = 100  # between two layers, so that the window is painted
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


class Opening(QObject):
    """Opens scans in a viewer, and takes what is dropped anywhere on its window.

    Napari would ask which of its readers is to be used for each new kind of file; here it is medldm, and napari for
    what medldm cannot read. `said(text)` tells what became of it, `unsaid(text)` takes it back, `ended()` tells that
    nothing is left to be opened. `beforehand()` gives what is to be done with a scan in the thread that has read it.
    """

    said = Signal(str)
    unsaid = Signal(str)
    ended = Signal()

    def __init__(self, viewer: Any, panel: QWidget) -> None:
        super().__init__(panel)
        self.viewer, self.panel = viewer, panel
        self._waiting: list[Path | Opened] = []
        self._reading = False
        self.beforehand: Callable[[], Callable[[Any], object]] = lambda: lambda scan: None
        self.chooser: Chooser | None = None
        self._widgets: list[QWidget] = []

    def take_drops(self, window: QWidget) -> None:
        """Of the whole of a window; its canvas takes drops itself, and is asked second."""
        takers = [each for each in window.findChildren(QWidget) if each.acceptDrops()]
        self._widgets = [window, *(each for each in takers if not isinstance(each, QLineEdit))]
        for widget in self._widgets:
            widget.setAcceptDrops(True)
            widget.installEventFilter(self)

    def end(self) -> None:
        """Take no more."""
        for widget in self._widgets:
            widget.removeEventFilter(self)
        self._widgets.clear()
        self._waiting.clear()
        if self.chooser is not None:
            self.chooser.reject()

    def open(self, paths: Iterable[Path]) -> None:
        """One after the other; files of one folder are one series."""
        paths = [Path(path) for path in paths]
        parents = {path.parent for path in paths}
        whole = len(paths) > 1 and len(parents) == 1 and all(path.is_file() for path in paths)
        if whole and all(_is_dicom(path) for path in paths):
            paths = list(parents)
        self._waiting += paths
        self._next()

    def eventFilter(self, widget: QObject, event: QEvent) -> bool:
        """Files are taken, unless the user asks napari for its list of readers (Alt)."""
        if event.type() not in (*_DRAGS, QEvent.Type.Drop) or not event.mimeData().hasUrls():
            return False
        if event.modifiers() & Qt.KeyboardModifier.AltModifier:
            return False
        event.acceptProposedAction()
        if event.type() == QEvent.Type.Drop:
            self.open(Path(url.toLocalFile()) for url in event.mimeData().urls() if url.isLocalFile())
        return True

    # --- one path ---

    def _next(self) -> None:
        if self._reading or self.chooser is not None:
            return
        if not self._waiting:
            self.ended.emit()
            return
        where = self._waiting.pop(0)
        if isinstance(where, Opened):
            self._add(where)
            QTimer.singleShot(LAYER_MS, self._next)
            return
        self._reading = True
        first_layer()
        text = f"Reading {where.name} …"
        self.said.emit(text)
        look = partial(_look, where, self.beforehand())
        in_background(look, partial(self._show, where), partial(self._fail, where), partial(self._finished, text))

    def _finished(self, text: str) -> None:
        self._reading = False
        self.unsaid.emit(text)
        self._next()

    def _show(self, where: Path, opened: Opened | None) -> None:
        if opened is None:
            self._leave_to_napari(where, f"{where.name}: not a scan that medldm knows")
            return
        if opened.scan is None:
            self._ask(opened)
        else:
            self._add(opened)

    def _ask(self, opened: Opened) -> None:
        """Which series; the window goes on meanwhile."""
        self.chooser = Chooser(opened.found, self.viewer.window._qt_window)
        self.chooser.finished.connect(partial(self._chosen, opened))
        self.chooser.open()

    def _chosen(self, opened: Opened, answer: int) -> None:
        chooser, self.chooser = self.chooser, None
        if chooser is None:
            return
        if answer == QDialog.DialogCode.Accepted:  # the first is added last, and so is the one that is shown
            self._waiting[:0] = [opened.chosen(series) for series in reversed(chooser.chosen())]
        chooser.deleteLater()
        self._next()

    def _add(self, opened: Opened) -> None:
        (data, attributes, kind), notes = layer_of(opened)
        layer = add_layer(self.viewer, self.panel, data, attributes, kind)
        self._below_labels(layer)
        self.viewer.layers.selection.active = layer
        for text in notes:
            self.said.emit(text)

    def _below_labels(self, scan: Any) -> None:
        """A map that was opened first is to be seen on the scan, too."""
        layers = self.viewer.layers
        first = next((n for n, layer in enumerate(layers) if isinstance(layer, Labels)), len(layers))
        if isinstance(scan, Image) and first < len(layers):
            layers.move(layers.index(scan), first)

    def _fail(self, where: Path, failure: Exception) -> None:
        known = isinstance(failure, MedldmError)
        text = str(failure) if known else f"{where.name}: cannot be read ({type(failure).__name__})"
        if known and where.suffix.lower() in PICTURES:
            self._leave_to_napari(where, text)
            return
        self.said.emit(text)

    def _leave_to_napari(self, where: Path, text: str) -> None:
        self.said.emit(text)
        if not where.is_file():
            return
        try:
            self.viewer.open(str(where), plugin="napari")
        except Exception:  # whatever napari cannot read it with
            return
        self.said.emit(f"{where.name}: shown by napari, as a picture only")


class OpenBox(QWidget):
    """Buttons for whoever does not drag."""

    def __init__(self, opening: Opening) -> None:
        super().__init__()
        self.opening, self.dialog = opening, None
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self.folder, self.file = QPushButton("Open a folder …"), QPushButton("Open a file …")
        for button, mode in ((self.folder, FOLDER), (self.file, FILES)):
            button.clicked.connect(partial(self.ask, mode))
            layout.addWidget(button)

    def ask(self, mode: QFileDialog.FileMode, *_: Any) -> None:
        """The window goes on meanwhile."""
        self.dialog = dialog = QFileDialog(self, "Open a scan")
        dialog.setFileMode(mode)
        dialog.filesSelected.connect(self.opening.open)
        dialog.finished.connect(dialog.deleteLater)
        dialog.open()


def _look(where: Path, then: Callable[[Any], object]) -> Opened | None:
    if not where.is_dir() and not medldm.can_read(where):
        return None
    opened = look_into(where)
    then(opened.scan)
    return opened


def _is_dicom(path: Path) -> bool:
    from medldm.io.dicom.reader import can_read

    return can_read(path)
