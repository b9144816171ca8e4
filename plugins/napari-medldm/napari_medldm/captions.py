"""What is said around an image: what it is, slice and place, window, letters of its edges, meaning of its colours."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from napari.layers import Shapes
from numpy.typing import NDArray
from qtpy.QtCore import QRectF

from medldm import LazyScan, Volume
from napari_medldm.layers import SHOWN_ALIKE, Entry, entry_of
from napari_medldm.orientation import LETTERS, PLANES, directions

SAID = "said"  # feature of a layer of shapes: what stands beside each
NAMES = {
    "scan": "Original",
    "result": "Restored",
    "part": "Restored",
    "preview": "Preview",
    "residual": "Residual",
    "uncertainty": "Uncertainty",
    "synthetic": "Synthetic",
    "display": "Resampled copy",
}


@dataclass(frozen=True)
class Pane:
    """One picture of a canvas: where it is, and what is said of it."""

    rect: QRectF
    name: str
    made: bool
    series: str
    slice: str
    place: str
    window: str
    ends: tuple[str, str, str, str]  # top, bottom, left, right; "" in 3D


def series_description(scan: Volume | LazyScan) -> str:
    """Of a DICOM series, without what may name the patient; else the modality."""
    datasets = getattr(getattr(scan, "source", None), "datasets", None)
    if not datasets:
        return scan.modality
    header = datasets[0]
    text = " ".join(str(header.get("SeriesDescription", "")).split())
    identity = f"{header.get('PatientName', '')} {header.get('PatientID', '')}".replace("^", " ").replace("-", " ")
    parts = {part.lower() for part in identity.split() if len(part) > 2}
    return scan.modality if not text or any(part in text.lower() for part in parts) else text


def nice_length(most: float) -> tuple[float, str]:
    """The longest of 1, 2, 5, 10, ... mm that is not above `most`, and how it is written."""
    power = 10 ** math.floor(math.log10(most))
    length = next(power * step for step in (5, 2, 1) if power * step <= most)
    return length, f"{length / 10:g} cm" if length >= 10 else f"{length:g} mm"


def pane_of(viewer: Any, layer: Any, rect: QRectF) -> Pane:
    """Of a layer of medldm's that `viewer` shows within `rect`."""
    entry, dims = entry_of(layer), viewer.dims
    scan = entry.volume
    flat = dims.ndisplay == 2
    across = dims.order[0]
    plane = next((name for name, order in PLANES.items() if order[0] == across), "")
    low, high = layer.contrast_limits
    unit = f" {scan.unit}" if scan.unit not in ("arbitrary", "grey8", "grey16") else ""
    window = f"W {_short(high - low)}  L {_short((high + low) / 2)}{unit}" if entry.role in SHOWN_ALIKE else ""
    where = f"slice {dims.current_step[across] + 1} / {dims.nsteps[across]}"
    pieces = [series_description(scan), plane] if flat else [series_description(scan), "3D"]
    name = NAMES.get(entry.role, "")
    if entry.role == "scan" and entry.made:
        name = "Made by a model"
    return Pane(
        rect=rect,
        name=f"Restored, {name.lower()}" if entry.role == "uncertainty" else name,
        made=entry.made,
        series=" · ".join(piece for piece in pieces if piece),
        slice=where if flat else "",
        place=_place(entry, dims.point, across) if flat else "",
        window=window,
        ends=_ends(viewer, entry) if flat else ("", "", "", ""),
    )


def _ends(viewer: Any, entry: Entry) -> tuple[str, str, str, str]:
    ends, (_, down, right) = directions(entry.volume.geometry, entry.display), viewer.dims.order
    _, vertical, horizontal = viewer.scene.camera.orientation
    top, bottom = ends[down] if str(vertical) == "down" else ends[down][::-1]
    left, right_ = ends[right] if str(horizontal) == "right" else ends[right][::-1]
    return top, bottom, left, right_


def colours_of(viewer: Any) -> tuple[Any, list[tuple[float, str]]] | None:
    """The layer whose colours are shown in a bar, and what its ends mean; None where it is all grey."""
    for layer in reversed(viewer.layers):
        entry = entry_of(layer)
        if not layer.visible or entry is None or entry.role not in ("residual", "uncertainty"):
            continue
        low, high = layer.contrast_limits
        unit = f" {entry.volume.unit}" if entry.volume.unit != "arbitrary" else ""
        if entry.role == "uncertainty":
            return layer, [(1.0, f"± {_short(high)}{unit}"), (0.0, f"± {_short(low)} or less")]
        middle = -low / (high - low) if low < 0 < high else 0.0
        texts = [(1.0, f"+{_short(high)}{unit} taken away"), (middle, "0"), (0.0, f"{_short(low)}{unit} added")]
        return layer, texts
    return None


def size_of(value: float, unit: str) -> str:
    """A length or area as it stands beside what was drawn."""
    return f"{_short(value)} {unit}"


def drawn_in(viewer: Any) -> list[tuple[str, NDArray[np.float64]]]:
    """What is said of each shape in the slice that is shown, and its corners (N, 2) in mm, down and to the right."""
    dims, found = viewer.dims, []
    if dims.ndim != 3 or dims.ndisplay != 2:
        return []
    across, *shown = dims.order
    for layer in viewer.layers:
        if not isinstance(layer, Shapes) or not layer.visible or SAID not in layer.features:
            continue
        for vertices, said in zip(layer.data, layer.features[SAID], strict=False):  # the last may still be drawn
            world = np.array([layer.data_to_world(each) for each in vertices])
            near = np.abs(world[:, across].mean() - dims.point[across]) < abs(layer.scale[across]) / 2 + 1e-6
            if said and near and np.ptp(world[:, across]) < abs(layer.scale[across]):
                found.append((str(said), world[:, shown]))
    return found


def _place(entry: Entry, point: Any, across: int) -> str:
    """Where the slice is in the patient, along the axis that it lies across: "S 12.4 mm"."""
    index = np.empty(3)
    index[list(entry.display.axes)] = (np.asarray(point) - entry.display.translate) / entry.display.scale
    world = entry.volume.geometry.to_world(index)
    along = entry.volume.geometry.affine[:3, entry.display.axes[across]]
    axis = int(np.argmax(np.abs(along)))
    return f"{LETTERS[axis][int(world[axis] >= 0)]} {abs(world[axis]):.1f} mm"


def _short(value: float) -> str:
    """Four digits at most, and no exponent where a person would write none."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
