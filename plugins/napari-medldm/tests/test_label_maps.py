"""A file with labels that is dropped is a Labels layer: a region of a scan, or what is to be drawn; and it is saved."""

import numpy as np
import pytest
from napari.layers import Image, Labels
from napari_medldm.label_maps import is_label_map
from napari_medldm.layers import entry_of
from napari_medldm.regions import drawn_mask

import medldm
from medldm import Geometry, Volume

pytestmark = pytest.mark.usefixtures("display")
SHAPE = (24, 20, 16)


def turned(degrees: float, spacing: float = 1.0, origin: tuple[float, float, float] = (3, -4, 5)) -> Geometry:
    """A grid turned about z."""
    angle, affine = np.radians(degrees), np.eye(4)
    affine[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    affine[:3, :3] *= spacing
    affine[:3, 3] = origin
    return Geometry(affine, SHAPE)


def boxes(*values: int) -> np.ndarray:
    array = np.zeros(SHAPE, np.float32)
    for place, value in enumerate(values):
        array[4 + 5 * place : 9 + 5 * place, 5:15, 4:12] = value
    return array


@pytest.mark.parametrize("values", [(1,), (1, 2), (2, 7, 300)])
def test_a_map_is_opened_as_labels_and_said_to_be_one(viewer, panel, drop, tmp_path, values):
    file = medldm.write(Volume(boxes(*values), turned(0)), tmp_path / "map.nii.gz")
    drop(file, opening=panel.opening)
    (layer,) = viewer.layers
    assert isinstance(layer, Labels) and layer.name == "map" and set(np.unique(layer.data)) == {0, *values}
    assert "label map" in panel.message.text() and panel.form.scan.count() == 0


def test_scans_are_no_maps(noisy_scan):
    rng = np.random.default_rng(0)
    assert not is_label_map(noisy_scan) and not is_label_map(None)
    assert not is_label_map(Volume(rng.integers(0, 200, SHAPE).astype(np.float32), turned(0)))
    assert not is_label_map(Volume(boxes(1) * 0.5, turned(0)))  # a share of each voxel
    assert not is_label_map(Volume(np.ones(SHAPE, np.float32), turned(0)))
    assert not is_label_map(Volume(-boxes(1), turned(0)))
    flat = Volume(boxes(1)[..., :1], Geometry(np.eye(4), (*SHAPE[:2], 1)))
    assert not is_label_map(flat)


def test_a_map_of_another_grid_is_a_region_where_it_lies_in_the_patient(viewer, panel, drop, tmp_path):
    """The scan is oblique, the map is not: each is shown along its own axes, but the region is the patient's."""
    scan = Volume(np.random.default_rng(0).normal(100, 10, SHAPE).astype(np.float32), turned(30, 1.1))
    mask = Volume(boxes(1), turned(0, 0.9, (-6, 2, 6)))
    for name, volume in (("scan", scan), ("mask", mask)):
        drop(medldm.write(volume, tmp_path / f"{name}.nii.gz"), opening=panel.opening)
    image, labels = viewer.layers
    assert isinstance(image, Image) and isinstance(labels, Labels)
    assert panel.form.scan.currentText() == "scan" and viewer.layers.selection.active is labels
    found = entry_of(image).display.backward(drawn_mask(viewer, image))
    index = np.stack(np.indices(SHAPE), axis=-1).reshape(-1, 3)
    at = np.linalg.inv(mask.geometry.affine) @ np.c_[scan.geometry.to_world(index), np.ones(len(index))].T
    inside = np.rint(at[:3].T).astype(int)
    within = ((inside >= 0) & (inside < SHAPE)).all(axis=1)
    wanted = np.zeros(len(index), bool)
    wanted[within] = mask.array[tuple(inside[within].T)] > 0
    assert wanted.sum() > 100
    np.testing.assert_array_equal(found.ravel(), wanted)
    labels.translate = labels.translate + 3  # by hand: what is seen counts
    assert (entry_of(image).display.backward(drawn_mask(viewer, image)) != found).any()


def test_a_map_that_was_opened_first_is_seen_on_the_scan(viewer, panel, drop, tmp_path, noisy_scan):
    for name, volume in (("map", Volume(boxes(1, 2), turned(0))), ("scan", noisy_scan)):
        drop(medldm.write(volume, tmp_path / f"{name}.nii.gz"), opening=panel.opening)
    assert [layer.name for layer in viewer.layers] == ["scan", "map"]  # the last is drawn last
    assert all(layer.visible for layer in viewer.layers)
    assert panel.active.layer is viewer.layers["scan"] and panel.form.scan.currentText() == "scan"


def test_what_was_painted_is_saved_on_the_scans_grid(viewer, panel, drop, tmp_path):
    scan = Volume(np.random.default_rng(0).normal(100, 10, SHAPE).astype(np.float32), turned(30))
    drop(medldm.write(scan, tmp_path / "scan.nii.gz"), opening=panel.opening)
    panel.form.task.setCurrentText("inpaint")
    panel.form.draw.click()
    region = viewer.layers.selection.active
    region.data[3:6, 4:9, 5:12] = 2
    viewer.layers.save(str(tmp_path / "region.nii.gz"), selected=True, plugin="napari-medldm")
    saved = medldm.read(tmp_path / "region.nii.gz")
    assert saved.geometry.isclose(scan.geometry, 1e-4)
    np.testing.assert_array_equal(entry_of(viewer.layers[0]).display.forward(saved.array), region.data)
    drop(tmp_path / "region.nii.gz", opening=panel.opening)
    again = viewer.layers[-1]
    assert isinstance(again, Labels)
    np.testing.assert_array_equal(again.data, region.data)
    np.testing.assert_allclose(again.scale, region.scale)
    np.testing.assert_allclose(again.translate, region.translate, atol=1e-4)
