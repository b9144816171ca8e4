"""Scans opened without their voxels: slice by slice the same as read whole."""

import nibabel as nib
import numpy as np
import pytest

import medldm
from medldm.errors import GeometryError, PixelError
from tests.dicom_maker import OBLIQUE, make_series


@pytest.mark.parametrize("modality", ["CT", "PT"])
def test_slices_of_a_series_are_those_of_the_whole(tmp_path, modality):
    folder = make_series(tmp_path / "series", modality=modality, orientation=OBLIQUE)
    lazy, whole = medldm.open_lazily(folder), medldm.read(folder)
    assert lazy.geometry.isclose(whole.geometry, 1e-12) and lazy.shape == whole.array.shape
    assert (lazy.unit, lazy.modality) == (whole.unit, whole.modality)
    for k in range(lazy.shape[2]):
        np.testing.assert_array_equal(lazy.plane(k), whole.array[..., k])
    np.testing.assert_array_equal(lazy[1:3, 2:, 1:4], whole.array[1:3, 2:, 1:4])
    loaded = lazy.load()
    np.testing.assert_array_equal(loaded.array, whole.array)
    assert loaded.history == whole.history and loaded.source.slopes == whole.source.slopes


@pytest.mark.parametrize("slope", [(1, 0), (0.5, -3)])
@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.uint8])
def test_slices_of_a_nifti_are_those_of_the_whole(tmp_path, dtype, slope):
    values = np.random.default_rng(0).integers(0, 200, (5, 6, 7)).astype(dtype)
    image = nib.Nifti1Image(values, np.diag([2, 2, 3, 1]))
    image.header.set_xyzt_units("mm")
    image.header.set_slope_inter(*slope)
    nib.save(image, tmp_path / "a.nii")
    lazy, whole = medldm.open_lazily(tmp_path / "a.nii"), medldm.read(tmp_path / "a.nii")
    np.testing.assert_array_equal(lazy[:, :, :], whole.array)
    assert lazy.geometry.isclose(whole.geometry, 1e-12)
    np.testing.assert_array_equal(lazy.load().array, whole.array)


def test_nothing_is_held_until_it_is_looked_at(tmp_path):
    """A file of half a gigabyte of voxels (sparse on the disk) is opened within a few megabytes."""
    import tracemalloc

    shape = (512, 512, 1024)
    header = nib.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape(shape)
    header.set_sform(np.eye(4), code=1)
    header.set_xyzt_units("mm")
    header["vox_offset"], header["magic"] = 352, b"n+1"
    path = tmp_path / "large.nii"
    with path.open("wb") as file:
        file.write(header.binaryblock + bytes(4))
        file.truncate(352 + 2 * int(np.prod(shape)))
    tracemalloc.start()
    lazy = medldm.open_lazily(path)
    assert lazy.plane(700).shape == shape[:2]
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


def test_what_can_only_be_read_whole_says_so(tmp_path):
    nib.save(nib.Nifti1Image(np.ones((3, 3, 3), np.float32), np.eye(4)), tmp_path / "a.nii.gz")
    with pytest.warns(UserWarning, match="millimetres"):
        assert medldm.open_lazily(tmp_path / "a.nii.gz") is None


def test_refusals_are_those_of_reading(tmp_path):
    folder = make_series(tmp_path / "series")
    sorted(folder.iterdir())[2].unlink()
    with pytest.raises(GeometryError):
        medldm.open_lazily(folder)
    whole = make_series(tmp_path / "whole")
    lazy = medldm.open_lazily(whole)
    for file in whole.iterdir():
        file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(PixelError):
        lazy.plane(0)
