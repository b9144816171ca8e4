"""Large scans: opened by their headers, read slice by slice, restored to the same voxels as those read whole."""

import nibabel as nib
import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers._layer_actions import _duplicate_layer
from napari.utils.notifications import notification_manager
from napari_medldm import _reader, slices
from napari_medldm._reader import read
from napari_medldm.layers import entry_of, layer_data, volume_of
from napari_medldm.measure import measure
from napari_medldm.slices import SlicedArray
from test_orientation import ORDERS, oriented

import medldm
from medldm import Geometry, LazyScan, Volume
from tests.dicom_maker import CANARY, SAGITTAL, make_series

N = 40  # slices: more than a picture may take


@pytest.fixture(autouse=True)
def everything_is_large(monkeypatch):
    monkeypatch.setattr(_reader, "LARGE_BYTES", 0)


def _watch(monkeypatch, name):
    """What a method of every scan that is opened from now on is called with."""
    calls, original = [], LazyScan.__init__

    def watched(self, *args):
        original(self, *args)
        method = getattr(self, name)

        def counted(*given):
            calls.append(given)
            return method(*given)

        object.__setattr__(self, name, counted)

    monkeypatch.setattr(LazyScan, "__init__", watched)
    return calls


@pytest.fixture
def read_slices(monkeypatch):
    """Numbers of the slices that are read from the disk, in their order."""
    return _watch(monkeypatch, "plane")


@pytest.fixture
def loads(monkeypatch):
    """How often a scan is read whole."""
    return _watch(monkeypatch, "load")


@pytest.fixture
def series(tmp_path):
    return make_series(tmp_path / "series", n=N)


def nifti(path, geometry, seed=0):
    values = np.random.default_rng(seed).normal(100, 20, geometry.shape).astype(np.float32)
    return medldm.write(Volume(values, geometry, "arbitrary", "MR"), path)


@pytest.mark.parametrize(("order", "signs"), ORDERS)
def test_a_large_scan_is_shown_where_the_whole_one_is(tmp_path, order, signs):
    path = nifti(tmp_path / "a.nii", oriented(order, signs))
    ((data, attributes, kind),) = read(str(path))
    whole, expected, _ = layer_data(medldm.read(path), "a")
    assert kind == "image" and isinstance(data, SlicedArray) and isinstance(whole, np.ndarray)
    for name in ("scale", "translate", "axis_labels", "units", "rgb", "name"):
        np.testing.assert_array_equal(attributes[name], expected[name])
    np.testing.assert_array_equal(np.asarray(data), whole)
    for key in ((3, slice(None), slice(None)), np.s_[1:5, -1, ::-2], (..., 2), 4, np.s_[::-1, :, 1]):
        np.testing.assert_array_equal(data[key], whole[key])
    layer = ViewerModel().add_image(data, **attributes)
    np.testing.assert_array_equal(volume_of(layer).array, medldm.read(path).array)


@pytest.mark.parametrize("plane", ["axial", "sagittal"])
def test_opening_reads_a_few_slices_and_looking_the_one_looked_at(viewer, tmp_path, read_slices, plane):
    folder = make_series(tmp_path / "s", n=N, **({"orientation": SAGITTAL} if plane == "sagittal" else {}))
    viewer.open(str(folder), plugin="napari-medldm")
    layer, axis = viewer.layers[-1], {"axial": 0, "sagittal": 2}[plane]
    assert layer.data.plane == plane and viewer.dims.order[0] == axis
    assert layer.data.shape[axis] == N and not isinstance(layer.data, np.ndarray)
    assert len(set(read_slices)) <= 6  # five for the window, one that is shown
    whole = layer_data(medldm.read(folder), "s")[0]
    for k in (3, 31):
        before = len(read_slices)
        viewer.dims.set_current_step(axis, k)
        shown = layer._slice.image.raw
        np.testing.assert_array_equal(shown, np.take(whole, round(layer.world_to_data(viewer.dims.point)[axis]), axis))
        viewer.screenshot(canvas_only=True, flash=False)
        assert len(read_slices) == before + 1


