"""Three linked planes: left stays left in each, a click moves all, and nothing is left behind."""

import gc
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image
from napari.qt import QtViewer
from napari.utils.action_manager import action_manager
from napari_medldm.compare import PLANES
from napari_medldm.layers import layer_data
from napari_medldm.mark import is_marked
from napari_medldm.orthogonal import CROSSHAIR
from qtpy.QtCore import QCoreApplication, QEvent
from qtpy.QtGui import QOpenGLContext
from test_orientation import ORDERS, oriented

from medldm import Volume

pytestmark = pytest.mark.usefixtures("display")


@pytest.fixture
def views(viewer, panel):
    """The three views, opened by the button."""
    panel.view.orthogonal.click()
    return panel.view.views


def images(model):
    return [layer for layer in model.layers if isinstance(layer, Image)]


@pytest.fixture
def copied(viewer, panel, until):
    """Wait until every view has its copies."""

    def wait():
        until(panel.view.views.complete)
        assert all(len(images(model)) == len(images(viewer)) for model in panel.view.views.models.values())

    return wait


def alive(kind):
    """How many of a kind of object there are once everything that can go has gone."""
    QCoreApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
    gc.collect()
    return sum(type(each) is kind for each in gc.get_objects())


def test_a_marker_is_under_the_crosshair_in_every_plane(viewer, views, copied):
    """Every order of the axes, each with other flips; the voxels are the ones of the scan, not copies."""
    for order, signs in ORDERS[::13]:
        geometry = oriented(order, signs)
        array = np.zeros(geometry.shape, np.float32)
        array[2, 8, 1] = 1
        right, anterior, superior = geometry.to_world((2, 8, 1))
        data, attributes, _ = layer_data(Volume(array, geometry), "scan")
        layer = viewer.add_image(data, **attributes)
        copied()
        viewer.dims.point = (-superior, -anterior, -right)
        for plane, model in views.models.items():
            (copy,) = images(model)
            assert model.dims.order == PLANES[plane]
            assert np.shares_memory(copy.data, layer.data)
            # spacings are not commensurate with those of other orientations: the nearest voxel counts
            assert copy.get_value(model.dims.point, world=True) == 1
            (lines,) = (each for each in model.layers if each.name == CROSSHAIR)
            np.testing.assert_allclose(lines.data[0, 0, PLANES[plane][2]], model.dims.point[PLANES[plane][2]])
            np.testing.assert_allclose(lines.data[1, 0, PLANES[plane][1]], model.dims.point[PLANES[plane][1]])
        viewer.layers.clear()  # and the next layer comes at once: without contexts.py the process dies here
        assert not any(images(model) for model in views.models.values())


def test_looks_follow_and_made_layers_are_marked_everywhere(viewer, views, panel, compared, copied):
    copied()
    panel.view.window_.setCurrentText("5 to 90 %")
    compared.source.colormap = "viridis"
    for model in views.models.values():
        for layer, copy in zip([x for x in viewer.layers if isinstance(x, Image)], images(model), strict=True):
            assert (copy.name, copy.visible, copy.colormap.name) == (layer.name, layer.visible, layer.colormap.name)
            assert copy.contrast_limits == layer.contrast_limits
        assert is_marked(model)
    compared.show("residual")
    assert all([each.visible for each in images(model)].count(True) == 1 for model in views.models.values())
    for layer in viewer.layers:
        layer.visible = False
    assert not any(is_marked(model) for model in views.models.values())


def test_canvases_come_one_by_one_and_bind_no_shortcut_anew(viewer, panel, phantom, until):
    """Each binding would have every page of welcome written anew, which held the window for half a second."""
    bound = []

    def keep(event):
        bound.append(event)

    action_manager.events.shortcut_changed.connect(keep)
    panel.view.orthogonal.click()
    views = panel.view.views
    assert not views.canvases and not views.complete()
    until(views.complete)
    action_manager.events.shortcut_changed.disconnect(keep)
    assert len(views.canvases) == len(PLANES) and not bound


