"""What speaks against a model is said before, in orange, and confirmed; and nothing that is said is painted over."""

import numpy as np
import pytest
from napari_medldm.compare import residual_style, uncertainty_style
from napari_medldm.doubting import LOOKING
from qtpy.QtCore import Qt

from medldm import Geometry, Volume

pytestmark = pytest.mark.usefixtures("display")


@pytest.fixture
def ct(viewer, panel, pack):
    viewer.open_sample("napari-medldm", "ct")
    panel.form.model.addItem(pack)
    panel.form.model.setCurrentText(pack)
    return viewer.layers["CT phantom"]


def test_a_model_of_another_modality_is_doubted_and_confirmed(viewer, panel, ct, click, until):
    assert panel.banner.isVisible() and "modality CT; the model was trained on MR" in panel.banner.text()
    shown = panel.banner.grab().toImage()
    colour = shown.pixelColor(shown.width() // 2, 3)
    assert (colour.red() > 200, 100 < colour.green() < 200, colour.blue() < 100) == (True, True, True)
    click(panel.start)
    assert panel.job is None and not panel.start.isEnabled()
    panel.form.place.setCurrentText("current slice")
    click(panel.banner.confirm)
    click(panel.start)
    assert panel.job is not None
    until(lambda: bool(panel.judge.done))
    assert "modality CT" in panel.banner.text() and "Done" in panel.message.text()
    viewer.open_sample("napari-medldm", "mr")
    assert "modality" not in panel.banner.text() and panel.start.isEnabled()
    panel.form.scan.setCurrentText("CT phantom")
    assert "modality CT" in panel.banner.text() and not panel.start.isEnabled()  # to be confirmed anew


def test_a_scan_that_the_model_was_trained_for_needs_no_confirmation(viewer, panel, phantom):
    assert not panel.banner.isVisible() and panel.start.isEnabled()


def test_a_result_that_is_restored_again_is_doubted(viewer, panel, phantom, restored, click_layer):
    restored()
    click_layer("MR phantom · result")
    assert "made or changed by a model already" in panel.banner.text() and not panel.start.isEnabled()


def test_doubts_about_a_result_stay_with_it(viewer, panel, phantom, restored, click_layer):
    viewer.open_sample("napari-medldm", "ct")
    panel.form.scan.setCurrentText("MR phantom")
    panel.form.estimated.click()
    panel.form.noise_std.setValue(5000)
    restored()
    assert "of the range; the model was trained up to" in panel.banner.text()
    panel.form.scan.setCurrentText("CT phantom")
    assert "of the range" not in panel.banner.text()
    panel.form.scan.setCurrentText("MR phantom")
    assert "of the range" in panel.banner.text()


def test_no_message_takes_the_place_of_another(viewer, panel, phantom, click, press):
    panel.form.place.setCurrentText("drawn region")
    click(panel.start)
    press("F8")
    said = panel.message.text().splitlines()
    assert ["nothing drawn" in said[0], *said[1:]] == [True, "Restore a scan first."]


def test_colours_are_those_of_what_was_changed():
    """One slice of many: not one solid red."""
    noise = np.random.default_rng(0).standard_normal((20, 24)).astype(np.float32)
    array = np.zeros((20, 24, 400), np.float32)
    array[:, :, 7] = 50 * noise
    volume = Volume(array, Geometry(np.eye(4), array.shape))
    low, high = residual_style(volume)["contrast_limits"]
    assert high == -low == pytest.approx(50 * 2.8, rel=0.2)
    low, high = uncertainty_style(volume.with_array(np.abs(array)))["contrast_limits"]
    assert (low, high) == pytest.approx((50 * 0.67, np.abs(array).max()), rel=0.2)
    nothing = volume.with_array(0 * array)
    assert residual_style(nothing, least=3.0)["contrast_limits"] == (-3.0, 3.0)
    low, high = uncertainty_style(nothing)["contrast_limits"]
    assert low < high


def test_the_residual_of_a_slice_is_shown_as_noise(viewer, panel, phantom, restored, press):
    panel.form.place.setCurrentText("current slice")
    restored()
    press("F8")
    shown = viewer.screenshot(canvas_only=True, flash=False)[..., :3].astype(int)
    rows, columns = (n // 2 for n in shown.shape[:2])
    middle = shown[rows - 40 : rows + 40, columns - 40 : columns + 40]
    ends = viewer.layers["MR phantom · residual"].colormap.map(np.array([0.0, 1.0]))[:, :3] * 255
    for end in ends:  # without the rest of the scan, where nothing was changed, few voxels are beyond the limits
        assert (np.abs(middle - end).max(-1) < 3).mean() < 0.1


def test_the_model_that_doubts_a_scan_least_is_taken_and_another_choice_is_kept(
    viewer, panel, drop, data_dir, qtbot, until
):
    """A NIfTI file of a CT says neither modality nor unit."""
    ct = next(iter(sorted((data_dir / "ct-torso-256" / "volumes").glob("lidc*.nii.gz"))))
    head = next(iter(sorted((data_dir / "brain-t1-2mm" / "t1").glob("*.nii.gz"))))
    for path, model in ((head, "brain-t1-2mm"), (ct, "ct-torso")):
        drop(path, opening=panel.opening)
        until(panel.start.isEnabled)  # a large scan is looked at by a thread
        assert panel.form.model.currentText() == model and not panel.banner.isVisible()
    assert panel.view.window_.currentText() == "soft tissue"  # as of any CT, though the file says no unit
    first, last = Qt.Key.Key_Home, Qt.Key.Key_End  # of those that can be chosen
    for of, key, wanted in ((1, first, "brain-t1-2mm"), (0, None, "brain-t1-2mm"), (1, last, "ct-torso")):
        panel.form.scan.setCurrentText(viewer.layers[of].name)
        if key is not None:
            qtbot.keyClick(panel.form.model, key)
        assert panel.form.model.currentText() == wanted
        until(lambda: panel.advice.text() != LOOKING)
        assert panel.banner.isVisible() == (of == 1 and wanted != "ct-torso")
    for of, wanted in ((0, "brain-t1-2mm"), (1, "ct-torso")):
        panel.form.scan.setCurrentText(viewer.layers[of].name)
        assert panel.form.model.currentText() == wanted
    for task, wanted in (("inpaint", "brain-t1-2mm"), ("denoise", "ct-torso")):  # which cannot inpaint
        panel.form.task.setCurrentText(task)
        assert panel.form.model.currentText() == wanted
