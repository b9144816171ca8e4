"""Measuring: mm, mm² and mL; mean, SD, SNR and CNR on the scan and on what was made of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medldm import MedldmError
from napari_medldm.layers import entry_of, family, root_of
from napari_medldm.regions import regions_of
from napari_medldm.slices import SlicedArray

COLUMNS = ("image", "region", "size", "unit", "voxels", "mean", "SD", "SNR", "CNR to 1")
IMAGES = {"scan": "original", "result": "restored", "synthetic": "synthetic"}


def statistics(values: NDArray[Any], reference: NDArray[Any] | None = None) -> dict[str, float]:
    """Mean, SD (of a sample), SNR = mean / SD, and contrast to a reference region over the pooled SD."""
    mean, sd = float(np.mean(values)), float(np.std(values, ddof=1)) if values.size > 1 else 0.0
    table = {"voxels": float(values.size), "mean": mean, "SD": sd, "SNR": mean / sd if sd > 0 else float("nan")}
    if reference is not None and reference.size > 1 and values.size > 1:
        pooled = float(np.sqrt((np.var(values, ddof=1) + np.var(reference, ddof=1)) / 2))
        contrast = abs(mean - float(np.mean(reference)))
        table["CNR"] = contrast / pooled if pooled > 0 else float("nan")
    return table


def measure(viewer: Any) -> list[dict[str, Any]]:
    """One row an image and region: of the scan that is shown, and of what was restored of it, each on its own grid.

    Raises MedldmError.
    """
    shown = [layer for layer in reversed(viewer.layers) if layer.visible and entry_of(layer)]
    layers = family(viewer, shown[0], tuple(IMAGES)) if shown else []
    if not layers:
        raise MedldmError("measure", "no scan", "a scan opened with medldm")
    names = [IMAGES[entry_of(layer).role] for layer in layers]
    rows = []
    for index, layer in enumerate(layers):
        number = names[:index].count(names[index]) + 1
        image = names[index] if names.count(names[index]) < 2 else f"{names[index]} {number}"
        first: NDArray[Any] | None = None
        for place, region in enumerate(regions_of(viewer, layer, root_of(layer)), start=1):
            values = _within(layer.data, region.box, region.mask)
            row = {"layer": layer.name, "image": image, "region": f"{place} ({region.kind})"}
            row |= {"size": region.size, "unit": region.unit}
            rows.append(row | (statistics(values, first) if values.size else {"voxels": 0.0}))
            first = values if place == 1 else first
    return rows


def _within(data: Any, box: tuple[slice, ...], mask: NDArray[np.bool_]) -> NDArray[Any]:
    """Values where the mask is; of a large scan the slices that it lies in are read. Raises MedldmError."""
    if not mask.any():
        return np.empty(0, np.float32)
    part = data.block(box) if isinstance(data, SlicedArray) else np.asarray(data)[box]
    return np.asarray(part[mask])


def cells(row: dict[str, Any], digits: int = 4) -> Sequence[str]:
    """The texts of a row, in the order of `COLUMNS`."""
    keys = ("image", "region", "size", "unit", "voxels", "mean", "SD", "SNR", "CNR")
    values = [row.get(key, "") for key in keys]
    return [value if isinstance(value, str) else f"{value:.{digits}g}" for value in values]
