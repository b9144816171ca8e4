"""Measuring with the mouse: mm, mm² and mL, the same regions on scan and result, a table to copy."""

import itertools

import numpy as np
import pytest
from napari_medldm.layers import entry_of, layer_data
from napari_medldm.measure import COLUMNS, measure
from qtpy.QtCore import QPoint, Qt
from qtpy.QtWidgets import QApplication

from medldm import Geometry, Volume

pytestmark = pytest.mark.usefixtures("display")
LEFT = Qt.MouseButton.LeftButton


@pytest.fixture
def tools(viewer, panel, click, until, settled):
    """The panel that the button shows, for a window of the least size."""
    viewer.window.resize(1280, 720)
    click(panel.measure)
    until(lambda: panel.measure.panel is not None and panel.measure.panel.isVisible())
    settled()
    return panel.measure.panel


@pytest.fixture
def world(viewer, canvas):
    """World coordinates (mm) of a place on the canvas, in the two axes that are shown."""

    def at(point):
        camera = viewer.scene.camera
        middle = canvas.rect().center()
        shift = np.array([point[1] - middle.y(), point[0] - middle.x()]) / camera.zoom
        return np.array(camera.center[1:]) + shift

    return at


@pytest.fixture
def draw(viewer, canvas, drag, settled):
    """Hold the left button from one place, in pixels off the canvas's middle, to another; where both are."""

    def move(start, end):
        settled()  # a tool may have brought a layer, and that a slider
        ends = drag(LEFT, canvas.rect().center() + QPoint(*start), np.subtract(end, start).tolist())
        settled()  # the table follows a moment later
        return [(each.x(), each.y()) for each in ends]

    return move


def test_a_length_is_that_of_the_world(viewer, panel, phantom, tools, draw, world, click, until):
    click(tools.tools["Length"])
    ends = draw((-80, 30), (80, -20))
    until(lambda: len(tools.rows) == 1)
    (row,) = tools.rows
    wanted = float(np.linalg.norm(np.subtract(*map(world, ends))))
    assert row["unit"] == "mm" and row["size"] == pytest.approx(wanted, rel=0.03)
    shapes = viewer.layers.selection.active
    assert list(shapes.features["said"]) == [f"{row['size']:.0f} mm"]  # beside the line as well


@pytest.mark.parametrize("tool", ["Length", "Rectangle", "Ellipse"])
@pytest.mark.parametrize("size", [21, 22])
def test_a_scan_of_any_size_is_measured_where_it_opens(viewer, panel, drag, canvas, click, until, settled, size, tool):
    """The middle of an even number of slices lies between two. A hand may rest while it draws."""
    array = np.random.default_rng(0).normal(500, 50, (size,) * 3).astype(np.float32)
    data, attributes, _ = layer_data(Volume(array, Geometry.from_spacing(array.shape, (2, 2, 3))), "scan")
    for _ in range(2):  # the place of the first scan is napari's choice, that of the next is ours
        viewer.layers.clear()
        viewer.add_image(data, **attributes)
        settled()
    click(panel.measure)
    until(lambda: panel.measure.panel is not None and panel.measure.panel.isVisible())
    settled()
    tools = panel.measure.panel
    click(tools.tools[tool])
    settled()
    drag(LEFT, canvas.rect().center() + QPoint(-50, -40), (90, 60), steps=3, pause=150)
    until(lambda: len(tools.rows) == 1)
    assert tools.rows[0]["size"] > 0 and viewer.layers.selection.active.nshapes == 1


def test_areas_and_volumes(viewer, panel, phantom, tools, draw, world, click, until):
    click(tools.tools["Rectangle"])
    ends = draw((-60, -60), (-10, 0))
    click(tools.tools["Ellipse"])
    draw((10, -60), (60, 0))
    until(lambda: len(tools.rows) == 2)
    height, width = np.abs(np.subtract(*map(world, ends)))
    box, ellipse = tools.rows
    assert box["unit"] == "mm²" and box["size"] == pytest.approx(height * width, rel=0.05)
    assert ellipse["size"] == pytest.approx(np.pi / 4 * box["size"], rel=0.03) and "CNR" in ellipse
    sides = np.array([height, width]) / 2  # in voxels: one more or less along each
    assert np.prod(sides - 1) <= box["voxels"] <= np.prod(sides + 1)

    click(tools.tools["Volume"])
    draw((-40, 60), (40, 60))
    until(lambda: len(tools.rows) == 3)
    labels = viewer.layers.selection.active
    painted = np.asarray(labels.data) > 0
    volume = tools.rows[-1]
    assert volume["unit"] == "mL" and volume["size"] == pytest.approx(painted.sum() * 8 / 1000)
    values = phantom.data[painted]
    assert volume["mean"] == pytest.approx(values.mean()) and volume["SD"] == pytest.approx(values.std(ddof=1))
    assert volume["SNR"] == pytest.approx(values.mean() / values.std(ddof=1))


