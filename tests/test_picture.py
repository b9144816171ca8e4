import numpy as np
import pytest
from PIL import Image

import medldm
from medldm.errors import AmbiguousInput, InputError, OutputError, PixelError, UnsupportedInput
from medldm.geometry import Geometry
from medldm.volume import AI_PROCESSED, Volume


@pytest.fixture
def grey():
    """(rows, columns) uint8 that tells its place."""
    return (np.arange(12)[:, None] * 20 + np.arange(9)).astype(np.uint8)


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.bmp", "a.tif"])
def test_array_is_column_row_and_values_are_exact(tmp_path, grey, name):
    Image.fromarray(grey).save(tmp_path / name, **({"lossless": True} if name.endswith("webp") else {}))
    volume = medldm.read(tmp_path / name)
    assert volume.geometry.shape == (9, 12, 1) and volume.unit == "grey8"
    np.testing.assert_array_equal(volume.array[..., 0], grey.T)
    assert volume.geometry.axcodes[:2] == ("L", "P") and volume.geometry.spacing == (1, 1, 1)
    assert volume.history[0]["spacing_assumed"] is True


@pytest.mark.parametrize(
    ("name", "top", "dtype"), [("a.png", 255, np.uint8), ("a.webp", 255, np.uint8), ("b.png", 65535, np.uint16)]
)
def test_written_and_read_again_is_the_same(tmp_path, name, top, dtype):
    rows = np.linspace(0, top, 12 * 9).astype(dtype).reshape(12, 9)
    unit = "grey16" if dtype == np.uint16 else "grey8"
    volume = Volume(rows.T[..., None], Geometry(np.diag([-1, -1, 1, 1]), (9, 12, 1)), unit)
    medldm.write(volume, tmp_path / name)
    again = medldm.read(tmp_path / name)
    np.testing.assert_array_equal(again.array, volume.array)
    assert again.unit == unit
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_a_turned_volume_is_written_as_it_looks(tmp_path, grey):
    Image.fromarray(grey).save(tmp_path / "a.png")
    medldm.write(medldm.read(tmp_path / "a.png").reorient("RAS"), tmp_path / "b.png")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "b.png")), grey)


def test_values_are_rounded_and_limited(tmp_path):
    array = np.array([-3.0, 0.4, 0.6, 254.6, 300]).reshape(5, 1, 1)
    medldm.write(Volume(array, Geometry(np.diag([-1, -1, 1, 1]), (5, 1, 1)), "grey8"), tmp_path / "a.png")
    assert np.asarray(Image.open(tmp_path / "a.png")).tolist() == [[0, 0, 1, 255, 255]]


def test_rgb_of_equal_channels_is_grey_and_colour_is_refused(tmp_path, grey):
    colour = np.stack([grey] * 3, axis=-1)
    Image.fromarray(colour).save(tmp_path / "a.png")
    np.testing.assert_array_equal(medldm.read(tmp_path / "a.png").array[..., 0], grey.T)
    colour[3, 3, 0] += 3
    Image.fromarray(colour).save(tmp_path / "b.png")
    with pytest.raises(UnsupportedInput, match="differ by 3"):
        medldm.read(tmp_path / "b.png")


def test_transparency_and_animations_are_refused(tmp_path, grey):
    Image.fromarray(np.dstack([grey, grey])).save(tmp_path / "a.png")
    with pytest.raises(UnsupportedInput):
        medldm.read(tmp_path / "a.png")
    pages = [Image.fromarray(grey), Image.fromarray(255 - grey)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(AmbiguousInput, match="2 pictures"):
        medldm.read(tmp_path / "a.tif")


def test_damaged_files_are_refused(tmp_path, grey):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)).save(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    for name, data in (("b.png", whole[:1000]), ("c.png", b"no picture"), ("d.png", b"")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(PixelError, match=name):
            medldm.read(tmp_path / name)
    with pytest.raises(InputError, match="series"):
        medldm.read(tmp_path / "a.png", series="1.2")


@pytest.mark.parametrize(
    ("name", "shape", "unit", "reason"),
    [
        ("a.jpg", (4, 4, 1), "grey8", "JPEG"),
        ("a.png", (4, 4, 2), "grey8", "2 slices"),
        ("a.png", (4, 4, 1), "HU", "HU"),
        ("a.webp", (4, 4, 1), "grey16", "16-bit"),
    ],
)
def test_what_a_picture_cannot_hold_is_refused(tmp_path, name, shape, unit, reason):
    volume = Volume(np.zeros(shape), Geometry.from_spacing(shape, (1, 1, 1)), unit)
    with pytest.raises(OutputError, match=reason):
        medldm.write(volume, tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_real_radiograph(data_dir):
    path = sorted((data_dir / "chest-xray-256" / "images").iterdir())[0]
    volume = medldm.read(path)
    np.testing.assert_array_equal(volume.array[..., 0].T, np.asarray(Image.open(path).convert("L")))


@pytest.mark.parametrize("name", ["a.png", "a.webp"])
def test_what_a_model_made_is_marked_in_the_file(tmp_path, grey, name):
    grid = Geometry(np.diag([-1, -1, 1, 1]), (9, 12, 1))
    for number, history in enumerate([(), ({"step": "denoise", AI_PROCESSED: "yes"},)]):
        path = medldm.write(Volume(grey.T[..., None], grid, "grey8", "", history), tmp_path / f"{number}{name}")
        again = medldm.read(path)
        assert again.ai_processed == bool(history)
        np.testing.assert_array_equal(again.array[..., 0], grey.T)
