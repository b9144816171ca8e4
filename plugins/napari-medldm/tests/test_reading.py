"""The canvas as a reading station: what wheel, drags and double clicks do, and what stands in the corners."""

import numpy as np
import pytest
from napari_medldm.captions import nice_length, series_description
from napari_medldm.layers import layer_data
from napari_medldm.orientation import directions, display_of
from napari_medldm.windows import CT, PERCENTILES
from qtpy.QtCore import QEvent, QObject, QPoint, QPointF, Qt
from qtpy.QtGui import QWheelEvent
from qtpy.QtWidgets import QApplication, QStyle, QStyleOptionComboBox
from test_orientation import ORDERS, oriented

from medldm import Geometry, Volume
from tests.dicom_maker import CANARY, make_series

pytestmark = pytest.mark.usefixtures("display")
LEFT, RIGHT, MIDDLE = Qt.MouseButton.LeftButton, Qt.MouseButton.RightButton, Qt.MouseButton.MiddleButton


@pytest.fixture
def wheel(canvas):
    """Turn the wheel by notches, away from the hand for positive ones."""

    def turn(notches, *, on=None, at=None, held=Qt.KeyboardModifier.NoModifier):
        target = on or canvas
        at = at or target.rect().center()
        places = QPointF(at), QPointF(target.mapToGlobal(at))
        angle = QPoint(0, round(120 * notches))
        rest = Qt.MouseButton.NoButton, held, Qt.ScrollPhase.NoScrollPhase, False
        event = QWheelEvent(*places, QPoint(), angle, *rest)
        QApplication.sendEvent(target, event)

    return turn


@pytest.fixture
def pane(panel):
    """What is said around the one picture of the main canvas."""

    def only():
        (found,) = panel.reading.corners.panes()
        return found

    return only


@pytest.fixture
def planes(viewer, panel, phantom, press, until, settled):
    """The window with all planes open; the two that are seen beside the main canvas."""
    viewer.window.resize(1400, 800)
    press("F4")
    views = panel.view.views
    until(views.complete)
    assert all(len(model.layers) == 1 for model in views.models.values())
    until(lambda: sum(canvas.isVisible() for canvas in views.canvases) == 2)
    settled()
    return views


def side(views, plane):
    return views.canvases[list(views.models).index(plane)].canvas.native


# --- the mouse ---


def test_the_wheel_goes_through_slices(viewer, panel, phantom, wheel, pane):
    axis, zoom = viewer.dims.order[0], viewer.scene.camera.zoom
    start, count = viewer.dims.current_step[axis], phantom.data.shape[axis]
    wheel(-1)
    wheel(-3)
    assert viewer.dims.current_step[axis] == start + 4 and pane().slice == f"slice {start + 5} / {count}"
    wheel(2)
    for _ in range(4):
        wheel(0.25)  # a wheel without notches
    assert viewer.dims.current_step[axis] == start + 1
    wheel(-1000)
    assert viewer.dims.current_step[axis] == count - 1
    wheel(1000)
    assert viewer.dims.current_step[axis] == 0
    assert viewer.scene.camera.zoom == zoom


def test_the_wheel_zooms_with_control_around_the_cursor(viewer, panel, phantom, wheel, settled):
    settled()
    camera, corners, at = viewer.scene.camera, panel.reading.corners, QPoint(200, 150)
    zoom, place, step = camera.zoom, corners.world_of(at.x()), viewer.dims.current_step
    wheel(2, at=at, held=Qt.KeyboardModifier.ControlModifier)
    assert camera.zoom == pytest.approx(1.15**2 * zoom) and viewer.dims.current_step == step
    assert corners.world_of(at.x()) == pytest.approx(place)
    wheel(-2, at=at, held=Qt.KeyboardModifier.ControlModifier)
    assert camera.zoom == pytest.approx(zoom) and corners.world_of(at.x()) == pytest.approx(place)


def test_a_right_drag_windows_scan_and_result(viewer, panel, compared, drag, canvas, pane, press):
    camera = viewer.scene.camera
    before, zoom = compared.source.contrast_limits, camera.zoom
    width, level = before[1] - before[0], sum(before) / 2
    middle = canvas.rect().center()
    drag(RIGHT, middle, (125, 0))
    low, high = compared.source.contrast_limits
    assert high - low == pytest.approx(width * np.exp(0.5)) and (low + high) / 2 == pytest.approx(level)
    drag(RIGHT, middle, (-125, 0))
    drag(RIGHT, middle, (0, 50))
    low, high = compared.result.contrast_limits
    assert high - low == pytest.approx(width) and (low + high) / 2 == pytest.approx(level + 0.2 * width)
    assert compared.source.contrast_limits == compared.result.contrast_limits and camera.zoom == zoom
    assert panel.view.window_.currentText() == "by hand"
    assert pane().window == f"W {width:.0f}  L {level + 0.2 * width:.0f}"

    window, (_, top) = list(compared.source.contrast_limits), compared.residual.contrast_limits
    press("F8")  # of which how much has the full colour is changed, alone
    drag(RIGHT, middle, (-125, 60))
    np.testing.assert_allclose(compared.residual.contrast_limits, np.array((-1, 1)) * top * np.exp(-0.5))
    assert compared.source.contrast_limits == window


