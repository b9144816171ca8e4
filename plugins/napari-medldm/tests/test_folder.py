"""In a real window: every scan of a folder is restored, a broken one is told, and a cancelled run goes on."""

import csv

import numpy as np
import pytest
from napari_medldm.folder import FolderPanel
from napari_medldm.layers import entry_of
from qtpy.QtCore import QCoreApplication, QEvent, QPoint, QRect
from qtpy.QtWidgets import QAbstractButton, QAbstractSpinBox, QComboBox, QLineEdit

import medldm

pytestmark = pytest.mark.usefixtures("display")


@pytest.fixture
def folder(viewer):
    widget = FolderPanel(viewer)
    viewer.window.add_dock_widget(widget, name="folder", area="right")
    yield widget
    if widget.job is not None:
        widget.job.cancel()
    widget.workshop.close()
    QCoreApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)


@pytest.fixture
def scans(tmp_path, noisy_scan):
    """Three scans, one of them in a folder below, and one that is cut off."""
    root = tmp_path / "scans"
    (root / "below").mkdir(parents=True)
    for number, name in enumerate(("one.nii.gz", "below/two.nii.gz", "three.nii.gz")):
        medldm.write(noisy_scan.with_array(noisy_scan.array + number, {"step": "shifted"}), root / name)
    whole = (root / "one.nii.gz").read_bytes()
    (root / "broken.nii.gz").write_bytes(whole[: len(whole) // 2])
    return root


def prepare(folder, scans, out, pack):
    assert not folder.start.isEnabled() and "folder of scans" in folder.advice.text()
    folder.scans.setText(str(scans))
    assert not folder.start.isEnabled() and "results" in folder.advice.text()
    folder.out.setText(str(out))
    folder.form.model.addItem(pack)
    folder.form.model.setCurrentText(pack)
    assert folder.start.isEnabled()


def states(folder):
    return {row.file: row.state for row in folder.rows}


def test_every_scan_of_a_folder_is_restored(viewer, folder, scans, pack, until, tmp_path):
    out = tmp_path / "results"
    prepare(folder, scans, out, pack)
    folder.form.noise_std.setValue(20)
    folder.form.estimated.setChecked(False)
    folder.start.click()
    until(lambda: folder.job is None)
    assert states(folder) == {
        "one.nii.gz": "done",
        "below/two.nii.gz": "done",
        "three.nii.gz": "done",
        "broken.nii.gz": "refused",
    }
    assert "3 restored, 1 not read" in folder.message.text()
    wanted = medldm.denoise(scans / "below" / "two.nii.gz", model=pack, noise_std=20.0)
    found = medldm.read(out / "below" / "two.nii.gz")
    np.testing.assert_allclose(found.array, wanted.array, rtol=1e-4, atol=1e-2)
    with open(out / "medldm-summary.csv", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert [row["file"] for row in table] == [row.file for row in folder.rows]
    cells = [folder.table.item(index, 0).text() for index in range(folder.table.rowCount())]
    assert cells == [row.file for row in folder.rows]

    number = [row.file for row in folder.rows].index("below/two.nii.gz")
    folder.show_row(number)
    until(lambda: len(viewer.layers) == 2)
    scan, result = (entry_of(layer) for layer in viewer.layers)
    np.testing.assert_array_equal(result.volume.array, found.array)
    assert not scan.made and result.made


def test_a_cancelled_folder_goes_on_where_it_ended(viewer, folder, scans, pack, until, tmp_path):
    out = tmp_path / "results"
    prepare(folder, scans, out, pack)
    folder.form.samples.setValue(2)
    folder.form.steps.setValue(60)
    folder.start.click()
    until(lambda: any(row.state == "done" for row in folder.rows))
    folder.stop.click()
    until(lambda: folder.job is None)
    assert "Cancelled" in folder.message.text() and list(states(folder).values()).count("done") < 3
    done = {file for file, state in states(folder).items() if state == "done"}
    folder.start.click()
    until(lambda: folder.job is None)
    kept = {file for file, state in states(folder).items() if state == "kept"}
    assert kept == done and list(states(folder).values()).count("done") == 3 - len(done)


def test_results_of_other_settings_are_not_mixed(viewer, folder, scans, pack, until, tmp_path):
    out = tmp_path / "results"
    prepare(folder, scans, out, pack)
    folder.start.click()
    until(lambda: folder.job is None)
    folder.form.seed.setValue(7)
    folder.start.click()
    until(lambda: folder.job is None)
    assert "other settings" in folder.message.text() and "seed" in folder.message.text()


def test_nothing_lies_on_anything_else(folder, click, until):
    def shown():
        kinds = QAbstractButton, QComboBox, QLineEdit  # PySide6 finds one kind at a time
        found = [each for kind in kinds for each in folder.findChildren(kind) if each.isVisible()]
        return [each for each in found if not isinstance(each.parent(), QAbstractSpinBox)]

    def apart():
        boxes = [QRect(each.mapTo(folder, QPoint(0, 0)), each.size()) for each in shown()]
        pairs = ((box, other) for number, box in enumerate(boxes) for other in boxes[:number])
        return len(boxes) > 8 and not any(box.intersects(other) for box, other in pairs)

    until(apart)
    click(folder.form.advanced)
    assert folder.form.dial.isVisible()
    until(apart)
