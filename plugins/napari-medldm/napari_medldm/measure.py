"""Statistics of drawn regions and lines, on the scan and on what was made of it: mean, SD, SNR, CNR."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtWidgets import QLabel, QPushButton, QTableWidget, QTableWidgetItem, QVBoxLayout, QWidget
from scipy import ndimage

from medldm import MedldmError
from napari_medldm.layers import entry_of
from napari_medldm.regions import masks_of_shapes
from napari_medldm.slices import SlicedArray

if TYPE_CHECKING:
    import napari.viewer

COLUMNS = ("layer", "region", "voxels", "mean", "SD", "SNR", "CNR to region 1")


def statistics(values: NDArray[Any], reference: NDArray[Any] | None = None) -> dict[str, float]:
    """Mean, SD (of a sample), SNR = mean / SD, and contrast to a reference region over the pooled SD."""
    mean, sd = float(np.mean(values)), float(np.std(values, ddof=1)) if values.size > 1 else 0.0
    table = {"voxels": float(values.size), "mean": mean, "SD": sd, "SNR": mean / sd if sd > 0 else float("nan")}
    if reference is not None and reference.size > 1 and values.size > 1:
        pooled = float(np.sqrt((np.var(values, ddof=1) + np.var(reference, ddof=1)) / 2))
        contrast = abs(mean - float(np.mean(reference)))
        table["CNR"] = contrast / pooled if pooled > 0 else float("nan")
    return table


def _within(data: Any, mask: NDArray[np.bool_]) -> NDArray[Any]:
    """Values where the mask is; of a large scan the slices that it lies in are read. Raises MedldmError."""
    box = (ndimage.find_objects(mask.astype(np.uint8)) or [(slice(0, 0),) * 3])[0]
    part = data.block(box) if isinstance(data, SlicedArray) else np.asarray(data)[box]
    return np.asarray(part[mask[box]])


def measure(viewer: Any) -> list[dict[str, Any]]:
    """One row a scan or result and region, every layer on its own grid. Raises MedldmError."""
    layers = [layer for layer in viewer.layers if (e := entry_of(layer)) and e.role in ("scan", "result")]
    if not layers:
        raise MedldmError("measure", "no scan", "a scan opened with medldm")
    rows = []
    for layer in layers:
        masks = masks_of_shapes(viewer, layer)
        first = _within(layer.data, masks[0][1])
        for number, (kind, mask) in enumerate(masks, start=1):
            values = _within(layer.data, mask)
            if values.size:
                row: dict[str, Any] = {"layer": layer.name, "region": f"{number} ({kind})"}
                rows.append(row | statistics(values, first if number > 1 else None))
    return rows


class MeasurePanel(QWidget):
    """Draw areas or lines in a shapes layer, then press the button: one row a layer and region."""

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self.viewer = viewer
        self.button, self.table, self.message = QPushButton("Measure"), QTableWidget(0, len(COLUMNS)), QLabel()
        self.table.setHorizontalHeaderLabels(COLUMNS)
        self.message.setWordWrap(True)
        self.message.setText("Draw rectangles, ellipses, polygons or lines in a shapes layer.")
        layout = QVBoxLayout(self)
        for widget in (self.button, self.table, self.message):
            layout.addWidget(widget)
        self.button.clicked.connect(self.update_table)

    def update_table(self) -> None:
        try:
            rows: Sequence[dict[str, Any]] = measure(self.viewer)
        except MedldmError as failure:
            self.message.setText(str(failure))
            return
        self.message.setText("")
        self.table.setRowCount(len(rows))
        for index, row in enumerate(rows):
            keys = ("layer", "region", "voxels", "mean", "SD", "SNR", "CNR")
            for column, key in enumerate(keys):
                value = row.get(key, "")
                text = value if isinstance(value, str) else f"{value:.4g}"
                self.table.setItem(index, column, QTableWidgetItem(text))
        self.table.resizeColumnsToContents()