def test_a_middle_drag_pans(viewer, panel, phantom, drag, canvas, settled):
    settled()
    corners, start = panel.reading.corners, canvas.rect().center()
    held = corners.world_of(start.x())
    point, zoom = viewer.dims.point, viewer.scene.camera.zoom
    drag(MIDDLE, start, (60, -30))
    assert corners.world_of(start.x() + 60) == pytest.approx(held)
    assert (viewer.dims.point, viewer.scene.camera.zoom) == (point, zoom)


def test_the_mouse_is_napari_s_when_the_panel_is_closed(viewer, panel, phantom, wheel, drag, canvas):
    panel.close()
    step, limits = viewer.dims.current_step, list(phantom.contrast_limits)
    wheel(-1)
    drag(RIGHT, canvas.rect().center(), (50, 0))
    assert viewer.dims.current_step == step and phantom.contrast_limits == limits
    assert not panel.reading.corners.isVisible()


# --- three planes ---


def test_each_plane_is_shown_once(viewer, panel, planes):
    assert [each.isVisible() for each in planes.canvases] == [False, True, True]  # axial is the main canvas's
    panel.view.plane.setCurrentText("sagittal")
    assert [each.isVisible() for each in planes.canvases] == [True, True, False]


def test_wheel_and_drags_do_the_same_in_every_view(viewer, panel, planes, phantom, wheel, drag, canvas):
    coronal, native = planes.models["coronal"], side(planes, "coronal")
    step = viewer.dims.current_step[1]
    wheel(-3, on=native)
    assert viewer.dims.current_step[1] == coronal.dims.current_step[1] == step + 3
    low, high = phantom.contrast_limits
    drag(RIGHT, native.rect().center(), (50, 0), on=native)
    wanted = pytest.approx((high - low) * np.exp(0.2))
    for limits in (phantom.contrast_limits, coronal.layers[0].contrast_limits):
        assert limits[1] - limits[0] == wanted
    center, main = coronal.scene.camera.center, viewer.scene.camera.center
    drag(MIDDLE, native.rect().center(), (30, 20), on=native)
    assert coronal.scene.camera.center != center and viewer.scene.camera.center == main


def test_a_click_in_one_view_moves_the_others_there(viewer, panel, planes, phantom, qtbot, until):
    native, corners = side(planes, "sagittal"), planes.corners[2]
    at = native.rect().center() + QPoint(20, 15)
    qtbot.mouseClick(native, LEFT, pos=at)
    wanted = corners.world_of(at.x())  # the horizontal axis of the sagittal plane runs to posterior
    until(lambda: abs(viewer.dims.point[1] - wanted) < 1.01)
    assert planes.models["coronal"].dims.point == viewer.dims.point


def test_a_double_click_makes_a_view_large_and_takes_it_back(viewer, panel, planes, qtbot, canvas):
    native, zoom = side(planes, "coronal"), viewer.scene.camera.zoom
    qtbot.mouseDClick(native, LEFT, pos=native.rect().center())
    assert panel.view.plane.currentText() == "coronal" and not planes.isVisible()
    qtbot.mouseDClick(canvas, LEFT, pos=canvas.rect().center())
    assert panel.view.plane.currentText() == "axial" and planes.isVisible()
    qtbot.mouseDClick(canvas, LEFT, pos=canvas.rect().center())
    assert panel.view.plane.currentText() == "axial" and not planes.isVisible()
    assert viewer.scene.camera.zoom < 2 * zoom  # napari's own double click doubles it


# --- the corners ---


def test_letters_and_place_are_the_patient_s(viewer, panel, pane):
    ends = {"axial": ("A", "P", "R", "L"), "coronal": ("S", "I", "R", "L"), "sagittal": ("S", "I", "A", "P")}
    each = [(oriented(order, signs), across) for order, signs in ORDERS[::7] for across in range(3)]
    for geometry, across in each:
        data, attributes, _ = layer_data(Volume(np.zeros(geometry.shape, np.float32), geometry), "scan")
        layer = viewer.add_image(data, **attributes)
        plane, wanted = list(ends.items())[across]
        panel.view.plane.setCurrentText(plane)
        viewer.dims.set_current_step(across, 1)
        shown = pane()
        assert shown.ends == wanted and shown.series.endswith(plane)
        assert shown.slice == f"slice 2 / {layer.data.shape[across]}"
        # second from the superior, anterior or right end, by the corners of the grid alone
        axis = 2 - across
        places = geometry.to_world(np.argwhere(np.ones(geometry.shape)))[:, axis]
        second = np.unique(np.round(places, 6))[-2]
        letter = ("LR", "PA", "IS")[axis][int(second >= 0)]
        assert shown.place == f"{letter} {abs(second):.1f} mm"
        viewer.layers.remove(layer)


