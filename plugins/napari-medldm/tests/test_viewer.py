"""In a real window: every contribution opens, a scan is opened, restored, compared, saved and opened again."""

import dataclasses

import numpy as np
import pytest
from napari_medldm.chooser import Chooser
from napari_medldm.compare import show_plane
from napari_medldm.folder import FolderPanel
from napari_medldm.layers import entry_of
from napari_medldm.mark import is_marked
from napari_medldm.panel import RestorePanel
from napari_medldm.series import series_below

import medldm

pytestmark = pytest.mark.usefixtures("display")


def test_every_contribution_opens(viewer, tmp_path):
    for key in ("head", "mr", "ct"):
        viewer.open_sample("napari-medldm", key)
    for name in ("Restore and judge", "Restore a folder", "Measure regions"):
        _, widget = viewer.window.add_plugin_dock_widget("napari-medldm", name)
        assert list(widget.viewer.layers) == list(viewer.layers)
    for name in ("scan.nii.gz", "series.zip"):
        path = tmp_path / name
        viewer.layers.selection = {viewer.layers["CT phantom"]}
        viewer.layers.save(str(path), selected=True, plugin="napari-medldm")
        viewer.open(str(path), plugin="napari-medldm")
        again = entry_of(viewer.layers[-1]).volume
        np.testing.assert_allclose(
            np.sort(again.geometry.corners(), axis=0),
            np.sort(entry_of(viewer.layers["CT phantom"]).volume.geometry.corners(), axis=0),
            atol=1e-3,
        )
    for widget in list(viewer.window.dock_widgets.values()):
        if isinstance(widget, RestorePanel | FolderPanel):
            widget.close()


def test_from_a_dicom_folder_to_a_derived_series(viewer, panel, save, begin, until, data_dir, tmp_path):
    folder = data_dir / "dicom" / "mr_philips_mprage_classic"
    viewer.open(str(folder), plugin="napari-medldm")
    source = viewer.layers[-1]
    before = np.array(source.data)
    panel.form.model.setCurrentText("brain-t1-2mm")
    panel.form.seed.setValue(3)
    assert "about" in panel.advice.text()
    said = []
    begin()  # a slab of a head is doubted
    panel.job.progressed.connect(lambda *content: said.append(content))
    until(lambda: bool(panel.judge.done))
    steps = [each[1] for each in said if each[0] == "denoise"]
    assert steps == list(range(1, len(steps) + 1)) and len(steps) > 3  # the network's, and many of the filter's
    comparison, volume, _, _, result = panel.judge.done[-1]
    wanted = medldm.denoise(folder, model="brain-t1-2mm", seed=3)
    np.testing.assert_allclose(result.array, wanted.array, rtol=1e-4, atol=1e-2)
    np.testing.assert_array_equal(source.data, before)
    assert is_marked(viewer)
    assert comparison.result.contrast_limits == source.contrast_limits

    for kind, name in {"dicom": "derived", "nifti": "result.nii.gz", "report": "report.html"}.items():
        assert save(kind, tmp_path / name) == f"Saved {tmp_path / name}"
    viewer.open(str(tmp_path / "derived"), plugin="napari-medldm")
    again = entry_of(viewer.layers[-1]).volume
    assert again.geometry.isclose(volume.geometry, 1e-3)
    half = 0.5 * max(volume.source.slopes) * 1.001
    assert np.abs(again.array - result.array).max() <= half
    uids = {ds.SOPInstanceUID for ds in volume.source.datasets}
    assert not uids & {ds.SOPInstanceUID for ds in again.source.datasets}
    saved = medldm.read(tmp_path / "result.nii.gz")
    np.testing.assert_allclose(saved.geometry.affine, volume.geometry.affine, rtol=1e-6, atol=1e-6)
    panel.active.choose(source)
    assert "existing" in save("nifti", tmp_path / "result.nii.gz")  # never over what is there


def test_modes_show_what_they_say(viewer, panel, compared, until):
    def visible():
        return {layer.name.split(" · ")[-1] for layer in viewer.layers if layer.visible}

    panel.judge.buttons["side by side"].click()
    assert visible() == {"MR phantom", "result"}
    until(lambda: viewer.canvas.grid.enabled)
    panel.judge.buttons["side by side"].click()
    assert visible() == {"result"} and not viewer.canvas.grid.enabled
    panel.judge.buttons["residual"].click()
    assert visible() == {"residual"}
    low, high = compared.residual.contrast_limits
    assert low == -high
    panel.judge.buttons["uncertainty"].click()
    assert visible() == {"result", "uncertainty"}
    panel.judge.threshold.setValue(80)
    assert compared.uncertainty.contrast_limits[0] == pytest.approx(0.8 * compared.uncertainty.data.max(), rel=1e-3)
    panel.judge.buttons["blink"].click()
    first = visible()
    until(lambda: visible() != first)
    assert visible() | first == {"MR phantom", "result"}
    panel.judge.buttons["blink"].click()
    assert visible() == {"result"}


