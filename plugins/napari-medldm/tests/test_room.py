"""The reading room: large canvas, one strip, nothing cut or scrolled away at 1280 x 720; `medldm view` opens it."""

import os
import subprocess
import sys

import pytest
from napari_medldm import room
from qtpy.QtCore import QCoreApplication, QEvent, QPoint, QRect
from qtpy.QtWidgets import QAbstractButton, QComboBox, QScrollArea, QWidget

import medldm

pytestmark = pytest.mark.usefixtures("display")

VIEW = """
import sys
from napari.qt import get_qapp
from qtpy.QtCore import QTimer
application = get_qapp()

def look():
    import napari
    viewer = napari.current_viewer()
    if viewer is not None and len(viewer.layers) == {count}:
        print("shown", [layer.name for layer in viewer.layers if layer.visible], viewer.window._qt_window.size())
        viewer.close()

timer = QTimer()
timer.timeout.connect(look)
timer.start(100)
sys.argv = ["medldm", "view", *{paths!r}]
from medldm.cli import main
main()
"""


@pytest.fixture
def strip(viewer, workshop, monkeypatch, until):
    """The strip of a room of the least size."""
    monkeypatch.setattr("napari_medldm.running.Workshop", lambda: workshop)
    viewer.window.resize(*room.SIZE)
    strip = room.enter(viewer)
    until(lambda: viewer.canvas.size[1] > 800)
    yield strip
    strip.end()
    QCoreApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)  # PySide6 keeps what is not yet deleted


def cut(strip):
    """Texts of what cannot be seen whole."""
    seen = strip.findChild(QScrollArea).viewport()
    area = QRect(seen.mapToGlobal(QPoint(0, 0)), seen.size())
    kinds = QAbstractButton, QComboBox
    shown = [each for kind in kinds for each in strip.findChildren(kind) if each.isVisible()]
    assert len(shown) > 15
    hidden = [each for each in shown if not area.contains(QRect(each.mapToGlobal(QPoint(0, 0)), each.size()))]
    buttons = [each for each in shown if isinstance(each, QAbstractButton)]
    narrow = [each for each in buttons if each.width() < each.minimumSizeHint().width()]
    return [each.currentText() if isinstance(each, QComboBox) else each.text() for each in hidden + narrow]


@pytest.fixture
def known(strip, pack):
    """A model that has nothing against a phantom: no banner takes room."""
    strip.form.model.addItem(pack)
    return lambda: strip.form.model.setCurrentText(pack)


def test_the_canvas_has_the_window_and_the_strip_shows_all(viewer, strip, known, restored_in, until):
    viewer.open_sample("napari-medldm", "mr")
    known()
    assert viewer.canvas.size[1] >= 2 / 3 * viewer.window._qt_window.width() and strip.width() <= 320
    assert not viewer.window._qt_viewer.dockLayerList.isVisible()
    until(lambda: not cut(strip))
    restored_in(strip)
    until(lambda: not cut(strip))


@pytest.fixture
def restored_in(pack, until):
    def press(strip):
        strip.form.model.addItem(pack)
        strip.form.model.setCurrentText(pack)
        strip.form.place.setCurrentText("current slice")
        strip.start.click()
        until(lambda: bool(strip.judge.done))

    return press


def test_three_planes_leave_canvas_and_strip_their_room(viewer, strip, known, press, until):
    viewer.open_sample("napari-medldm", "mr")
    known()
    press("F4")
    until(strip.view.views.complete)
    beside = strip.view.views.canvases[1:]  # the plane of the main canvas is not shown twice
    until(lambda: min(each.height() for each in beside) > 290 and not cut(strip))
    until(lambda: viewer.canvas.size[1] > 500 and min(each.width() for each in beside) > 320)
    until(lambda: viewer.canvas.size[0] > 600)


