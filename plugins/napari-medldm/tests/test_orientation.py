"""Left stays left: all 48 orders and flips of the axes, without a window."""

import itertools

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image
from napari_medldm._writer import write_nifti
from napari_medldm.layers import layer_data, volume_of
from napari_medldm.orientation import display_of

import medldm
from medldm import Geometry, Volume

ORDERS = list(itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)))


def oriented(order, signs):
    """A grid whose axis a runs along world axis order[a] (R, A, S), with unequal spacings."""
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    for axis, (world, sign) in enumerate(zip(order, signs, strict=True)):
        affine[world, axis] = sign * (1.5, 2.0, 3.5)[axis]
    affine[:3, 3] = (-11, 23, 5)
    return Geometry(affine, (9, 11, 7))


def image_of(volume):
    data, attributes, _ = layer_data(volume, "scan")
    return Image(data, **attributes)


@pytest.mark.parametrize(("order", "signs"), ORDERS)
def test_a_marker_is_shown_at_its_place_and_the_affine_comes_back(order, signs):
    geometry = oriented(order, signs)
    array = np.zeros(geometry.shape, np.float32)
    voxel = (2, 8, 1)
    array[voxel] = 1
    right, anterior, superior = geometry.to_world(voxel)
    viewer = ViewerModel()
    data, attributes, _ = layer_data(Volume(array, geometry), "scan")
    layer = viewer.add_image(data, **attributes)
    shown = np.argwhere(layer.data == 1)[0]
    # napari's world is (inferior, posterior, left)
    np.testing.assert_allclose(layer.data_to_world(shown), (-superior, -anterior, -right), atol=1e-9)
    viewer.dims.point = (-superior, -anterior, -right)
    assert layer.get_value((-superior, -anterior, -right), world=True) == 1
    np.testing.assert_allclose(volume_of(layer).geometry.affine, geometry.affine, rtol=1e-6)
    assert np.shares_memory(layer.data, attributes["metadata"]["medldm"].volume.array)


def real_scans(data_dir):
    """Every accepted volume of the DICOM folders, and a head and a radiograph."""
    for folder in sorted(path for path in (data_dir / "dicom").iterdir() if path.is_dir()):
        for found in medldm.read_each(folder):
            if found.volume is not None:
                yield f"{folder.name} {found.series} {found.select}", found.volume
    head = next((data_dir / "brain-t1-2mm").rglob("*.nii.gz"))
    yield head.name, medldm.read(head)


@pytest.mark.filterwarnings("ignore")
def test_real_scans_are_shown_at_their_place_and_saved_with_their_affine(data_dir, tmp_path):
    count = 0
    for name, volume in real_scans(data_dir):
        data, attributes, _ = layer_data(volume, name)
        layer, display = Image(data, **attributes), attributes["metadata"]["medldm"].display
        last = np.array(data.shape) - 1
        for axis in range(3):
            far = last * (np.arange(3) == axis)
            marked = np.zeros(volume.array.shape, np.float32)
            display.forward(marked)[tuple(far)] = 1  # at the end of a shown axis
            way = volume.geometry.to_world(np.argwhere(marked)[0]) - volume.geometry.to_world((0, 0, 0))
            way = -way[::-1]  # from (right, anterior, superior) to napari's (inferior, posterior, left)
            shown = np.array(layer.data_to_world(far)) - layer.data_to_world((0, 0, 0))
            assert np.linalg.norm(shown) == pytest.approx(np.linalg.norm(way), rel=1e-6), name
            if last[axis]:
                assert np.argmax(np.abs(way)) == axis and way[axis] * shown[axis] > 0, name
        path = tmp_path / f"{count}.nii.gz"
        write_nifti(str(path), layer.data, {"name": name, "metadata": layer.metadata})
        again = medldm.read(path)
        scale = np.abs(volume.geometry.affine).max()
        np.testing.assert_allclose(again.geometry.affine, volume.geometry.affine, atol=1e-6 * scale, err_msg=name)
        np.testing.assert_allclose(again.array, volume.array, rtol=1e-6, err_msg=name)
        count += 1
    assert count > 15


def test_planes_are_radiological():
    """In the axial plane the patient's left is at the right of the image and anterior is up."""
    geometry = oriented((0, 1, 2), (1, 1, 1))
    layer = image_of(Volume(np.zeros(geometry.shape, np.float32), geometry))
    left, front = geometry.to_world((0, 5, 3)), geometry.to_world((4, 10, 3))
    middle = geometry.to_world((4, 5, 3))
    _, row, column = (-middle[2], -middle[1], -middle[0])
    assert -left[0] > column and -front[1] < row
    assert layer.axis_labels == ("I", "P", "L")


@pytest.mark.parametrize("degrees", [0, 7.0, 30.0])
def test_obliqueness_is_said(degrees):
    angle = np.radians(degrees)
    affine = np.eye(4)
    affine[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    display = display_of(Geometry(affine, (4, 5, 6)))
    assert display.tilt_deg == pytest.approx(degrees, abs=1e-6)


def test_edited_data_is_saved_and_says_so():
    geometry = oriented((2, 0, 1), (1, -1, 1))
    layer = image_of(Volume(np.zeros(geometry.shape, np.float32), geometry))
    layer.data = layer.data + 5
    volume = volume_of(layer)
    assert (volume.array == 5).all() and volume.history[-1] == {"step": "edited in napari"}
