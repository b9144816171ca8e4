"""The form: what is to be done, with which model, how, and where; plain data comes out."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QSlider,
    QSpinBox,
    QWidget,
)

from medldm import Volume
from napari_medldm.models import ModelBox
from napari_medldm.request import Request, tasks

PLACES = ("whole scan", "current slice", "drawn region")
NO_TORCH = "Restoring needs PyTorch: pip install torch. Opening, comparing and saving work without it."
NO_MODEL = "No model is installed: pip install a medldm model pack, or train one with medldm train."
NO_SCAN = "Open a scan: drop a NIfTI file, a DICOM folder or a zip file on the window."
_TIPS = {
    "scan": "The scan to restore. Its layer stays as it is.",
    "task": "Remove noise, refine the grid, fill a drawn region, or draw new scans from the model.",
    "model": "Models that fit the scan can be chosen; the others say why not.",
    "scale": "How much finer: the thickest axis of a volume, both axes of an image.",
    "noise_std": "Standard deviation of the noise, in the scan's own unit.",
    "dial": "Left: fidelity, the posterior mean. Right: perceptual, one plausible scan with its texture.",
    "samples": "More than one shows where the model is unsure (slower).",
    "steps": "Steps of the sampler; the posterior mean needs none.",
    "seed": "The same seed gives the same result.",
    "count": "How many new scans; each a layer of its own.",
    "place": "A slice comes in seconds. A region is restored with a soft edge; outside it nothing changes.",
}


class RestoreForm(QWidget):
    """What the user wants; `changed` is emitted when any of it does."""

    changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.scan, self.task, self.place, self.scale = (QComboBox() for _ in range(4))
        self.model = ModelBox()
        self.task.addItems(tasks())
        self.place.addItems(PLACES)
        self.scale.addItems(["× 2", "× 3", "× 4"])
        self.estimated = QCheckBox("estimate")
        self.estimated.setChecked(True)
        self.noise_std = QDoubleSpinBox()
        self.noise_std.setRange(0, 1e9)
        self.noise_std.setDecimals(3)
        self.dial = QSlider(Qt.Orientation.Horizontal)
        self.dial.setRange(0, 100)
        self.samples, self.steps, self.seed, self.count = (QSpinBox() for _ in range(4))
        ranges = {self.samples: (1, 32, 1), self.steps: (2, 200, 20), self.seed: (0, 2**31 - 1, 0)}
        for box, (low, high, value) in (ranges | {self.count: (1, 100, 1)}).items():
            box.setRange(low, high)
            box.setValue(value)
        for name, text in _TIPS.items():
            getattr(self, name).setToolTip(text)
        noise, dial = QHBoxLayout(), QHBoxLayout()
        noise.addWidget(self.noise_std)
        noise.addWidget(self.estimated)
        for widget in (QLabel("fidelity"), self.dial, QLabel("perceptual")):
            dial.addWidget(widget)
        self._layout = QFormLayout(self)
        self._layout.setContentsMargins(0, 0, 0, 0)
        rows: dict[str, Any] = {"Task": self.task, "Scan": self.scan, "Model": self.model, "Refine by": self.scale}
        rows |= {"Noise": noise, "Result": dial, "Samples": self.samples, "Steps": self.steps}
        rows |= {"Seed": self.seed, "How many": self.count, "Where": self.place}
        for text, widget in rows.items():
            self._layout.addRow(text, widget)
        self._rows = rows
        for box in (self.scan, self.task, self.model, self.scale, self.place):
            box.currentTextChanged.connect(self._on_change)
        for box in (self.dial, self.samples, self.steps, self.count):
            box.valueChanged.connect(self._on_change)
        self.estimated.toggled.connect(self._on_change)
        self._on_change()

    def _on_change(self, *_: Any) -> None:
        task = self.task.currentText()
        hidden = {"How many", "Refine by", "Where"}
        hidden -= {"synthesize": {"How many"}, "super-resolve": {"Refine by"}, "denoise": {"Where"}}.get(task, set())
        if task == "synthesize":
            hidden |= {"Scan", "Noise", "Result", "Samples"}
        if task == "inpaint":
            hidden |= {"Noise"}
        for text, widget in self._rows.items():
            self._layout.setRowVisible(widget, text not in hidden)
        self.noise_std.setEnabled(not self.estimated.isChecked())
        self.changed.emit()

    def list_scans(self, names: list[str]) -> None:
        """Offer these scans; the chosen one stays, if it is among them."""
        now = self.scan.currentText()
        self.scan.blockSignals(True)
        self.scan.clear()
        self.scan.addItems(names)
        if now in names:
            self.scan.setCurrentText(now)
        self.scan.blockSignals(False)
        self._on_change()

    def obstacle(self, volume: Volume | None) -> str:
        """Why nothing can be started now, in one sentence; "" if it can."""
        self.model.mark(None if self.task.currentText() == "synthesize" else volume)
        if self.model.count() == 0:
            return NO_MODEL
        if importlib.util.find_spec("torch") is None:
            return NO_TORCH
        if volume is None and self.task.currentText() != "synthesize":
            return NO_SCAN
        if volume is not None:
            self.noise_std.setSuffix("" if volume.unit == "arbitrary" else f" {volume.unit}")
        return "" if self.model.fits() else "No installed model fits this scan; the list says why."

    def request(self, volume: Volume | None) -> Request:
        """The form as plain data, for the scan that it is about."""
        scale = [1, 1, 1]
        if self.task.currentText() == "super-resolve" and volume is not None:
            factor = int(self.scale.currentText().split()[-1])
            thickest = 2 - int(np.argmax(volume.geometry.spacing[::-1]))
            for axis in (0, 1) if volume.array.shape[2] == 1 else (thickest,):
                scale[axis] = factor
        return Request(
            task=self.task.currentText(),
            model=self.model.currentText(),
            noise_std=None if self.estimated.isChecked() else self.noise_std.value(),
            mode=self.dial.value() / 100,
            samples=self.samples.value(),
            steps=self.steps.value(),
            seed=self.seed.value(),
            scale=(scale[0], scale[1], scale[2]),
            count=self.count.value(),
        )

    def set_request(self, request: Request) -> None:
        """Fill the form."""
        self.task.setCurrentText(request.task)
        self.model.setCurrentText(request.model)
        self.estimated.setChecked(request.noise_std is None)
        self.noise_std.setValue(request.noise_std or self.noise_std.value())
        self.dial.setValue(round(100 * request.mode))
        self.samples.setValue(request.samples)
        self.steps.setValue(request.steps)
        self.seed.setValue(request.seed)
        self.count.setValue(request.count)
        if max(request.scale) > 1:
            self.scale.setCurrentText(f"× {max(request.scale)}")
