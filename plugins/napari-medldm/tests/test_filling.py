"""In a real window: a region is painted or drawn, and filled; nothing else changes."""

import numpy as np
import pytest
from napari_medldm.compare import show_plane
from napari_medldm.layers import entry_of, layer_data
from napari_medldm.mark import is_marked
from napari_medldm.regions import drawn_mask

import medldm

pytestmark = pytest.mark.usefixtures("display")


@pytest.fixture
def filling(viewer, panel, gap_pack):
    """The layer of a phantom, and the form set to fill a region of it."""
    viewer.open_sample("napari-medldm", "mr")
    panel.form.task.setCurrentText("inpaint")
    panel.form.model.addItem(gap_pack)
    panel.form.model.setCurrentText(gap_pack)
    show_plane(viewer, "axial")
    return viewer.layers["MR phantom"]


def test_a_painted_region_is_filled_as_the_api_fills_it(viewer, panel, filling, restored, gap_pack, until):
    panel.start.click()
    assert "nothing drawn" in panel.message.text() and panel.job is None
    panel.form.draw.click()
    region = viewer.layers.selection.active
    assert region.mode == "paint" and region.data.shape == filling.data.shape
    region.paint((40, 50, 45), 1)
    region.data[38:43, 30:36, 60:64] = 2  # in several slices, and of another label
    painted = region.data > 0
    done = restored()
    result = done.comparison.result
    np.testing.assert_array_equal(result.data[~painted], filling.data[~painted])
    assert (result.data[painted] != filling.data[painted]).mean() > 0.99
    entry = entry_of(filling)
    wanted = medldm.inpaint(entry.volume, entry.display.backward(painted), model=gap_pack, seed=0)
    np.testing.assert_allclose(done.result.array, wanted.array, rtol=1e-4, atol=1e-2)
    assert is_marked(viewer) and f"{painted.sum()} voxels filled" in panel.message.text()
    assert "noise" not in panel.message.text() and "noise_std" not in panel.banner.text()  # there is no level to give

    region.data[...] = 0  # run again fills what was filled, whatever has become of the drawing
    panel.again.click()
    until(lambda: len(panel.judge.done) == 2)
    np.testing.assert_array_equal(panel.judge.done[-1].comparison.result.data, result.data)


def test_a_drawn_shape_is_filled_in_its_slice(viewer, panel, filling, restored):
    z = viewer.dims.point[0]
    corners = np.array([[z, y, x] for y, x in ((-30, -30), (-30, 30), (30, 30), (30, -30))])
    viewer.add_shapes([corners], shape_type="rectangle", units="mm", axis_labels=("I", "P", "L"))
    changed = np.argwhere(restored().comparison.result.data != filling.data)
    assert len(np.unique(changed[:, 0])) == 1 and len(changed) > 300
    world = np.array([filling.data_to_world(voxel) for voxel in changed])
    assert np.abs(world[:, 1:]).max() <= 31


def test_the_selected_drawing_counts(viewer, panel, filling):
    panel.form.draw.click()
    first = viewer.layers[-1]
    first.data[3:5] = 1
    panel.form.draw.click()
    second = viewer.layers[-1]
    second.data[10:14] = 1
    viewer.layers.selection.active = filling
    np.testing.assert_array_equal(drawn_mask(viewer, filling), second.data > 0)
    viewer.layers.selection.active = first
    np.testing.assert_array_equal(drawn_mask(viewer, filling), first.data > 0)


def test_labels_of_another_grid_are_sampled_where_they_lie(viewer, noisy_scan):
    data, attributes, _ = layer_data(noisy_scan, "scan")
    source = viewer.add_image(data, **attributes)
    rng = np.random.default_rng(1)
    offset, spacing = np.array(source.data_to_world((2, 3, 1))), np.array([3.0, 1.5, 2.5])
    coarse = (rng.random((7, 12, 9)) < 0.3).astype(np.uint8)
    labels = viewer.add_labels(
        coarse, scale=spacing, translate=offset, units=source.units, axis_labels=source.axis_labels
    )
    viewer.layers.selection.active = labels
    found = drawn_mask(viewer, source)
    wanted = np.zeros(found.shape, dtype=bool)
    for voxel in np.ndindex(*found.shape):  # one voxel after the other
        place = (np.array(source.data_to_world(voxel)) - offset) / spacing
        near = np.rint(place).astype(int)
        if np.abs(place - near).max() < 0.499 and (near >= 0).all() and (near < coarse.shape).all():
            wanted[voxel] = coarse[tuple(near)]
        elif np.abs(np.abs(place - near) - 0.5).min() < 0.01:  # halfway: either
            wanted[voxel] = found[voxel]
    np.testing.assert_array_equal(found, wanted)
    labels.translate = offset + 1000
    with pytest.raises(medldm.MedldmError, match="beside the scan"):
        drawn_mask(viewer, source)


def test_a_model_without_a_head_for_masks_says_so(viewer, panel, filling, pack):
    from napari_medldm.models import reason_against

    from medldm.installed import describe

    without, with_masks = (describe(folder) for folder in (pack, panel.form.model.currentText()))
    assert "not trained to inpaint" in reason_against(without, None, "inpaint")
    assert not reason_against(with_masks, None, "inpaint") and not reason_against(without, None, "denoise")
