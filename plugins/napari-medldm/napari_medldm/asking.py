"""What a model can be asked for when it draws new scans: a widget for each of its conditions, and their values."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from napari.layers import Labels
from qtpy.QtCore import QObject, Qt, Signal
from qtpy.QtWidgets import QComboBox, QDoubleSpinBox, QFormLayout, QLabel, QLineEdit, QWidget

from medldm import MedldmError, Volume
from medldm.conditions import MAPS, ClassCondition, LabelMapCondition, NumberCondition, in_words
from medldm.installed import read_tables
from napari_medldm.label_maps import meta_of, volume_of_labels
from napari_medldm.layers import volume_of
from napari_medldm.request import Request

ANY, NONE = "any", "none"
LONGEST_NAME = 110  # pixels of a condition's name; the whole of a longer one is its tip


class Conditions(QObject):
    """A row a condition of the chosen model, in a form, below the row of `above`: a list, a number, words, or a layer.

    `changed` is emitted when one is. What is left at "any" is left open.
    """

    changed = Signal()

    def __init__(self, form: QFormLayout, above: QWidget) -> None:
        super().__init__(above)
        self.boxes: dict[str, QWidget] = {}
        self._tables: dict[str, Any] = {}
        self._required: tuple[str, ...] = ()
        self._model = ""
        self._layers: dict[bool, list[str]] = {True: [], False: []}
        self._form, self._above = form, above

    def show_for(self, model: str) -> None:
        """The rows of another model; those of the same one stay as they are."""
        if model == self._model:
            return
        self._model, self._tables, self._required = model, {}, ()
        try:
            synthesis = getattr(read_tables(model), "synthesis", None)
        except MedldmError:
            synthesis = None  # it is said when it is to be loaded
        if synthesis is not None:
            self._tables, self._required = dict(synthesis.conditions), synthesis.required
        for box in self.boxes.values():
            self._form.removeRow(box)
        self.boxes = {name: self._box(name, table) for name, table in self._tables.items()}
        row = 1 + self._form.getWidgetPosition(self._above)[0]
        for number, (name, box) in enumerate(self.boxes.items()):
            box.setToolTip(in_words(self._tables[name]) + "; its grid is fitted to the model's" * self._is_map(name))
            label = QLabel(self._above.fontMetrics().elidedText(name, Qt.TextElideMode.ElideRight, LONGEST_NAME))
            label.setToolTip(name)
            self._form.insertRow(row + number, label, box)
        self._list_layers()

    def offer(self, labels: list[str], scans: list[str]) -> None:
        """Names of the layers that can be chosen for label maps, and for conditions that are scans."""
        self._layers = {True: labels, False: scans}
        self._list_layers()

    def values(self) -> dict[str, Any]:
        """Of what was said: a word, a number, words; of a map the name of the layer."""
        found: dict[str, Any] = {}
        for name, box in self.boxes.items():
            if isinstance(box, QComboBox) and box.currentText() not in ("", ANY, NONE):
                found[name] = box.currentText()
            elif isinstance(box, QDoubleSpinBox) and box.text() != ANY:
                found[name] = round(box.value(), box.decimals())
            elif isinstance(box, QLineEdit) and box.text().strip():
                found[name] = box.text().strip()
        return found

    def can_guide(self) -> bool:
        """Whether the model was trained with and without its conditions, which guidance compares."""
        return bool(self.boxes) and not self._required

    def obstacle(self) -> str:
        """What still has to be said, "" if nothing has."""
        missing = [name for name in self._required if name not in self.values()]
        return f"This model has to be told {missing[0]}: {in_words(self._tables[missing[0]])}." if missing else ""

    def set_values(self, said: dict[str, Any]) -> None:
        """Fill the rows; what is not said is left open."""
        for name, box in self.boxes.items():
            value = said.get(name)
            if isinstance(box, QComboBox):
                box.setCurrentText(box.itemText(0) if value is None else str(value))
            elif isinstance(box, QDoubleSpinBox):
                box.setValue(box.minimum() if value is None else float(value))
            elif isinstance(box, QLineEdit):
                box.setText("" if value is None else str(value))

    def _is_map(self, name: str) -> bool:
        return isinstance(self._tables[name], MAPS)

    def _box(self, name: str, table: Any) -> QWidget:
        required = name in self._required
        if isinstance(table, NumberCondition):
            number = QDoubleSpinBox()
            number.setDecimals(max(0, 2 - math.floor(math.log10(table.high - table.low))))
            step = 10.0 ** -number.decimals()
            number.setRange(table.low - (0 if required else step), table.high)
            number.setSingleStep(max(step, float(f"{(table.high - table.low) / 20:.1g}")))
            number.setSpecialValueText("" if required else ANY)
            number.setValue(number.minimum())
            number.valueChanged.connect(self.changed)
            return number
        if isinstance(table, ClassCondition) or self._is_map(name):
            choice = QComboBox()
            choice.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
            if isinstance(table, ClassCondition):
                choice.addItems([*([] if required else [ANY]), *table.values])
            choice.currentTextChanged.connect(self.changed)
            return choice
        words = QLineEdit()
        words.setPlaceholderText(ANY)
        words.textChanged.connect(self.changed)
        return words

    def _list_layers(self) -> None:
        for name, box in self.boxes.items():
            if not self._is_map(name):
                continue
            assert isinstance(box, QComboBox)
            chosen = box.currentText()
            box.blockSignals(True)
            box.clear()
            box.addItems([NONE, *self._layers[isinstance(self._tables[name], LabelMapCondition)]])
            box.setCurrentText(chosen)
            box.blockSignals(False)


def with_maps(viewer: Any, request: Request) -> Request:
    """The request with scans in place of the names of layers, on the grid of its model. Raises MedldmError."""
    pack: Any = read_tables(request.model)
    maps = {name for name, table in pack.synthesis.conditions.items() if isinstance(table, MAPS)}
    said = dict(request.conditions)
    for name in maps & said.keys():
        if said[name] not in viewer.layers:
            raise MedldmError(name, "a layer that is not there any more", "one of the list")
        layer = viewer.layers[said[name]]
        labels = isinstance(layer, Labels)
        said[name] = _fitted(
            volume_of_labels(layer.data, meta_of(layer)) if labels else volume_of(layer), pack, nearest=labels
        )
    return replace(request, conditions=said)


def _fitted(volume: Volume, pack: Any, *, nearest: bool) -> Volume:
    """On the model's grid: its axes and voxel size, cut and filled around the middle."""
    turned = volume if pack.axcodes is None else volume.reorient(pack.axcodes)
    spacing, shape = pack.trained_spacing, pack.synthesis.shape
    if not np.allclose(turned.geometry.spacing[: pack.dims], spacing[: pack.dims], rtol=0.02):
        turned = turned.resample((*spacing[: pack.dims], *turned.geometry.spacing[pack.dims :]), nearest=nearest)
    more = np.subtract(shape, turned.array.shape)
    cut, fill = np.maximum(-more, 0), np.maximum(more, 0)
    kept = turned.crop(cut // 2, cut // 2 + np.minimum(shape, turned.array.shape))
    return kept.pad(fill // 2, fill - fill // 2, "constant")