def test_oblique_axes_have_two_letters():
    turn = np.radians(30)
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:2, :2] = 2 * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    geometry = Geometry(affine, (10, 11, 12))
    found = directions(geometry, display_of(geometry))
    # napari's axes: down the body, backwards, to the left; here turned towards the left front
    assert found == (("S", "I"), ("AL", "PR"), ("RA", "LP"))


def test_the_description_of_the_series_is_shown_and_never_a_name(viewer, panel, pane, tmp_path):
    def describe(dataset, k):
        dataset.SeriesDescription = "T1 MPRAGE"

    viewer.open(str(make_series(tmp_path / "named")), plugin="napari-medldm")
    assert pane().series == "MR · axial"  # the description of this one holds the name of the patient
    viewer.open(str(make_series(tmp_path / "described", change=describe)), plugin="napari-medldm")
    assert pane().series == "T1 MPRAGE · axial"
    for layer in viewer.layers:
        assert CANARY not in series_description(layer.metadata["medldm"].volume)


def test_the_scale_bar_is_as_long_as_it_says(viewer, panel, phantom, wheel, settled):
    settled()
    corners = panel.reading.corners
    for notches in (0, 3, -7):
        wheel(notches, held=Qt.KeyboardModifier.ControlModifier)
        picture = corners.grab().toImage()
        ratio = picture.width() / corners.width()
        y = round((corners.height() - 12) * ratio)
        white = [picture.pixelColor(x, y).lightness() > 250 for x in range(picture.width() // 2)]
        zoom = viewer.scene.camera.zoom
        length, text = nice_length((corners.width() - 20) * 0.22 / zoom)
        assert sum(white) / ratio == pytest.approx(length * zoom, abs=3)
        assert text == (f"{length / 10:g} cm" if length >= 10 else f"{length:g} mm")


def test_corners_change_nothing_of_the_layers_and_go_in_3d(viewer, panel, phantom, pane):
    assert list(viewer.layers) == [phantom] and phantom.interpolation2d == "linear"
    viewer.dims.ndisplay = 3
    assert pane().ends == ("", "", "", "") and pane().slice == pane().place == ""


class Eye(QObject):
    """Counts how often a widget is painted."""

    painted = 0

    def eventFilter(self, widget, event):
        self.painted += event.type() == QEvent.Type.Paint
        return False


def test_corners_are_painted_anew_when_what_they_say_changes(viewer, panel, phantom, qtbot, until):
    eye, camera = Eye(), viewer.scene.camera
    panel.reading.corners.installEventFilter(eye)
    changes = {
        "window": lambda: setattr(phantom, "contrast_limits", (1, 2)),
        "zoom": lambda: setattr(camera, "zoom", 2 * camera.zoom),
        "place": lambda: setattr(camera, "center", tuple(np.array(camera.center) + 3)),
        "slice": lambda: viewer.dims.set_current_step(viewer.dims.order[0], 3),
        "plane": lambda: setattr(viewer.dims, "order", (1, 0, 2)),
        "visible": lambda: setattr(phantom, "visible", False),
    }
    for change in changes.values():
        qtbot.wait(150)
        eye.painted = 0
        change()
        until(lambda: eye.painted > 0)
    assert panel.reading.corners.panes() == []


def test_an_image_is_read_on_black_in_every_theme(viewer, panel, phantom):
    viewer.theme = "light"
    seen = viewer.screenshot(canvas_only=True, flash=False)
    assert (seen[2, 2, :3] < 5).all() and (seen[-3, -3, :3] < 5).all()


def test_names_of_windows_are_not_cut(viewer, panel, until):
    box = panel.view.window_
    for sample, names in (("mr", PERCENTILES), ("ct", CT)):
        viewer.open_sample("napari-medldm", sample)
        assert box.currentText() == next(iter(names))  # the one that it is opened with
        texts = [box.itemText(row) for row in range(box.count())]
        assert len(texts) == len(names) + 1
        until(lambda texts=texts: max(map(box.fontMetrics().horizontalAdvance, texts)) <= room_for_text(box))


def room_for_text(box):
    """Pixels in width."""
    option = QStyleOptionComboBox()
    box.initStyleOption(option)
    part = QStyle.SubControl.SC_ComboBoxEditField
    return box.style().subControlRect(QStyle.ComplexControl.CC_ComboBox, option, part, box).width()
