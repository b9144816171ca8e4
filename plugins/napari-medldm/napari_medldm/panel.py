"""The strip beside the canvas: open, restore, judge, save, from top to bottom, about the active scan."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from napari.layers import Labels
from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import QHBoxLayout, QLabel, QPushButton, QScrollArea, QVBoxLayout, QWidget

import medldm
from medldm import LazyScan, Volume
from napari_medldm.active import ActiveScan
from napari_medldm.adding import make_ready, set_apart, take_back
from napari_medldm.asking import with_maps
from napari_medldm.contexts import guard_canvases
from napari_medldm.docks import DocksButton
from napari_medldm.doubting import LOOKING, Doubts, look_beforehand
from napari_medldm.extent import NOTHING, SLICE, WHOLE, Extent, extent_of, mask_of
from napari_medldm.form import NEW, RestoreForm
from napari_medldm.jobs import Job
from napari_medldm.judge import JudgeBox
from napari_medldm.keys import MODES, THREE_PLANES, Keys
from napari_medldm.layers import entry_of, scan_of
from napari_medldm.mark import ReadyMark, keep_marked
from napari_medldm.measuring import MeasureButton
from napari_medldm.messages import Banner, Messages
from napari_medldm.opening import OpenBox, Opening
from napari_medldm.progress import Progress
from napari_medldm.reading import Reading
from napari_medldm.running import Ran, Runner
from napari_medldm.saving import SaveBox
from napari_medldm.viewing import ViewBox
from napari_medldm.welcome import Welcome

if TYPE_CHECKING:
    import napari.viewer

IDLE_MS = 300  # until the panel is painted
WIDTH = 320  # pixels: at 1280 of the window the canvas keeps three quarters


class RestorePanel(QWidget):
    """Restore the active scan and judge the result. The scan's own layer is never changed."""

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self.viewer = viewer
        keep_marked(viewer)
        guard_canvases()
        self.active = ActiveScan(viewer, self)
        self.run, self.opening = Runner(self.active, self), Opening(viewer, self)
        self.form, self.judge, self.view = RestoreForm("2 Restore"), JudgeBox(self.active), ViewBox(self.active)
        self.saving, self.doubts = SaveBox(self.judge.last, self.active.drawn), Doubts(self)
        self.progress, self.advice, self.message, self.banner = Progress(), Messages(), Messages(), Banner()
        self._build()
        self._connect()
        self.reading = Reading(self.active, self.judge, self.view, self)
        self.opening.beforehand = lambda: partial(look_beforehand, self.form.able(None))
        self.opening.take_drops(viewer.window._qt_window)
        self._ready = ReadyMark(viewer, self)
        self._follow()
        set_apart(viewer)
        QTimer.singleShot(IDLE_MS, make_ready)

    def _build(self) -> None:
        names = ("Restore", "Cancel", "Again", "Undo")
        self.start, self.stop, self.again, self.undo = (QPushButton(name) for name in names)
        self.stop.setEnabled(False)
        self.undo.setToolTip("Remove the layers of the last restoration.")
        self.again.setToolTip("Repeat the last restoration with its own settings, region and seed.")
        self.measure, self.docks = MeasureButton(self.viewer, self.active), DocksButton(self.viewer)
        buttons = QHBoxLayout()
        for button in (self.start, self.stop, self.undo, self.again):
            buttons.addWidget(button)
        inner = QWidget()
        layout = QVBoxLayout(inner)
        layout.setContentsMargins(6, 2, 6, 2)
        layout.setSpacing(4)
        restoring = QWidget()
        inside = QVBoxLayout(restoring)
        inside.setContentsMargins(0, 0, 0, 0)
        inside.setSpacing(4)
        for widget in (self.form, self.banner, self.advice):
            inside.addWidget(widget)
        inside.addLayout(buttons)
        inside.addWidget(self.progress)
        self.open_box = OpenBox(self.opening)
        self.welcome = Welcome(self.viewer, self.open_box)
        parts = {
            "1 Open": [self.open_box, self.view],
            "": [restoring],
            "3 Judge": [self.judge],
            "4 Save": [self.saving],
        }
        beside = {"1 Open": self.docks, "3 Judge": self.measure}
        for title, widgets in parts.items():
            if title:  # the form has its own
                heading = QHBoxLayout()
                heading.addWidget(QLabel(f"<b>{title}</b>"), 1)
                if title in beside:
                    heading.addWidget(beside[title])
                layout.addLayout(heading)
            for widget in widgets:
                layout.addWidget(widget)
        layout.addStretch(1)
        area = QScrollArea()
        area.setWidgetResizable(True)
        area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        area.setWidget(inner)
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        outer.addWidget(area, 1)
        outer.addWidget(self.message)  # never scrolled away
        self.setFixedWidth(WIDTH)

    def _connect(self) -> None:
        for teller in (self.run, self.opening, self.judge, self.saving):
            teller.said.connect(self.message.say)
        for teller in (self.run, self.opening):
            teller.unsaid.connect(self.message.unsay)
        self.run.stepped.connect(self.progress.show_step)
        self.run.changed.connect(self._run_changed)
        self.run.restored.connect(self._restored)
        self.keys = Keys(self.viewer, self)
        self.keys.bind(THREE_PLANES, self.view.orthogonal.toggle)
        for mode, key in MODES.items():
            self.keys.bind(key, partial(self.judge.toggle, mode))
        self.active.listed.connect(self._list_scans)
        self.active.changed.connect(self._follow)
        self.form.scan.currentTextChanged.connect(self._choose)
        self.form.changed.connect(self._look)
        self.doubts.known.connect(self._look)
        self.form.draw.clicked.connect(self.draw)
        self.banner.changed.connect(self._look)
        self.start.clicked.connect(lambda: self.restore())
        self.form.this_slice.clicked.connect(self.restore_slice)
        self.stop.clicked.connect(self.run.cancel)
        self.undo.clicked.connect(self.undo_last)
        self.again.clicked.connect(self.run_again)

    @property
    def job(self) -> Job | None:
        """What is being computed, None where nothing is."""
        return self.run.job

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
        self.form.conditions.offer([layer.name for layer in self.viewer.layers if isinstance(layer, Labels)], names)

    def _choose(self, name: str) -> None:
        if name in self.viewer.layers:
            self.active.choose(self.viewer.layers[name])

    def _follow(self) -> None:
        """Another scan is the active one: nothing that was said or set for the one before holds for it."""
        self.message.clear()
        self.form.keep(None if self.source() is None else entry_of(self.source()))
        self.judge.follow()
        self._list_scans()

    def _look(self) -> None:
        """Say what would happen, before anything does."""
        scan = self._scan()
        chosen, extent = self.form.choose_model(scan, self.doubts), self._extent(scan)
        obstacle = self.form.obstacle(scan) or self.run.cost.obstacle(extent)
        request, last = self.form.request(scan), self.judge.last()
        doubts: list[str] | None = []
        if not obstacle and request.task != "synthesize":
            doubts = self.doubts.of(request.model, scan, request.scale) if chosen else None
        self.banner.show_doubts(doubts or (), () if last is None else last.result.report.get("warnings", ()))
        ready = not self.run.running() and doubts is not None and self.banner.confirmed()
        self.start.setEnabled(ready and not obstacle)
        self.form.this_slice.setEnabled(ready and scan is not None)
        for button in (self.again, self.undo, *self.judge.buttons.values()):
            button.setEnabled(last is not None)
        self.saving.follow()
        most = self.form.draw.isVisibleTo(self.form)  # what is drawn may be small
        new = request.task == "synthesize"
        self.start.setText("Draw" if new else "Restore")
        cost = LOOKING if doubts is None else self.run.cost.describe(extent, request, most)
        self.advice.setText(obstacle or (NEW if new else cost))
        self.view.follow()

    def _extent(self, scan: Volume | LazyScan | None) -> Extent:
        request = self.form.request(scan)
        if scan is None or request.task == "synthesize":
            return NOTHING
        place, across = self.form.place.currentText(), self.form.model.across(scan)
        return extent_of(self.viewer, self.source(), scan, request, place, across)

    def draw(self) -> None:
        """A layer to paint the region in."""
        from napari_medldm.regions import start_painting

        source = self.source()
        if source is not None:
            start_painting(self.viewer, source)
            self.message.say("Paint the region, in as many slices as it has; keys 1 to 4 change the tool.")

    # --- running ---

    def restore_slice(self) -> None:
        """Start with the slice that is shown."""
        self.form.place.setCurrentText(SLICE)
        if self.start.isEnabled():
            self.restore()

    def restore(self, mask: Any = None) -> None:
        """Start, within `mask` (I, J, K) or, for None, where the form says; what comes out has its own layers."""
        if self.run.running():
            return
        self.message.clear()
        source, request, extent = self.source(), self.form.request(self._scan()), self._extent(self._scan())
        obstacle = self.run.cost.obstacle(extent)  # what is free may have changed
        if obstacle:
            self.message.say(obstacle)
        elif request.task == "synthesize":
            try:
                self.run.synthesize(with_maps(self.viewer, request))
            except medldm.MedldmError as failure:
                self.message.say(str(failure))
        elif source is not None:
            try:
                scan = scan_of(source)
                if mask is None:
                    mask = mask_of(self.viewer, source, scan, request.task, self.form.place.currentText())
            except medldm.MedldmError as failure:
                self.message.say(str(failure))
                return
            known = not self.form.draw.isVisibleTo(self.form)
            self.run.restore(source, scan, mask, request, extent.voxels if known else None)

    def _run_changed(self) -> None:
        self.stop.setEnabled(self.run.running())
        if not self.run.running():
            self.progress.clear()
        self._look()

    def _restored(self, ran: Ran) -> None:
        if ran.request.task == "denoise" and ran.request.noise_std is None:
            entry_of(ran.source).noise_std = ran.result.report["noise_std"], True
            self.form.keep(entry_of(self.source()))
        self.judge.add(ran, partial(self._say_done, ran))
        self._list_scans()

    def _say_done(self, ran: Ran) -> None:
        about = "" if self.active.shows(ran.source) else f" of {ran.source.name}"
        said = "; ".join(ran.said())
        self.message.say(f"Done{about}{': ' * bool(said)}{said}.")
        self._look()

    # --- afterwards ---

    def undo_last(self) -> None:
        """Take the layers of the last restoration away."""
        self.judge.remove_last()
        self._look()

    def run_again(self) -> None:
        """Set the form as it was for the last result, and start."""
        last = self.judge.last()
        if last is None:
            return
        self.active.choose(last.comparison.source)
        self.form.set_request(last.request)
        if last.mask is None:
            self.form.place.setCurrentText(WHOLE)
        self.restore(last.mask)

    def end(self) -> None:
        """Stop what runs, and follow the viewer no more; safe to call again."""
        take_back()
        self._ready.stop()
        self.opening.end()
        self.welcome.end()
        self.measure.end()
        self.keys.unbind()
        self.reading.end()
        self.active.close()
        self.run.end()
        self.view.end()
        self.judge.close_comparisons()

    def closeEvent(self, event: Any) -> None:
        """The window goes, or the dock."""
        self.end()
        super().closeEvent(event)
