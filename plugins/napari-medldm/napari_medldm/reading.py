"""The canvases as a reading station: black, with corners, the mouse, and what is under the cursor in the status bar."""

from __future__ import annotations

from typing import Any

import numpy as np
from qtpy.QtCore import QObject, QTimer
from qtpy.QtWidgets import QWidget

from napari_medldm.active import ActiveScan
from napari_medldm.compare import Comparison
from napari_medldm.corners import Corners
from napari_medldm.judge import JudgeBox
from napari_medldm.mouse import ReadingMouse
from napari_medldm.readout import Readout
from napari_medldm.verdict import Verdict, verdict
from napari_medldm.viewing import ViewBox

BLACK = "black"  # whatever the theme: eyes that read grey images are not to be dazzled


class Reading(QObject):
    """Of the window of a panel, until `end`."""

    def __init__(self, active: ActiveScan, judge: JudgeBox, view: ViewBox, panel: QWidget) -> None:
        super().__init__(panel)
        self.viewer, self.judge, self.view = active.viewer, judge, view
        canvas = self.viewer.window._qt_viewer
        self._background = self.viewer.canvas.background_color_override
        self.viewer.canvas.background_color_override = BLACK
        self.corners = Corners(canvas, self.viewer, self.comparison, self._verdict)
        self.mouse = ReadingMouse(canvas, self.viewer, active, self.corners.border)
        self.readout = Readout(active, self.comparison)
        self.viewer.window._qt_window.statusBar().addPermanentWidget(self.readout)
        self._share: float | None = None
        self._wiping = QTimer(self)  # a drag sends more than can be drawn
        self._wiping.setSingleShot(True)
        self._wiping.timeout.connect(self._wipe)
        self.mouse.wiped.connect(self._wiped)
        self.mouse.windowed.connect(view.follow)
        self.mouse.enlarge.connect(view.enlarge)
        for changed in (judge.shown, active.changed):
            changed.connect(self.corners.update)
            changed.connect(self.readout.again)
        view.opened.connect(self._views)
        view.orthogonal.toggled.connect(self._cross)
        self.viewer.dims.events.ndim.connect(self._hide_numbers)
        self._hide_numbers()

    def comparison(self) -> Comparison | None:
        last = self.judge.last()
        return None if last is None else last.comparison

    def _verdict(self) -> Verdict | None:
        last = self.judge.last()
        return None if last is None else verdict(last.result.report)

    def _views(self) -> None:
        """Three more canvases are there, or will be."""
        for model in self.view.views.models.values():
            self.readout.listen(model)

    def _hide_numbers(self, event: Any = None, hidden: bool = True) -> None:
        """Napari counts slices from 0, and the corner from 1 as everybody else."""
        sliders = self.viewer.window._qt_viewer.dims
        for name in ("slice_label", "slice_label_sep"):
            for each in sliders.findChildren(QWidget, name):
                each.setHidden(hidden)

    def _cross(self, on: bool) -> None:
        self.corners.crosshair = on
        self.corners.update()

    def _wiped(self, x: float) -> None:
        comparison = self.comparison()
        if comparison is not None:
            self._share = comparison.share_at(self.corners.world_of(float(np.clip(x, 0, self.corners.width()))))
            self._wiping.start(0)

    def _wipe(self) -> None:
        if self._share is not None:
            self.judge.wipe_to(self._share)
            self.corners.update()

    def end(self) -> None:
        """The window is napari's again; safe to call again."""
        self._wiping.stop()
        self.viewer.dims.events.ndim.disconnect(self._hide_numbers)
        self._hide_numbers(hidden=False)
        self.mouse.let_go()
        self.corners.close_corners()
        self.readout.ignore()
        self.viewer.window._qt_window.statusBar().removeWidget(self.readout)
        self.viewer.canvas.background_color_override = self._background
