"""The whole way by what a hand can do alone: drops, keys, clicks, drags; with a second patient open all the while."""

import numpy as np
import pytest
from napari_medldm import room
from napari_medldm.layers import entry_of
from napari_medldm.mark import is_marked
from qtpy.QtCore import QPoint, Qt
from qtpy.QtWidgets import QApplication, QDialogButtonBox

import medldm
from tests.dicom_maker import CORONAL, SAGITTAL, make_series

pytestmark = pytest.mark.usefixtures("display")
LEFT = Qt.MouseButton.LeftButton
KEYS = {"side by side": "F5", "wipe": "F6", "blink": "F7", "residual": "F8", "uncertainty": "F9"}


@pytest.fixture
def study(tmp_path):
    """Three series of one patient, of 2 mm: two heads of 40 slices, and a localizer of two."""
    rng = np.random.default_rng(0)
    axes = np.meshgrid(np.linspace(-1, 1, 40), np.linspace(-1, 1, 48), np.linspace(-1, 1, 44), indexing="ij")
    head = 600.0 * (sum(np.square(axis) for axis in axes) < 0.8) + 30
    noisy = np.hypot(head + 40 * rng.standard_normal(head.shape), 40 * rng.standard_normal(head.shape))
    plans = {"t1": (40, SAGITTAL), "t1-late": (40, SAGITTAL), "localizer": (2, CORONAL)}
    for number, (name, (n, orientation)) in enumerate(plans.items(), start=1):
        step = np.cross(orientation[:3], orientation[3:]) * (2.0 if n > 2 else 30.0)
        make_series(
            tmp_path / "study" / name,
            n=n,
            rows=48,
            columns=44,
            orientation=orientation,
            spacing=(2.0, 2.0),
            step=step,
            series=f"1.2.3.{number}",
            pixels=lambda k, late=name == "t1-late": (noisy[k] * (1.5 if late else 1)).astype(np.uint16),
            change=lambda dataset, k, name=name: setattr(dataset, "SeriesDescription", name),
        )
    return tmp_path / "study"


@pytest.fixture
def panel(viewer, workshop, monkeypatch, until):
    """The strip of a reading room."""
    monkeypatch.setattr("napari_medldm.running.Workshop", lambda: workshop)
    viewer.window.resize(*room.SIZE)
    strip = room.enter(viewer)
    until(lambda: viewer.canvas.size[1] > 800)
    yield strip
    strip.end()
    if strip.run.job is not None:
        strip.run.job.wait(60)


@pytest.fixture
def down_to(qtbot):
    """Go through a list with the keys until it has come to an entry."""

    def go(box, text):
        box.setFocus()
        qtbot.keyClick(box, Qt.Key.Key_Home)
        while box.currentText() != text:
            before = box.currentIndex()
            qtbot.keyClick(box, Qt.Key.Key_Down)
            assert box.currentIndex() != before, text

    return go


def shown(viewer):
    return {layer.name for layer in viewer.layers if layer.visible and entry_of(layer)}


def test_from_three_series_to_a_derived_one_beside_another_patient(
    viewer, panel, canvas, study, noisy_scan, drop, click, down_to, press, save, drag, settled, qtbot, until, tmp_path
):
    other = medldm.write(noisy_scan, tmp_path / "other.nii.gz")
    drop(other, on=panel.welcome, opening=panel.opening)
    before = np.array(viewer.layers["other"].data)

    # choose among three series
    drop(study, on=canvas)
    until(lambda: panel.opening.chooser is not None and panel.opening.chooser.isVisible())
    chooser = panel.opening.chooser
    assert sorted(each.description for each in chooser.found) == ["MR · localizer", "MR · t1", "MR · t1-late"]
    row = next(row for row, each in enumerate(chooser.found) if each.description == "MR · t1")
    cell = chooser.table.visualRect(chooser.table.model().index(row, 1)).center()
    qtbot.mouseClick(chooser.table.viewport(), LEFT, pos=cell)
    click(chooser.buttons.button(QDialogButtonBox.StandardButton.Open))
    until(lambda: "t1" in viewer.layers)
    assert shown(viewer) == {"t1"} and panel.view.plane.currentText() == "sagittal"
    scan = viewer.layers["t1"]
    wanted = medldm.read(study / "t1")
    np.testing.assert_array_equal(entry_of(scan).volume.array, wanted.array)

    # another slice, restored
    place = viewer.dims.point
    for _ in range(3):
        press("Right")
    assert viewer.dims.point != place
    assert panel.form.model.currentText() == "brain-t1-2mm"
    if not panel.banner.confirmed():
        click(panel.banner.confirm)
    click(panel.form.this_slice)
    until(lambda: panel.message.text() != "")
    assert "Done" in panel.message.text(), panel.message.text()
    result = viewer.layers["t1 · result"]
    axis = viewer.dims.order[0]
    index = round(scan.world_to_data(viewer.dims.point)[axis])
    changed = np.unique(np.argwhere(result.data != scan.data)[:, axis])
    assert list(changed) == [index] and is_marked(viewer)

    # compared in each mode, the other patient never in sight
    for mode, key in KEYS.items():
        press(key)
        assert panel.judge.buttons[mode].isChecked() and is_marked(viewer)
        assert shown(viewer) and all(name.startswith("t1") for name in shown(viewer))
        press(key)
        assert not panel.judge.buttons[mode].isChecked()

    # measured on both
    click(panel.measure)
    tools = panel.measure.panel
    settled()
    click(tools.tools["Rectangle"])
    settled()
    drag(LEFT, canvas.rect().center() - QPoint(60, 60), (100, 100))
    until(lambda: len(tools.rows) == 2 and tools.rows[0]["size"] > 300)  # the whole of the drag
    original, restored = tools.rows
    assert (original["image"], restored["image"]) == ("original", "restored")
    assert original["unit"] == "mm²" and original["size"] == restored["size"]
    assert restored["SD"] < original["SD"]  # noise was taken away
    click(tools.copy)
    assert len(QApplication.clipboard().text().splitlines()) == 3

    # saved as DICOM, and opened again
    path = tmp_path / "derived"
    assert save("dicom", path) == f"Saved {path}"
    expected = np.array(result.data)
    drop(path, on=viewer.window._qt_window, opening=panel.opening)
    again = viewer.layers["derived"]
    assert shown(viewer) == {"derived"} and is_marked(viewer)
    assert entry_of(again).volume.geometry.isclose(wanted.geometry, 1e-3)
    half = 0.5 * max(entry_of(again).volume.source.slopes) * 1.001
    assert np.abs(again.data - expected).max() <= half
    until(lambda: tools.rows == [])  # what was drawn on the other scan is not measured here

    # the second patient is as it was, and is not marked
    down_to(panel.form.scan, "other")
    until(lambda: shown(viewer) == {"other"})
    assert not is_marked(viewer)
    np.testing.assert_array_equal(viewer.layers["other"].data, before)
