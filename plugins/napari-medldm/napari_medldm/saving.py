"""Saving what was restored or drawn: a name is suggested, its ending added, written in a thread, and said where."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QComboBox, QFileDialog, QHBoxLayout, QPushButton, QWidget

import medldm
from medldm import MedldmError, Volume
from medldm.errors import OutputError
from napari_medldm.background import in_background
from napari_medldm.layers import volume_of

SAVED = ("result", "residual", "uncertainty")
NEW = "scan"  # of one that a model drew there is nothing else to save
KINDS = {"nifti": "NIfTI …", "dicom": "DICOM …", "report": "Report …"}
_ENDINGS = {"nifti": (".nii.gz", ".nii"), "report": (".html", ".htm"), "dicom": ()}


def write_dicom(volume: Volume, path: Path) -> Path:
    """Write a folder, or of a map one file, whose name gets .dcm if it has not; the path that was written.

    Raises MedldmError.
    """
    if not volume.quantity:
        return medldm.write(volume, path, "dicom")
    named = path if path.suffix.lower() == ".dcm" else path.with_name(f"{path.name}.dcm")
    return medldm.write(volume, named, "parametric_map")


def suggested(name: str, kind: str, what: str) -> str:
    """A file name for `what` of the scan `name`, without what some systems do not take."""
    stem = re.sub(r"[^\w.-]+", "-", name).strip("-.") or "scan"
    ending = (*_ENDINGS[kind], ".dcm" if kind == "dicom" and what not in ("result", NEW) else "")[0]
    said = {"result": "-restored", NEW: ""}.get(what, f"-{what}")  # the layer's name says that it is synthetic
    return f"{stem}{said}{'-report' * (kind == 'report')}{ending}"


def with_ending(path: Path, kind: str) -> Path:
    """The path, with what its kind of file ends in."""
    endings = _ENDINGS[kind]
    return path if not endings or path.name.lower().endswith(endings) else path.with_name(path.name + endings[0])


def write_report(path: Path, volume: Volume, result: Any) -> Path:
    """The page, and its figures as JSON beside it; never over what is there. Raises MedldmError."""
    figures = path.with_suffix(".json")
    for each in (path, figures):
        if each.exists():
            raise OutputError(str(each), "an existing file", "a new name", "save it under another")
    medldm.write_report(path, volume, result)
    figures.write_text(json.dumps(result.report, indent=2) + "\n", encoding="utf-8")
    return path


class SaveBox(QWidget):
    """Buttons that save the last restoration that `last()` gives, or the scan `drawn()`; `said(text)` tells what became
    of it."""

    said = Signal(str)

    def __init__(self, last: Any, drawn: Any) -> None:
        super().__init__()
        self._last, self._drawn, self._folder, self._under_way = last, drawn, Path.home(), 0
        self.dialog: QFileDialog | None = None
        self.what = QComboBox()
        self.what.addItems(SAVED)
        self.what.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.what.setToolTip(
            "What is saved: the restored or drawn scan, what was taken away, or how unsure the result is."
        )
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.what, 1)
        self.buttons = {kind: QPushButton(text) for kind, text in KINDS.items()}
        for kind, button in self.buttons.items():
            button.clicked.connect(partial(self.ask, kind))
            layout.addWidget(button)

    def follow(self) -> None:
        """Offer what there is to be saved of the active scan."""
        last, drawn = self._last(), self._drawn()
        offered = (NEW,) if last is None and drawn is not None else SAVED
        if self.what.itemText(0) != offered[0]:
            self.what.clear()
            self.what.addItems(offered)
        for kind, button in self.buttons.items():
            button.setEnabled(last is not None or (drawn is not None and kind != "report"))

    def busy(self) -> bool:
        """Whether something is being written."""
        return self._under_way > 0

    def ask(self, kind: str, *_: Any) -> None:
        """Ask where to; the window goes on meanwhile."""
        last, what = self._last(), self.what.currentText()
        layer = self._drawn() if what == NEW else None if last is None else getattr(last.comparison, what)
        if layer is None:
            self.said.emit("Restore a scan first.")
            return
        name = layer.name if what == NEW else last.comparison.source.name
        series = what in ("result", NEW)
        titles = {"nifti": f"Save the {what} as NIfTI", "report": "Save a report"}
        titles["dicom"] = "A new folder for the DICOM series" if series else f"Save the {what} as a DICOM map"
        self.dialog = dialog = QFileDialog(self, titles[kind], str(self._folder))
        dialog.setAcceptMode(QFileDialog.AcceptMode.AcceptSave)
        dialog.setFileMode(QFileDialog.FileMode.AnyFile)
        dialog.setOption(QFileDialog.Option.DontConfirmOverwrite)  # nothing is ever written over
        dialog.selectFile(suggested(name, kind, what))
        dialog.fileSelected.connect(partial(self._save, last, layer, kind))
        dialog.finished.connect(dialog.deleteLater)
        dialog.open()

    def _save(self, last: Any, layer: Any, kind: str, name: str) -> None:
        path = with_ending(Path(name), kind)
        self._folder = path.parent

        def write() -> Path:
            if kind == "report":
                return write_report(path, last.volume, last.result)
            volume = volume_of(layer)
            return write_dicom(volume, path) if kind == "dicom" else medldm.write(volume, path, "nifti")

        def fail(failure: Exception) -> None:
            known = isinstance(failure, MedldmError)
            self.said.emit(str(failure) if known else f"{path}: could not be written ({type(failure).__name__})")

        self._under_way += 1
        self.said.emit(f"Saving {path.name} …")
        in_background(write, lambda written: self.said.emit(f"Saved {written}"), fail, self._written)

    def _written(self) -> None:
        self._under_way -= 1
