"""Comparing: what is what is written beside it, the line is dragged, a verdict in words, values under the cursor."""

from dataclasses import replace

import numpy as np
import pytest
from napari_medldm.captions import colours_of
from napari_medldm.layers import entry_of
from napari_medldm.verdict import GREEN, ORANGE, RED, verdict
from qtpy.QtCore import QPoint, Qt
from qtpy.QtGui import QColor

from medldm.calibration import Calibration
from tests.tiny import tiny_intervals, tiny_model

pytestmark = pytest.mark.usefixtures("display")
LEFT = Qt.MouseButton.LeftButton


@pytest.fixture
def corners(panel, compared, settled):
    settled()
    return panel.reading.corners


def pixel(widget, x, y):
    picture = widget.grab().toImage()
    ratio = picture.width() / widget.width()
    return picture.pixelColor(round(x * ratio), round(y * ratio))


def test_every_mode_names_what_it_shows(viewer, panel, corners, press, until):
    def names():
        return [pane.name for pane in corners.panes()]

    assert names() == ["Restored"] and corners.mode() == ""
    press("F5")
    assert names() == ["Original", "Restored"] and "F5" in corners.mode()
    left, right = (pane.rect for pane in corners.panes())
    assert left.right() == right.left() == corners.width() / 2
    press("F8")
    assert names() == ["Residual"] and "residual" in corners.mode()
    press("F9")
    assert names() == ["Restored, uncertainty"]
    press("F7")
    seen = {names()[0]}
    until(lambda: seen.add(names()[0]) or seen == {"Original", "Restored"})
    press("F7")
    assert names() == ["Restored"] and corners.mode() == ""
    panel.undo.click()
    assert names() == ["Original"]


def test_the_line_of_the_wipe_is_dragged_on_the_canvas(viewer, panel, compared, corners, canvas, press, drag, until):
    press("F6")
    middle, step = canvas.height() // 2, compared.result.scale[viewer.dims.order[-1]] * viewer.scene.camera.zoom
    for by in (60, -140):
        start = round(corners.border())
        assert pixel(corners, start, middle + 60).blue() > 200  # there it is seen
        center = viewer.scene.camera.center
        drag(LEFT, QPoint(start, middle), (by, 0))
        until(lambda wanted=start + by: abs(corners.border() - wanted) <= abs(step) / 2 + 1)
        assert viewer.scene.camera.center == center
    part, axis = viewer.layers[-1], viewer.dims.order[-1]
    edge = part.translate[axis] - part.scale[axis] / 2
    assert corners.x_of(edge if part.scale[axis] > 0 else edge + 0) == pytest.approx(corners.border(), abs=step)
    assert panel.judge.wipe.value() == pytest.approx(100 * compared.share, abs=0.51)
    share = compared.share
    beside = QPoint(round(corners.border()) + 40, middle)
    drag(LEFT, beside, (30, 0))
    assert compared.share == share
    press("F6")
    assert corners.border() is None
    press("F6")
    assert compared.share == share
    panel.judge.wipe.setValue(50)
    for plane, axis in (("sagittal", 1), ("axial", 2)):
        panel.view.plane.setCurrentText(plane)
        part = viewer.layers[-1]
        cut = [n < whole for n, whole in zip(part.data.shape, compared.result.data.shape, strict=True)]
        assert cut == [each == axis for each in range(3)]
        assert 0.3 * corners.width() < corners.border() < 0.7 * corners.width()


CHECKS = {"residual_std_over_noise_std": 1.0, "residual_neighbour_correlation": 0.05, "residual_has_structure": False}


@pytest.mark.parametrize(
    ("changed", "colour", "short"),
    [
        ({}, GREEN, "looks like noise"),
        ({"residual_has_structure": True, "residual_neighbour_correlation": 0.4}, ORANGE, "look at it"),
        ({"residual_has_structure": True, "residual_neighbour_correlation": -0.7}, RED, "do not trust"),
        ({"residual_has_structure": True, "residual_std_over_noise_std": 2.5}, RED, "do not trust"),
        (  # a faint residual cannot have taken much away, whatever it looks like
            {
                "residual_has_structure": True,
                "residual_neighbour_correlation": 0.9,
                "residual_std_over_noise_std": 0.1,
            },
            ORANGE,
            "look at it",
        ),
    ],
)
def test_a_verdict_in_words_and_colour(changed, colour, short):
    said = verdict({"checks": CHECKS | changed})
    assert (said.colour, said.short) == (colour, short) and "residual" in said.text


