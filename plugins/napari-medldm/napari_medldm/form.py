"""The form: what is to be done, with which model, how, and where; plain data comes out."""

from __future__ import annotations

import importlib.util
from typing import Any

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QSlider,
    QSpinBox,
    QWidget,
)

from medldm import LazyScan, Volume
from napari_medldm.asking import Conditions
from napari_medldm.doubting import Doubts
from napari_medldm.extent import DRAWN, PLACES
from napari_medldm.layers import Entry
from napari_medldm.models import ModelBox
from napari_medldm.request import Request, refined, tasks

NO_TORCH = "Restoring needs PyTorch: pip install torch. Opening, comparing and saving work without it."
NO_MODEL = "No model is installed: pip install a medldm model pack, or train one with medldm train."
NO_SCAN = "Open a scan: drop a NIfTI file, a DICOM folder or a zip file on the window."
NEW = "New scans of nobody, in layers of their own; how long they take is told while they are drawn."
_TIPS = {
    "scan": "The scan to restore. Its layer stays as it is.",
    "task": "Remove noise, refine the grid, fill a drawn region, or draw new scans from the model.",
    "model": "Models that fit the scan can be chosen; the others say why not.",
    "scale": "How much finer: the thickest axis of a volume, both axes of an image.",
    "noise_std": "Standard deviation of the noise, in the scan's own unit.",
    "dial": "Left: fidelity, the posterior mean. Right: perceptual, the same with a little noise, less smooth.",
    "samples": "More than one shows where the model is unsure (slower).",
    "steps": "Steps of the sampler; the posterior mean needs none.",
    "seed": "The same seed gives the same result.",
    "count": "How many new scans; each a layer of its own.",
    "guidance": "How strictly the conditions are followed: off as in the training set, more at the cost of diversity.",
    "draw": "A layer to paint the region in. Shapes that you draw count as well.",
    "this_slice": "Restore the slice that is shown, at once.",
    "place": "A slice comes in seconds. A region is restored with a soft edge; outside it nothing changes.",
}


_SAMPLED = {"Scan", "Noise", "Result", "Samples", "Steps", "Seed"}
_ROWS = {  # beside task and model
    "denoise": _SAMPLED | {"Where"},
    "super-resolve": _SAMPLED | {"Refine by"},
    "inpaint": {"Scan", "Region"},
    "synthesize": {"How many", "Guidance", "Steps", "Seed"},
}
_ADVANCED = {"Result", "Samples", "How many", "Guidance", "Steps", "Seed"}


