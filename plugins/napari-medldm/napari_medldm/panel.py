"""The panel: which scan, which model, how; restore, cancel; then judge and save what came out."""

from __future__ import annotations

import importlib.util
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QProgressBar,
    QPushButton,
    QScrollArea,
    QSlider,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

import medldm
from napari_medldm.cost import Cost
from napari_medldm.jobs import Job, Workshop
from napari_medldm.judge import JudgeBox
from napari_medldm.layers import derived_layer, entry_of, volume_of
from napari_medldm.mark import keep_marked
from napari_medldm.request import Request, region_of_slice

if TYPE_CHECKING:
    import napari.viewer

TASKS = ("denoise", "super-resolve")
PLACES = ("whole scan", "current slice", "drawn region")
NO_TORCH = "Restoring needs PyTorch: pip install torch. Opening, comparing and saving work without it."
NO_MODEL = "No model is installed: pip install a medldm model pack, or train one with medldm train."


class RestorePanel(QWidget):
    """Restore a scan and judge the result. The scan's own layer is never changed."""

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self.viewer, self.job, self.workshop = viewer, None, Workshop()
        self.cost = Cost()
        self._shown: Any = None
        self._build()
        keep_marked(viewer)
        for event in (viewer.layers.events.inserted, viewer.layers.events.removed, viewer.layers.events.reordered):
            event.connect(self._list_scans)
        self._list_models()
        self._list_scans()

    # --- the form ---

    def _build(self) -> None:
        self.scan, self.model, self.task, self.place, self.scale = (QComboBox() for _ in range(5))
        self.task.addItems(TASKS)
        self.place.addItems(PLACES)
        self.scale.addItems(["× 2", "× 3", "× 4"])
        self.estimated = QCheckBox("estimate")
        self.estimated.setChecked(True)
        self.noise_std = QDoubleSpinBox()
        self.noise_std.setRange(0, 1e9)
        self.noise_std.setDecimals(3)
        self.noise_std.setEnabled(False)
        self.dial = QSlider(Qt.Orientation.Horizontal)
        self.dial.setRange(0, 100)
        self.samples, self.steps, self.seed = QSpinBox(), QSpinBox(), QSpinBox()
        for box, low, high, value in ((self.samples, 1, 32, 1), (self.steps, 2, 200, 20), (self.seed, 0, 2**31 - 1, 0)):
            box.setRange(low, high)
            box.setValue(value)
        self.start, self.stop, self.again = QPushButton("Restore"), QPushButton("Cancel"), QPushButton("Run again")
        self.undo = QPushButton("Undo")
        self.stop.setEnabled(False)
        self.progress, self.advice, self.message = QProgressBar(), QLabel(), QLabel()
        for label in (self.advice, self.message):
            label.setWordWrap(True)
        tips = {
            self.scan: "The scan to restore. Its layer stays as it is.",
            self.model: "Models that fit the scan can be chosen; the others say why not.",
            self.noise_std: "Standard deviation of the noise, in the scan's own unit.",
            self.dial: "Left: fidelity, the posterior mean. Right: perceptual, one plausible scan with its texture.",
            self.samples: "More than one shows where the model is unsure (slower).",
            self.seed: "The same seed gives the same result.",
            self.place: "A slice comes in seconds. A region is restored with a soft edge; outside it nothing changes.",
            self.undo: "Remove the layers of the last restoration.",
            self.again: "Set the form as it was for the marked result, and restore with it.",
        }
        for widget, text in tips.items():
            widget.setToolTip(text)
        form = QFormLayout()
        noise, dial = QHBoxLayout(), QHBoxLayout()
        noise.addWidget(self.noise_std)
        noise.addWidget(self.estimated)
        for widget in (QLabel("fidelity"), self.dial, QLabel("perceptual")):
            dial.addWidget(widget)
        rows = {"Scan": self.scan, "Task": self.task, "Model": self.model, "Refine by": self.scale, "Noise": noise}
        rows |= {"Result": dial, "Samples": self.samples, "Steps": self.steps, "Seed": self.seed, "Where": self.place}
        for text, widget in rows.items():
            form.addRow(text, widget)
        buttons = QHBoxLayout()
        for button in (self.start, self.stop, self.undo, self.again):
            buttons.addWidget(button)
        inner = QWidget()
        layout = QVBoxLayout(inner)
        layout.addLayout(form)
        layout.addWidget(self.advice)
        layout.addLayout(buttons)
        layout.addWidget(self.progress)
        layout.addWidget(self.message)
        self.judge = JudgeBox(self.viewer)
        layout.addWidget(self.judge)
        layout.addStretch(1)
        area = QScrollArea()
        area.setWidgetResizable(True)
        area.setWidget(inner)
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        outer.addWidget(area)
        self.setMinimumWidth(380)
        self.start.clicked.connect(self.restore)
        self.stop.clicked.connect(self.cancel)
        self.undo.clicked.connect(self.undo_last)
        self.again.clicked.connect(self.run_again)
        self.estimated.toggled.connect(lambda on: self.noise_std.setEnabled(not on))
        self.scan.currentTextChanged.connect(self._look)
        self.model.currentTextChanged.connect(self._look)
        self.task.currentTextChanged.connect(self._look)
        self.place.currentTextChanged.connect(self._look)
        self.dial.valueChanged.connect(self._look)
        self.samples.valueChanged.connect(self._look)

    def _list_scans(self, event: Any = None) -> None:
        names = [layer.name for layer in self.viewer.layers if (e := entry_of(layer)) and e.role in ("scan", "result")]
        now = self.scan.currentText()
        self.scan.blockSignals(True)
        self.scan.clear()
        self.scan.addItems(names)
        if now in names:
            self.scan.setCurrentText(now)
        self.scan.blockSignals(False)
        self._look()

    def _list_models(self) -> None:
        for pack in medldm.installed_models():
            self.model.addItem(pack.name)
            if pack.problem:
                item = self.model.model().item(self.model.count() - 1)
                item.setEnabled(False)
                item.setToolTip(pack.problem)

    def _mark_models(self, volume: Any) -> None:
        """Leave those models to choose from that can take the scan; the others say why not."""
        first = None
        for index, pack in enumerate(medldm.installed_models()):
            item = self.model.model().item(index)
            reason = pack.problem
            if not reason and pack.dims == 2 and volume.array.shape[2] != 1:
                reason = f"a model of single images; this scan has {volume.array.shape[2]} slices"
            if not reason and pack.dims == 3 and min(volume.array.shape) == 1:
                reason = "a model of volumes; this scan is a single image"
            item.setEnabled(not reason)
            item.setToolTip(reason)
            first = index if first is None and not reason else first
        if first is not None and not self.model.model().item(self.model.currentIndex()).isEnabled():
            self.model.setCurrentIndex(first)

    def source(self) -> Any | None:
        """The layer that is chosen, None where there is none."""
        name = self.scan.currentText()
        return self.viewer.layers[name] if name and name in self.viewer.layers else None

    def _look(self, *_: Any) -> None:
        """Say what would happen, before anything does."""
        source = self.source()
        self.scale.setEnabled(self.task.currentText() == "super-resolve")
        if self.model.count() == 0:
            self.advice.setText(NO_MODEL)
        elif importlib.util.find_spec("torch") is None:
            self.advice.setText(NO_TORCH)
        elif source is None:
            self.advice.setText("Open a scan: drop a NIfTI file, a DICOM folder or a zip file on the window.")
        else:
            entry = entry_of(source)
            assert entry is not None
            self._mark_models(entry.volume)
            self.noise_std.setSuffix("" if entry.volume.unit == "arbitrary" else f" {entry.volume.unit}")
            request = self.request()
            self.advice.setText(self.cost.describe(self._voxels(entry.volume), request))
        idle = self.job is None or not self.job.running()
        ready = source is not None and importlib.util.find_spec("torch") is not None
        fits = self.model.count() > 0 and self.model.model().item(self.model.currentIndex()).isEnabled()
        self.start.setEnabled(bool(idle and ready and fits))

    def _voxels(self, volume: Any) -> int:
        count = volume.array.size
        if self.place.currentText() == "current slice":
            axis = entry_of(self.source()).display.axes[self.viewer.dims.order[0]]
            count = count * min(33, volume.array.shape[axis]) // volume.array.shape[axis]
        return count * int(np.prod(self.request().scale))

    def request(self) -> Request:
        """The form as plain data."""
        volume = entry_of(self.source()).volume
        scale = [1, 1, 1]
        if self.task.currentText() == "super-resolve":
            factor = int(self.scale.currentText().split()[-1])
            flat = volume.array.shape[2] == 1
            thickest = 2 - int(np.argmax(volume.geometry.spacing[::-1]))
            for axis in (0, 1) if flat else (thickest,):
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
        )

    # --- running ---

    def _mask(self, source: Any, volume: Any) -> Any:
        """(I, J, K) mask of the slice or region, None for the whole scan. Raises MedldmError."""
        place, entry = self.place.currentText(), entry_of(source)
        if place == "whole scan" or self.task.currentText() != "denoise":
            return None
        if place == "current slice":
            shown = self.viewer.dims.order[0]
            index = round(float(source.world_to_data(self.viewer.dims.point)[shown]))
            index = int(np.clip(index, 0, source.data.shape[shown] - 1))
            return region_of_slice(volume, entry.display.axes[shown], index)
        from napari_medldm.regions import mask_of_shapes

        return entry.display.backward(mask_of_shapes(self.viewer, source))

    def restore(self) -> None:
        """Start; the result arrives in layers of its own."""
        source = self.source()
        if source is None or (self.job is not None and self.job.running()):
            return
        try:
            volume = volume_of(source)
            mask = self._mask(source, volume)
        except medldm.MedldmError as failure:
            self._failed(str(failure))
            return
        request = self.request()

        self.message.setText("")
        self.job = Job(self.workshop, volume, mask, request, self)
        self.job.progressed.connect(self._progressed)
        self.job.previewed.connect(partial(self._previewed, source))
        self.job.finished.connect(partial(self._finished, source, volume, request))
        self.job.failed.connect(self._failed)
        self.job.cancelled.connect(lambda: self.message.setText("Cancelled; nothing was changed."))
        self.job.ended.connect(self._ended)
        self.start.setEnabled(False)
        self.stop.setEnabled(True)
        self.progress.setRange(0, 0)
        self.cost.begin(self._voxels(volume), request)
        self.job.start()

    def cancel(self) -> None:
        """Stop at the next step."""
        if self.job is not None:
            self.job.cancel()
            self.message.setText("Stopping at the next step …")

    def _progressed(self, text: str, done: int, total: int) -> None:
        if text.startswith("warning: "):
            self.message.setText(text)
            return
        self.progress.setRange(0, total if text != "load" else 0)
        self.progress.setValue(done)
        self.progress.setFormat(f"{text} %v of %m")

    def _previewed(self, source: Any, volume: Any) -> None:
        style = {"contrast_limits": source.contrast_limits}
        data, attributes, _ = derived_layer(volume, "preview, AI-processed", source, {}, **style)
        if self._shown is not None and self._shown in self.viewer.layers and self._shown.data.shape == data.shape:
            self._shown.data = data
            return
        attributes["metadata"] = {}  # gone before it could be saved
        self._shown = self.viewer.add_image(data, **attributes)

    def _ended(self) -> None:
        if self._shown is not None and self._shown in self.viewer.layers:
            self.viewer.layers.remove(self._shown)
        self._shown = None
        self.progress.setRange(0, 1)
        self.progress.setValue(0)
        self.progress.setFormat("")
        self.stop.setEnabled(False)
        self.job = None
        self._look()

    def _failed(self, text: str) -> None:
        self.message.setText(text)

    def _finished(self, source: Any, volume: Any, request: Request, result: Any) -> None:
        self.cost.end()
        if source not in self.viewer.layers:
            self.message.setText("The scan was closed meanwhile; the result is dropped.")
            return
        report = result.report
        if request.task == "denoise" and self.estimated.isChecked():
            self.noise_std.setValue(report["noise_std"])
        noise = f"noise {report['noise_std']:.4g}" + (" (estimated)" if report["noise_std_estimated"] else "")
        structure = report["checks"]["residual_has_structure"]
        checks = "the residual holds structure: look at it" if structure else "the residual looks like noise"
        warned = "".join(f"\nwarning: {text}" for text in report["warnings"])
        text = f"Done: {noise}; {checks}.{warned}"
        self.judge.add(source, volume, request, result, lambda: self.message.setText(text))

    def undo_last(self) -> None:
        """Take the layers of the last restoration away."""
        if not self.judge.remove_last():
            self.message.setText("Nothing to undo.")

    def run_again(self) -> None:
        """Set the form as it was for the last result, and start."""
        request = self.judge.last_request()
        if request is None:
            self.message.setText("Nothing to run again.")
            return
        self.set_request(request)
        self.restore()

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
        if max(request.scale) > 1:
            self.scale.setCurrentText(f"× {max(request.scale)}")

    def closeEvent(self, event: Any) -> None:
        """Stop what runs before the window goes."""
        if self.job is not None:
            self.job.cancel()
        self.workshop.close()
        self.judge.close_comparisons()
        super().closeEvent(event)
