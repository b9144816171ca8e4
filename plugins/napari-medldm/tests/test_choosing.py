"""A folder of several series, dropped: told apart, several opened at once, a refused one helped by its button."""

import numpy as np
import pytest
from napari_medldm.layers import entry_of
from qtpy.QtCore import QPoint, Qt
from qtpy.QtWidgets import QDialogButtonBox

import medldm
from tests.dicom_maker import AXIAL, SAGITTAL, make_series

pytestmark = pytest.mark.usefixtures("display")


def told(description, date="20240305"):
    def change(dataset, k):
        dataset.SeriesDescription, dataset.SeriesDate = description, date

    return change


def uneven(dataset, k):
    """Slices at 0, 3, 7.1, 11 mm ..."""
    told("PD uneven")(dataset, k)
    x, y, _ = dataset.ImagePositionPatient
    dataset.ImagePositionPatient = [x, y, str([0, 3, 7.1, 11, 14.5][k])]


@pytest.fixture
def study(tmp_path):
    """Three series of a patient, one of them uneven."""
    plans = {"t1": (5, AXIAL, told("T1 axial")), "t2": (6, SAGITTAL, told("T2 sagittal")), "pd": (5, AXIAL, uneven)}
    for number, (name, (n, orientation, change)) in enumerate(plans.items(), start=1):
        make_series(
            tmp_path / "study" / name,
            n=n,
            rows=16,
            columns=14,
            orientation=orientation,
            series=f"1.2.3.{number}",
            change=change,
        )
    return tmp_path / "study"


@pytest.fixture
def chooser(panel, drop, until):
    def show(path):
        drop(path)
        until(lambda: panel.opening.chooser is not None and panel.opening.chooser.isVisible())
        return panel.opening.chooser

    return show


@pytest.fixture
def click_row(qtbot):
    def click(chooser, row, modifier=Qt.KeyboardModifier.NoModifier):
        at = chooser.table.visualRect(chooser.table.model().index(row, 1)).center()
        qtbot.mouseClick(chooser.table.viewport(), Qt.MouseButton.LeftButton, modifier, at)

    return click


@pytest.fixture
def accept(panel, qtbot, until):
    def press(chooser, kind=QDialogButtonBox.StandardButton.Open):
        ended = []
        panel.opening.ended.connect(lambda: ended.append(True))
        qtbot.mouseClick(chooser.buttons.button(kind), Qt.MouseButton.LeftButton)
        until(lambda: bool(ended))

    return press


def row_of(chooser, description):
    (row,) = [row for row, each in enumerate(chooser.found) if description in each.description]
    return row


def texts(chooser, row):
    return [chooser.table.item(row, column).text() for column in range(1, chooser.table.columnCount())]


def test_series_are_told_apart(panel, chooser, study):
    dialog = chooser(study)
    first = row_of(dialog, "T1")
    assert texts(dialog, first) == ["MR · T1 axial", "2024-03-05", "5", "axial", "study/t1"]
    second = row_of(dialog, "T2")
    assert texts(dialog, second)[1:] == ["2024-03-05", "6", "sagittal", "study/t2"]
    pictures = [dialog.table.item(row, 0).icon().pixmap(72, 72).toImage() for row in (first, second)]
    assert pictures[0] != pictures[1] and all(not each.isNull() for each in pictures)
    assert "2 of 3" in dialog.head.text()
    dialog.reject()


