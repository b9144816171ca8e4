"""Two patients are open: all that is shown, said and done is about the one that is selected."""

import numpy as np
import pytest
from napari_medldm.layers import entry_of

import medldm
from medldm import Geometry, Volume
from tests.dicom_maker import make_series

pytestmark = pytest.mark.usefixtures("display")


@pytest.fixture
def patients(viewer, panel, pack, tmp_path):
    """Files of two scans that lie far apart, the second with twice the noise; opened one after the other."""
    panel.form.model.addItem(pack)
    panel.form.model.setCurrentText(pack)  # which doubts neither, so that both are to be restored by it
    rng = np.random.default_rng(0)
    for number, name in enumerate(("first", "second")):
        shape = (20, 24, 16 + 6 * number)
        inside = np.square(np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"))).sum(0) < 0.8
        array = np.abs((500 + 400 * number) * inside + (number + 1) * 20 * rng.standard_normal(shape))
        affine = np.diag([2.0, 2.0, 2.5, 1.0])
        affine[:3, 3] = 400 * number
        volume = Volume(array.astype(np.float32), Geometry(affine, shape), "arbitrary", "MR")
        medldm.write(volume, tmp_path / f"{name}.nii.gz")
        viewer.open(str(tmp_path / f"{name}.nii.gz"), plugin="napari-medldm")
    return viewer.layers["first"], viewer.layers["second"]


def test_what_is_selected_is_shown_and_restored(viewer, panel, patients, click_layer, restored):
    first, second = patients
    assert panel.form.scan.currentText() == "second" and not first.visible and second.visible
    click_layer("first")
    assert panel.form.scan.currentText() == "first" and first.visible and not second.visible
    done = restored()
    assert done.comparison.source is first and done.volume.geometry == entry_of(first).volume.geometry
    wanted = medldm.denoise(entry_of(first).volume, model=panel.form.model.currentText())
    np.testing.assert_allclose(done.result.array, wanted.array, rtol=1e-4, atol=1e-2)
    panel.form.scan.setCurrentText("second")
    assert viewer.layers.selection.active is second
    assert [layer.name for layer in viewer.layers if layer.visible] == ["second"]


def test_what_is_drawn_leaves_the_scan_chosen(viewer, panel, patients, click_layer):
    first, second = patients
    click_layer("first")
    viewer.add_shapes(name="drawn")
    click_layer("drawn")
    assert panel.source() is first and first.visible and not second.visible


def test_the_slider_belongs_to_the_scan(viewer, panel, patients, click_layer, press):
    for layer in patients:
        click_layer(layer.name)
        count = layer.data.shape[viewer.dims.order[0]]
        assert viewer.dims.nsteps[viewer.dims.order[0]] == count
        for _ in range(count + 2):
            press("Right")
        place = layer.world_to_data(viewer.dims.point)
        assert np.abs(np.array(place) - np.clip(place, 0, np.array(layer.data.shape) - 1)).max() < 1e-6
        seen = viewer.screenshot(canvas_only=True, flash=False)
        for _ in range(count // 2):
            press("Left")
        assert (viewer.screenshot(canvas_only=True, flash=False) != seen).any()


def test_plane_place_window_noise_and_status_are_those_of_the_scan(viewer, panel, patients, click_layer, press):
    click_layer("first")
    panel.view.plane.setCurrentText("coronal")
    press("Right")
    viewer.scene.camera.zoom *= 1.5
    panel.view.window_.setCurrentText("5 to 90 %")
    panel.form.estimated.click()
    panel.form.noise_std.setValue(25)
    before = viewer.dims.point, viewer.scene.camera.zoom, viewer.scene.camera.center
    panel.form.place.setCurrentText("drawn region")
    panel.start.click()
    assert "nothing drawn" in panel.message.text()

    click_layer("second")
    assert panel.view.plane.currentText() == "axial" and viewer.dims.order == (0, 1, 2)
    assert panel.view.window_.currentText() == "1 to 99.5 %" and panel.message.text() == ""
    assert panel.form.estimated.isChecked() and panel.form.noise_std.value() == 0
    np.testing.assert_allclose(viewer.dims.point, patients[1].extent.world.mean(0), atol=2.5)

    click_layer("first")
    assert panel.view.plane.currentText() == "coronal" and viewer.dims.order == (1, 0, 2)
    assert (viewer.dims.point, viewer.scene.camera.zoom, viewer.scene.camera.center) == before
    assert panel.view.window_.currentText() == "5 to 90 %"
    assert not panel.form.estimated.isChecked() and panel.form.noise_std.value() == 25


def test_modes_belong_to_the_scan_and_come_back_with_it(viewer, panel, patients, click_layer, press, restored):
    click_layer("first")
    restored()
    press("F8")
    click_layer("second")
    assert [layer.name for layer in viewer.layers if layer.visible] == ["second"]
    press("F8")
    assert [layer.name for layer in viewer.layers if layer.visible] == ["second"]
    assert "Restore a scan first" in panel.message.text()
    click_layer("first")
    assert [layer.name for layer in viewer.layers if layer.visible] == ["first · residual"]
    assert panel.message.text() == ""


def test_a_result_of_the_other_scan_stays_out_of_sight(viewer, panel, patients, click_layer, until):
    first, second = patients
    click_layer("first")
    panel.start.click()
    click_layer("second")
    until(lambda: bool(panel.judge.done))
    assert [layer.name for layer in viewer.layers if layer.visible] == ["second"]
    assert "first" in panel.message.text()
    click_layer("first")
    assert viewer.layers["first · result"].visible and not second.visible


def test_closing_the_active_scan_makes_another_the_active_one(viewer, panel, patients, click_layer):
    first, second = patients
    viewer.layers.remove(second)
    assert panel.source() is first and first.visible and panel.start.isEnabled()
    viewer.layers.remove(first)
    assert panel.source() is None and not panel.start.isEnabled() and "Open a scan" in panel.advice.text()


def test_f4_keeps_the_place_and_shows_the_scan_in_every_view(
    viewer, panel, patients, click_layer, press, until, settled
):
    viewer.window.resize(1500, 900)
    until(lambda: viewer.window._qt_window.width() == 1500 and viewer.canvas.size[1] > 600)
    settled()
    click_layer("first")
    for _ in range(3):
        press("Right")
    camera, before = viewer.scene.camera, viewer.dims.point
    camera.zoom *= 2
    camera.center = (0, *(np.array(camera.center[1:]) + 5))
    zoom, center = camera.zoom, camera.center
    press("F4")
    models = panel.view.views.models.values()
    until(lambda: all(len(model.layers) == 1 for model in models))
    until(panel.view.views.complete)
    for each in (viewer, *models):
        np.testing.assert_allclose(each.dims.point, before, atol=1e-6)
    for canvas in panel.view.views.canvases[1:]:  # the axial plane is that of the main canvas
        assert canvas.screenshot(flash=False)[..., :3].mean() > 20
    until(lambda: np.allclose(camera.center, center, atol=1e-3))
    until(lambda: camera.zoom < zoom)  # the canvas is less wide; what it shows of the scan is the same
    press("F4")
    until(lambda: camera.zoom == pytest.approx(zoom))
    assert viewer.dims.point == before
    np.testing.assert_allclose(camera.center, center, atol=1e-3)


@pytest.mark.parametrize(
    ("plane", "cosines"),
    [("axial", (1, 0, 0, 0, 1, 0)), ("coronal", (1, 0, 0, 0, 0, -1)), ("sagittal", (0, 1, 0, 0, 0, -1))],
)
def test_a_series_opens_in_the_plane_it_was_acquired_in(viewer, panel, patients, tmp_path, plane, cosines):
    folder = make_series(tmp_path / plane, n=5, rows=16, columns=14, orientation=cosines)
    viewer.open(str(folder), plugin="napari-medldm")
    assert panel.view.plane.currentText() == plane
    assert viewer.dims.nsteps[viewer.dims.order[0]] == 5
