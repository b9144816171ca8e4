"""Scans opened without their voxels: slice by slice the same as read whole."""

import itertools

import nibabel as nib
import numpy as np
import pytest

import medldm
from medldm import Geometry, Volume
from medldm.errors import GeometryError, PixelError
from medldm.io import Choice
from tests.dicom_maker import OBLIQUE, make_series
from tests.tiny import tiny_model

ORDERS = list(itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)))


def same(lazy, whole):
    """Place, unit, and every slice, one by one."""
    np.testing.assert_allclose(lazy.geometry.affine, whole.geometry.affine, rtol=1e-12)
    assert (lazy.shape, lazy.unit, lazy.modality) == (whole.array.shape, whole.unit, whole.modality)
    for k in range(lazy.shape[2]):
        np.testing.assert_array_equal(lazy.plane(k), whole.array[..., k])


@pytest.mark.parametrize(("order", "signs"), ORDERS)
def test_every_orientation_of_a_series_and_of_a_nifti(tmp_path, order, signs):
    """Axis a of the grid runs along world axis order[a]; the slices of a DICOM series may run either way."""
    axes = np.eye(3)[list(order)] * np.array(signs)[:, None]
    shape, affine = (5, 6, 4), np.eye(4)
    affine[:3, :3] = axes.T * (1.5, 2.0, 3.5)
    affine[:3, 3] = (-11, 23, 5)
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    path = medldm.write(Volume(values, Geometry(affine, shape)), tmp_path / "a.nii")
    same(medldm.open_lazily(path), medldm.read(path))
    np.testing.assert_array_equal(medldm.open_lazily(path)[:, :, :], values)
    directions = {"orientation": (*axes[0], *axes[1]), "step": 3.5 * axes[2]}
    folder = make_series(tmp_path / "series", n=4, rows=6, columns=5, order=[2, 0, 3, 1], **directions)
    same(medldm.open_lazily(folder), medldm.read(folder))


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


def test_a_damaged_slice_harms_no_other(tmp_path):
    folder = make_series(tmp_path / "series")
    whole, file = medldm.read(folder), sorted(folder.iterdir())[2]
    lazy = medldm.open_lazily(folder)
    file.write_bytes(file.read_bytes()[:-40])
    for k in range(lazy.shape[2]):
        if k == 2:
            with pytest.raises(PixelError, match=file.name):
                lazy.plane(k)
        else:
            np.testing.assert_array_equal(lazy.plane(k), whole.array[..., k])
    with pytest.raises(PixelError, match=file.name):
        lazy.load()


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e39])
def test_what_reading_refuses_of_a_nifti_its_slice_refuses(tmp_path, value):
    values = np.ones((4, 5, 6))
    values[1, 2, 3] = value
    image = nib.Nifti1Image(values, np.diag([2, 2, 3, 1]))
    image.header.set_xyzt_units("mm")
    nib.save(image, tmp_path / "a.nii")
    lazy = medldm.open_lazily(tmp_path / "a.nii")
    for call in (lazy.load, lambda: lazy.plane(3)):
        with pytest.raises(PixelError):
            call()
    assert (lazy.plane(2) == 1).all()
    if np.isnan(value):
        filled = Choice(nan="fill")  # with the smallest value of all slices
        assert medldm.open_lazily(tmp_path / "a.nii", filled) is None


def test_a_nifti_that_was_cut_meanwhile(tmp_path):
    path = medldm.write(Volume(np.ones((4, 5, 6), np.float32), Geometry(np.eye(4), (4, 5, 6))), tmp_path / "a.nii")
    lazy = medldm.open_lazily(path)
    path.write_bytes(path.read_bytes()[:-10])
    assert (lazy.plane(4) == 1).all() and (lazy.plane(-2) == 1).all()
    with pytest.raises(PixelError, match=r"a\.nii"):
        lazy.plane(5)


def test_reading_whole_holds_the_whole_once(tmp_path):
    """Integers of 64 MB become 128 MB of float32; beside them a slice is held."""
    import tracemalloc

    values = np.zeros((256, 256, 512), np.int16)
    for name in ("a.nii", "a.nii.gz"):
        image = nib.Nifti1Image(values, np.diag([2, 2, 3, 1]))
        image.header.set_xyzt_units("mm")
        nib.save(image, tmp_path / name)
        tracemalloc.start()
        assert medldm.read(tmp_path / name).array.nbytes == 2 * values.nbytes
        # finding what is not finite takes a byte a voxel
        assert tracemalloc.get_traced_memory()[1] < 2 * values.nbytes + values.size + 4e6
        tracemalloc.stop()


def test_restoring_what_was_opened_lazily_gives_the_same_voxels(tmp_path):
    tiny_model(tmp_path, 3)
    folder = make_series(tmp_path / "series", n=12, rows=16, columns=16, spacing=(1, 1))
    lazily = medldm.denoise(medldm.open_lazily(folder).load(), model=tmp_path / "tiny-3d", noise_std=20)
    wholly = medldm.denoise(folder, model=tmp_path / "tiny-3d", noise_std=20)
    np.testing.assert_array_equal(lazily.array, wholly.array)
    medldm.write(lazily.volume, tmp_path / "out")  # with patient and study of its source
    assert medldm.read(tmp_path / "out").geometry.isclose(wholly.volume.geometry, 1e-6)