def test_planes_across_the_slices_say_why_they_are_empty(viewer, panel, series, read_slices, until):
    viewer.open(str(series), plugin="napari-medldm")
    layer = viewer.layers[-1]
    before, said = len(read_slices), len(notification_manager.records)
    assert "slice by slice" in panel.view.note.text() and not panel.view.load.isHidden()
    panel.view.orthogonal.click()
    models = panel.view.views.models
    until(panel.view.views.complete)
    assert all(len(model.layers) == 1 for model in models.values())
    viewer.dims.ndisplay = 3
    viewer.dims.ndisplay = 2
    assert len(read_slices) - before <= 1
    assert len(notification_manager.records) == said + 1
    assert "other planes than axial" in notification_manager.records[-1].message
    assert np.isfinite(models["axial"].layers[0]._slice.image.raw).all()
    assert np.isnan(models["coronal"].layers[0]._slice.image.raw).all()
    panel.view.load.click()
    until(lambda: isinstance(layer.data, np.ndarray))
    until(lambda: np.isfinite(models["coronal"].layers[0]._slice.image.raw).all())
    assert panel.view.note.text() == "" and panel.view.load.isHidden()
    np.testing.assert_array_equal(volume_of(layer).array, medldm.read(series).array)
    panel.view.orthogonal.click()


def test_a_damaged_slice_is_empty_and_named_once(viewer, series):
    file = series / "a007.dcm"
    file.write_bytes(file.read_bytes()[:-40])
    viewer.open(str(series), plugin="napari-medldm")
    layer = viewer.layers[-1]
    k = next(k for k in range(N) if _is_bad(layer, k))
    for step in (k, 0, k):
        said = len(notification_manager.records)
        viewer.dims.point = layer.data_to_world((step, 0, 0))
        viewer.screenshot(canvas_only=True, flash=False)
    assert np.isnan(layer._slice.image.raw).all() and len(notification_manager.records) == said
    told = [each.message for each in notification_manager.records if "cannot be shown" in each.message]
    assert len(told) == 1 and f"slice {k + 1} of {N}" in told[0] and "a007.dcm" in told[0] and CANARY not in told[0]
    layer.reset_contrast_limits(mode="slice")  # of an empty slice: nothing raises
    viewer.dims.point = layer.data_to_world((0, 0, 0))
    assert np.isfinite(layer._slice.image.raw).all()


def _is_bad(layer, k):
    try:
        layer.data.scan.plane(k)
    except medldm.MedldmError:
        return True
    return False


def test_a_damaged_scan_is_not_restored(viewer, panel, series, until, pack):
    file = series / "a007.dcm"
    file.write_bytes(file.read_bytes()[:-40])
    viewer.open(str(series), plugin="napari-medldm")
    panel.form.model.addItem(pack)
    panel.form.model.setCurrentText(pack)
    panel.start.click()
    until(lambda: panel.job is None)
    assert "a007.dcm" in panel.message.text() and len(viewer.layers) == 1


@pytest.fixture
def large(viewer, panel, pack, noisy_scan, tmp_path):
    """The layer of a scan that is read slice by slice, and a tiny pack to restore it with."""
    path = medldm.write(noisy_scan, tmp_path / "large.nii")
    viewer.open(str(path), plugin="napari-medldm")
    panel.form.model.addItem(pack)
    panel.form.model.setCurrentText(pack)
    return viewer.layers[-1]


@pytest.mark.parametrize("place", ["whole scan", "current slice"])
def test_a_large_scan_is_restored_as_the_whole_one(
    loads, viewer, panel, large, restored, save, noisy_scan, pack, place, tmp_path
):
    panel.form.place.setCurrentText(place)
    assert panel.start.isEnabled() and "about" in panel.advice.text()
    assert not loads and isinstance(entry_of(large).volume, LazyScan)
    done = restored()
    assert len(loads) == 1
    if place == "whole scan":
        wanted = medldm.denoise(noisy_scan, model=pack)
        np.testing.assert_allclose(done.result.array, wanted.array, rtol=1e-5, atol=1e-3)
    else:
        changed = np.argwhere(entry_of(large).display.forward(done.result.array) != large.data)
        assert len(changed) > 50 and len(np.unique(changed[:, viewer.dims.order[0]])) == 1
    np.testing.assert_array_equal(done.volume.array, noisy_scan.array)
    assert isinstance(large.data, np.ndarray) and entry_of(large).volume is done.volume
    for mode in panel.judge.buttons:
        panel.judge.toggle(mode)
        viewer.screenshot(canvas_only=True, flash=False)
        panel.judge.toggle(mode)
    assert "Saved" in save("report", tmp_path / "report.html")


