import json
import subprocess
import sys

import numpy as np
import pytest

from medldm.errors import GeometryError
from medldm.geometry import Geometry
from medldm.volume import Volume


@pytest.fixture
def volume():
    """Every value tells its place: x + 100 y + 10000 z in mm, RAS, on a turned grid."""
    affine = np.array([[0, 0, 2.0, -5], [-1, 0, 0, 4], [0, 3, 0, 1], [0, 0, 0, 1]])
    geometry = Geometry(affine, (3, 4, 5))
    ijk = np.stack(np.meshgrid(*map(np.arange, geometry.shape), indexing="ij"), axis=-1)
    return Volume(geometry.to_world(ijk) @ [1, 100, 10000], geometry, "HU", "CT", ({"step": "made"},), source="s")


def told_places(volume):
    ijk = np.stack(np.meshgrid(*map(np.arange, volume.geometry.shape), indexing="ij"), axis=-1)
    return volume.geometry.to_world(ijk) @ [1, 100, 10000]


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v.permute((2, 0, 1)),
        lambda v: v.flip((0, 2)),
        lambda v: v.crop((1, 0, 2), (3, 3, 4)),
        lambda v: v.reorient("RAS"),
        lambda v: v.reorient("PIR").flip((1,)),
    ],
)
def test_values_stay_at_their_place_in_the_world(volume, change):
    changed = change(volume)
    np.testing.assert_allclose(changed.array, told_places(changed))
    assert (changed.unit, changed.modality, changed.history, changed.source) == ("HU", "CT", volume.history, "s")


def test_padding_keeps_the_inside_in_place(volume):
    for mode in ("reflect", "edge", "constant"):
        padded = volume.pad((1, 0, 2), (0, 1, 1), mode=mode)
        inside = padded.crop((1, 0, 2), (4, 4, 7))
        np.testing.assert_array_equal(inside.array, volume.array)
        assert inside.geometry.isclose(volume.geometry)


def test_reorient_and_back_is_exact(volume):
    back = volume.reorient("LIA").reorient("".join(volume.geometry.axcodes))
    np.testing.assert_array_equal(back.array, volume.array)
    assert back.geometry.isclose(volume.geometry, 1e-9)


def test_array_is_float32_and_read_only(volume):
    assert volume.array.dtype == np.float32
    with pytest.raises(ValueError):
        volume.array[0, 0, 0] = 1


def test_shapes_must_agree():
    with pytest.raises(GeometryError):
        Volume(np.zeros((2, 2, 2)), Geometry.from_spacing((2, 2, 3), (1, 1, 1)))
    with pytest.raises(GeometryError):
        Volume(np.zeros((2, 2, 2)), Geometry.from_spacing((2, 2, 2), (1, 1, 1))).with_array(np.zeros((1, 2, 2)))


def test_history_grows_and_is_json(volume):
    longer = volume.with_step({"step": "b"}).with_array(volume.array, {"step": "c"})
    assert [s["step"] for s in longer.history] == ["made", "b", "c"] and len(volume.history) == 1
    json.dumps(longer.history)


def test_repr_is_short_and_has_no_values(volume):
    text = repr(volume)
    assert len(text) < 120 and all(word in text for word in ("CT", "HU", "PSR"))


def test_volume_half_needs_no_torch():
    code = (
        "import sys, medldm.io, medldm.intensity, medldm.io.manifest, medldm.io.nifti, medldm.io.dicom.reader,"
        "medldm.io.dicom.writer, medldm.io.picture;"
        "print([m for m in ('torch', 'monai', 'scipy', 'skimage', 'highdicom') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
