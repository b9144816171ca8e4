"""Keys, pressed at the window as a person presses them."""

import pytest
from qtpy.QtWidgets import QComboBox

pytestmark = pytest.mark.usefixtures("display")


def shown(viewer):
    return {layer.name.split(" · ")[-1] for layer in viewer.layers if layer.visible}


def test_each_mode_has_its_key(viewer, panel, compared, press, until):
    assert shown(viewer) == {"MR phantom", "result"}
    for key, wanted in {"F5": {"MR phantom", "result"}, "F8": {"residual"}, "F9": {"result", "uncertainty"}}.items():
        press(key)
        assert shown(viewer) == wanted
        until(lambda key=key: viewer.canvas.grid.enabled == (key == "F5"))
        press(key)
        assert shown(viewer) == {"result"} and not viewer.canvas.grid.enabled
    press("F6")
    assert any(layer.name.endswith("wipe") for layer in viewer.layers)
    press("F7")
    assert compared.mode == "blink" and not any(layer.name.endswith("wipe") for layer in viewer.layers)
    press("F7")
    assert compared.mode == "single"


def test_a_mode_that_is_left_at_once_does_not_come_back(viewer, panel, compared, press, until, qtbot):
    press("F5")
    press("F5")
    qtbot.wait(200)
    assert shown(viewer) == {"result"} and not viewer.canvas.grid.enabled
    compared.show("side by side")
    compared.close()
    qtbot.wait(200)
    assert not viewer.canvas.grid.enabled


def test_f4_opens_three_planes_wherever_the_focus_is(viewer, panel, phantom, press):
    press("F4")
    assert panel.view.orthogonal.isChecked() and panel.view.views.isVisible()
    press("F4")
    assert not panel.view.orthogonal.isChecked() and not panel.view.views.isVisible()
    boxes = [box for box in panel.findChildren(QComboBox) if box.isVisible()]
    assert len(boxes) > 4
    panel.view.orthogonal.toggled.disconnect()  # planes were opened and closed: from here on, who gets the key
    for number, box in enumerate(boxes):
        press("F4", box)
        assert not box.view().isVisible() and panel.view.orthogonal.isChecked() == (number % 2 == 0)


def test_arrows_step_through_slices_with_the_panel_open(viewer, panel, phantom, press):
    before = viewer.dims.point
    press("Right")
    assert viewer.dims.point[0] - before[0] == pytest.approx(2.0)  # mm: one slice
    press("Left")
    assert viewer.dims.point == before


def test_digits_change_the_tool_of_a_painted_region(viewer, panel, phantom, press):
    panel.form.place.setCurrentText("drawn region")
    panel.form.draw.click()
    region = viewer.layers.selection.active
    for key, tool in {"1": "erase", "2": "paint", "3": "polygon", "4": "fill"}.items():
        press(key)
        assert region.mode == tool


def test_a_closed_panel_lets_go_of_its_keys(viewer, panel, phantom, press):
    panel.close()
    press("F4")
    press("F8")
    assert panel.view.views is None
    assert not [key for key in viewer.keymap if str(key).startswith("F")]
