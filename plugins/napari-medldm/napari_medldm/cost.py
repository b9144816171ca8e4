"""How long a restoration will take, by what this machine took before, and whether there is the memory for it."""

from __future__ import annotations

import time

import psutil
from qtpy.QtCore import QSettings

from napari_medldm.extent import Extent
from napari_medldm.request import Request

MARGIN = 1.5  # times the memory that is expected: models differ, and so do the parts of a machine's libraries
STEP_SHARE = 0.15  # of a whole pass: the steps of a sampler stay in the latent space
UNKNOWN = "not known on this machine yet; the current slice is soon done and tells"


class Cost:
    """Seconds a voxel and pass of each model, learned from every run that ends and kept for the next session.

    rates : where they are kept; by default with the settings of the user
    """

    def __init__(self, rates: QSettings | None = None) -> None:
        place = QSettings.Format.IniFormat, QSettings.Scope.UserScope, "medldm", "napari-medldm"
        self._rates = rates or QSettings(*place)
        self._begun: tuple[float, float, str] | None = None

    def work(self, voxels: int, request: Request) -> float:
        """Voxels times passes."""
        if request.samples == 1:
            return float(voxels)
        return voxels * request.samples * (1 + STEP_SHARE * request.steps)

    def seconds(self, voxels: int, request: Request) -> float | None:
        """None where this machine has not run the model yet."""
        rate = self._rates.value(self._key(request))
        return None if rate is None else float(rate) * self.work(voxels, request)

    def describe(self, extent: Extent, request: Request, most: bool = False) -> str:
        """One sentence for the form; `most`: of a part whose size is not known."""
        seconds, how = self.seconds(extent.voxels, request), "at most" if most else "about"
        time_ = f"time: {UNKNOWN}" if seconds is None else f"{how} {duration(seconds)}"
        return f"{time_}; {how} {extent.memory / 1e9:.1f} GB"

    def obstacle(self, extent: Extent) -> str:
        """Why there is too little memory, "" if there is enough."""
        needed, free = MARGIN * extent.memory / 1e9, psutil.virtual_memory().available / 1e9
        if needed <= free:
            return ""
        return f"It may take {needed:.1f} GB of memory, and {free:.1f} GB are free: restore a slice or a region."

    def begin(self, voxels: int, request: Request) -> None:
        """The model is loaded, and computes from now on."""
        self._begun = time.monotonic(), self.work(voxels, request), self._key(request)

    def end(self) -> None:
        """Learn from the run that `begin` started."""
        if self._begun is not None and self._begun[1] > 0:
            started, work, key = self._begun
            self._rates.setValue(key, (time.monotonic() - started) / work)
        self._begun = None

    def left(self, done: int, total: int) -> str:
        """How long a run that has begun still takes, "" where that cannot be told."""
        if self._begun is None or not 0 < done < total:
            return ""
        return f", {duration((time.monotonic() - self._begun[0]) / done * (total - done))} left"

    def _key(self, request: Request) -> str:
        name = "".join(c if c.isalnum() or c in "-." else "-" for c in request.model)
        return f"seconds-per-voxel/{name}/{'mean' if request.samples == 1 else 'sampled'}"


def duration(seconds: float) -> str:
    """Seconds up to a minute and a half, then minutes."""
    return f"{max(seconds, 1):.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