def test_no_verdict_where_nothing_was_measured():
    assert verdict({"checks": {"voxels_filled": 12}}) is None and verdict({}) is None


def test_the_verdict_is_seen_in_the_strip_and_on_the_residual(viewer, panel, corners, press):
    said = verdict(panel.judge.last().result.report)
    label = panel.judge.verdict
    assert label.text() == said.short and label.isVisible()
    assert pixel(label, 3, 3) == QColor(said.colour)
    place = corners.width() / 2, corners.height() - 60
    assert pixel(corners, *place) != QColor(said.colour)
    press("F8")
    assert pixel(corners, *place) == QColor(said.colour)
    panel.undo.click()
    assert label.text() == ""


def test_a_colour_bar_says_what_the_colours_mean(viewer, panel, compared, corners, press):
    assert colours_of(viewer) is None
    for key, wanted_layer in (("F8", compared.residual), ("F9", compared.uncertainty)):
        press(key)
        layer, texts = colours_of(viewer)
        assert layer is wanted_layer
        low, high = layer.contrast_limits
        ends = [float(text.split()[0 if key == "F8" else 1]) for share, text in texts if share in (0, 1)]
        assert ends == pytest.approx([high, low], rel=0.01)
        height = min(220, 0.4 * corners.height())
        for share, y in ((0.98, -height / 2 + 3), (0.02, height / 2 - 3)):
            seen = pixel(corners, corners.width() - 45, corners.height() / 2 + y)
            *colour, alpha = layer.colormap.map(np.array([share]))[0]
            wanted = 255 * np.array(colour) * alpha
            assert np.abs(np.array([seen.red(), seen.green(), seen.blue()]) - wanted).max() < 12


def test_values_and_interval_at_the_cursor(viewer, panel, compared, corners, canvas, qtbot, until):
    readout = panel.reading.readout
    assert readout.isVisible()
    camera, place, seen = viewer.scene.camera, list(viewer.dims.point), {}

    def told():
        # the pointer of the screen may move, too, and the canvas may still be laid out: the move is sent anew
        seen["tries"] = seen.get("tries", -1) + 1
        at = QPoint(canvas.width() // 2 + 40 + seen["tries"] % 7, canvas.height() // 2 - 30)
        qtbot.mouseMove(canvas, QPoint(5, 5))
        qtbot.mouseMove(canvas, at)
        place[viewer.dims.order[2]] = corners.world_of(at.x())
        place[viewer.dims.order[1]] = camera.center[-2] + (at.y() - canvas.height() / 2) / camera.zoom
        index = tuple(int(np.rint(each)) for each in compared.source.world_to_data(place))
        seen["values"] = [float(x.data[index]) for x in (compared.source, compared.result, compared.uncertainty)]
        return f"Original {seen['values'][0]:.4g}" in readout.text()

    until(told)
    before, after, spread = seen["values"]
    low, high = after - 1.96 * spread, after + 1.96 * spread
    assert f"Restored {after:.4g}" in readout.text() and f"95 %: {low:.4g} to {high:.4g}" in readout.text()
    assert readout.describe((1e4, 1e4, 1e4)) == ""
    panel.undo.click()
    assert readout.describe(place) == f"Value {before:.4g}"
    until(lambda: readout.text().startswith("Value "))  # without a move of the mouse, too
    viewer.layers.clear()
    until(lambda: readout.text() == "")


def test_the_interval_of_a_calibrated_model_is_the_one_at_the_cursor(panel, phantom, restored, tmp_path):
    made = tiny_model(tmp_path, 3, scale=0.05)
    known = Calibration({}, 1.0, 0, tiny_intervals(made.weights_sha256))
    folder = str(replace(made, calibration=known).save(tmp_path / "known"))
    panel.form.model.addItem(folder)
    panel.form.model.setCurrentText(folder)
    restored()
    done = panel.judge.done[-1]
    layer = done.comparison.result
    index = tuple(n // 2 for n in layer.data.shape)
    low, high = (entry_of(layer).display.forward(each.array)[index] for each in done.result.interval(0.95))
    assert low < layer.data[index] < high
    assert f"95 %: {low:.4g} to {high:.4g}" in panel.reading.readout.describe(layer.data_to_world(index))
