"""Judging and saving: modes of comparison with a key each, and the way to disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from napari.qt.threading import thread_worker
from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import (
    QComboBox,
    QFileDialog,
    QGridLayout,
    QGroupBox,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QSlider,
    QVBoxLayout,
)

import medldm
from napari_medldm.active import ActiveScan
from napari_medldm.adding import add_layer
from napari_medldm.compare import Comparison, residual_style, uncertainty_style
from napari_medldm.keys import MODES
from napari_medldm.layers import derived_layer, volume_of
from napari_medldm.request import Request
from napari_medldm.saving import write_dicom

SAVED = ("result", "residual", "uncertainty")
LEAST_RESIDUAL = 1e-3  # of the range: less is a rounding, not a residual
LAYER_MS = 100  # between two layers, so that the window is painted


class Done(NamedTuple):
    """One restoration that has ended: its layers, and what it was made of and how."""

    comparison: Comparison
    volume: Any
    mask: Any
    request: Request
    result: Any


class JudgeBox(QGroupBox):
    """Compare the last result of the active scan with it, and save it."""

    def __init__(self, active: ActiveScan) -> None:
        super().__init__("Judge and save")
        self.viewer, self.active = active.viewer, active
        self.done: list[Done] = []
        self.buttons: dict[str, QPushButton] = {}
        layout = QVBoxLayout(self)
        grid = QGridLayout()
        for index, (mode, key) in enumerate(MODES.items()):
            button = QPushButton(f"{mode} ({key})")
            button.clicked.connect(partial(self.toggle, mode))
            self.buttons[mode] = button
            grid.addWidget(button, index // 2, index % 2)
        layout.addLayout(grid)
        self.wipe, self.threshold = (QSlider(Qt.Orientation.Horizontal) for _ in range(2))
        for text, slider in (("wipe", self.wipe), ("hide certain", self.threshold)):
            slider.setRange(0, 100)
            slider.setValue(50)
            row = QHBoxLayout()
            row.addWidget(QLabel(text))
            row.addWidget(slider)
            layout.addLayout(row)
        self.wipe.valueChanged.connect(lambda value: self._with_last(lambda c: c.wipe(value / 100)))
        self.threshold.valueChanged.connect(self._threshold)
        saves = QGridLayout()
        self.what = QComboBox()
        self.what.addItems(SAVED)
        self.what.setToolTip("What is saved: the restored scan, what was taken away, or how unsure the result is.")
        saves.addWidget(self.what, 0, 0)
        actions = {"Save as NIfTI …": "nifti", "Save as DICOM …": "dicom", "Report …": "report"}
        for index, (text, kind) in enumerate(actions.items(), start=1):
            button = QPushButton(text)
            button.clicked.connect(partial(self._ask, kind))
            saves.addWidget(button, index // 2, index % 2)
        layout.addLayout(saves)
        self.message = QLabel()
        self.message.setWordWrap(True)
        layout.addWidget(self.message)

    # --- results ---

    def add(self, source: Any, layer: Any, run: tuple[Any, Any, Request, Any], then: Callable[[], None]) -> None:
        """Residual and uncertainty beside the result's `layer`; settings and provenance stay with them.

        run : (scan, mask, request, restoration); `then` is called when all layers are there
        """
        volume, mask, request, result = run
        report = result.report | {"request": request.to_dict()}
        layers = [source, layer]

        def look() -> tuple[tuple[Any, str, dict[str, Any]], ...]:
            """In a thread: medians of a large scan take their time."""
            least = LEAST_RESIDUAL * result.report["intensity"]["scale"]
            return (
                (result.residual, "residual", residual_style(result.residual, least)),
                (result.uncertainty, "uncertainty", uncertainty_style(result.uncertainty)),
            )

        def add_next(plans: Any) -> None:
            if any(each not in self.viewer.layers for each in layers):
                return
            each, role, style = plans[len(layers) - 2]
            data, attributes, _ = derived_layer(each, role, source, report, visible=False, **style)
            layers.append(add_layer(self.viewer, self, data, attributes))
            if len(layers) < 2 + len(plans):
                QTimer.singleShot(LAYER_MS, partial(add_next, plans))
                return
            self.close_comparisons()
            self.done.append(Done(Comparison(self.viewer, *layers), volume, mask, request, result))
            then()

        thread_worker(look, connect={"returned": add_next})()

    def last(self) -> Done | None:
        """The last restoration of the active scan, or the one that made it, whose layers are still there."""
        self.done = [each for each in self.done if each.comparison.alive()]
        about = [each for each in self.done if self.active.layer in each.comparison.layers()[:2]]
        return about[-1] if about else None

    def follow(self) -> None:
        """Show the active scan as it was shown last."""
        self.close_comparisons()
        self.message.setText("")
        last = self.last()
        if last is not None:
            last.comparison.show(last.comparison.mode)

    def remove_last(self) -> bool:
        """Take the layers of the last restoration away; False where there is none."""
        last = self.last()
        if last is None:
            return False
        comparison = last.comparison
        comparison.show("single")
        comparison.close()
        self.done = [each for each in self.done if each is not last]
        self.active.choose(comparison.source)
        for layer in comparison.layers()[1:]:
            if layer in self.viewer.layers:
                self.viewer.layers.remove(layer)
        comparison.source.visible = True
        return True

    def close_comparisons(self) -> None:
        for each in self.done:
            each.comparison.close()

    # --- looking ---

    def toggle(self, mode: str, *_: Any) -> None:
        """Into a mode of comparison, or out of it."""
        self._with_last(lambda comparison: comparison.toggle(mode))

    def _with_last(self, action: Any) -> None:
        last = self.last()
        if last is None:
            self.message.setText("Restore a scan first.")
            return
        self.message.setText("")
        action(last.comparison)

    def _threshold(self, value: int) -> None:
        def apply(comparison: Comparison) -> None:
            top = float(comparison.uncertainty.data.max())
            comparison.threshold(top * value / 100)

        self._with_last(apply)

    # --- saving ---

    def _ask(self, kind: str, *_: Any) -> None:
        what = self.what.currentText()
        series = ("A new folder for the DICOM series", "")
        titles = {
            "nifti": (f"Save the {what} as NIfTI", "NIfTI (*.nii.gz *.nii)"),
            "dicom": series if what == "result" else (f"Save the {what} as a parametric map", "DICOM (*.dcm)"),
            "report": ("Save a report", "HTML (*.html)"),
        }
        title, pattern = titles[kind]
        path, _kind = QFileDialog.getSaveFileName(self, title, "", pattern)
        if path:
            self.save(kind, Path(path))

    def save(self, kind: str, path: Path) -> bool:
        """Write what is chosen of the last result as `kind` says; whether it could be done stands in the message."""
        last = self.last()
        if last is None:
            self.message.setText("Restore a scan first.")
            return False
        volume, result = last.volume, last.result
        try:
            if kind == "report":
                medldm.write_report(path, volume, result)
                path.with_suffix(".json").write_text(json.dumps(result.report, indent=2) + "\n", encoding="utf-8")
            else:
                chosen = volume_of(getattr(last.comparison, self.what.currentText()))
                path = write_dicom(chosen, path) if kind == "dicom" else medldm.write(chosen, path, "nifti")
        except medldm.MedldmError as failure:
            self.message.setText(str(failure))
            return False
        self.message.setText(f"Saved {path.name}.")
        return True
