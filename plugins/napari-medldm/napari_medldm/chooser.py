"""Which of several series: a table with thumbnails; what was refused says why, and has the button that helps."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from qtpy.QtCore import QSize, Qt
from qtpy.QtGui import QIcon, QImage, QPixmap
from qtpy.QtWidgets import (
    QAbstractItemView,
    QDialog,
    QDialogButtonBox,
    QHeaderView,
    QLabel,
    QPushButton,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from medldm import MedldmError
from napari_medldm.background import in_background
from napari_medldm.series import THUMBNAIL, Series

COLUMNS = ("", "Series", "Date", "Slices", "Plane", "Folder")
_SERIES, _DATE = 1, 2
_WIDTHS = {0: THUMBNAIL + 12, 2: 96, 3: 64, 4: 80, 5: 200}


class Chooser(QDialog):
    """A table of series; `chosen` tells what is marked when it is accepted. Several may be."""

    def __init__(self, found: Sequence[Series], parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setWindowTitle("Choose a series")
        self.found = list(found)
        self.table, self.head = QTableWidget(len(self.found), len(COLUMNS)), QLabel()
        self.helps: dict[int, QPushButton] = {}
        self.table.setHorizontalHeaderLabels(COLUMNS)
        self.table.verticalHeader().hide()
        self.table.setIconSize(QSize(THUMBNAIL, THUMBNAIL))
        self.table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.table.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        self.table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.table.setTabKeyNavigation(False)
        for column, width in _WIDTHS.items():
            self.table.setColumnWidth(column, width)
        self.table.horizontalHeader().setSectionResizeMode(_SERIES, QHeaderView.ResizeMode.Stretch)
        kinds = QDialogButtonBox.StandardButton
        self.buttons = QDialogButtonBox(kinds.Open | kinds.Cancel)
        self.open_button = self.buttons.button(kinds.Open)
        layout = QVBoxLayout(self)
        for widget in (self.head, self.table, self.buttons):
            layout.addWidget(widget)
        self.buttons.accepted.connect(self.accept)
        self.buttons.rejected.connect(self.reject)
        self.table.itemSelectionChanged.connect(self._count)
        self.table.itemDoubleClicked.connect(lambda item: self.accept() if self.chosen() else None)
        for row in range(len(self.found)):
            self._fill(row)
        if self.found and self.found[0].scan is not None:
            self.table.selectRow(0)
        self._count()
        self.table.setFocus()
        self.resize(900, 520)

    def chosen(self) -> list[Series]:
        """What is marked and can be opened, from top to bottom."""
        rows = sorted({index.row() for index in self.table.selectionModel().selectedRows()})
        return [self.found[row] for row in rows if self.found[row].scan is not None]

    def _count(self) -> None:
        count, readable = len(self.chosen()), sum(each.scan is not None for each in self.found)
        self.open_button.setEnabled(count > 0)
        self.open_button.setText(f"Open {count}" if count > 1 else "Open")
        text = f"{readable} of {len(self.found)} can be opened"
        self.head.setText(text + ("; Ctrl and Shift mark several." if readable > 1 else "."))

    def _fill(self, row: int) -> None:
        each = self.found[row]
        texts = ("", each.description, each.date, each.size, each.plane, each.folder)
        for column, text in enumerate(texts):
            item = QTableWidgetItem(text)
            item.setToolTip(text)
            if each.scan is None:
                item.setFlags(Qt.ItemFlag.NoItemFlags)
            self.table.setItem(row, column, item)
        self.table.removeCellWidget(row, _DATE)
        span = 1 if each.scan is not None else len(COLUMNS) - _DATE
        if self.table.columnSpan(row, _DATE) != span:
            self.table.setSpan(row, _DATE, 1, span)
        height = THUMBNAIL + 8
        if each.scan is None:
            cell = self._why_not(row, each)
            self.table.setCellWidget(row, _DATE, cell)
            width = sum(width for column, width in _WIDTHS.items() if column >= _DATE)
            height = max(height, cell.layout().totalHeightForWidth(width))
        else:
            self.table.item(row, 0).setIcon(_icon(each))
        self.table.setRowHeight(row, height)

    def _why_not(self, row: int, each: Series) -> QWidget:
        cell, reason = QWidget(), QLabel(each.refusal)
        reason.setWordWrap(True)
        reason.setTextFormat(Qt.TextFormat.PlainText)
        layout = QVBoxLayout(cell)
        layout.setContentsMargins(6, 6, 6, 6)
        layout.addWidget(reason)
        if each.remedy is not None:
            button = self.helps[row] = QPushButton(each.remedy.text)
            button.setAutoDefault(False)
            button.clicked.connect(partial(self._help, row))
            layout.addWidget(button, 0, Qt.AlignmentFlag.AlignLeft)
        return cell

    def _help(self, row: int, *_: Any) -> None:
        """Read it as its button says, while the window goes on."""
        button, each = self.helps[row], self.found[row]
        button.setEnabled(False)
        button.setText("Reading …")

        def show(series: Series) -> None:
            self.found[row] = series
            self._fill(row)
            self.table.selectRow(row)
            self._count()

        def fail(failure: Exception) -> None:
            button.setText(str(failure) if isinstance(failure, MedldmError) else "It cannot be read so, either")

        in_background(each.helped, show, fail)


def _icon(series: Series) -> QIcon:
    image = series.picture
    assert image is not None
    shown = QImage(image.data, image.shape[1], image.shape[0], image.strides[0], QImage.Format.Format_Grayscale8)
    return QIcon(QPixmap.fromImage(shown.copy()))


def choose(found: Sequence[Series]) -> list[Series]:
    """Ask, and wait for the answer; empty if the user cancels."""
    from napari import current_viewer

    viewer = current_viewer()
    dialog = Chooser(found, viewer.window._qt_window if viewer is not None else None)
    return dialog.chosen() if dialog.exec() == QDialog.DialogCode.Accepted else []
