"""Looking at a scan and its result: side by side, wipe, blink, residual, uncertainty, orthogonal planes."""

from __future__ import annotations

from typing import Any

import numpy as np
from napari.utils.colormaps import Colormap
from qtpy.QtCore import QTimer

from medldm import LazyScan
from napari_medldm.orientation import PLANES
from napari_medldm.windows import values_of

BLINK_MS = 600
MODES = ("single", "side by side", "wipe", "blink", "residual", "uncertainty")
AMBER = Colormap([[1, 0.65, 0, 0], [1, 0, 0, 1]], name="medldm uncertainty")
_LINKED = ("contrast_limits", "colormap", "gamma")
_WIPE = "wipe"


class Comparison:
    """The layers of one restoration in a viewer, and how they are shown now."""

    def __init__(self, viewer: Any, source: Any, result: Any, residual: Any, uncertainty: Any) -> None:
        self.viewer, self.mode = viewer, "single"
        self.source, self.result, self.residual, self.uncertainty = source, result, residual, uncertainty
        self.share = 0.5
        self._timer = QTimer()
        self._timer.setInterval(BLINK_MS)
        self._timer.timeout.connect(self._swap)
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
            layer.visible = any(layer is each for each in visible)
        self._order(visible)
        if mode == "side by side":
            # the grid counts from the last layer: the scan on the left, the result on the right
            grid = _grid(self.viewer)
            grid.enabled, grid.shape, grid.stride = True, (1, 2), 1
        elif mode == "blink":
            self._timer.start()
        elif mode == "wipe":
            self.source.visible = True
            self._wipe_layer()
        if mode == "side by side":
            self.viewer.reset_view()

    def toggle(self, mode: str) -> None:
        self.show("single" if self.mode == mode else mode)

    def wipe(self, share: float) -> None:
        """Let the result cover the right `1 - share` of the image. The scan itself is beneath."""
        self.share = float(np.clip(share, 0, 1))
        if self.mode == "wipe" and self.alive():
            self._wipe_layer()

    def threshold(self, value: float) -> None:
        """Hide the uncertainty below `value`, in the scan's unit."""
        if self.uncertainty in self.viewer.layers:
            top = float(np.max(self.uncertainty.data))
            self.uncertainty.contrast_limits = (min(value, top * 0.999), top)

    def close(self) -> None:
        """Stop everything that runs by itself."""
        self._leave()

    def _leave(self) -> None:
        self._timer.stop()
        grid = _grid(self.viewer)
        if grid.enabled:
            grid.enabled = False
            self.viewer.reset_view()
        for layer in [each for each in self.viewer.layers if each.name.endswith(_WIPE)]:
            self.viewer.layers.remove(layer)

    def _swap(self) -> None:
        if not self.alive():
            self._timer.stop()
            return
        shown = self.result.visible
        self.source.visible, self.result.visible = shown, not shown

    def _order(self, wanted: list[Any]) -> None:
        for layer in wanted:
            index = self.viewer.layers.index(layer)
            if index != len(self.viewer.layers) - 1:
                self.viewer.layers.move(index, len(self.viewer.layers))

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
        name = f"{self.result.name} · {_WIPE}"
        part = data[tuple(window)]
        existing = [layer for layer in self.viewer.layers if layer.name == name]
        self.result.visible = False
        if existing:
            existing[0].data, existing[0].translate = part, translate
            return
        self.viewer.add_image(
            part,
            name=name,
            rgb=False,
            scale=scale,
            translate=translate,
            units="mm",
            axis_labels=self.result.axis_labels,
            contrast_limits=self.result.contrast_limits,
            colormap=self.result.colormap,
            gamma=self.result.gamma,
            metadata=self.result.metadata,
        )


def _grid(viewer: Any) -> Any:
    return viewer.canvas.grid if hasattr(viewer, "canvas") else viewer.grid


def show_plane(viewer: Any, plane: str) -> None:
    """Axial, coronal or sagittal, in radiological convention."""
    viewer.dims.ndisplay = 2
    viewer.dims.order = PLANES[plane]
    camera = viewer.scene.camera if hasattr(viewer, "scene") else viewer.camera
    camera.orientation = ("towards", "down", "right")
    viewer.reset_view()


def residual_style(volume: Any) -> dict[str, Any]:
    """Diverging colours, the same range on both sides of zero."""
    top = max(float(np.percentile(np.abs(values_of(volume)), 99.5)), 1e-6)
    return {"colormap": "RdBu_r" if _has_colormap("RdBu_r") else "coolwarm", "contrast_limits": (-top, top)}


def _has_colormap(name: str) -> bool:
    from napari.utils.colormaps import ensure_colormap

    try:
        ensure_colormap(name)
    except KeyError:
        return False
    return True


def uncertainty_style(volume: Any) -> dict[str, Any]:
    """Amber to red over the result; transparent below the median."""
    values = values_of(volume) if isinstance(volume, LazyScan) else volume.array
    top = max(float(np.max(values)), 1e-6)
    low = min(float(np.median(values)), 0.99 * top)
    return {"colormap": AMBER, "blending": "translucent_no_depth", "contrast_limits": (low, top)}
