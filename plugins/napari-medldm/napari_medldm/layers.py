"""Scans as napari layers and back. A layer keeps the Volume that it shows, so that saving loses nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medldm import LazyScan, MedldmError, Volume
from napari_medldm.orientation import AXIS_LABELS, Display, display_of
from napari_medldm.slices import SlicedArray
from napari_medldm.windows import limits

KEY = "medldm"
OBLIQUE_DEG = 1.0
SHOWN_ALIKE = ("scan", "result", "preview", "part", "display")
_UNSAVED = {
    "preview": "a preview of what is being computed",
    "part": "a part of a result, to be looked at",
    "display": "a copy that was resampled to be looked at",
}


@dataclass(frozen=True)
class Seen:
    """Where a scan was looked at last: order of the axes and point of the sliders, centre and zoom of the camera."""

    order: tuple[int, ...]
    point: tuple[float, ...]
    center: tuple[float, ...]
    zoom: float


@dataclass
class Entry:
    """What a layer shows.

    volume : a large scan is a `LazyScan` until it is read whole
    role : "scan", "result", "residual", "uncertainty", "synthetic", or, never saved, "preview", "part", "display"
    of : name of the layer that it was made of
    report : the restoration's, for what a model made
    window : name of the window last chosen for it, "" for none
    seen : None until another scan was looked at
    noise_std : of it, in its unit, and whether it is to be estimated
    model : name of the one chosen for it, "" before any was
    """

    volume: Volume | LazyScan
    display: Display
    role: str = "scan"
    of: str = ""
    report: dict[str, Any] = field(default_factory=dict)
    window: str = ""
    seen: Seen | None = None
    noise_std: tuple[float, bool] = (0.0, True)
    model: str = ""

    @property
    def made(self) -> bool:
        """Whether a model had a hand in it."""
        return self.role not in ("scan", "display") or bool(self.report) or self.volume.ai_processed


def entry_of(layer: Any) -> Entry | None:
    """The entry of a layer that medldm opened or made, None for others."""
    found = layer.metadata.get(KEY) if getattr(layer, "metadata", None) else None
    return found if isinstance(found, Entry) else None


def root_of(layer: Any) -> str:
    """Name of the layer that a layer was made of, its own where it was made of none."""
    entry = entry_of(layer)
    return str(layer.name if entry is None else entry.of or layer.name)


def family(viewer: Any, layer: Any, roles: tuple[str, ...] | None = SHOWN_ALIKE) -> list[Any]:
    """The scan that a layer was made of and what was made of that, too.

    roles : by default those that show intensities, which are windowed alike; None: all
    """
    root = root_of(layer)
    found = [(each, entry_of(each)) for each in viewer.layers]
    return [each for each, e in found if e and (roles is None or e.role in roles) and root in (each.name, e.of)]


def scan_of(layer: Any) -> Volume | LazyScan:
    """The scan that a layer shows, with what the user changed in it; a large one is not read for that.

    Raises MedldmError for foreign layers.
    """
    return _scan_from_meta(layer.data, {"metadata": layer.metadata, "name": layer.name})


def volume_of(layer: Any) -> Volume:
    """The same with all of its voxels. Raises MedldmError."""
    return volume_from_meta(layer.data, {"metadata": layer.metadata, "name": layer.name})


def volume_from_meta(data: Any, meta: dict[str, Any]) -> Volume:
    """The same for a writer, which is given data and metadata. Raises MedldmError."""
    scan = _scan_from_meta(data, meta)
    return scan.load() if isinstance(scan, LazyScan) else scan


def _scan_from_meta(data: Any, meta: dict[str, Any]) -> Volume | LazyScan:
    entry, where = meta.get("metadata", {}).get(KEY), f"layer {meta.get('name', '')}"
    if not isinstance(entry, Entry):
        raise MedldmError(where, "no known place in the patient", "a scan opened with medldm", "open it again")
    if entry.role in _UNSAVED:
        raise MedldmError(where, _UNSAVED[entry.role], "a scan or a result", "take the layer that it was made of")
    return entry.volume if isinstance(entry.volume, LazyScan) else _current(entry, data)


def hold(layer: Any, volume: Volume) -> None:
    """Show a scan that was read slice by slice from the memory, now that it is there as a whole."""
    entry = entry_of(layer)
    if entry is not None and isinstance(entry.volume, LazyScan):
        entry.volume = volume
        layer.data = entry.display.forward(volume.array)


def _current(entry: Entry, data: Any) -> Volume:
    array = entry.display.backward(np.asarray(data))
    if array.shape != entry.volume.array.shape:
        raise MedldmError("layer", f"an array of shape {array.shape}", f"the scan's {entry.volume.array.shape}")
    same = np.shares_memory(array, entry.volume.array) or np.array_equal(array, entry.volume.array)
    return entry.volume if same else entry.volume.with_array(array, {"step": "edited in napari"})


Layer = tuple[NDArray[Any] | SlicedArray, dict[str, Any], str]


def layer_data(volume: Volume | LazyScan, name: str, entry: Entry | None = None, **style: Any) -> Layer:
    """(data, attributes, "image") of a scan, a few slices of a large one read; `style` overrides attributes."""
    display = display_of(volume.geometry)
    entry = entry or Entry(volume, display)
    attributes: dict[str, Any] = {
        "name": name,
        "rgb": False,  # napari takes three or four sagittal slices for colours
        "scale": display.scale,
        "translate": display.translate,
        "units": "mm",
        "axis_labels": AXIS_LABELS,
        "interpolation2d": "linear",
        "contrast_limits": limits(volume) if "contrast_limits" not in style else None,
        "metadata": {KEY: entry},
    }
    large = isinstance(volume, LazyScan)
    data = SlicedArray(volume, display, name) if large else display.forward(volume.array)
    return data, attributes | style, "image"


def derived_layer(volume: Volume, role: str, source: Any, report: dict[str, Any], **style: Any) -> Layer:
    """A result, residual, uncertainty, preview or display copy of the layer `source`."""
    entry = Entry(volume, display_of(volume.geometry), role, source.name, report)
    return layer_data(volume, f"{source.name} · {role}", entry, **style)


def look_of(layer: Any) -> dict[str, Any]:
    """What makes a second layer look like a first."""
    return {"contrast_limits": layer.contrast_limits, "colormap": layer.colormap, "gamma": layer.gamma}


def oblique_note(entry: Entry) -> str:
    """What to say of a scan whose axes are not the patient's, "" if they are."""
    tilt = entry.display.tilt_deg
    text = f"oblique by {tilt:.0f} degrees, shown along the scan's own axes" if tilt > OBLIQUE_DEG else ""
    return text + ("; slices are sheared (tilted gantry)" if entry.volume.geometry.is_sheared else "")
