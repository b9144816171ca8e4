"""An empty window says how to begin: its buttons and a drop on it do so, and it goes when there is something to see."""

import pytest
from napari_medldm.layers import entry_of
from qtpy.QtWidgets import QDialogButtonBox, QLineEdit

import medldm

pytestmark = pytest.mark.usefixtures("display")


def test_it_covers_the_canvas_while_nothing_is_open(viewer, panel, canvas, until):
    assert panel.welcome.isVisible() and not viewer.window._qt_viewer.show_welcome_screen
    viewer.window.resize(1280, 720)
    until(lambda: panel.welcome.size() == canvas.size())
    buttons = panel.welcome.folder, panel.welcome.sample
    until(lambda: all(panel.welcome.rect().contains(each.geometry()) for each in buttons))
    until(lambda: all(each.width() >= each.minimumSizeHint().width() for each in buttons))
    viewer.open_sample("napari-medldm", "ct")
    assert not panel.welcome.isVisible()
    viewer.layers.clear()
    assert panel.welcome.isVisible()


def test_a_sample_can_be_restored_at_once(viewer, panel, click, until):
    click(panel.welcome.sample)
    until(lambda: len(viewer.layers) == 1)
    assert entry_of(viewer.layers[0]).role == "scan" and not panel.welcome.isVisible()
    assert panel.form.model.currentText() == "brain-t1-2mm"
    assert not panel.banner.isVisible()  # a head is what that model was trained on
    assert panel.start.isEnabled()


def test_a_drop_on_it_is_opened(viewer, panel, drop, tmp_path, noisy_scan):
    medldm.write(noisy_scan, tmp_path / "scan.nii.gz")
    drop(tmp_path / "scan.nii.gz", on=panel.welcome, opening=panel.opening)
    assert [layer.name for layer in viewer.layers] == ["scan"] and not panel.welcome.isVisible()


def test_its_button_opens_a_folder(viewer, panel, click, until, type_path, tmp_path):
    from tests.dicom_maker import make_series

    series = make_series(tmp_path / "series", n=5, rows=16, columns=14)
    click(panel.welcome.folder)
    dialog = panel.open_box.dialog
    line = dialog.findChild(QLineEdit)
    until(line.isVisible)
    type_path(line, series)
    (button,) = dialog.findChild(QDialogButtonBox).buttons()[:1]
    until(button.isEnabled)
    click(button)
    until(lambda: len(viewer.layers) == 1)
    assert viewer.layers[0].data.shape == (5, 16, 14)


def test_a_closed_panel_leaves_the_window_to_napari(viewer, panel):
    panel.close()
    assert panel.welcome.isHidden()
