"""Three linked planes: left stays left in each, a click moves all, and nothing is left behind."""

import gc
import weakref

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image
from napari.qt import QtViewer
from napari.utils.action_manager import action_manager
from napari_medldm.compare import PLANES
from napari_medldm.layers import layer_data
from qtpy.QtCore import QCoreApplication, QEvent, QPoint, Qt
from qtpy.QtGui import QImage, QOpenGLContext
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


def seen(views, plane):
    """What stands in one of the views, (Y, X, 3), with what is painted above the image."""
    native = views.canvases[list(views.models).index(plane)].canvas.native
    shot = native.grab().toImage().convertToFormat(QImage.Format.Format_RGB888)
    size = shot.bytesPerLine() * shot.height()
    bits = shot.constBits()
    rows = np.frombuffer(bits.asarray(size) if hasattr(bits, "asarray") else bits, np.uint8)  # PyQt6, PySide6
    return rows.reshape(shot.height(), -1)[:, : 3 * shot.width()].reshape(shot.height(), -1, 3).astype(int)


def orange(picture):
    """How many pixels of the mark are there."""
    return int((picture[:30, :, 0] - picture[:30, :, 2] > 100).sum())


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
        viewer.layers.clear()  # and the next layer comes at once: without contexts.py the process dies here
        assert not any(images(model) for model in views.models.values())


def test_lines_cross_at_the_point(views, phantom, copied, settled, viewer):
    copied()
    viewer.dims.point = tuple(phantom.data_to_world((30, 40, 50)))
    settled()
    before, index = seen(views, "coronal"), list(views.models).index("coronal")
    corners = views.corners[index]
    x, y = round(corners.x_of(viewer.dims.point[2])), round(corners.y_of(viewer.dims.point[0]))
    corners.crosshair = False
    without = seen(views, "coronal")
    changed = np.abs(before - without).sum(2) > 30
    assert changed[:, x - 1 : x + 2].any(1).mean() > 0.7 and changed[y - 1 : y + 2].any(0).mean() > 0.7
    assert not changed[y - 8 : y + 9, x - 8 : x + 9].any()  # the point itself is seen
    assert changed.sum() <= 3 * sum(changed.shape)


def test_looks_follow_and_made_layers_are_marked_everywhere(viewer, views, panel, compared, copied, settled):
    copied()
    panel.view.window_.setCurrentText("5 to 90 %")
    compared.source.colormap = "viridis"
    for model in views.models.values():
        for layer, copy in zip([x for x in viewer.layers if isinstance(x, Image)], images(model), strict=True):
            assert (copy.name, copy.visible, copy.colormap.name) == (layer.name, layer.visible, layer.colormap.name)
            assert copy.contrast_limits == layer.contrast_limits
    settled()
    assert all(orange(seen(views, plane)) > 200 for plane in ("coronal", "sagittal"))
    compared.show("residual")
    assert all([each.visible for each in images(model)].count(True) == 1 for model in views.models.values())
    for layer in viewer.layers:
        layer.visible = False
    settled()
    assert not any(orange(seen(views, plane)) for plane in ("coronal", "sagittal"))


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


def test_a_click_moves_every_plane_and_a_drag_none(viewer, views, phantom, copied, settled, drag, qtbot):
    copied()
    settled()
    index = list(views.models).index("coronal")
    native, corners = views.canvases[index].canvas.native, views.corners[index]
    wanted = phantom.data_to_world((30, viewer.dims.current_step[1], 50))
    at = QPoint(round(corners.x_of(wanted[2])), round(corners.y_of(wanted[0])))
    qtbot.mouseMove(native, at + QPoint(3, 3))
    qtbot.mouseMove(native, at)
    qtbot.mouseClick(native, Qt.MouseButton.LeftButton, pos=at)
    for each in (viewer, *views.models.values()):
        np.testing.assert_allclose(each.dims.point, wanted, atol=2.01)
    before = viewer.dims.point
    drag(Qt.MouseButton.LeftButton, at, (-30, 20), on=native)
    assert viewer.dims.point == before


def test_what_changed_while_the_views_were_away_is_seen_when_they_come_back(viewer, phantom, panel, copied, press):
    press("F4")
    copied()
    kept = [images(model)[0] for model in panel.view.views.models.values()]
    press("F4")
    phantom.contrast_limits, phantom.visible = (1, 2), False
    viewer.dims.set_current_step(0, 3)
    assert all(copy.visible and copy.contrast_limits != [1, 2] for copy in kept)
    press("F4")
    copied()
    for copy, model in zip(kept, panel.view.views.models.values(), strict=True):
        assert images(model) == [copy] and copy.contrast_limits == [1, 2] and not copy.visible
        assert model.dims.point == viewer.dims.point
    press("F4")
    viewer.layers.clear()
    assert not any(model.layers for model in panel.view.views.models.values())


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
