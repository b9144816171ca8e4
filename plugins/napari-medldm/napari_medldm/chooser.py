"""Which of several series: a list with thumbnails; what cannot be read stands there with its reason."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from qtpy.QtCore import QSize, Qt
from qtpy.QtGui import QIcon, QImage, QPixmap
from qtpy.QtWidgets import QDialog, QDialogButtonBox, QLabel, QListWidget, QListWidgetItem, QVBoxLayout, QWidget

from napari_medldm.orientation import display_of
from napari_medldm.windows import limits

THUMBNAIL = 96


def describe(found: Any) -> str:
    """Lines about a series: what it is and how large, or why it cannot be read."""
    parts = " ".join(f"{key}={value}" for key, value in found.select.items())
    head = f"{found.modality or 'unknown kind'}, {len(found.files)} files" + (f", {parts}" if parts else "")
    if found.volume is None:
        return f"{head}\ncannot be read: {found.refusal}"
    geometry = found.volume.geometry
    size = " × ".join(map(str, geometry.shape))
    spacing = " × ".join(f"{s:.3g}" for s in geometry.spacing)
    return f"{head}\n{size} voxels of {spacing} mm, {found.volume.unit}"


def thumbnail(found: Any) -> Any:
    """The middle slice as it will be shown, or an empty picture."""
    image = np.zeros((THUMBNAIL, THUMBNAIL), np.uint8)
    if found.volume is not None:
        display = display_of(found.volume.geometry)
        array = display.forward(found.volume.array)
        array = array[tuple(slice(None, None, -1) if s < 0 else slice(None) for s in display.scale)]
        plane = int(np.argmin(array.shape))
        middle = np.take(array, array.shape[plane] // 2, plane)
        low, high = limits(found.volume)
        grey = np.clip((middle - low) / (high - low), 0, 1) * 255
        step = max(1, max(grey.shape) // (2 * THUMBNAIL))
        image = np.ascontiguousarray(grey[::step, ::step].astype(np.uint8))
    shown = QImage(image.data, image.shape[1], image.shape[0], image.strides[0], QImage.Format.Format_Grayscale8)
    size = QSize(THUMBNAIL, THUMBNAIL)
    return QIcon(QPixmap.fromImage(shown.copy()).scaled(size, Qt.AspectRatioMode.KeepAspectRatio))


class Chooser(QDialog):
    """Modal list of series; `chosen` after it was accepted."""

    def __init__(self, found: Sequence[Any], parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setWindowTitle("Several scans: which one?")
        self.found = sorted(found, key=lambda each: each.volume is None)
        self.items = QListWidget()
        self.items.setIconSize(QSize(THUMBNAIL, THUMBNAIL))
        self.items.setWordWrap(True)
        for each in self.found:
            item = QListWidgetItem(thumbnail(each), describe(each))
            if each.volume is None:
                item.setFlags(item.flags() & ~Qt.ItemFlag.ItemIsEnabled)
            self.items.addItem(item)
        self.items.setCurrentRow(0)
        self.items.itemDoubleClicked.connect(self.accept)
        buttons = QDialogButtonBox(
            QDialogButtonBox.StandardButton.Open | QDialogButtonBox.StandardButton.Cancel
        )
        buttons.accepted.connect(self.accept)
        buttons.rejected.connect(self.reject)
        layout = QVBoxLayout(self)
        readable = sum(each.volume is not None for each in self.found)
        layout.addWidget(QLabel(f"{readable} of {len(self.found)} can be opened."))
        layout.addWidget(self.items)
        layout.addWidget(buttons)
        self.resize(640, 480)

    def chosen(self) -> Any | None:
        """The series of the row that is marked, None for one that cannot be read."""
        row = self.items.currentRow()
        return self.found[row] if row >= 0 and self.found[row].volume is not None else None


def choose(found: Sequence[Any]) -> Any | None:
    """Ask; None if the user cancels."""
    from napari import current_viewer

    viewer = current_viewer()
    dialog = Chooser(found, viewer.window._qt_window if viewer is not None else None)
    return dialog.chosen() if dialog.exec() == QDialog.DialogCode.Accepted else None
