"""Every scan of a folder restored, one after the other, with a row for each: what became of it, and why."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QCheckBox,
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPushButton,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

import medldm
from medldm import MedldmError
from napari_medldm.adding import add_layer
from napari_medldm.background import in_background
from napari_medldm.form import RestoreForm
from napari_medldm.jobs import Job, Workshop
from napari_medldm.layers import layer_data
from napari_medldm.progress import Progress
from napari_medldm.request import Order

if TYPE_CHECKING:
    import napari.viewer

COLUMNS = ("scan", "what became of it", "noise", "residual", "seconds", "why, warnings")
STATES = {"done": "restored", "kept": "restored before", "refused": "not read", "failed": "not restored"}
STRUCTURE = {None: "", True: "holds structure: look at it", False: "like noise"}


class FolderPanel(QWidget):
    """Choose a folder of scans and one for the results. An interrupted run goes on where it ended."""

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self.viewer, self.job, self.workshop = viewer, None, Workshop()
        self.rows: list[Any] = []
        self.form = RestoreForm("How", many=True)
        self.scans, self.out = QLineEdit(), QLineEdit()
        self.scans.setToolTip("A folder with NIfTI files, DICOM series, zip files or pictures, at any depth.")
        self.out.setToolTip("A new folder, or one of an earlier run with the same settings, which then goes on.")
        self.nifti, self.spread = QCheckBox("NIfTI for all"), QCheckBox("with the uncertainty")
        self.nifti.setToolTip("Otherwise DICOM stays DICOM, and pictures stay pictures.")
        self.spread.setChecked(True)
        self.start, self.stop, self.look_at = QPushButton("Restore all"), QPushButton("Cancel"), QPushButton("Show")
        self.look_at.setToolTip("Open the chosen row's scan and result. A double click does the same.")
        self.progress, self.advice, self.message = Progress(), QLabel(), QLabel()
        for label in (self.advice, self.message):
            label.setWordWrap(True)
        self.table = QTableWidget(0, len(COLUMNS))
        self.table.setHorizontalHeaderLabels(COLUMNS)
        self.table.setEditTriggers(QTableWidget.EditTrigger.NoEditTriggers)
        self.table.setSelectionBehavior(QTableWidget.SelectionBehavior.SelectRows)
        self._build()
        self.form.changed.connect(self._look)
        self._look()

    def _build(self) -> None:
        layout, folders, kinds, buttons = QVBoxLayout(self), QFormLayout(), QHBoxLayout(), QHBoxLayout()
        for text, line in (("Scans", self.scans), ("Results", self.out)):
            row, browse = QHBoxLayout(), QPushButton("…")
            browse.clicked.connect(lambda _=False, title=text, into=line: self._browse(title, into))
            row.addWidget(line)
            row.addWidget(browse)
            folders.addRow(text, row)
            line.textChanged.connect(self._look)
        for box in (self.nifti, self.spread):
            kinds.addWidget(box)
        folders.addRow("Saved", kinds)
        for button in (self.start, self.stop, self.look_at):
            buttons.addWidget(button)
        layout.addLayout(folders)
        layout.addWidget(self.form)
        layout.addWidget(self.advice)
        layout.addLayout(buttons)
        layout.addWidget(self.progress)
        layout.addWidget(self.message)
        layout.addWidget(self.table, 1)
        self.setMinimumWidth(380)
        self.start.clicked.connect(self.restore)
        self.stop.clicked.connect(self.cancel)
        self.look_at.clicked.connect(lambda: self.show_row(self.table.currentRow()))
        self.table.cellDoubleClicked.connect(lambda row, _: self.show_row(row))

    def _browse(self, title: str, line: QLineEdit) -> None:
        path = QFileDialog.getExistingDirectory(self, title, line.text())
        if path:
            line.setText(path)

    def _look(self) -> None:
        """Say what is missing before anything can start."""
        obstacle = self.form.obstacle(None)
        if not obstacle and not Path(self.scans.text().strip() or "?").is_dir():
            obstacle = "Choose the folder of scans."
        if not obstacle and not self.out.text().strip():
            obstacle = "Choose a folder for the results, outside that of the scans."
        running = self.job is not None and self.job.running()
        self.start.setEnabled(not obstacle and not running)
        self.stop.setEnabled(running)
        self.advice.setText(obstacle)

    # --- running ---

    def restore(self) -> None:
        """Start, or go on where an earlier run ended."""
        if self.job is not None:
            return
        form = self.form
        order = Order(
            folder=self.scans.text().strip(),
            out=self.out.text().strip(),
            request=form.request(None),
            factor=form.factor(),
            format="nifti" if self.nifti.isChecked() else None,
            uncertainty=self.spread.isChecked(),
        )
        self.order, self.rows = order, []
        self.table.setRowCount(0)
        self.message.setText("")
        self.job = Job(self.workshop, None, None, order, self)
        self.job.progressed.connect(self._progressed)
        self.job.made.connect(self._made)
        self.job.failed.connect(self.message.setText)
        self.job.cancelled.connect(lambda: self.message.setText(f"Cancelled. {self._summary()} Restore all goes on."))
        self.job.finished.connect(lambda _: self.message.setText(self._summary()))
        self.job.ended.connect(self._ended)
        self.job.start()
        self._look()

    def cancel(self) -> None:
        """Stop at the next step; results that are there stay."""
        if self.job is not None:
            self.job.cancel()
            self.message.setText("Stopping at the next step …")

    def _progressed(self, text: str, done: int, total: int) -> None:
        self.progress.show_step("load" if text == "load" else "scan", done, total if text != "load" else 0)

    def _made(self, row: Any) -> None:
        self.rows.append(row)
        unit = "" if row.unit == "arbitrary" else f" {row.unit}"
        cells = (
            " ".join(filter(None, (row.file, row.series, row.select))),
            STATES[row.state],
            "" if row.noise_std is None else f"{row.noise_std:.4g}{unit}",
            STRUCTURE[row.residual_has_structure],
            f"{row.seconds:.1f}" if row.state == "done" else "",
            "; ".join(filter(None, (row.reason, row.warnings))),
        )
        index = self.table.rowCount()
        self.table.insertRow(index)
        for column, text in enumerate(cells):
            item = QTableWidgetItem(text)
            item.setToolTip(text)
            item.setTextAlignment(Qt.AlignmentFlag.AlignVCenter | Qt.AlignmentFlag.AlignLeft)
            self.table.setItem(index, column, item)
        self.table.resizeColumnsToContents()
        self.table.scrollToBottom()

    def _summary(self) -> str:
        counts = {text: sum(row.state == state for row in self.rows) for state, text in STATES.items()}
        said = ", ".join(f"{count} {text}" for text, count in counts.items() if count)
        return f"{len(self.rows)} scans: {said}; see medldm-summary.csv." if said else "Nothing was done."

    def _ended(self) -> None:
        self.progress.clear()
        if self.job.wait(0.1):  # else it still reads a scan that nobody waits for
            self.job.deleteLater()
        self.job = None
        self._look()

    # --- afterwards ---

    def show_row(self, index: int) -> None:
        """Open a row's scan and its result, read in a thread."""
        if not 0 <= index < len(self.rows) or not self.rows[index].output:
            self.message.setText("Choose a row with a result.")
            return
        row, order = self.rows[index], self.order
        select = dict(word.split("=", 1) for word in row.select.split())

        def read() -> list[tuple[Any, str]]:
            scan = medldm.read(Path(order.folder) / row.file, row.series or None, select=select or None)
            name = row.file if row.file != "." else Path(order.folder).name
            return [(scan, name), (medldm.read(Path(order.out) / row.output), f"{name} · restored")]

        def add(found: list[tuple[Any, str]]) -> None:
            for volume, name in found:
                data, attributes, _ = layer_data(volume, name)
                add_layer(self.viewer, self, data, attributes)

        def fail(failure: Exception) -> None:
            self.message.setText(str(failure) if isinstance(failure, MedldmError) else "It cannot be read any more.")

        in_background(read, add, fail)

    def closeEvent(self, event: Any) -> None:
        """Stop what runs before the window goes."""
        if self.job is not None:
            self.job.cancel()
        self.workshop.close()
        super().closeEvent(event)
