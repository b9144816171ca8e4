"""Files dropped on the window: read without a question, by medldm where it can, else by napari."""

import numpy as np
import pytest
from imageio.v3 import imwrite
from napari._qt.dialogs.qt_reader_dialog import QtReaderDialog
from napari.plugins import _npe2
from napari_medldm.layers import entry_of

import medldm
from medldm import Geometry, Volume
from tests.dicom_maker import CANARY, make_series

pytestmark = pytest.mark.usefixtures("display")


@pytest.fixture(autouse=True)
def no_question(monkeypatch):
    """Napari's list of readers would wait for an answer for ever."""

    def asked(self):
        raise AssertionError("Choose reader")

    monkeypatch.setattr(QtReaderDialog, "exec_", asked)


def test_a_folder_a_nifti_file_and_a_radiograph_are_opened(viewer, panel, drop, tmp_path, noisy_scan):
    series = make_series(tmp_path / "series", n=5, rows=16, columns=14)
    nifti = medldm.write(noisy_scan, tmp_path / "scan.nii.gz")
    imwrite(tmp_path / "chest.png", np.random.default_rng(0).integers(0, 255, (60, 50), dtype=np.uint8))
    for path in (series, nifti, tmp_path / "chest.png"):
        drop(path, opening=panel.opening)
        assert panel.form.scan.currentText() == path.name.removesuffix(".nii.gz") and CANARY not in panel.message.text()
    assert entry_of(viewer.layers[1]).volume.geometry.isclose(noisy_scan.geometry, 1e-4)
    assert panel.form.model.currentText() == "chest-xray-256"
    assert panel.banner.isVisible() and not panel.start.isEnabled()  # a picture of nothing is no radiograph


def test_drops_are_taken_on_the_panel_as_well(viewer, panel, drop, tmp_path, noisy_scan):
    medldm.write(noisy_scan, tmp_path / "scan.nii.gz")
    drop(tmp_path / "scan.nii.gz", on=viewer.window._qt_window, opening=panel.opening)
    assert panel.form.scan.currentText() == "scan"


def test_files_of_one_series_dropped_together_are_one_scan(viewer, panel, drop, tmp_path):
    series = make_series(tmp_path / "series", n=5, rows=16, columns=14)
    drop(*sorted(series.iterdir()), opening=panel.opening)
    assert [layer.data.shape for layer in viewer.layers] == [(5, 16, 14)]


def test_what_is_no_scan_is_said_and_left_to_napari(viewer, panel, drop, tmp_path, noisy_scan):
    whole = medldm.write(noisy_scan, tmp_path / "whole.nii.gz").read_bytes()
    (tmp_path / "cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    colours = np.random.default_rng(0).integers(0, 255, (60, 50, 3), dtype=np.uint8)
    imwrite(tmp_path / "photograph.png", colours)
    drop(tmp_path / "cut.nii.gz", opening=panel.opening)
    assert not viewer.layers and "cut.nii.gz" in panel.message.text()
    drop(tmp_path / "photograph.png", opening=panel.opening)
    np.testing.assert_array_equal(viewer.layers[-1].data, colours)
    assert "photograph.png" in panel.message.text() and "cut.nii.gz" in panel.message.text()
    assert panel.source() is None


def test_pictures_are_left_to_napari_without_the_panel(viewer, drop, tmp_path):
    imwrite(tmp_path / "photograph.png", np.zeros((60, 50, 3), np.uint8))
    drop(tmp_path / "photograph.png")
    assert [layer.rgb for layer in viewer.layers] == [True]


@pytest.mark.parametrize("name", ["IM000001", "I1", "1.2.840.113619.2.5", "MR.1.3.6.1.4", "a.dcm", "A.IMA", "b.zip"])
def test_file_names_of_scans_are_claimed(viewer, tmp_path, name):
    (tmp_path / name).touch()
    assert "napari-medldm" in _npe2.get_readers(tmp_path / name)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.csv", "a.npy", "long-name-without-suffix", "a.obj", "b.py"])
def test_others_are_not(viewer, tmp_path, name):
    (tmp_path / name).touch()
    assert "napari-medldm" not in _npe2.get_readers(tmp_path / name)


def test_a_scan_in_a_volume_of_three_slices_is_no_colour_picture(viewer, panel, drop, tmp_path):
    volume = Volume(np.random.default_rng(0).random((12, 10, 3), np.float32), Geometry(np.eye(4), (12, 10, 3)))
    medldm.write(volume, tmp_path / "thin.nii.gz")
    drop(tmp_path / "thin.nii.gz", opening=panel.opening)
    assert not viewer.layers[-1].rgb and viewer.layers[-1].visible
