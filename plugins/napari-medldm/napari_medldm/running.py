"""One restoration at a time: the job that computes it, the layer in which it appears, and what it costs."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from qtpy.QtCore import QObject, Signal
from qtpy.QtWidgets import QWidget

from medldm import LazyScan, Restoration, Volume
from napari_medldm.active import ActiveScan
from napari_medldm.adding import add_layer
from napari_medldm.cost import Cost
from napari_medldm.jobs import Job, Workshop
from napari_medldm.layers import Entry, hold, layer_data
from napari_medldm.live import Live
from napari_medldm.orientation import display_of
from napari_medldm.request import Request
from napari_medldm.worker import PREPARE

STOPPING = "Stopping …"


class Ran(NamedTuple):
    """A restoration that has ended: of which layer, and of what and how it was made; `layer` shows the result."""

    source: Any
    layer: Any
    volume: Volume
    mask: Any
    request: Request
    result: Restoration

    def said(self) -> list[str]:
        """What came of it, in words."""
        report, said = self.result.report, []
        checks = report.get("checks", {})
        if "noise_std" in report and self.request.task != "inpaint":  # there is no level to give
            said.append(f"noise {report['noise_std']:.4g}" + (" (estimated)" if report["noise_std_estimated"] else ""))
        if checks.get("voxels_filled") is not None:
            likely = "voxels filled with what the model holds likely, not with what was there"
            said.append(f"{checks['voxels_filled']} {likely}")
        if checks.get("residual_has_structure") is not None:
            structure = checks["residual_has_structure"]
            said.append("the residual holds structure: look at it" if structure else "the residual looks like noise")
        return said


class Runner(QObject):
    """Runs what the window asks for. `changed` is emitted when a run begins and when it has ended.

    said, unsaid : a line for the user, and that it is true no more
    stepped(text, done, total, left) : how far it is
    restored(Ran)
    """

    changed = Signal()
    said = Signal(str)
    unsaid = Signal(str)
    stepped = Signal(str, int, int, str)
    restored = Signal(object)

    def __init__(self, active: ActiveScan, panel: QWidget) -> None:
        super().__init__(panel)
        self.viewer, self.active, self.panel = active.viewer, active, panel
        self.workshop, self.cost = Workshop(), Cost()
        self.job: Job | None = None
        self.live: Live | None = None
        self._to_time: tuple[int, Request] | None = None

    def running(self) -> bool:
        return self.job is not None

    def synthesize(self, request: Request) -> None:
        """New scans, each in a layer of its own; the first is chosen at the end."""
        made: list[Any] = []
        job = self._job(None, None, request)
        job.made.connect(partial(self._made, request, made))
        job.finished.connect(lambda _: self._said_new(made))
        job.start()

    def restore(self, source: Any, scan: Volume | LazyScan, mask: Any, request: Request, voxels: int | None) -> None:
        """Restore the layer `source`, within `mask` (I, J, K) if that is not None.

        voxels : to learn from how long it takes, None where they are not known
        """
        self.live = Live(self.active, source, self.panel)
        job = self._job(scan, mask, request)
        self._to_time = None if voxels is None else (voxels, request)
        job.previewed.connect(self.live.preview)
        job.finished.connect(partial(self._finished, source, mask, request))
        job.start()

    def cancel(self) -> None:
        """Stop, within two seconds."""
        if self.job is not None:
            self.job.cancel()
            self.said.emit(STOPPING)

    def end(self) -> None:
        """The window goes."""
        if self.job is not None:
            self.job.cancel()
        self.workshop.close()

    def _job(self, scan: Volume | LazyScan | None, mask: Any, request: Request) -> Job:
        self.job = Job(self.workshop, scan, mask, request, self)
        self._to_time = None
        self.job.progressed.connect(self._progressed)
        self.job.failed.connect(self.said)
        self.job.cancelled.connect(lambda: self.said.emit("Cancelled; nothing was changed."))
        self.job.ended.connect(self._ended)
        self.stepped.emit("", 0, 0, "")
        self.changed.emit()
        return self.job

    def _progressed(self, text: str, done: int, total: int) -> None:
        if text == PREPARE and self._to_time is not None:  # the model is loaded
            self.cost.begin(*self._to_time)
        self.stepped.emit(text, done, total if text != "load" else 0, self.cost.left(done, total))

    def _ended(self) -> None:
        if self.live is not None:
            self.live.discard()
            self.live = None
        self.unsaid.emit(STOPPING)
        if self.job is not None and self.job.wait(0.1):  # else it still reads a scan that nobody waits for
            self.job.deleteLater()
        self.job = None
        self.changed.emit()

    def _made(self, request: Request, made: list[Any], volume: Volume) -> None:
        number = volume.history[-1].get("index", 0) + 1
        entry = Entry(volume, display_of(volume.geometry), "synthetic", report={"request": request.to_dict()})
        said = [f"{key} {value}" for key, value in request.to_dict().get("conditions", {}).items()]
        said += [f"guidance {request.guidance:g}"] if request.guidance != 1 else []
        name = f"synthetic {number} of {', '.join([Path(request.model).name, *said])}, seed {request.seed}"
        data, attributes, _ = layer_data(volume, name, entry, visible=self.active.layer is None)
        made.append(add_layer(self.viewer, self.panel, data, attributes))

    def _said_new(self, made: list[Any]) -> None:
        if made and made[0] in self.viewer.layers:
            self.active.choose(made[0])
        self.said.emit(f"Done: {len(made)} new.")

    def _finished(self, source: Any, mask: Any, request: Request, result: Restoration) -> None:
        self.cost.end()
        volume, live, self.live = self.job.volume, self.live, None
        if source not in self.viewer.layers:
            live.discard()
            self.said.emit("The scan was closed meanwhile; the result is dropped.")
            return
        hold(source, volume)
        layer = live.finish(result.volume, result.report | {"request": request.to_dict()})
        self.restored.emit(Ran(source, layer, volume, mask, request, result))
