"""Tiles against the whole: same latents, same image, whatever the sizes; files whole or not at all."""

import contextlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medldm.errors import Cancelled, InputError, ModelError, OutputError
from medldm.nets.monai_autoencoder import MonaiAutoencoder
from medldm.nets.patches import pad_to_multiple
from medldm.nets.pca_autoencoder import PCAAutoencoder
from medldm.nets.quantizers import Codebook, FiniteLevels
from medldm.nets.tiling import decode_tiled, encode_tiled, tiles

LIMIT = 1e-4


def scrambled(autoencoder):
    """Random weights everywhere: no convolution is zero, no statistic is that of an untrained autoencoder."""
    generator = torch.Generator().manual_seed(0)
    for name, value in [*autoencoder.named_parameters(), *autoencoder.named_buffers()]:
        if name.endswith("begun"):
            continue
        spread = (2 / max(1, value[0].numel())) ** 0.5 if value.ndim > 1 else 0.3
        value.data = spread * torch.randn(value.shape, generator=generator)
    autoencoder.latent_std.abs_().add_(0.5)
    return autoencoder.eval()


def linear(dims, factor, *, channels=3, width=6, encoder_depth=1, decoder_depth=1, **options):
    depths = {"encoder_depth": encoder_depth, "decoder_depth": decoder_depth}
    return scrambled(PCAAutoencoder(dims, factor=factor, channels=channels, width=width, **depths, **options))


AUTOENCODERS = {
    "2D": linear(2, (4, 4)),
    "2D, a factor an axis": linear(2, (4, 1), encoder_depth=2),
    "2D, learned deviation": linear(2, (2, 2), learned_std=True),
    "3D": linear(3, (2, 2, 2)),
    "3D, a factor an axis": linear(3, (4, 2, 1), decoder_depth=2),
    "3D, levels": linear(3, (2, 2, 2), quantizer=FiniteLevels([5, 4, 3])),
    "2D, codebook": linear(2, (4, 4), quantizer=Codebook(3, 24)),
}


def image_of(size, seed=0):
    return np.random.default_rng(seed).standard_normal(size, dtype=np.float32)


@torch.no_grad()
def whole(autoencoder, image):
    """Mean, deviation and decoded image of the whole, by the autoencoder's own methods."""
    padded, crop = pad_to_multiple(torch.from_numpy(image)[None, None], autoencoder.multiple)
    mean, std = autoencoder.encode(padded)
    return mean[0].numpy(), std.expand_as(mean)[0].numpy(), autoencoder.decode(mean)[crop][0, 0].numpy()


def difference(got, expected):
    """Largest difference, relative to the largest value."""
    assert got.shape == expected.shape
    return np.abs(got - expected).max() / np.abs(expected).max()


@st.composite
def cases(draw):
    name = draw(st.sampled_from(sorted(AUTOENCODERS)))
    dims = AUTOENCODERS[name].dims
    length = st.integers(1, 90 if dims == 2 else 34)
    tile = st.integers(1, 40) if dims == 2 else st.integers(6, 24)
    size = tuple(draw(length) for _ in range(dims))
    return name, size, draw(st.one_of(tile, st.tuples(*(tile,) * dims)))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(case=cases())
def test_tiles_give_what_the_whole_gives(case):
    name, size, tile = case
    autoencoder, image = AUTOENCODERS[name], image_of(size)
    mean, std, decoded = whole(autoencoder, image)
    both = encode_tiled(autoencoder, image, tile=tile, with_std=True)
    assert difference(both[0], mean) <= LIMIT
    assert difference(both[1], std) <= LIMIT
    assert np.array_equal(encode_tiled(autoencoder, image, tile=tile), both[0])
    assert difference(decode_tiled(autoencoder, mean, size=size, tile=tile), decoded) <= LIMIT


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("depths", [(1, 1), (2, 1), (1, 2)])
def test_the_halo_is_how_far_a_cell_sees(dims, depths):
    """The gradient of a cell in the middle ends at the number of convolutions of the branch; the halo covers both."""
    encoder_depth, decoder_depth = depths
    autoencoder = linear(dims, (2,) * dims, encoder_depth=encoder_depth, decoder_depth=decoder_depth, channels=2)
    reach = 8
    middle = (slice(None), slice(None), *(reach,) * dims)
    cells = torch.randn(1, 2, *(2 * reach + 1,) * dims, generator=torch.Generator().manual_seed(1))
    pixels = torch.randn(1, 1, *(2 * (2 * reach + 1),) * dims, generator=torch.Generator().manual_seed(2))

    pixels.requires_grad_()
    autoencoder.encode(pixels)[0][middle].square().sum().backward()
    touched = pixels.grad[0, 0].nonzero() // 2 - reach
    assert int(touched.abs().max()) == 2 + 2 * encoder_depth <= autoencoder.halo

    cells.requires_grad_()
    autoencoder.decode(cells)[(0, 0, *(slice(2 * reach, 2 * reach + 2),) * dims)].square().sum().backward()
    touched = cells.grad[0].sum(0).nonzero() - reach
    assert int(touched.abs().max()) == 2 + 2 * decoder_depth <= autoencoder.halo
    assert autoencoder.halo == 2 + 2 * max(depths)


def test_a_halo_too_small_shows():
    """The comparison above can fail: with one cell less than a cell sees, tiles differ from the whole."""
    autoencoder = linear(2, (2, 2))
    autoencoder.halo -= 1
    image = image_of((64, 64))
    assert difference(encode_tiled(autoencoder, image, tile=16), whole(autoencoder, image)[0]) > LIMIT