def test_a_scan_that_comes_after_the_planes_is_seen_whole(viewer, panel, press, settled):
    press("F4")
    viewer.open_sample("napari-medldm", "mr")
    settled()
    low, high = viewer.layers.extent.world
    np.testing.assert_allclose(viewer.scene.camera.center[1:], (low + high)[1:] / 2, atol=2)


def click(viewer, callback, position, moves=0):
    """What napari does with a press, moves and a release."""
    event = SimpleNamespace(type="mouse_press", position=position)
    drag = callback(viewer, event)
    next(drag)
    for _ in range(moves):
        event.type = "mouse_move"
        next(drag)
    event.type = "mouse_release"
    with pytest.raises(StopIteration):
        next(drag)


def test_a_click_moves_every_plane_and_a_drag_none(viewer, views, phantom, copied):
    copied()
    coronal = views.models["coronal"]
    wanted = tuple(phantom.data_to_world((30, 40, 50)))
    click(coronal, coronal.mouse_drag_callbacks[-1], wanted)
    for each in (viewer, *views.models.values()):
        np.testing.assert_allclose(each.dims.point, wanted, atol=1.01)
    before = viewer.dims.point
    click(coronal, coronal.mouse_drag_callbacks[-1], tuple(phantom.data_to_world((3, 4, 5))), moves=2)
    assert viewer.dims.point == before


def test_opening_again_takes_the_same_views_and_closing_leaves_none(viewer, panel, phantom, copied):
    models, canvases = alive(ViewerModel), alive(QtViewer)
    docks, callbacks = len(viewer.window.dock_widgets), len(viewer.mouse_drag_callbacks)
    listening = len(viewer.dims.events.point.callbacks)
    for _ in range(2):
        panel.view.orthogonal.click()
        copied()
        assert panel.view.views.isVisible()
        assert (alive(ViewerModel), alive(QtViewer)) == (models + 3, canvases + 3)
        panel.view.orthogonal.click()
        assert not panel.view.views.isVisible()
        assert not any(model.layers for model in panel.view.views.models.values())
        assert len(viewer.mouse_drag_callbacks) == callbacks
        assert len(viewer.dims.events.point.callbacks) == listening
    panel.view.close_views()
    assert (alive(ViewerModel), alive(QtViewer)) == (models, canvases)
    assert len(viewer.window.dock_widgets) == docks
    viewer.dims.point = (0, 0, 0)  # nothing listens any more


@pytest.mark.parametrize("way", ["remove", "clear"])
def test_a_layer_is_freed_in_the_context_of_its_canvas(viewer, views, phantom, copied, monkeypatch, way):
    """Whatever context is current when it is removed; the last one that was painted, say."""
    from napari._vispy.canvas import VispyCanvas

    copied()
    freed, original = [], VispyCanvas._clean_and_update_scenegraph

    def watched(self):
        freed.append((self, QOpenGLContext.currentContext() is self.native.context()))
        return original(self)

    monkeypatch.setattr(VispyCanvas, "_clean_and_update_scenegraph", watched)
    views.canvases[-1].canvas.native.makeCurrent()
    viewer.layers.remove(phantom) if way == "remove" else viewer.layers.clear()
    assert len({id(canvas) for canvas, _ in freed}) == 4 and all(own for _, own in freed)


def test_a_layer_that_is_gone_is_not_held(viewer, views, copied):
    layer = viewer.add_image(np.zeros((4, 4, 4), np.float32), units="mm", axis_labels=("I", "P", "L"))
    copied()
    viewer.layers.remove(layer)
    gone = weakref.ref(layer)
    del layer
    alive(Image)
    assert gone() is None


def test_a_dock_closed_by_its_own_button_can_be_opened_again(viewer, panel, phantom, views, copied):
    copied()
    views.parent().destroyOnClose()
    QCoreApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
    panel.view.orthogonal.click()
    panel.view.orthogonal.click()
    copied()
    assert panel.view.views is not views and panel.view.views.isVisible()
