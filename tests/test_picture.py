import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

import medldm
from medldm.errors import AmbiguousInput, InputError, OutputError, PixelError, UnsupportedInput
from medldm.geometry import Geometry
from medldm.marks import AI_PROCESSED, SYNTHETIC
from medldm.volume import Volume


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
    made, drawn = {"step": "denoise", AI_PROCESSED: "yes"}, {"step": "synthesize", SYNTHETIC: True}
    for number, history in enumerate([(), (made,), (drawn, made)]):
        path = medldm.write(Volume(grey.T[..., None], grid, "grey8", "", history), tmp_path / f"{number}{name}")
        again = medldm.read(path)
        assert again.ai_processed == bool(history) and again.synthetic == (drawn in history)
        np.testing.assert_array_equal(again.array[..., 0], grey.T)


def png(path, samples, colour, interlace=False, extra=b""):
    """A PNG of 16 bits a sample, (rows, columns, channels), with each of the five filters in turn."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows, columns, channels = samples.shape
    raw, step = samples.astype(">u2").tobytes(), columns * channels * 2
    above, packed, size = bytes(step), b"", channels * 2
    for r in range(rows):
        line, kind = raw[r * step : (r + 1) * step], r % 5
        left, corner = bytes(size) + line[:-size], bytes(size) + above[:-size]
        packed += bytes([kind])
        for x, a, b, c in zip(line, left, above, corner, strict=True):
            near = min((abs(b - c), 0, a), (abs(a - c), 1, b), (abs(a + b - 2 * c), 2, c))[2]
            packed += bytes([(x - (0, a, b, (a + b) // 2, near)[kind]) % 256])
        above = line
    head = struct.pack(">IIBBBBB", columns, rows, 16, colour, 0, 0, 0)
    body = chunk(b"IHDR", head) + extra + chunk(b"IDAT", zlib.compress(packed)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


@pytest.fixture
def grey16():
    return (np.arange(12)[:, None] * 5009 + np.arange(9) * 257 + np.arange(9) ** 2 + 3).astype(np.uint16)


@pytest.mark.parametrize(("colour", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_png_of_16_bits_a_channel_keeps_them_all(tmp_path, grey16, colour, channels):
    samples = np.stack([grey16] * channels, axis=-1)
    if channels % 2 == 0:
        samples[..., -1] = 65535
    volume = medldm.read(png(tmp_path / "a.png", samples, colour))
    assert volume.unit == "grey16"
    np.testing.assert_array_equal(volume.array[..., 0], grey16.T)
    if channels % 2 == 0:
        samples[4, 4, -1] = 65534  # the high byte alone would say opaque
        with pytest.raises(UnsupportedInput, match="transparent"):
            medldm.read(png(tmp_path / "a.png", samples, colour))
    if channels > 2:
        samples[..., -1] = 65535 if channels == 4 else samples[..., -1]
        samples[3, 3, 0] += 3  # less than one level of 8 bits
        with pytest.raises(UnsupportedInput, match="differ by 3"):
            medldm.read(png(tmp_path / "a.png", samples, colour))


def test_png_whose_one_value_is_transparent_is_refused(tmp_path, grey, grey16):
    def transparent(*values):
        data = struct.pack(f">{len(values)}H", *values)
        return struct.pack(">I", len(data)) + b"tRNS" + data + struct.pack(">I", zlib.crc32(b"tRNS" + data))

    for colour, channels in ((0, 1), (2, 3)):
        samples = np.stack([grey16] * channels, axis=-1)
        shown = png(tmp_path / "a.png", samples, colour, extra=transparent(*[1] * channels))
        np.testing.assert_array_equal(medldm.read(shown).array[..., 0], grey16.T)
        with pytest.raises(UnsupportedInput, match="transparent"):
            value = int(grey16[2, 2])
            medldm.read(png(tmp_path / "b.png", samples, colour, extra=transparent(*[value] * channels)))
    Image.fromarray(grey).save(tmp_path / "c.png", transparency=int(grey[1, 1]))
    with pytest.raises(UnsupportedInput, match="transparent"):
        medldm.read(tmp_path / "c.png")


TIFFS = [("<", 8), (">", 8), ("<", 16)]


@pytest.mark.parametrize(("order", "bits"), TIFFS)
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_tiff_whose_zero_is_white_is_inverted_at_every_depth(tmp_path, grey, grey16, order, bits, compression):
    values = grey if bits == 8 else grey16
    options = {"byteorder": order, "compression": compression, "metadata": None}
    tifffile.imwrite(tmp_path / "white.tif", values, photometric="miniswhite", **options)
    tifffile.imwrite(tmp_path / "black.tif", values, photometric="minisblack", **options)
    np.testing.assert_array_equal(medldm.read(tmp_path / "black.tif").array[..., 0], values.T)
    np.testing.assert_array_equal(medldm.read(tmp_path / "white.tif").array[..., 0], 2**bits - 1 - values.T)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_tiff_of_three_equal_channels_of_16_bits_keeps_them(tmp_path, grey16, order, compression):
    values = np.stack([grey16] * 3, axis=-1)
    path, options = tmp_path / "a.tif", {"byteorder": order, "compression": compression, "metadata": None}
    tifffile.imwrite(path, values, photometric="rgb", **options)
    volume = medldm.read(path)
    assert volume.unit == "grey16"
    np.testing.assert_array_equal(volume.array[..., 0], grey16.T)
    tifffile.imwrite(path, values.transpose(2, 0, 1), photometric="rgb", planarconfig="separate", **options)
    with pytest.raises(UnsupportedInput, match="16 bits"):
        medldm.read(path)


def test_tiff_of_other_kinds_says_what_it_is(tmp_path, grey, grey16):
    path = tmp_path / "a.tif"

    def refused(reason, values, kind=UnsupportedInput, **options):
        tifffile.imwrite(path, values, **{"metadata": None, **options})
        with pytest.raises(kind, match=reason):
            medldm.read(path)

    refused("floating", grey.astype(np.float32))
    refused("a kind that is not read", grey.astype(np.float64))
    refused("signed", grey.astype(np.int8))
    refused("values from -3", grey.astype(np.int16) - 3)
    refused("0 being black", grey16, photometric="miniswhite", byteorder=">")
    refused("2 pictures", np.stack([grey] * 2), AmbiguousInput)
    refused("5 pictures", np.stack([grey16] * 5), AmbiguousInput, imagej=True, metadata={"axes": "ZYX"})
    fine = np.stack([np.arange(256, dtype=np.uint16) * 200] * 3)
    refused("palette", grey, photometric="palette", colormap=fine)
    tifffile.imwrite(path, grey, photometric="palette", colormap=np.stack([np.arange(256, dtype=np.uint16) * 257] * 3))
    np.testing.assert_array_equal(medldm.read(path).array[..., 0], grey.T)
    tifffile.imwrite(path, grey16, byteorder=">", metadata=None)
    np.testing.assert_array_equal(medldm.read(path).array[..., 0], grey16.T)


def test_jpeg_of_12_bits_says_so(tmp_path, grey):
    Image.fromarray(grey).save(tmp_path / "a.jpg")
    data = (tmp_path / "a.jpg").read_bytes()
    at = data.index(b"\xff\xc0")
    (tmp_path / "b.jpg").write_bytes(data[: at + 1] + b"\xc1" + data[at + 2 : at + 4] + b"\x0c" + data[at + 5 :])
    with pytest.raises(UnsupportedInput, match="12 bits"):
        medldm.read(tmp_path / "b.jpg")


@pytest.mark.parametrize("name", ["a.png", "b.png", "rgb16.png", "la16.png", "a.tif", "b.tif", "rgb16.tif", "a.jpg"])
def test_a_picture_is_turned_as_its_orientation_says(tmp_path, grey, grey16, name):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / name
    values = grey if name.startswith("a.") else grey16
    if name.endswith("16.png"):
        data = exif.tobytes().removeprefix(b"Exif\0\0")
        chunk = struct.pack(">I", len(data)) + b"eXIf" + data + struct.pack(">I", zlib.crc32(b"eXIf" + data))
        samples = np.stack([grey16] * (3 if name[0] == "r" else 2), axis=-1)
        if name[0] == "l":
            samples[..., 1] = 65535
        png(path, samples, 2 if name[0] == "r" else 4, extra=chunk)
    elif name.endswith(".tif"):
        values = values[:, :-2]
        stored = np.stack([values] * 3, axis=-1) if name[0] == "r" else values
        options = {"photometric": "rgb"} if name[0] == "r" else {}
        tifffile.imwrite(path, stored, metadata=None, extratags=[(274, "H", 1, 6, True)], **options)
    else:
        Image.fromarray(values).save(path, exif=exif, **({"quality": 100} if name == "a.jpg" else {}))
    volume = medldm.read(path)
    assert volume.geometry.shape == (*values.shape, 1)
    np.testing.assert_allclose(volume.array[..., 0], np.rot90(values, -1).T, atol=3 if name == "a.jpg" else 0)


def test_bits_palettes_and_gamma(tmp_path, grey):
    Image.fromarray(grey > 100).save(tmp_path / "bit.png")
    np.testing.assert_array_equal(medldm.read(tmp_path / "bit.png").array[..., 0], (grey > 100).T * 255)
    palette = Image.fromarray(grey).convert("P")
    palette.save(tmp_path / "p.png")
    np.testing.assert_array_equal(medldm.read(tmp_path / "p.png").array[..., 0], grey.T)
    data = b"gAMA" + struct.pack(">I", 100000)
    chunk = struct.pack(">I", 4) + data + struct.pack(">I", zlib.crc32(data))
    volume = medldm.read(png(tmp_path / "g.png", grey.astype(np.uint16)[..., None], 0, extra=chunk))
    np.testing.assert_array_equal(volume.array[..., 0], grey.T)
    assert volume.history[0]["gamma_not_applied"] == 1