def test_the_wipe_shows_the_result_on_the_right(viewer, panel, compared):
    show_plane(viewer, "axial")
    panel.judge.buttons["wipe"].click()
    panel.judge.wipe.setValue(25)
    part = viewer.layers[-1]
    axis = viewer.dims.order[-1]
    whole = compared.result
    ends = np.sort([part.data_to_world(np.zeros(3))[axis], part.data_to_world(np.array(part.data.shape) - 1)[axis]])
    every = np.sort([whole.data_to_world(np.zeros(3))[axis], whole.data_to_world(np.array(whole.data.shape) - 1)[axis]])
    assert ends[1] == pytest.approx(every[1])  # patient left, the right of the image
    assert (ends[1] - ends[0]) / (every[1] - every[0]) == pytest.approx(0.75, abs=0.02)
    assert compared.source.visible and not compared.result.visible
    panel.judge.buttons["wipe"].click()
    assert part not in viewer.layers


def test_undo_and_run_again(viewer, panel, compared, until):
    first = np.array(compared.result.data)
    panel.form.seed.setValue(99)
    panel.again.click()
    until(lambda: len(panel.judge.done) == 2)
    assert panel.form.seed.value() == 0
    np.testing.assert_array_equal(panel.judge.done[-1][0].result.data, first)
    panel.undo.click()
    panel.undo.click()
    assert [layer.name for layer in viewer.layers] == ["MR phantom"]
    assert not is_marked(viewer)


def test_a_drawn_region_changes_nothing_outside(viewer, panel, restored, pack):
    viewer.open_sample("napari-medldm", "mr")
    source = viewer.layers[-1]
    show_plane(viewer, "axial")
    panel.form.model.addItem(pack)
    panel.form.model.setCurrentText(pack)
    panel.form.place.setCurrentText("drawn region")
    panel.start.click()
    assert "nothing drawn" in panel.message.text()
    point = np.array(viewer.dims.point)
    corners = np.array([[point[0], y, x] for y, x in ((-40, -40), (-40, 40), (40, 40), (40, -40))])
    viewer.add_shapes([corners], shape_type="rectangle", units="mm", axis_labels=("I", "P", "L"))
    comparison, *_ = restored()
    changed = np.argwhere(comparison.result.data != source.data)
    assert len(np.unique(changed[:, 0])) == 1
    world = np.array([source.data_to_world(voxel) for voxel in changed])
    assert np.abs(world[:, 1:]).max() <= 41 and len(changed) > 300


def test_cancel_and_errors_leave_the_scan(viewer, panel, until, pack):
    viewer.open_sample("napari-medldm", "mr")
    panel.form.model.addItem(pack)
    panel.form.model.setCurrentText(pack)
    panel.form.samples.setValue(2)
    panel.form.steps.setValue(200)
    panel.start.click()
    until(lambda: panel.progress.maximum() == 400 and panel.progress.value() >= 2)
    panel.stop.click()
    until(lambda: panel.job is None)
    assert "Cancelled" in panel.message.text()
    assert [layer.name for layer in viewer.layers] == ["MR phantom"]
    panel.form.model.addItem("no-such-model")
    panel.form.model.setCurrentText("no-such-model")
    panel.start.click()
    until(lambda: panel.job is None)
    assert "no such name" in panel.message.text() and panel.start.isEnabled()


def test_a_scan_beyond_what_the_model_saw_is_told_of(viewer, panel, until, begin, noisy_scan, pack, tmp_path):
    thick = dataclasses.replace(noisy_scan, geometry=medldm.Geometry.from_spacing(noisy_scan.array.shape, (2, 2, 9)))
    medldm.write(thick, tmp_path / "thick.nii.gz")
    viewer.open(str(tmp_path / "thick.nii.gz"), plugin="napari-medldm")
    panel.form.model.addItem(pack)
    panel.form.model.setCurrentText(pack)
    beyond = "voxels of 2 x 2 x 9 mm; the model was trained on 0.5 to 3 mm"
    until(lambda: beyond in panel.banner.text())
    begin()
    until(lambda: bool(panel.judge.done))
    assert "Done" in panel.message.text() and beyond in panel.banner.text()