def test_the_thumbnail_is_the_middle_slice_as_it_is_shown(viewer, panel, chooser, accept, study):
    from napari_medldm.windows import limits

    dialog = chooser(study)
    row = row_of(dialog, "T1")
    picture = dialog.found[row].picture
    dialog.table.selectRow(row)
    accept(dialog)
    layer = viewer.layers[-1]
    low, high = limits(entry_of(layer).volume)
    shown = np.clip((layer.data[len(layer.data) // 2] - low) / (high - low), 0, 1) * 255
    ways = [-1 if step < 0 else 1 for step in layer.scale[1:]]
    shown = shown[:: ways[0], :: ways[1]]
    corners = [np.s_[0, 0], np.s_[0, -1], np.s_[-1, 0], np.s_[-1, -1]]
    assert [int(picture[at]) for at in corners] == pytest.approx([int(shown[at]) for at in corners], abs=1)
    assert picture.shape[1] / picture.shape[0] == pytest.approx(14 * 2.0 / (16 * 0.5), rel=0.05)  # square pixels


def test_several_are_opened_at_once(viewer, panel, chooser, click_row, accept, study):
    dialog = chooser(study)
    click_row(dialog, row_of(dialog, "T2"))
    click_row(dialog, row_of(dialog, "T1"), Qt.KeyboardModifier.ControlModifier)
    assert dialog.open_button.text() == "Open 2"
    accept(dialog)
    assert {layer.name for layer in viewer.layers} == {"t1", "t2"}
    assert [layer.name for layer in viewer.layers if layer.visible] == [panel.source().name]


def test_a_refused_one_says_why_and_its_button_helps(viewer, panel, chooser, click_row, accept, click, until, study):
    dialog = chooser(study)
    row = row_of(dialog, "PD")
    assert "even slices" in dialog.found[row].refusal and "resample_nonuniform" not in dialog.found[row].refusal
    click_row(dialog, row)
    assert row not in [index.row() for index in dialog.table.selectedIndexes()]
    assert dialog.helps[row].isVisible()
    click(dialog.helps[row])
    until(lambda: dialog.found[row].scan is not None)
    assert [each.description for each in dialog.chosen()] == ["MR · PD uneven"]
    accept(dialog)
    (layer,) = viewer.layers
    wanted = medldm.read(study / "pd", resample_nonuniform=True)
    np.testing.assert_array_equal(entry_of(layer).volume.array, wanted.array)


def test_a_refused_folder_of_one_series_is_helped_as_well(viewer, panel, chooser, accept, click, until, study):
    dialog = chooser(study / "pd")
    assert not dialog.open_button.isEnabled() and dialog.helps[0].text() == "Take the uneven slices, interpolated"
    click(dialog.helps[0])
    until(dialog.open_button.isEnabled)
    accept(dialog)
    assert [layer.name for layer in viewer.layers] == ["pd"]


def test_a_file_without_a_place_is_opened_at_one_made_up(viewer, panel, chooser, accept, click, qtbot, until, tmp_path):
    import nibabel

    image = nibabel.Nifti1Image(np.random.default_rng(0).random((8, 9, 7), np.float32), None)
    nibabel.save(image, tmp_path / "nowhere.nii.gz")
    dialog = chooser(tmp_path / "nowhere.nii.gz")
    click(dialog.helps[0])
    until(dialog.open_button.isEnabled)
    qtbot.keyClick(dialog, Qt.Key.Key_Return)
    until(lambda: len(viewer.layers) == 1)
    assert entry_of(viewer.layers[0]).volume.history[0]["affine_assumed"]


def test_cancel_opens_nothing_and_goes_on_with_what_waits(viewer, panel, chooser, accept, study, noisy_scan, tmp_path):
    later = medldm.write(noisy_scan, tmp_path / "later.nii.gz")
    dialog = chooser(study)
    panel.opening.open([later])
    assert not viewer.layers
    accept(dialog, QDialogButtonBox.StandardButton.Cancel)
    assert [layer.name for layer in viewer.layers] == ["later"]


def test_nothing_is_cut_at_the_least_size(panel, chooser, study, viewer, until):
    viewer.window.resize(1280, 720)
    dialog = chooser(study)
    cell = dialog.table.cellWidget(row_of(dialog, "PD"), 2)
    (reason,) = cell.findChildren(type(dialog.head))
    (button,) = dialog.helps.values()
    until(lambda: dialog.table.horizontalScrollBar().maximum() == 0)
    until(lambda: cell.rect().contains(reason.geometry()) and cell.rect().contains(button.geometry()))
    until(lambda: reason.height() >= reason.heightForWidth(reason.width()))
    least = button.minimumSizeHint()
    until(lambda: button.height() >= least.height() and button.width() >= least.width())
    until(lambda: dialog.rect().contains(dialog.table.mapTo(dialog, QPoint(0, 0))))
    dialog.reject()
