"""Looking at a scan and its result: side by side, wipe, blink, residual, uncertainty, orthogonal planes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from napari.utils.colormaps import Colormap
from numpy.typing import NDArray
from qtpy.QtCore import QTimer

from medldm import LazyScan, Volume
from napari_medldm.adding import add_layer, remove_layers
from napari_medldm.layers import KEY, entry_of, look_of
from napari_medldm.orientation import PLANES
from napari_medldm.windows import SAMPLED, values_of

BLINK_MS, BREATH_MS = 600, 20
MODES = ("single", "side by side", "wipe", "blink", "residual", "uncertainty")
AMBER = Colormap([[1, 0.65, 0, 0], [1, 0, 0, 1]], name="medldm uncertainty")
_LINKED = ("contrast_limits", "colormap", "gamma")


class Comparison:
    """The layers of one restoration in a viewer, and how they are shown now."""

    def __init__(self, viewer: Any, source: Any, result: Any, residual: Any, uncertainty: Any) -> None:
        self.viewer, self.mode = viewer, "single"
        self.source, self.result, self.residual, self.uncertainty = source, result, residual, uncertainty
        self.bounds: tuple[Any, Any] | None = None  # of the result, voxel by voxel as its layer; None: not calibrated
        self.share = 0.5
        self._part: Any = None  # of the result, beside the border of the wipe
        self._put_away: list[Any] = []  # what is drawn would stand in one of the two pictures alone
        self._timer = QTimer()
        self._timer.setInterval(BLINK_MS)
        self._timer.timeout.connect(self._swap)
        self._breath = QTimer()
        self._breath.setSingleShot(True)
        self._breath.setInterval(BREATH_MS)
        self._breath.timeout.connect(self._divide)
        viewer.dims.events.order.connect(self._turned)
        viewer.layers.link_layers([source, result], _LINKED)

    def layers(self) -> list[Any]:
        return [self.source, self.result, self.residual, self.uncertainty]

    def alive(self) -> bool:
        """Whether the scan and the result are still there."""
        return self.source in self.viewer.layers and self.result in self.viewer.layers

    def show(self, mode: str) -> None:
        """One of `MODES`; shown again, the same as "single"."""
        self._leave()
        self.mode = mode
        if not self.alive():
            return
        visible = {"residual": [self.residual], "uncertainty": [self.result, self.uncertainty]}.get(mode)
        if visible is None:
            visible = [self.source, self.result] if mode == "side by side" else [self.result]
        for layer in self.viewer.layers:
            if entry_of(layer) is not None:
                layer.visible = any(layer is each for each in visible)
            elif mode == "side by side" and layer.visible:
                self._put_away.append(layer)
                layer.visible = False
        self._order(visible)
        if mode == "side by side":
            self._breath.start()  # when the layers are painted: together they hold the window
        elif mode == "blink":
            self._timer.start()
        elif mode == "wipe":
            self.source.visible = True
            self._wipe_layer()

    def toggle(self, mode: str) -> None:
        self.show("single" if self.mode == mode else mode)

    def wipe(self, share: float) -> None:
        """Let the result cover the right `1 - share` of the image. The scan itself is beneath."""
        self.share = float(np.clip(share, 0, 1))
        if self.mode == "wipe" and self.alive():
            self._wipe_layer()

    def border(self) -> float | None:
        """Where the line of the wipe stands, mm along the horizontal axis; None in other modes."""
        if self.mode != "wipe" or self._part is None or not self.alive():
            return None
        axis = self.viewer.dims.order[-1]
        return float(self._part.translate[axis] + _edges(self._part, axis)[0])

    def share_at(self, world: float) -> float:
        """The share of the wipe whose line is nearest to a place along the horizontal axis."""
        axis = self.viewer.dims.order[-1]
        low, high = _edges(self.result, axis)
        return float(np.clip((world - self.result.translate[axis] - low) / (high - low), 0, 1))

    def threshold(self, value: float) -> None:
        """Hide the uncertainty below `value`, in the scan's unit."""
        if self.uncertainty in self.viewer.layers:
            top = float(np.max(self.uncertainty.data))
            self.uncertainty.contrast_limits = (min(value, top * 0.999), top)

    def close(self) -> None:
        """Stop everything that runs by itself."""
        self._leave()

    def _turned(self, event: Any = None) -> None:
        """Another plane: the line stands across its horizontal axis."""
        if self.mode == "wipe" and self._part in self.viewer.layers:
            self._leave()
            self._wipe_layer()

    def _leave(self) -> None:
        self._timer.stop()
        self._breath.stop()
        grid = _grid(self.viewer)
        if grid.enabled:
            grid.enabled = False
            self._fit()
        while self._put_away:
            self._put_away.pop().visible = True
        remove_layers(self.viewer, [self._part])
        self._part = None

    def _divide(self) -> None:
        """Two pictures beside each other. The grid counts from the last layer: the scan on the left."""
        if not self.alive():
            return
        grid = _grid(self.viewer)
        grid.shape, grid.stride = (1, 2), 1
        grid.enabled = True  # last: as soon as it is, each change lays everything out anew
        self._fit()

    def _fit(self) -> None:
        """The scan fills the canvas, with all else inside. Of it alone: napari makes a new list of what it is told."""
        self.viewer.reset_view(layers=[self.source] if self.source in self.viewer.layers else None)

    def _swap(self) -> None:
        if not self.alive():
            self._timer.stop()
            return
        shown = self.result.visible
        self.source.visible, self.result.visible = shown, not shown

    def _order(self, wanted: list[Any]) -> None:
        """Above all others, the last on top; in one move, since each draws the list and the canvas anew."""
        layers = self.viewer.layers
        if list(layers)[-len(wanted) :] != wanted:
            layers.move_multiple([layers.index(each) for each in wanted], len(layers))

    def _wipe_layer(self) -> None:
        """A display layer with the right part of the result: 2D has no clipping planes."""
        axis = self.viewer.dims.order[-1]
        data, scale = self.result.data, np.array(self.result.scale)
        translate = np.array(self.result.translate)
        size = data.shape[axis]
        cut = round(size * (self.share if scale[axis] > 0 else 1 - self.share))
        cut = int(np.clip(cut, 1, size - 1))
        window = [slice(None)] * data.ndim
        if scale[axis] > 0:
            window[axis] = slice(cut, None)
            translate[axis] += cut * scale[axis]
        else:
            window[axis] = slice(None, cut)
        part = data[tuple(window)]
        self.result.visible = False
        if self._part in self.viewer.layers:
            self._part.data, self._part.translate = part, translate
            return
        attributes = {
            "name": f"{self.result.name} · wipe",
            "rgb": False,
            "scale": scale,
            "translate": translate,
            "units": "mm",
            "axis_labels": self.result.axis_labels,
            "interpolation2d": self.result.interpolation2d,
            "metadata": {KEY: replace(entry_of(self.result), role="part")},
        }
        self._part = add_layer(self.viewer, self.viewer.window._qt_window, part, attributes | look_of(self.result))