class RestoreForm(QWidget):
    """What the user wants; `changed` is emitted when any of it does.

    heading : above the rows, with the button that shows those for which a default will do
    many : of all scans of a folder, without those tasks and places that one scan is needed for
    """

    changed = Signal()

    def __init__(self, heading: str, *, many: bool = False) -> None:
        super().__init__()
        self.many, self._without = many, {"Scan", "Where"} if many else set()
        self._entry: Entry | None = None
        self.scan, self.task, self.place, self.scale = (QComboBox() for _ in range(4))
        self.model = ModelBox()
        self.task.addItems([task for task in tasks() if not many or task in ("denoise", "super-resolve")])
        self.place.addItems(PLACES)
        self.scale.addItems(["× 2", "× 3", "× 4"])
        self.draw, self.this_slice = QPushButton("Draw a region"), QPushButton("this slice")
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
        self.guidance = QDoubleSpinBox()
        self.guidance.setRange(1, 20)
        self.guidance.setDecimals(1)
        self.guidance.setSingleStep(0.5)
        self.guidance.setSpecialValueText("off")
        for name, text in _TIPS.items():
            getattr(self, name).setToolTip(text)
        noise, dial, where = QHBoxLayout(), QHBoxLayout(), QHBoxLayout()
        where.setSpacing(6)
        where.addWidget(self.place, 1)
        where.addWidget(self.this_slice)
        noise.addWidget(self.noise_std)
        noise.addWidget(self.estimated)
        for widget in (QLabel("fidelity"), self.dial, QLabel("perceptual")):
            dial.addWidget(widget)
        for box in (self.scan, self.task, self.model, self.place, self.scale):  # long names are cut, not the strip
            box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.advanced = QPushButton("Advanced")
        self.advanced.setCheckable(True)
        top = QHBoxLayout()
        top.addWidget(QLabel(f"<b>{heading}</b>"), 1)
        top.addWidget(self.advanced)
        self._layout = QFormLayout(self)
        self._layout.setContentsMargins(0, 0, 0, 0)
        self._layout.setVerticalSpacing(4)
        self._layout.addRow(top)
        rows: dict[str, Any] = {"Scan": self.scan, "Task": self.task, "Model": self.model, "Refine by": self.scale}
        rows |= {"Noise": noise, "Where": where, "Region": self.draw, "Result": dial}
        rows |= {"Samples": self.samples, "How many": self.count, "Guidance": self.guidance}
        rows |= {"Steps": self.steps, "Seed": self.seed}
        for text, widget in rows.items():
            self._layout.addRow(text, widget)
        self._rows = rows
        self.conditions = Conditions(self._layout, self.draw)
        self.model.currentTextChanged.connect(self._keep_model)  # before anybody looks at what is kept
        for box in (self.scan, self.task, self.model, self.scale, self.place):
            box.currentTextChanged.connect(self._on_change)
        for box in (self.dial, self.samples, self.steps, self.count, self.guidance):
            box.valueChanged.connect(self._on_change)
        self.model.activated.connect(lambda: self._take_model(self.model.currentText()))
        self.conditions.changed.connect(self._on_change)
        self.advanced.toggled.connect(self._on_change)
        self.estimated.toggled.connect(self._on_change)
        self.estimated.toggled.connect(self._keep_noise)
        self.noise_std.valueChanged.connect(self._keep_noise)
        self._on_change()

    def _on_change(self, *_: Any) -> None:
        task = self.task.currentText()
        shown = {"Task", "Model"} | _ROWS[task]
        if task == "denoise" and self.place.currentText() == DRAWN:
            shown.add("Region")
        self.advanced.setVisible(bool(shown & _ADVANCED))
        if not self.advanced.isChecked():
            shown -= _ADVANCED
        if task == "synthesize":
            self.conditions.show_for(self.model.currentText())
        if not self.conditions.can_guide():
            shown.discard("Guidance")
        for box in self.conditions.boxes.values():
            self._layout.setRowVisible(box, task == "synthesize")
        for text, widget in self._rows.items():
            self._layout.setRowVisible(widget, text in shown - self._without)
        self.noise_std.setEnabled(not self.estimated.isChecked())
        self.changed.emit()

    def list_scans(self, names: list[str], active: str) -> None:
        """Offer these scans, of which one is the active."""
        self.scan.blockSignals(True)
        self.scan.clear()
        self.scan.addItems(names)
        self.scan.setCurrentText(active)
        self.scan.blockSignals(False)
        self._on_change()

    def keep(self, entry: Entry | None) -> None:
        """Show which model and which noise are set for a scan, and keep there what the user sets."""
        self._entry = None
        value, estimated = (0.0, True) if entry is None else entry.noise_std
        self.noise_std.setValue(value)
        self.estimated.setChecked(estimated)
        if entry is not None and entry.model:
            self.model.setCurrentText(entry.model)
        self._entry = entry

    def able(self, volume: Volume | LazyScan | None) -> list[str]:
        """Models that can do the task on a scan, first the one that is set: the one chosen for the scan, if it can."""
        task, entry, self._entry = self.task.currentText(), self._entry, None  # what is set for want of it is not kept
        self.model.mark(None if task == "synthesize" else volume, task)
        if entry is not None and entry.model in self.model.able():
            self.model.setCurrentText(entry.model)
        self._entry = entry
        return self.model.able()

    def choose_model(self, scan: Volume | LazyScan | None, doubts: Doubts) -> bool:
        """Take the model that doubts a new scan least; False while a thread still looks at it."""
        chosen = self._entry is None or self._entry.model
        if scan is None or chosen or self.task.currentText() == "synthesize":
            return True
        able = self.able(scan)
        least = doubts.least(able, scan) if able else ""
        if least:
            self._take_model(least)
        return least is not None

    def _take_model(self, name: str) -> None:
        if self._entry is not None:
            self._entry.model = name
        self.model.setCurrentText(name)

    def _keep_model(self, name: str) -> None:
        if self._entry is not None and self._entry.model:
            self._entry.model = name

    def _keep_noise(self) -> None:
        if self._entry is not None:
            self._entry.noise_std = self.noise_std.value(), self.estimated.isChecked()

    def obstacle(self, volume: Volume | LazyScan | None) -> str:
        """Why nothing can be started now, in one sentence; "" if it can."""
        task, able = self.task.currentText(), self.able(volume)
        if self.model.count() == 0:
            return NO_MODEL
        if importlib.util.find_spec("torch") is None:
            return NO_TORCH
        if volume is None and task != "synthesize" and not self.many:
            return NO_SCAN
        if volume is not None:
            self.noise_std.setSuffix("" if volume.unit == "arbitrary" else f" {volume.unit}")
        if not able:
            return f"No installed model can {task} this scan; the list says why."
        return self.conditions.obstacle() if task == "synthesize" else ""

    def factor(self) -> int:
        """How much finer, for super-resolution."""
        return int(self.scale.currentText().split()[-1])

    def request(self, volume: Volume | LazyScan | None) -> Request:
        """The form as plain data, for the scan that it is about."""
        scale = (1, 1, 1)
        if self.task.currentText() == "super-resolve" and volume is not None:
            scale = refined(volume, self.factor(), self.model.across(volume))
        new = self.task.currentText() == "synthesize"
        return Request(
            task=self.task.currentText(),
            model=self.model.currentText(),
            noise_std=None if self.estimated.isChecked() else self.noise_std.value(),
            mode=0.0 if self.task.currentText() == "inpaint" else self.dial.value() / 100,
            samples=1 if self.task.currentText() == "inpaint" else self.samples.value(),
            steps=self.steps.value(),
            seed=self.seed.value(),
            scale=scale,
            count=self.count.value(),
            conditions=self.conditions.values() if new else {},
            guidance=self.guidance.value() if new and self.conditions.can_guide() else 1.0,
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
        self.guidance.setValue(request.guidance)
        if max(request.scale) > 1:
            self.scale.setCurrentText(f"× {max(request.scale)}")