def test_doubts_cut_nothing_of_the_strip(viewer, strip, pack, until):
    """Text that does not fit is wrapped; the strip scrolls at most downwards."""
    viewer.open_sample("napari-medldm", "ct")
    strip.form.model.addItem(pack)
    strip.form.model.setCurrentText(pack)
    assert strip.banner.isVisible()
    area = strip.findChild(QScrollArea)
    until(lambda: area.viewport().width() > 290 and not cut(strip))
    strip.banner.show_doubts(["a doubt that takes several lines of the banner"] * 12, ())
    until(lambda: area.verticalScrollBar().isVisible())
    until(lambda: area.widget().width() <= area.viewport().width())
    assert area.widget().minimumSizeHint().width() <= area.viewport().width()


def test_one_click_brings_the_layers_back(viewer, strip, click):
    canvas = viewer.window._qt_viewer
    click(strip.docks)
    assert canvas.dockLayerList.isVisible() and canvas.dockLayerControls.isVisible()
    click(strip.docks)
    assert not canvas.dockLayerList.isVisible() and not canvas.dockLayerControls.isVisible()


def test_samples_steps_and_seed_stand_under_advanced(viewer, strip, click):
    fine = (strip.form.dial, strip.form.samples, strip.form.steps, strip.form.seed)
    assert not any(each.isVisible() for each in fine)
    click(strip.form.advanced)
    assert all(each.isVisible() for each in fine)


def test_what_has_nothing_to_act_on_cannot_be_pressed(viewer, strip, restored_in, click):
    judge, saving = strip.judge.buttons.values(), strip.saving.buttons.values()
    after = (strip.undo, strip.again, *judge, *saving)
    assert not any(each.isEnabled() for each in after)
    viewer.open_sample("napari-medldm", "mr")
    assert not any(each.isEnabled() for each in after)
    restored_in(strip)
    assert all(each.isEnabled() for each in after)
    click(strip.undo)
    assert not any(each.isEnabled() for each in after)


def test_slices_are_counted_from_one_and_by_nothing_else(viewer, strip, press):
    viewer.open_sample("napari-medldm", "mr")
    numbers = viewer.window._qt_viewer.dims.findChildren(QWidget, "slice_label")
    (pane,) = strip.reading.corners.panes()
    assert numbers and not any(each.isVisible() for each in numbers)
    assert pane.slice == f"slice {viewer.dims.current_step[0] + 1} / {viewer.dims.nsteps[0]}"
    press("Right")
    (after,) = strip.reading.corners.panes()
    assert int(after.slice.split()[1]) == int(pane.slice.split()[1]) + 1
    strip.end()
    assert any(each.isVisible() for each in numbers)


def test_the_mode_that_is_on_is_seen(viewer, strip, restored_in, press):
    viewer.open_sample("napari-medldm", "mr")
    restored_in(strip)
    sliders = {"wipe": strip.judge.wipe, "uncertainty": strip.judge.threshold}
    for mode, key in {"wipe": "F6", "residual": "F8", "uncertainty": "F9"}.items():
        press(key)
        assert [name for name, button in strip.judge.buttons.items() if button.isChecked()] == [mode]
        assert {name for name, slider in sliders.items() if slider.isVisible()} == {mode} & set(sliders)
    press("F9")
    assert not any(button.isChecked() for button in strip.judge.buttons.values())


def test_the_command_opens_what_it_is_given(noisy_scan, tmp_path):
    paths = [str(medldm.write(noisy_scan, tmp_path / f"{name}.nii.gz")) for name in ("first", "second")]
    command = [sys.executable, "-W", "ignore", "-c", VIEW.format(count=2, paths=paths)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert "shown ['second']" in ran.stdout and "1280, 720" in ran.stdout


@pytest.mark.parametrize(("given", "reason"), [("nothing", "no such file or folder"), (None, "no display")])
def test_the_command_says_what_is_not_there(tmp_path, given, reason):
    code = f"import sys; from medldm.cli import main; sys.argv = ['medldm', 'view', *{[given] * bool(given)}]; main()"
    bare = {name: value for name, value in os.environ.items() if "DISPLAY" not in name}
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=bare, capture_output=True, text=True)
    assert ran.returncode != 0 and reason in ran.stderr and "Traceback" not in ran.stderr