def test_comparing_with_a_source_that_is_not_read_whole(viewer, panel, large, restored, tmp_path, monkeypatch):
    comparison = restored().comparison
    entry_of(large).volume = medldm.open_lazily(tmp_path / "large.nii")  # as before it was restored
    monkeypatch.setattr(slices, "MOST_AT_ONCE", 4)
    large.data = SlicedArray(entry_of(large).volume, entry_of(large).display, "large")
    for plane in ("axial", "coronal", "sagittal"):
        panel.view.plane.setCurrentText(plane)
        for mode in panel.judge.buttons:
            panel.judge.toggle(mode)
            viewer.screenshot(canvas_only=True, flash=False)
            panel.judge.toggle(mode)
    panel.view.window_.setCurrentText("5 to 90 %")
    assert comparison.result.contrast_limits == large.contrast_limits


def test_regions_are_measured_in_the_slices_that_they_lie_in(viewer, tmp_path, read_slices):
    geometry = Geometry(np.diag([1.0, 1, 1, 1]), (9, 8, N))
    viewer.open(str(nifti(tmp_path / "a.nii", geometry)), plugin="napari-medldm")
    layer = viewer.layers[-1]
    z, y, x = layer.data_to_world((20, 2, 2))
    far = layer.data_to_world((20, 6, 6))
    box = np.array([[[z, y, x], [z, y, far[2]], [z, far[1], far[2]], [z, far[1], x]]])
    viewer.add_shapes(box, shape_type="rectangle", units="mm", axis_labels=("I", "P", "L"))
    read_slices.clear()
    (row,) = measure(viewer)
    assert read_slices in ([], [(20,)])
    values = layer_data(medldm.read(tmp_path / "a.nii"), "a")[0][20]
    mean = [values[2 + a : 6 + a, 2 + b : 6 + b].mean() for a in (0, 1) for b in (0, 1)]
    assert min(mean) - 5 < row["mean"] < max(mean) + 5 and row["voxels"] in (16, 20, 25)


def test_a_layer_can_be_duplicated(viewer, series, read_slices):
    viewer.open(str(series), plugin="napari-medldm")
    before = len(read_slices)
    _duplicate_layer(viewer.layers)
    assert len(viewer.layers) == 2 and len(read_slices) == before
    assert viewer.layers[1].data is viewer.layers[0].data and entry_of(viewer.layers[1]) is not None
    volume = volume_of(viewer.layers[1])
    np.testing.assert_array_equal(volume.array, medldm.read(series).array)


def test_what_is_not_large_or_only_whole_is_read_as_before(viewer, tmp_path, monkeypatch, series):
    geometry = oriented((0, 1, 2), (1, 1, 1))
    for name in ("a.nii.gz", "a.nii"):
        viewer.open(str(nifti(tmp_path / name, geometry)), plugin="napari-medldm")
        assert isinstance(viewer.layers[-1].data, np.ndarray) == name.endswith(".gz")
        (tmp_path / "a.json").unlink()
    monkeypatch.setattr(_reader, "LARGE_BYTES", 4 * 10 * 12 * N)
    viewer.open(str(series), plugin="napari-medldm")
    assert isinstance(viewer.layers[-1].data, np.ndarray)
    assert entry_of(viewer.layers[-1]).volume.source is not None
    image = nib.load(tmp_path / "a.nii")
    image.header.set_xyzt_units(0)
    nib.save(image, tmp_path / "b.nii")
    said = len(notification_manager.records)
    viewer.open(str(tmp_path / "b.nii"), plugin="napari-medldm")
    told = [each.message for each in notification_manager.records[said:] if "unit of length" in each.message]
    assert len(told) == 1
