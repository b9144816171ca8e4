"""Judging: modes of comparison with a key each, and which result of which scan they are about."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from qtpy.QtCore import Qt, QTimer, Signal
from qtpy.QtWidgets import (
    QFormLayout,
    QGridLayout,
    QLabel,
    QPushButton,
    QSlider,
    QVBoxLayout,
    QWidget,
)

from napari_medldm.active import ActiveScan
from napari_medldm.adding import PaintLater, add_layer, remove_layers
from napari_medldm.background import in_background
from napari_medldm.compare import Comparison, residual_style, uncertainty_style
from napari_medldm.keys import MODES
from napari_medldm.layers import derived_layer, entry_of
from napari_medldm.readout import LEVEL
from napari_medldm.request import Request
from napari_medldm.running import Ran
from napari_medldm.verdict import Verdict, verdict

LEAST_RESIDUAL = 1e-3  # of the range: less is a rounding, not a residual
LAYER_MS = 100  # between two layers, so that the window is painted


class Done(NamedTuple):
    """One restoration that has ended: its layers, and what it was made of and how."""

    comparison: Comparison
    volume: Any
    mask: Any
    request: Request
    result: Any


class JudgeBox(QWidget):
    """Compare the last result of the active scan with it; `said(text)` tells what became of that.

    `shown` is emitted when a mode begins or ends.
    """

    said = Signal(str)
    shown = Signal()

    def __init__(self, active: ActiveScan) -> None:
        super().__init__()
        self.viewer, self.active = active.viewer, active
        self.done: list[Done] = []
        self.buttons: dict[str, QPushButton] = {}
        layout, grid = QVBoxLayout(self), QGridLayout()
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        for index, (mode, key) in enumerate(MODES.items()):
            button = QPushButton(f"{mode} ({key})")
            button.setCheckable(True)
            button.clicked.connect(partial(self.toggle, mode))
            self.buttons[mode] = button
            grid.addWidget(button, index // 2, index % 2)
        self.verdict = QLabel()
        self.verdict.setAlignment(Qt.AlignmentFlag.AlignCenter)
        grid.addWidget(self.verdict, len(MODES) // 2, 1)
        layout.addLayout(grid)
        self.wipe, self.threshold = (QSlider(Qt.Orientation.Horizontal) for _ in range(2))
        rows = QFormLayout()
        for text, slider in (("border", self.wipe), ("hide certain", self.threshold)):
            slider.setRange(0, 100)
            slider.setValue(50)
            rows.addRow(text, slider)
        layout.addLayout(rows)
        self._rows = rows
        self.wipe.valueChanged.connect(lambda value: self._with_last(lambda c: c.wipe(value / 100)))
        self.threshold.valueChanged.connect(self._threshold)
        self._show_mode()

    # --- results ---

    def add(self, ran: Ran, then: Callable[[], None]) -> None:
        """Residual and uncertainty beside the result; settings and provenance stay with them.

        then : called when all layers are there
        """
        source, layer, volume, mask, request, result = ran
        report = result.report | {"request": request.to_dict()}
        layers = [source, layer]
        bounds: list[Any] = []

        def look() -> tuple[tuple[Any, str, dict[str, Any]], ...]:
            """In a thread: medians of a large scan take their time."""
            if result.has_interval:
                bounds.extend(result.interval(LEVEL))
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
            comparison = Comparison(self.viewer, *layers)
            if bounds:
                lower, upper = (entry_of(layer).display.forward(bound.array) for bound in bounds)
                comparison.bounds = lower, upper
            self.done.append(Done(comparison, volume, mask, request, result))
            self._show_mode()
            then()

        in_background(look, add_next)

    def last(self) -> Done | None:
        """The last restoration of the active scan, or the one that made it, whose layers are still there."""
        self.done = [each for each in self.done if each.comparison.alive()]
        about = [each for each in self.done if self.active.layer in each.comparison.layers()[:2]]
        return about[-1] if about else None

    def follow(self) -> None:
        """Show the active scan as it was shown last."""
        self.close_comparisons()
        last = self.last()
        if last is not None:
            last.comparison.show(last.comparison.mode)
        self._show_mode()

    def remove_last(self) -> bool:
        """Take the layers of the last restoration away; False where there is none."""
        last = self.last()
        if last is None:
            return False
        comparison = last.comparison
        PaintLater(self.window())
        comparison.show("single")
        comparison.close()
        self.done = [each for each in self.done if each is not last]
        self.active.choose(comparison.source)
        remove_layers(self.viewer, comparison.layers()[1:])
        comparison.source.visible = True
        self._show_mode()
        return True

    def close_comparisons(self) -> None:
        for each in self.done:
            each.comparison.close()

    # --- looking ---

    def toggle(self, mode: str, *_: Any) -> None:
        """Into a mode of comparison, or out of it."""
        self._with_last(lambda comparison: comparison.toggle(mode))
        self._show_mode()

    def _show_mode(self) -> None:
        """Let the button of the mode that is on be seen, and the slider that belongs to it."""
        last = self.last()
        now = "" if last is None else last.comparison.mode
        for mode, button in self.buttons.items():
            button.setChecked(mode == now)
        self._rows.setRowVisible(self.wipe, now == "wipe")
        self._rows.setRowVisible(self.threshold, now == "uncertainty")
        self._show_verdict(None if last is None else verdict(last.result.report))
        self.shown.emit()

    def _show_verdict(self, said: Verdict | None) -> None:
        self.verdict.setText("" if said is None else said.short)
        self.verdict.setToolTip("" if said is None else said.text)
        colour = "transparent" if said is None else said.colour
        self.verdict.setStyleSheet(f"background: {colour}; color: black; font-weight: bold; padding: 2px 6px")

    def wipe_to(self, share: float) -> None:
        """Put the line of the wipe where it was dragged, between two steps of the slider, too."""
        self.wipe.blockSignals(True)
        self.wipe.setValue(round(100 * share))
        self.wipe.blockSignals(False)
        self._with_last(lambda comparison: comparison.wipe(share))

    def _with_last(self, action: Any) -> None:
        last = self.last()
        if last is None:
            self.said.emit("Restore a scan first.")
            return
        action(last.comparison)

    def _threshold(self, value: int) -> None:
        def apply(comparison: Comparison) -> None:
            top = float(comparison.uncertainty.data.max())
            comparison.threshold(top * value / 100)

        self._with_last(apply)
