"""Scans as napari layers and back. A layer keeps the Volume that it shows, so that saving loses nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medldm import MedldmError, Volume
from napari_medldm.orientation import AXIS_LABELS, Display, display_of

KEY = "medldm"
OBLIQUE_DEG = 1.0
WINDOWS = {  # centre, width in HU
    "soft tissue": (40, 400),
    "brain": (40, 80),
    "lung": (-600, 1500),
    "bone": (400, 1800),
}
_SAMPLED = 2_000_000


@dataclass
class Entry:
    """What a layer shows.

    role : "scan", "result", "residual" or "uncertainty"
    of : name of the layer that it was made of
    report : the restoration's, for what a model made
    """

    volume: Volume
    display: Display
    role: str = "scan"
    of: str = ""
    report: dict[str, Any] = field(default_factory=dict)


def entry_of(layer: Any) -> Entry | None:
    """The entry of a layer that medldm opened or made, None for others."""
    found = layer.metadata.get(KEY) if getattr(layer, "metadata", None) else None
    return found if isinstance(found, Entry) else None


def volume_of(layer: Any) -> Volume:
    """The scan that a layer shows, with what the user changed in it. Raises MedldmError for foreign layers."""
    entry = entry_of(layer)
    if entry is None:
        raise MedldmError(
            f"layer {layer.name}", "no known place in the patient", "a scan opened with medldm", "open it again"
        )
    return _current(entry, layer.data)


def volume_from_meta(data: Any, meta: dict[str, Any]) -> Volume:
    """The same for a writer, which is given data and metadata. Raises MedldmError."""
    entry = meta.get("metadata", {}).get(KEY)
    if not isinstance(entry, Entry):
        name = meta.get("name", "")
        raise MedldmError(f"layer {name}", "no known place in the patient", "a scan opened with medldm")
    return _current(entry, data)


def _current(entry: Entry, data: Any) -> Volume:
    array = entry.display.backward(np.asarray(data))
    if array.shape != entry.volume.array.shape:
        raise MedldmError("layer", f"an array of shape {array.shape}", f"the scan's {entry.volume.array.shape}")
    same = np.shares_memory(array, entry.volume.array) or np.array_equal(array, entry.volume.array)
    return entry.volume if same else entry.volume.with_array(array, {"step": "edited in napari"})


def contrast_limits(volume: Volume, window: str = "soft tissue") -> tuple[float, float]:
    """Window of a CT by name; else the percentiles 1 and 99.5 of what is not background."""
    if volume.unit == "HU":
        centre, width = WINDOWS[window]
        return centre - width / 2, centre + width / 2
    if volume.unit == "grey8":
        return 0.0, 255.0
    values = volume.array.ravel()[:: max(1, volume.array.size // _SAMPLED)]
    low, high = (float(v) for v in np.percentile(values, (1, 99.5)))
    return low, high if high > low else low + 1


Layer = tuple[NDArray[Any], dict[str, Any], str]


def layer_data(volume: Volume, name: str, entry: Entry | None = None, **style: Any) -> Layer:
    """(data, attributes, "image") of a scan; `style` overrides attributes."""
    display = display_of(volume.geometry)
    entry = entry or Entry(volume, display)
    attributes: dict[str, Any] = {
        "name": name,
        "scale": display.scale,
        "translate": display.translate,
        "units": "mm",
        "axis_labels": AXIS_LABELS,
        "contrast_limits": contrast_limits(volume) if "contrast_limits" not in style else None,
        "metadata": {KEY: entry},
    }
    return display.forward(volume.array), attributes | style, "image"


def derived_layer(
    volume: Volume, role: str, source: Any, report: dict[str, Any], **style: Any
) -> Layer:
    """A result, residual or uncertainty of the layer `source`."""
    entry = Entry(volume, display_of(volume.geometry), role, source.name, report)
    return layer_data(volume, f"{source.name} · {role}", entry, **style)


def oblique_note(entry: Entry) -> str:
    """What to say of a scan whose axes are not the patient's, "" if they are."""
    tilt = entry.display.tilt_deg
    text = f"oblique by {tilt:.0f} degrees, shown along the scan's own axes" if tilt > OBLIQUE_DEG else ""
    return text + ("; slices are sheared (tilted gantry)" if entry.volume.geometry.is_sheared else "")