def _edges(layer: Any, axis: int) -> tuple[float, float]:
    """The outer edges of a layer along an axis, mm from the centre of its first voxel."""
    ends = layer.scale[axis] * np.array([-0.5, layer.data.shape[axis] - 0.5])
    return float(ends.min()), float(ends.max())


def _grid(viewer: Any) -> Any:
    return viewer.canvas.grid if hasattr(viewer, "canvas") else viewer.grid


def show_plane(viewer: Any, plane: str) -> None:
    """Axial, coronal or sagittal, in radiological convention."""
    viewer.dims.ndisplay = 2
    viewer.dims.order = PLANES[plane]
    camera = viewer.scene.camera if hasattr(viewer, "scene") else viewer.camera
    camera.orientation = ("towards", "down", "right")
    viewer.reset_view()


def residual_style(volume: Volume | LazyScan, least: float = 0.0) -> dict[str, Any]:
    """Diverging colours, the same range on both sides of zero, by what was changed alone.

    least : in the scan's unit; below it nothing is worth a colour
    """
    changed = _changed(volume)
    top = max(float(np.percentile(np.abs(changed), 99.5)) if changed.size else 0.0, least, 1e-6)
    return {"colormap": "RdBu_r" if _has_colormap("RdBu_r") else "coolwarm", "contrast_limits": (-top, top)}


def _changed(volume: Volume | LazyScan) -> NDArray[np.float32]:
    values = volume.array.ravel() if isinstance(volume, Volume) else values_of(volume)
    changed = values[values != 0]
    return changed[:: max(1, changed.size // SAMPLED)]


def _has_colormap(name: str) -> bool:
    from napari.utils.colormaps import ensure_colormap

    try:
        ensure_colormap(name)
    except KeyError:
        return False
    return True


def uncertainty_style(volume: Volume | LazyScan) -> dict[str, Any]:
    """Amber to red over the result; transparent below the median of what was changed."""
    changed = _changed(volume)
    top = max(float(np.max(changed)) if changed.size else 0.0, 1e-6)
    low = min(float(np.median(changed)) if changed.size else 0.0, 0.99 * top)
    return {"colormap": AMBER, "blending": "translucent_no_depth", "contrast_limits": (low, top)}
