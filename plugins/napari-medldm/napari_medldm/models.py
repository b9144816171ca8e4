"""The installed models in a list: those that fit can be chosen, the others say why not."""

from __future__ import annotations

from typing import Any

from qtpy.QtWidgets import QComboBox

import medldm
from medldm import LazyScan, MedldmError, Volume
from medldm.installed import read_tables
from napari_medldm.request import TASKS, across


def reason_against(pack: Any, volume: Volume | LazyScan | None, task: str) -> str:
    """Why a model cannot do `task` on a scan, "" if it can; what else it doubts it says before it runs."""
    if pack.problem:
        return str(pack.problem)
    if not (pack.synthesizes if task == "synthesize" else TASKS[task] in pack.problems):
        return f"a model that was not trained to {task}"
    if volume is None:
        return ""
    if pack.dims == 3 and min(volume.geometry.shape) == 1:
        return "a model of volumes; this scan is a single image"
    return ""


class ModelBox(QComboBox):
    """Names of the installed models."""

    def __init__(self) -> None:
        super().__init__()
        self.packs = medldm.installed_models()
        self.addItems([pack.name for pack in self.packs])

    def mark(self, volume: Volume | LazyScan | None, task: str) -> None:
        """Leave those to choose from that can do `task` on `volume` (on any scan, for None)."""
        first = None
        for index, pack in enumerate(self.packs):
            item, reason = self.model().item(index), reason_against(pack, volume, task)
            item.setEnabled(not reason)
            item.setToolTip(reason)
            first = index if first is None and not reason else first
        if first is not None and not self.fits():
            self.setCurrentIndex(first)

    def able(self) -> list[str]:
        """Names of those that can be chosen, first the one that is."""
        items = [self.model().item(index) for index in range(self.count())]
        names = [item.text() for item in items if item.isEnabled()]
        return sorted(names, key=lambda name: name != self.currentText())

    def across(self, scan: Volume | LazyScan) -> int | None:
        """The axis across which the chosen model takes a scan slice by slice; None for a model of volumes."""
        try:
            return across(read_tables(self.currentText()), scan)
        except MedldmError:
            return None  # it is said when it is to be loaded

    def fits(self) -> bool:
        """Whether the chosen model can be used."""
        return self.count() > 0 and self.model().item(self.currentIndex()).isEnabled()
