"""The example plugin is found through its entry point, and reads FreeSurfer's files as nibabel places them."""

import medldm_mgh_reader
import nibabel as nib
import numpy as np
import pytest

import medldm
from medldm import registry
from medldm.errors import AmbiguousInput, GeometryError, PixelError
from medldm.io.check_reader import check_reader

AFFINE = np.array([[-1.0, 0, 0, 60], [0, 0, 1.5, -50], [0, -2.0, 0, 70], [0, 0, 0, 1]])


def save(path, array=None):
    array = np.random.default_rng(0).normal(size=(7, 6, 5)).astype(np.float32) if array is None else array
    nib.save(nib.MGHImage(array, AFFINE), path)
    return path


def test_registry_finds_the_plugin():
    assert registry.find("readers", "mgh") is medldm_mgh_reader


@pytest.mark.parametrize("name", ["a.mgz", "a.mgh"])
def test_it_is_a_proper_reader(tmp_path, name):
    check_reader(medldm_mgh_reader, save(tmp_path / name))


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32])
def test_values_and_place_are_those_of_the_file(tmp_path, dtype):
    array = np.arange(210).reshape(7, 6, 5).astype(dtype)
    volume = medldm.read(save(tmp_path / "a.mgz", array))
    np.testing.assert_array_equal(volume.array, array)
    np.testing.assert_allclose(volume.geometry.affine, AFFINE, atol=1e-5)
    assert volume.geometry.axcodes == ("L", "I", "A")


def test_what_is_not_one_image_in_a_place_is_refused(tmp_path):
    with pytest.raises(AmbiguousInput, match="3 frames"):
        medldm.read(save(tmp_path / "a.mgz", np.zeros((4, 4, 4, 3), np.float32)))
    content = bytearray(save(tmp_path / "b.mgh").read_bytes())
    content[28:30] = b"\0\0"
    (tmp_path / "b.mgh").write_bytes(bytes(content))
    with pytest.raises(GeometryError, match="goodRASFlag"):
        medldm.read(tmp_path / "b.mgh")
    with pytest.raises(PixelError, match="not finite"):
        medldm.read(save(tmp_path / "c.mgz", np.full((4, 4, 4), np.nan, np.float32)))
