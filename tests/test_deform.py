"""Label maps bent at random: the same values, smooth, as far as asked, nothing folded, the grid as it was."""

import numpy as np
import pytest
from scipy import ndimage

import medldm
from medldm.deform import deformed
from medldm.errors import InputError


def _coordinates(spacing, shape, axis):
    """A map whose values are places along an axis in mm, so that what is moved tells how far."""
    along = np.arange(shape[axis]) * spacing[axis]
    return np.broadcast_to(along.reshape([-1 if a == axis else 1 for a in range(3)]), shape).astype(np.float32)


@pytest.mark.parametrize(
    ("shape", "spacing", "most"), [((60, 50, 40), (2.0, 2.0, 3.0), 8.0), ((80, 90, 1), (1.6, 1.6, 1.0), 5.0)]
)
def test_voxels_move_as_far_as_asked_and_never_fold(shape, spacing, most):
    geometry = medldm.Geometry.from_spacing(shape, spacing)
    farthest = []
    for seed in range(6):
        moved = []
        for axis in range(3):
            places = _coordinates(spacing, shape, axis)
            taken = deformed(medldm.Volume(places, geometry), most, seed).array
            moved.append(taken - places)
            if shape[axis] > 1:  # what lies behind comes from behind
                assert (np.diff(taken, axis=axis) >= 0).mean() > 0.999
        farthest.append(float(np.sqrt(np.square(np.stack(moved)).sum(0)).max()))
    assert max(farthest) <= most + np.linalg.norm(spacing) / 2  # to the nearest voxel
    assert min(farthest) >= most / 2 - np.linalg.norm(spacing) / 2 - 1  # some may lie beyond the edge
    assert len(set(farthest)) >= 3  # of whole voxels


def test_values_grid_and_pieces_stay(tmp_path):
    labels = np.zeros((48, 48, 48), np.float32)
    labels[8:40, 8:40, 8:40], labels[18:30, 18:30, 18:30] = 3, 46
    volume = medldm.Volume(labels, medldm.Geometry.from_spacing(labels.shape, (2, 2, 2)), history=({"step": "read"},))
    bent = medldm.deform_labels(volume, most_mm=6, seed=(3, 1))
    assert bent.geometry == volume.geometry and set(np.unique(bent.array)) == {0, 3, 46}
    assert ndimage.label(bent.array > 0)[1] == ndimage.label(bent.array == 46)[1] == 1
    assert 0.7 < (bent.array > 0).sum() / (labels > 0).sum() < 1.4 and (bent.array != labels).mean() > 0.01
    assert bent.history == ({"step": "read"}, {"step": "deform", "most_mm": 6, "seed": [3, 1]})
    path = medldm.write(volume, tmp_path / "labels.nii.gz")
    assert np.array_equal(medldm.deform_labels(path, most_mm=6, seed=(3, 1)).array, bent.array)
    assert not np.array_equal(medldm.deform_labels(path, most_mm=6, seed=(3, 2)).array, bent.array)
    assert np.array_equal(medldm.deform_labels(path, most_mm=0).array, labels)


@pytest.mark.parametrize("most", [-1.0, float("nan"), float("inf")])
def test_a_distance_that_is_none_is_refused(most):
    with pytest.raises(InputError, match="deform: got"):
        medldm.deform_labels(np.zeros((8, 8)), most)
