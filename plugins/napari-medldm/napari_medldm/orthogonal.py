"""Axial, coronal and sagittal beside the main canvas, linked by a crosshair; the voxels are shared, not copied.

A canvas takes as long to make as a layer, and to paint for the first time as long again: each comes in its own turn of
the event loop, in a place of its own that no other has to make room for, and then the layers, one by one. What there is
stays when the views are put away, and follows again when they come back.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from napari.components import ViewerModel
from napari.layers import Image, Layer
from napari.qt import QtViewer
from napari.utils.action_manager import action_manager
from qtpy.QtCore import QTimer, Signal
from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_medldm.active import ActiveScan, to_slices
from napari_medldm.adding import TURN_MS, PaintLater, remove_layers, without_collecting
from napari_medldm.compare import PLANES, show_plane
from napari_medldm.contexts import guard_canvases
from napari_medldm.corners import Corners
from napari_medldm.mouse import ReadingMouse

_FOLLOWED = ("name", "contrast_limits", "colormap", "gamma", "opacity", "blending", "visible")
_FOLLOWED += ("scale", "translate", "data")


class OrthogonalViews(QWidget):
    """Views of the active scan in each plane; that of the main canvas stays hidden. A click moves the crosshair.

    `enlarged(plane)` is emitted by a double click, `windowed` when the window was changed by hand in one of them.
    Wheel and drags do what they do in the main canvas.
    They follow the viewer between `link` and `unlink`; one set serves for as long as the window is open, as
    drivers keep some of the memory of a canvas that is gone.
    """

    enlarged = Signal(str)
    windowed = Signal()

    def __init__(self, active: ActiveScan) -> None:
        super().__init__()
        self.viewer, self.active = active.viewer, active
        self.models = {plane: ViewerModel(title=plane) for plane in PLANES}
        self._copies: dict[str, list[tuple[Layer, Layer]]] = {plane: [] for plane in PLANES}
        active.viewer.layers.events.removed.connect(self._drop)
        self._connections: list[tuple[Any, Callable[..., None]]] = []
        self._moving = False
        self._hidden: tuple[str, Layer, Layer] | None = None  # a new copy, that is still to be seen in its plane
        self._adding = QTimer(self)
        self._adding.setInterval(TURN_MS)
        self._adding.timeout.connect(self._add_next)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        self.places = {plane: QWidget() for plane in PLANES}
        for place in self.places.values():
            layout.addWidget(place)
            inside = QVBoxLayout(place)
            inside.setContentsMargins(0, 0, 0, 0)
        self.canvases: list[QtViewer] = []
        self.mice: list[ReadingMouse] = []
        self.corners: list[Corners] = []

    def _add_canvas(self, plane: str, model: ViewerModel) -> None:
        model.canvas.background_color_override = "black"
        # it binds all shortcuts anew, as they were, and each of them would write every page of welcome anew: 0.1 s
        with action_manager.events.shortcut_changed.blocker():
            canvas = QtViewer(model, show_welcome_screen=False)
        canvas.setMinimumSize(120, 120)
        canvas.controls.hide()
        canvas.dims.hide()
        self.places[plane].layout().addWidget(canvas)
        self.places[plane].show()  # even where it is hidden at once: without it there is no OpenGL context to free in
        PaintLater(canvas.canvas.native)
        self.canvases.append(canvas)
        corners = Corners(canvas, model)
        corners.crosshair = True
        self.corners.append(corners)
        mouse = ReadingMouse(canvas, model, self.active)
        mouse.enlarge.connect(partial(self.enlarged.emit, plane))
        mouse.windowed.connect(self.windowed)
        self.mice.append(mouse)
        model.mouse_drag_callbacks.append(self._clicked)
        guard_canvases()
        self._hide_main()

    def point(self) -> tuple[float, ...]:
        """The crosshair, mm in napari's world (inferior, posterior, left)."""
        return tuple(self.viewer.dims.point)

    def complete(self) -> bool:
        """Whether all that there is to be seen is there: canvases and layers come one by one."""
        return not self._adding.isActive()

    def fit(self) -> None:
        """Let the three canvases show the whole slice."""
        for model in self.models.values() if self.canvases else ():
            model.reset_view()

    def link(self) -> None:
        """Show the viewer's images and follow them; safe to call again."""
        if self._connections:
            return
        for origin in (self.viewer, *self.models.values()):
            self._listen(origin.dims.events.point, partial(self._moved, origin))
        events = self.viewer.layers.events
        for event in (events.inserted, events.reordered):
            self._listen(event, self._update_layers)
        self._listen(self.viewer.dims.events.order, self._hide_main)
        self._hide_main()
        self.active.changed.connect(self._update_layers)
        self.viewer.mouse_drag_callbacks.append(self._clicked)
        self._drop()
        with self._held():
            for plane, model in self.models.items():
                if self._copies[plane]:
                    show_plane(model, plane)
                for layer, copy in self._copies[plane]:
                    self._follow(layer, copy)
                    copy.visible = layer.visible
        self._update_layers()

    def unlink(self) -> None:
        """Follow nothing but what is removed, whose voxels are let go of; safe to call again."""
        self._adding.stop()
        self._hidden = None
        if self._connections:
            self.active.changed.disconnect(self._update_layers)
        for emitter, callback in self._connections:
            emitter.disconnect(callback)
        self._connections.clear()
        if self._clicked in self.viewer.mouse_drag_callbacks:
            self.viewer.mouse_drag_callbacks.remove(self._clicked)

    def close_views(self) -> None:
        """Free the canvases for good; safe to call again."""
        self.unlink()
        self.viewer.layers.events.removed.disconnect(self._drop)
        for plane, model in self.models.items():
            self._copies[plane].clear()
            remove_layers(model, list(model.layers))
        for each in self.mice:
            each.let_go()
        for each in self.corners:
            each.close_corners()
        self.mice.clear()
        self.corners.clear()
        for canvas in self.canvases:
            canvas.close()
            canvas.setParent(None)  # PySide6 would keep it for as long as its parent
            canvas.deleteLater()
        self.canvases.clear()

    def _hide_main(self, event: Any = None) -> None:
        """The plane of the main canvas is seen there."""
        for plane, place in self.places.items():
            place.setVisible(PLANES[plane][0] != self.viewer.dims.order[0])

    def _listen(self, emitter: Any, callback: Callable[..., None]) -> None:
        emitter.connect(callback)
        self._connections.append((emitter, callback))

    def _forget(self, layer: Layer) -> None:
        """Hold nothing of a layer that is gone."""
        for emitter, callback in [each for each in self._connections if each[0].source is layer]:
            emitter.disconnect(callback)
        self._connections = [each for each in self._connections if each[0].source is not layer]

    # --- layers ---

    def _wanted(self) -> list[Image]:
        """Images of the active scan; all, where there is none."""
        images = [each for each in self.viewer.layers if isinstance(each, Image)]
        return [each for each in images if self.active.layer is None or self.active.shows(each)]

    def _drop(self, event: Any = None) -> None:
        """Let go of the copies of what is gone."""
        wanted = self._wanted()
        with self._held():
            for plane, model in self.models.items():
                gone = [pair for pair in self._copies[plane] if all(pair[0] is not each for each in wanted)]
                for layer, _ in gone:
                    self._forget(layer)
                self._copies[plane] = [pair for pair in self._copies[plane] if all(pair is not each for each in gone)]
                remove_layers(model, [copy for _, copy in gone])

    def _update_layers(self, event: Any = None) -> None:
        """Drop the copies of what is gone; those of what is new come in turns of the event loop, one by one."""
        self._drop()
        with self._held():
            for plane in self.models:
                self._sort(plane)
        self._adding.start()
        self._moved(self.viewer)

    def _add_next(self) -> None:
        for plane, model in list(self.models.items())[len(self.canvases) :]:
            self._add_canvas(plane, model)
            return
        if self._hidden is not None:
            (plane, layer, copy), self._hidden = self._hidden, None
            if copy in self.models[plane].layers:
                self._paint_later(plane)
                with self._held():
                    if len(self._copies[plane]) == 1:
                        show_plane(self.models[plane], plane)
                    copy.visible = layer.visible
            self._moved(self.viewer)
            return
        for layer in sorted(self._wanted(), key=lambda each: not each.visible):  # what is seen comes first
            for plane, model in self.models.items():
                if all(layer is not each for each, _ in self._copies[plane]):
                    self._paint_later(plane)
                    with self._held():
                        copy = self._copy(layer, model)
                        self._copies[plane].append((layer, copy))
                        self._follow(layer, copy)
                        self._sort(plane)
                    self._hidden = plane, layer, copy
                    return
        self._adding.stop()

    def _paint_later(self, plane: str) -> None:
        PaintLater(self.canvases[list(self.models).index(plane)].canvas.native)

    def _sort(self, plane: str) -> None:
        """The order of the viewer, in the copies, too."""
        layers = self.models[plane].layers
        self._copies[plane].sort(key=lambda pair: self.viewer.layers.index(pair[0]))
        for index, (_, copy) in enumerate(self._copies[plane]):
            if layers.index(copy) != index:
                layers.move(layers.index(copy), index)

    def _copy(self, layer: Layer, model: ViewerModel) -> Layer:
        data, attributes, kind = layer.as_layer_data_tuple()
        with without_collecting():
            copy = Layer.create(data, {**attributes, "visible": False}, kind)
            model.layers.append(copy)
        return copy

    def _follow(self, layer: Layer, copy: Layer) -> None:
        """Let a copy look as its layer does, now and from now on; whether it is seen, only from now on."""
        for name in _FOLLOWED:
            self._listen(getattr(layer.events, name), partial(_take_over, layer, copy, name))
            now, then = getattr(layer, name), getattr(copy, name)
            same = now is then if name == "data" else name == "visible" or np.array_equal(now, then)
            if not same:
                _take_over(layer, copy, name)

    # --- the crosshair ---

    @contextlib.contextmanager
    def _held(self) -> Iterator[None]:
        """Keep the crosshair where it is: a viewer whose first layer comes goes to the middle of it."""
        moving, self._moving = self._moving, True
        try:
            yield
        finally:
            self._moving = moving

    def _moved(self, origin: Any, event: Any = None) -> None:
        if self._moving or not self.viewer.layers:
            return
        self._moving = True
        point = np.asarray(origin.dims.point, dtype=float)[-3:]
        for each in (self.viewer, *self.models.values()):
            if each is not origin and each.dims.ndim == 3:
                each.dims.point = tuple(point)
        self._moving = False

    def _clicked(self, viewer: Any, event: Any) -> Any:
        """A press and release without a move in between; drags go on to move and zoom the image."""
        yield
        dragged = False
        while event.type == "mouse_move":
            dragged = True
            yield
        active = viewer.layers.selection.active
        drawing = active is not None and str(active.mode) not in ("pan_zoom", "Mode.PAN_ZOOM")
        if not dragged and not drawing and len(event.position) == 3 and viewer.dims.ndisplay == 2:
            viewer.dims.point = tuple(event.position)
            to_slices(viewer.dims)


def _take_over(layer: Any, copy: Any, name: str, event: Any = None) -> None:
    if name == "data":
        copy.metadata = layer.metadata
    setattr(copy, name, getattr(layer, name))