def test_models_that_do_not_fit_say_why(viewer, panel, noisy_scan, tmp_path):
    medldm.write(noisy_scan.crop((0, 0, 3), (20, 24, 4)), tmp_path / "single.nii.gz")
    viewer.open(str(tmp_path / "single.nii.gz"), plugin="napari-medldm")
    index = panel.form.model.findText("brain-t1-2mm")
    item = panel.form.model.model().item(index)
    assert not item.isEnabled() and "single image" in item.toolTip()


def test_a_model_of_single_images_restores_a_volume(viewer, panel, restored, noisy_scan, tmp_path):
    from tests.tiny import tiny_model

    tiny_model(tmp_path, 2, scale=0.05)
    medldm.write(noisy_scan, tmp_path / "scan.nii.gz")
    viewer.open(str(tmp_path / "scan.nii.gz"), plugin="napari-medldm")
    panel.form.model.addItem(str(tmp_path / "tiny-2d"))
    panel.form.model.setCurrentText(str(tmp_path / "tiny-2d"))
    result = restored().result
    wanted = medldm.denoise(tmp_path / "scan.nii.gz", model=tmp_path / "tiny-2d")
    np.testing.assert_allclose(result.array, wanted.array, rtol=1e-4, atol=1e-2)
    assert result.report["slices"] == 16


def test_the_chooser_lists_series_and_reasons(qtbot, data_dir):
    found = series_below(data_dir / "dicom" / "ct_same_position_siemens")
    found += series_below(data_dir / "dicom" / "mr_multiecho_siemens")
    dialog = Chooser(found)
    qtbot.addWidget(dialog)
    readable = [each for each in found if each.scan is not None]
    assert [each.size for each in readable] == ["4", "4"] and all("EchoTime=" in each.description for each in readable)
    assert sum("SliceThickness" in each.refusal for each in found) == 2
    dialog.table.selectAll()
    assert dialog.chosen() == readable


def test_what_cannot_be_read_is_said_in_one_line(viewer, data_dir):
    from napari.utils.notifications import notification_manager

    viewer.open(str(data_dir / "dicom" / "ct_tilt_nonuniform_ge"), plugin="napari-medldm")
    assert len(viewer.layers) == 0
    assert "even slices" in notification_manager.records[-1].message


def test_measuring_by_hand(viewer):
    from napari_medldm.measure import measure

    viewer.open_sample("napari-medldm", "ct")
    layer = viewer.layers[-1]
    show_plane(viewer, "axial")
    z = viewer.dims.point[0]
    boxes = [[[z, y, x], [z, y, x + 20], [z, y + 20, x + 20], [z, y + 20, x]] for y, x in ((-10, -10), (30, -10))]
    viewer.add_shapes(np.array(boxes), shape_type="rectangle", units="mm", axis_labels=("I", "P", "L"))
    rows = measure(viewer)
    assert [row["region"] for row in rows] == ["1 (rectangle)", "2 (rectangle)"]
    index = int(round(layer.world_to_data((z, 0, 0))[0]))
    spots = [layer.world_to_data((z, y, x)) for y, x in ((-10, -10), (10, 10))]
    low, high = np.sort(np.array(spots)[:, 1:], axis=0)
    inside = layer.data[index, int(np.ceil(low[0])) : int(high[0]), int(np.ceil(low[1])) : int(high[1])]
    assert rows[0]["mean"] == pytest.approx(float(inside.mean()), abs=3)
    assert rows[1]["CNR"] >= 0


def test_new_scans_are_drawn_and_marked(viewer, panel, phantom, until, pack):
    panel.form.task.setCurrentText("synthesize")
    panel.form.count.setValue(2)
    panel.form.steps.setValue(3)
    panel.form.seed.setValue(4)
    panel.start.click()
    until(lambda: panel.job is None)
    assert panel.message.text() == "Done: 2 new." and is_marked(viewer)
    made = [entry_of(layer).volume for layer in viewer.layers[1:]]
    wanted = list(medldm.synthesize(model=pack, n=2, seed=4, steps=3))
    for ours, api in zip(made, wanted, strict=True):
        np.testing.assert_allclose(ours.array, api.array, rtol=1e-4, atol=1e-2)
        assert ours.history[-1]["synthetic"]
