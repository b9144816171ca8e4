"""How scans and results are shown: the mark, windows, three linked planes, oblique scans straightened."""

import numpy as np
import pytest
from napari_medldm.layers import entry_of, layer_data, volume_of
from napari_medldm.mark import KEY, TEXT, is_marked
from napari_medldm.straighten import straightened
from napari_medldm.windows import CT, limits, windows_for

from medldm import Geometry, MedldmError, Volume

pytestmark = pytest.mark.usefixtures("display")


def orange(viewer):
    """Pixels of the mark on the canvas."""
    image = viewer.screenshot(canvas_only=True, flash=False)[:60, :, :3].astype(int)
    return int((image[..., 0] - image[..., 2] > 60).sum())


def test_previews_carry_the_mark(viewer, panel, phantom, until):
    assert not is_marked(viewer) and orange(viewer) == 0
    panel.form.samples.setValue(2)
    panel.form.steps.setValue(200)
    panel.start.click()
    assert list(viewer.layers) == [phantom] and not is_marked(viewer)
    until(lambda: len(viewer.layers) == 2)
    layer = viewer.layers[-1]
    assert layer.visible and viewer.layers.selection == {phantom}
    assert is_marked(viewer) and orange(viewer) > 200
    with pytest.raises(MedldmError, match="preview"):
        volume_of(layer)
    layer.visible = False
    assert not is_marked(viewer)
    layer.visible = True
    panel.stop.click()
    until(lambda: panel.job is None)
    assert layer not in viewer.layers and not is_marked(viewer) and orange(viewer) == 0


def test_the_mark_is_ready_before_it_is_needed(viewer, panel, until):
    overlay = viewer.canvas.overlays[KEY]
    until(lambda: overlay.visible and overlay.text == TEXT)
    assert not is_marked(viewer) and orange(viewer) == 0


def test_the_layer_of_the_previews_becomes_the_result(viewer, panel, phantom, until):
    panel.form.samples.setValue(2)
    panel.form.steps.setValue(3)
    panel.start.click()
    until(lambda: len(viewer.layers) == 2)
    layer = viewer.layers[-1]
    until(lambda: bool(panel.judge.done))
    assert panel.judge.done[-1].comparison.result is layer and layer.name == "MR phantom · result"
    np.testing.assert_array_equal(volume_of(layer).array, panel.judge.done[-1].result.array)
    assert is_marked(viewer) and orange(viewer) > 200


def test_windows_are_kept_and_shared(viewer, panel, phantom, restored):
    viewer.open_sample("napari-medldm", "ct")
    panel.form.scan.setCurrentText("CT phantom")
    box = panel.view.window_
    assert [box.itemText(i) for i in range(1, box.count())] == list(CT)
    box.setCurrentText("lung")
    assert viewer.layers["CT phantom"].contrast_limits == [-1350, 150]
    panel.form.scan.setCurrentText("MR phantom")
    assert box.currentText() == "1 to 99.5 %"  # the one that it is opened with
    box.setCurrentText("5 to 90 %")
    values = phantom.data
    np.testing.assert_allclose(phantom.contrast_limits, np.percentile(values, (5, 90)), rtol=0.01)
    result = restored().comparison.result
    assert result.contrast_limits == phantom.contrast_limits
    box.setCurrentText("whole range")
    assert result.contrast_limits == phantom.contrast_limits == [values.min(), values.max()]
    panel.form.scan.setCurrentText("CT phantom")
    assert box.currentText() == "lung"
    viewer.layers["CT phantom"].contrast_limits = (0, 1)
    panel.view.follow()
    assert box.currentIndex() == 0


def test_windows_have_a_width():
    flat = Volume(np.full((3, 3, 3), 7, np.float32), Geometry(np.eye(4), (3, 3, 3)))
    for unit in ("HU", "arbitrary"):
        volume = Volume(flat.array, flat.geometry, unit)
        assert all(low < high for low, high in (limits(volume, name) for name in windows_for(volume)))


def turned(degrees, shape=(20, 24, 16)):
    """A scan turned about the head-foot axis, with a bright voxel."""
    angle = np.radians(degrees)
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:2, :2] = 2 * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    affine[:3, 3] = (-20, -24, -16)
    array = np.zeros(shape, np.float32)
    array[15, 5, 9] = 100
    return Volume(array, Geometry(affine, shape), "arbitrary", "MR")


@pytest.mark.parametrize("degrees", [0, 15, -40])
def test_a_straightened_copy_has_every_voxel_at_its_place(degrees):
    volume = turned(degrees)
    shown = straightened(volume)
    directions = shown.geometry.affine[:3, :3] / shown.geometry.spacing
    np.testing.assert_array_equal(np.abs(directions), [[0, 0, 1], [0, 1, 0], [1, 0, 0]])
    mass = shown.array / shown.array.sum()
    centre = [float((mass * axis).sum()) for axis in np.indices(shown.array.shape)]
    np.testing.assert_allclose(shown.geometry.to_world(centre), volume.geometry.to_world((15, 5, 9)), atol=0.5)
    low, high = shown.geometry.corners().min(0), shown.geometry.corners().max(0)
    corners = volume.geometry.corners()
    assert (corners >= low - 1e-6).all() and (corners <= high + 1e-6).all()  # nothing is cut off


def test_an_oblique_scan_is_straightened_to_be_looked_at_only(viewer, panel, until, tmp_path):
    data, attributes, _ = layer_data(turned(15), "oblique")
    source = viewer.add_image(data, **attributes)
    assert "oblique by 15 degrees" in panel.view.note.text() and not panel.view.straighten.isHidden()
    panel.view.straighten.click()
    until(lambda: len(viewer.layers) == 2)
    copy = viewer.layers[-1]
    assert entry_of(copy).display.tilt_deg == 0 and not is_marked(viewer) and not source.visible
    assert panel.form.scan.findText(copy.name) == -1  # not offered to be restored
    with pytest.raises(MedldmError, match="to be looked at"):
        volume_of(copy)
    with pytest.raises(MedldmError, match="to be looked at"):
        viewer.layers.selection = {copy}
        viewer.layers.save(str(tmp_path / "copy.nii.gz"), selected=True, plugin="napari-medldm")
    assert not list(tmp_path.iterdir())


def test_a_copy_of_a_result_is_marked(viewer, panel, until):
    data, attributes, _ = layer_data(turned(15), "oblique")
    layer = viewer.add_image(data, **attributes)
    entry_of(layer).role, entry_of(layer).report = "result", {"task": "denoise"}
    panel.view.follow()
    panel.view.straighten.click()
    until(lambda: len(viewer.layers) == 2)
    assert not layer.visible and is_marked(viewer)


def test_a_scan_along_the_patients_axes_needs_no_copy(viewer, panel, phantom):
    assert panel.view.note.text() == "" and panel.view.straighten.isHidden()