def test_sizes_stand_beside_what_was_drawn_and_cover_nothing(viewer, panel, phantom, tools, draw, click, until, press):
    """A box and an ellipse close to one another, and a line beneath both: each text is read by itself."""
    click(tools.tools["Rectangle"])
    draw((-70, -50), (-10, 0))
    click(tools.tools["Ellipse"])
    draw((-5, -50), (50, 0))
    click(tools.tools["Length"])
    draw((-60, 15), (60, 15))
    until(lambda: len(tools.rows) == 3)
    corners = panel.reading.corners
    found = corners.sizes()
    assert [text for text, _ in found] == list(viewer.layers.selection.active.features["said"])
    boxes = [box for _, box in found]
    assert not any(a.intersects(b) for a, b in itertools.combinations(boxes, 2))
    shot = corners.grab().toImage()
    for text, box in corners.sizes():
        colours = [
            shot.pixelColor(x, y)
            for x in range(int(box.left()), int(box.right()))
            for y in range(int(box.top()), int(box.bottom()))
        ]
        assert sum(each.red() > 200 and each.green() > 150 and each.blue() < 80 for each in colours) > 10, text
    press("Right")
    assert corners.sizes() == []  # drawn in another slice


def test_original_and_restored_are_measured_alike_and_nobody_else(
    viewer, panel, phantom, tools, restored, draw, click, until, press
):
    viewer.open_sample("napari-medldm", "ct")
    panel.active.choose(phantom)
    panel.form.place.setCurrentText("current slice")
    click(tools.tools["Rectangle"])
    draw((-40, -40), (40, 40))
    done = restored()
    until(lambda: len(tools.rows) == 2)
    first, second = tools.rows
    assert (first["image"], second["image"]) == ("original", "restored")
    assert first["size"] == second["size"] and first["voxels"] == second["voxels"]
    changed = done.comparison.result.data - phantom.data
    assert changed.any() and second["mean"] != first["mean"]
    for key in ("F5", "F8", "F9"):  # in every mode the same
        press(key)
        tools.update_table()
        assert tools.rows == [first, second]
        press(key)
    drawn = [layer for layer in viewer.layers if layer.name.startswith("measured")]
    panel.active.choose(viewer.layers["CT phantom"])
    until(lambda: tools.rows == [] and tools.table.rowCount() == 0)
    assert not any(layer.visible for layer in drawn)
    panel.active.choose(phantom)
    until(lambda: len(tools.rows) == 2)
    assert all(layer.visible for layer in drawn)


def test_the_table_is_copied(viewer, panel, phantom, tools, draw, click, qtbot, until):
    click(tools.tools["Rectangle"])
    draw((-40, -40), (40, 40))
    until(lambda: tools.table.rowCount() == 1)
    QApplication.clipboard().clear()
    click(tools.copy)
    copied = QApplication.clipboard().text()
    head, row = (line.split("\t") for line in copied.splitlines())
    assert tuple(head) == COLUMNS and len(row) == len(COLUMNS)
    table = dict(zip(head, row, strict=True))
    assert float(table["mean"]) == pytest.approx(tools.rows[0]["mean"], rel=1e-5)
    assert float(table["size"]) == pytest.approx(tools.rows[0]["size"], rel=1e-5) and table["unit"] == "mm²"
    QApplication.clipboard().clear()
    qtbot.keyClick(tools.table, Qt.Key.Key_C, Qt.KeyboardModifier.ControlModifier)
    assert QApplication.clipboard().text() == copied


def test_what_is_measured_is_no_region_to_restore(viewer, panel, phantom, tools, draw, click, until):
    click(tools.tools["Rectangle"])
    draw((-40, -40), (40, 40))
    until(lambda: len(tools.rows) == 1)
    panel.form.place.setCurrentText("drawn region")
    panel.start.click()
    assert "nothing drawn" in panel.message.text() and panel.job is None


def test_clear_takes_away_what_was_drawn_here_alone(viewer, panel, phantom, tools, draw, click, until):
    corners = np.array([[viewer.dims.point[0], y, x] for y, x in ((-30, -30), (-30, 30), (30, 30), (30, -30))])
    viewer.add_shapes([corners], shape_type="rectangle", units="mm", axis_labels=("I", "P", "L"))
    click(tools.tools["Ellipse"])
    draw((-40, -40), (40, 40))
    until(lambda: len(tools.rows) == 2)
    assert tools.rows[0]["size"] == pytest.approx(3600)
    click(tools.clear)
    until(lambda: len(tools.rows) == 1)
    assert [layer.name for layer in viewer.layers] == ["MR phantom", "Shapes"]


def test_the_tools_come_and_go(viewer, panel, phantom, tools, canvas, click, until, settled):
    buttons = (*tools.tools.values(), tools.clear, tools.copy)
    until(lambda: all(each.width() >= each.minimumSizeHint().width() for each in buttons))
    until(lambda: canvas.height() > 300 and all(tools.rect().contains(each.geometry()) for each in buttons))
    height, zoom = viewer.canvas.size[0], viewer.scene.camera.zoom
    click(panel.measure)
    until(lambda: not tools.isVisible() and viewer.canvas.size[0] > height)
    settled()
    assert viewer.scene.camera.zoom / zoom == pytest.approx(viewer.canvas.size[0] / height, rel=0.05)
    click(panel.measure)
    until(tools.isVisible)


def test_a_super_resolved_result_is_measured_on_its_own_grid(viewer, panel, phantom, pack, restored):
    panel.form.task.setCurrentText("super-resolve")
    panel.form.model.setCurrentText(pack)
    done = restored()
    z = viewer.dims.point[0]
    corners = np.array([[z, y, x] for y, x in ((-30, -30), (-30, 30), (30, 30), (30, -30))])
    viewer.add_shapes([corners], shape_type="rectangle", units="mm", axis_labels=("I", "P", "L"))
    first, second = measure(viewer)
    assert entry_of(done.comparison.result).volume.array.shape != entry_of(phantom).volume.array.shape
    assert first["size"] == second["size"] == pytest.approx(3600) and second["voxels"] >= first["voxels"]
