"""The panel: a form, the run it starts, and what came out of it, to be judged and saved."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtWidgets import QHBoxLayout, QPushButton, QScrollArea, QVBoxLayout, QWidget

import medldm
from medldm import LazyScan, Volume
from napari_medldm.active import ActiveScan
from napari_medldm.adding import add_layer
from napari_medldm.contexts import guard_canvases
from napari_medldm.cost import Cost
from napari_medldm.form import RestoreForm
from napari_medldm.jobs import Job, Workshop
from napari_medldm.judge import JudgeBox
from napari_medldm.keys import MODES, THREE_PLANES, Keys
from napari_medldm.layers import Entry, entry_of, hold, layer_data, scan_of
from napari_medldm.live import Live
from napari_medldm.mark import keep_marked
from napari_medldm.messages import Banner, Messages
from napari_medldm.opening import Opening
from napari_medldm.orientation import display_of
from napari_medldm.progress import Progress
from napari_medldm.request import CONTEXT, Request, region_of_slice
from napari_medldm.viewing import ViewBox

if TYPE_CHECKING:
    import napari.viewer

STOPPING = "Stopping at the next step …"


class RestorePanel(QWidget):
    """Restore a scan and judge the result. The scan's own layer is never changed."""

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self.viewer, self.job, self.workshop = viewer, None, Workshop()
        self.cost, self.live = Cost(), None
        keep_marked(viewer)
        guard_canvases()
        self.active = ActiveScan(viewer, self)
        self.form, self.judge = RestoreForm(), JudgeBox(self.active)
        self.view = ViewBox(self.active)
        self._build()
        self.opening = Opening(viewer, self)
        self.opening.said.connect(self.message.say)
        self.opening.take_drops(viewer.window._qt_window)
        self.keys = Keys(viewer, self)
        self.keys.bind(THREE_PLANES, self.view.orthogonal.toggle)
        for mode, key in MODES.items():
            self.keys.bind(key, partial(self.judge.toggle, mode))
        self.active.listed.connect(self._list_scans)
        self.active.changed.connect(self._follow)
        self.form.scan.currentTextChanged.connect(self._choose)
        self.form.changed.connect(self._look)
        self.form.draw.clicked.connect(self.draw)
        self._follow()

    def _build(self) -> None:
        self.start, self.stop, self.again = QPushButton("Restore"), QPushButton("Cancel"), QPushButton("Run again")
        self.undo = QPushButton("Undo")
        self.stop.setEnabled(False)
        self.undo.setToolTip("Remove the layers of the last restoration.")
        self.again.setToolTip("Repeat the last restoration with its own settings, region and seed.")
        self.progress, self.advice, self.message, self.banner = Progress(), Messages(), Messages(), Banner()
        buttons = QHBoxLayout()
        for button in (self.start, self.stop, self.undo, self.again):
            buttons.addWidget(button)
        inner = QWidget()
        layout = QVBoxLayout(inner)
        layout.addWidget(self.form)
        layout.addWidget(self.banner)
        layout.addWidget(self.advice)
        layout.addLayout(buttons)
        layout.addWidget(self.progress)
        layout.addWidget(self.message)
        layout.addWidget(self.view)
        layout.addWidget(self.judge)
        layout.addStretch(1)
        area = QScrollArea()
        area.setWidgetResizable(True)
        area.setWidget(inner)
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        outer.addWidget(area)
        self.setMinimumWidth(380)
        self.start.clicked.connect(lambda: self.restore())
        self.stop.clicked.connect(self.cancel)
        self.undo.clicked.connect(self.undo_last)
        self.again.clicked.connect(self.run_again)
        self.banner.changed.connect(self._look)

    # --- before anything runs ---

    def source(self) -> Any | None:
        """The layer of the active scan, None where there is none."""
        return self.active.layer

    def _scan(self) -> Volume | LazyScan | None:
        source = self.source()
        return None if source is None else entry_of(source).volume

    def _list_scans(self) -> None:
        source = self.source()
        names = [layer.name for layer in self.active.scans()]
        self.form.list_scans(names, "" if source is None else source.name)

    def _choose(self, name: str) -> None:
        if name in self.viewer.layers:
            self.active.choose(self.viewer.layers[name])

    def _follow(self) -> None:
        """Another scan is the active one: nothing that was said or set for the one before holds for it."""
        self.message.clear()
        self.form.keep_noise(None if self.source() is None else entry_of(self.source()))
        self.judge.follow()
        self._list_scans()

    def _look(self) -> None:
        """Say what would happen, before anything does."""
        scan = self._scan()
        obstacle = self.form.obstacle(scan)
        idle = self.job is None or not self.job.running()
        request, last = self.form.request(scan), self.judge.last()
        doubts = [] if obstacle or request.task == "synthesize" else self.form.model.doubts(scan, request.scale)
        self.banner.show_doubts(doubts, () if last is None else last.result.report.get("warnings", ()))
        self.start.setEnabled(bool(idle and not obstacle and self.banner.confirmed()))
        most = "at most " if self.form.draw.isVisibleTo(self.form) else ""  # what is drawn may be small
        self.advice.setText(obstacle or most + self.cost.describe(self._voxels(scan), request))
        self.view.follow()

    def _voxels(self, scan: Volume | LazyScan | None) -> int:
        if scan is None or self.form.task.currentText() == "synthesize":
            return 0
        count = int(np.prod(scan.geometry.shape))
        if self.form.task.currentText() == "denoise" and self.form.place.currentText() == "current slice":
            thickness = scan.geometry.shape[entry_of(self.source()).display.axes[self.viewer.dims.order[0]]]
            count = count * min(2 * CONTEXT + 1, thickness) // thickness
        return count * int(np.prod(self.form.request(scan).scale))

    def _mask(self, source: Any, scan: Volume | LazyScan) -> Any:
        """(I, J, K) mask of the slice or region, None for the whole scan. Raises MedldmError."""
        task, place, entry = self.form.task.currentText(), self.form.place.currentText(), entry_of(source)
        if task == "super-resolve" or (task == "denoise" and place == "whole scan"):
            return None
        if task == "denoise" and place == "current slice":
            shown = self.viewer.dims.order[0]
            index = round(float(source.world_to_data(self.viewer.dims.point)[shown]))
            index = int(np.clip(index, 0, source.data.shape[shown] - 1))
            return region_of_slice(scan, entry.display.axes[shown], index)
        from napari_medldm.regions import drawn_mask

        return entry.display.backward(drawn_mask(self.viewer, source))

    def draw(self) -> None:
        """A layer to paint the region in."""
        from napari_medldm.regions import start_painting

        source = self.source()
        if source is not None:
            start_painting(self.viewer, source)
            self.message.say("Paint the region, in as many slices as it has; keys 1 to 4 change the tool.")

    # --- running ---

    def restore(self, mask: Any = None) -> None:
        """Start, within `mask` (I, J, K) or, for None, where the form says; what comes out has its own layers."""
        if self.job is not None and self.job.running():
            return
        request = self.form.request(self._scan())
        self.message.clear()
        if request.task == "synthesize":
            self._start(None, None, request)
            made: list[Any] = []
            self.job.made.connect(partial(self._made, request, made))
            self.job.finished.connect(lambda _: self._said_new(made))
            self.job.start()
            return
        source = self.source()
        if source is None:
            return
        try:
            scan = scan_of(source)
            mask = self._mask(source, scan) if mask is None else mask
        except medldm.MedldmError as failure:
            self.message.say(str(failure))
            return
        self.live = Live(self.active, source, self)
        self._start(scan, mask, request)
        self.job.previewed.connect(self.live.preview)
        self.job.finished.connect(partial(self._finished, source, mask, request))
        self.job.start()

    def _start(self, scan: Volume | LazyScan | None, mask: Any, request: Request) -> None:
        self.job = Job(self.workshop, scan, mask, request, self)
        self.job.progressed.connect(self._progressed)
        self.job.failed.connect(self.message.say)
        self.job.cancelled.connect(lambda: self.message.say("Cancelled; nothing was changed."))
        self.job.ended.connect(self._ended)
        self.start.setEnabled(False)
        self.stop.setEnabled(True)
        self.progress.show_step("", 0, 0)
        self.cost.begin(self._voxels(scan), request)

    def cancel(self) -> None:
        """Stop at the next step."""
        if self.job is not None:
            self.job.cancel()
            self.message.say(STOPPING)

    def _progressed(self, text: str, done: int, total: int) -> None:
        self.progress.show_step(text, done, total if text != "load" else 0)

    def _ended(self) -> None:
        if self.live is not None:
            self.live.discard()
            self.live = None
        self.progress.clear()
        self.message.unsay(STOPPING)
        self.stop.setEnabled(False)
        self.job.wait(1)
        self.job.deleteLater()
        self.job = None
        self._look()

    def _made(self, request: Request, made: list[Any], volume: Volume) -> None:
        number = volume.history[-1].get("index", 0) + 1
        entry = Entry(volume, display_of(volume.geometry), "synthetic", report={"request": request.to_dict()})
        name = f"synthetic {number} of {request.model}, seed {request.seed}"
        data, attributes, _ = layer_data(volume, name, entry, visible=self.source() is None)
        made.append(add_layer(self.viewer, self, data, attributes))

    def _said_new(self, made: list[Any]) -> None:
        if made and made[0] in self.viewer.layers:
            self.active.choose(made[0])
        self.message.say(f"Done: {len(made)} new.")

    def _finished(self, source: Any, mask: Any, request: Request, result: medldm.Restoration) -> None:
        self.cost.end()
        volume = self.job.volume
        live, self.live = self.live, None
        if source not in self.viewer.layers:
            live.discard()
            self.message.say("The scan was closed meanwhile; the result is dropped.")
            return
        hold(source, volume)
        report = result.report
        if request.task == "denoise" and request.noise_std is None:
            entry_of(source).noise_std = report["noise_std"], True
            self.form.keep_noise(entry_of(self.source()))
        layer = live.finish(result.volume, report | {"request": request.to_dict()})
        self.judge.add(source, layer, (volume, mask, request, result), partial(self._say_done, source, report))
        self._list_scans()

    def _say_done(self, source: Any, report: dict[str, Any]) -> None:
        said = []
        if "noise_std" in report:
            said.append(f"noise {report['noise_std']:.4g}" + (" (estimated)" if report["noise_std_estimated"] else ""))
        structure = report.get("checks", {}).get("residual_has_structure")
        filled = report.get("checks", {}).get("voxels_filled")
        if filled is not None:
            said.append(f"{filled} voxels filled with what the model holds likely, not with what was there")
        if structure is not None:
            said.append("the residual holds structure: look at it" if structure else "the residual looks like noise")
        about = "" if self.active.shows(source) else f" of {source.name}"
        self.message.say(f"Done{about}{': ' * bool(said)}{'; '.join(said)}.")
        self._look()

    # --- afterwards ---

    def undo_last(self) -> None:
        """Take the layers of the last restoration away."""
        if not self.judge.remove_last():
            self.message.say("Nothing to undo.")

    def run_again(self) -> None:
        """Set the form as it was for the last result, and start."""
        last = self.judge.last()
        if last is None:
            self.message.say("Nothing to run again.")
            return
        self.active.choose(last.comparison.source)
        self.form.set_request(last.request)
        if last.mask is None:
            self.form.place.setCurrentText("whole scan")
        self.restore(last.mask)

    def end(self) -> None:
        """Stop what runs, and follow the viewer no more; safe to call again."""
        if self.job is not None:
            self.job.cancel()
        self.opening.end()
        self.keys.unbind()
        self.active.close()
        self.workshop.close()
        self.view.end()
        self.judge.close_comparisons()

    def closeEvent(self, event: Any) -> None:
        """The window goes, or the dock."""
        self.end()
        super().closeEvent(event)