@given(
    axes=st.lists(st.tuples(st.integers(1, 30), st.integers(1, 12), st.integers(0, 5)), min_size=1, max_size=3),
)
@settings(max_examples=50, deadline=None)
def test_tiles_cover_every_cell_once(axes):
    size, edge, halo = zip(*axes, strict=True)
    count = np.zeros(size, int)
    number = np.arange(count.size).reshape(size)
    for tile in tiles(size, edge, halo):
        count[tile.inner] += 1
        assert np.array_equal(number[tile.outer][tile.within], number[tile.inner])
        assert all(i.start - o.start == min(h, i.start) for i, o, h in zip(tile.inner, tile.outer, halo, strict=True))
        assert all(o.stop == min(i.stop + h, s) for i, o, h, s in zip(tile.inner, tile.outer, halo, size, strict=True))
    assert (count == 1).all()


def test_files_in_and_out(tmp_path):
    """Image, latents and result lie in files: what comes out is what arrays in memory give."""
    autoencoder, size = AUTOENCODERS["3D"], (33, 21, 18)
    image = np.lib.format.open_memmap(tmp_path / "image.npy", mode="w+", dtype=np.int16, shape=size)
    image[:] = np.random.default_rng(1).integers(-5, 5, size)
    image.flush()
    read_only = np.load(tmp_path / "image.npy", mmap_mode="r")
    z = encode_tiled(autoencoder, read_only, tmp_path / "z.npy", tile=10)
    assert isinstance(z, np.memmap) and not z.flags.writeable
    assert np.array_equal(z, encode_tiled(autoencoder, np.array(image), tile=10))
    decoded = decode_tiled(autoencoder, z, tmp_path / "out.npy", size=size, tile=12)
    in_memory = np.empty(size, np.float32)
    assert decode_tiled(autoencoder, np.array(z), in_memory, tile=12) is in_memory
    assert np.array_equal(np.load(tmp_path / "out.npy"), in_memory)
    assert decoded.dtype == np.float32
    assert sorted(path.name for path in tmp_path.iterdir()) == ["image.npy", "out.npy", "z.npy"]


def test_half_precision_output_is_the_rounded_result():
    autoencoder, image = AUTOENCODERS["2D"], image_of((30, 30))
    half = encode_tiled(autoencoder, image, np.empty((3, 8, 8), np.float16), tile=8)
    assert np.array_equal(half, encode_tiled(autoencoder, image, tile=8).astype(np.float16))


def test_progress_counts_to_the_end_and_cancels(tmp_path):
    autoencoder, image, seen = AUTOENCODERS["2D"], image_of((64, 33)), []
    encode_tiled(autoencoder, image, tile=16, progress=lambda *at: seen.append(at))
    assert seen == [(n, 12) for n in range(1, 13)]
    (tmp_path / "z.npy").write_bytes(b"older")

    def cancel(done, total):
        if done == 2:
            raise Cancelled("encode_tiled", "a cancel")

    with pytest.raises(Cancelled):
        encode_tiled(autoencoder, image, tmp_path / "z.npy", tile=16, progress=cancel)
    assert [path.name for path in tmp_path.iterdir()] == ["z.npy"]
    assert (tmp_path / "z.npy").read_bytes() == b"older"


@contextlib.contextmanager
def no_file_larger_than(size):
    resource = pytest.importorskip("resource", reason="no limits on the size of a file there")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_no_room_leaves_nothing(tmp_path):
    z = np.zeros((3, 100, 100), np.float32)
    with no_file_larger_than(300_000), pytest.raises(OutputError):
        decode_tiled(AUTOENCODERS["2D"], z, tmp_path / "image.npy")
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_sees_the_whole_takes_one_tile_or_none():
    autoencoder = scrambled(MonaiAutoencoder(2, channels=3, widths=(16, 16), num_res_blocks=1))
    image = image_of((30, 21))
    with pytest.raises(ModelError, match=r"norm over space.*\(32, 24\)"):
        encode_tiled(autoencoder, image, tile=16)
    mean, std, decoded = whole(autoencoder, image)
    assert difference(encode_tiled(autoencoder, image, tile=(30, 21), with_std=True), np.stack((mean, std))) <= LIMIT
    assert difference(decode_tiled(autoencoder, mean, size=(30, 21), tile=32), decoded) <= LIMIT


def test_what_does_not_fit_is_refused(tmp_path):
    autoencoder, image = AUTOENCODERS["2D"], image_of((16, 16))
    with pytest.raises(InputError, match="2 axes"):
        encode_tiled(autoencoder, image[None])
    with pytest.raises(InputError, match="2 axes"):
        encode_tiled(autoencoder, image[:0])
    with pytest.raises(InputError, match="at least 1"):
        encode_tiled(autoencoder, image, tile=(8, 0))
    with pytest.raises(InputError, match=r"\(3, 4, 4\)"):
        encode_tiled(autoencoder, image, np.empty((4, 4), np.float32))
    with pytest.raises(InputError, match=".npy"):
        encode_tiled(autoencoder, image, tmp_path / "z.raw")
    with pytest.raises(InputError, match="3 channels"):
        decode_tiled(autoencoder, np.zeros((4, 4, 4), np.float32))
    with pytest.raises(InputError, match="17, 16"):
        decode_tiled(autoencoder, np.zeros((3, 4, 4), np.float32), size=(17, 16))
    with pytest.raises(InputError, match="eval"):
        encode_tiled(linear(2, (4, 4)).train(), image)
    assert list(tmp_path.iterdir()) == []
