"""Every kind of autoencoder: sizes, factors an axis, quantisers that stay alive."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medldm.errors import RecipeError
from medldm.nets.build import build_autoencoder
from medldm.nets.quantizers import Codebook, FiniteLevels
from medldm.pack import ModelPack
from medldm.recipe import parse_recipe
from tests.tiny import tiny_pack, tiny_table

TABLES = {
    "pca": {"factor": 4, "channels": 4, "width": 8, "encoder_depth": 1, "decoder_depth": 1},
    "factor an axis": {"factor": [4, 2, 1], "channels": 4, "width": 8},
    "learned deviation": {"factor": 2, "channels": 3, "width": 8, "learned_std": True},
    "monai": {"kind": "monai", "channels": 4, "widths": [16, 16, 16], "num_res_blocks": 1},
    "levels": {"factor": 4, "channels": 3, "width": 8, "quantizer": {"kind": "levels", "levels": [8, 5, 5]}},
    "codebook": {"factor": 4, "channels": 4, "width": 8, "quantizer": {"kind": "codebook", "size": 32}},
}


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def build(kind, dims):
    table = TABLES[kind]
    if isinstance(table.get("factor"), list):
        table = table | {"factor": table["factor"][:dims]}
    pack = ModelPack.model_validate(tiny_pack(dims) | {"autoencoder": table})
    torch.manual_seed(0)
    return pack, build_autoencoder(pack).eval()


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("kind", TABLES)
def test_latents_have_the_announced_size(kind, dims):
    pack, autoencoder = build(kind, dims)
    size = [4 * f for f in autoencoder.factor]
    z, std = autoencoder.encode(randn(2, 1, *size))
    assert z.shape == (2, autoencoder.channels, *(4,) * dims)
    assert autoencoder.factor == pack.latent_factor
    assert (std > 0).all()
    assert torch.broadcast_shapes(std.shape, z.shape) == z.shape
    assert autoencoder.decode(z).shape == (2, 1, *size)


@pytest.mark.parametrize("kind", ["pca", "factor an axis", "monai"])
@settings(max_examples=8, deadline=None)
@given(size=st.tuples(st.integers(1, 40), st.integers(1, 21), st.integers(1, 7)))
def test_any_size_comes_back(kind, size):
    _, autoencoder = build(kind, 3)
    assert autoencoder.reconstruct(randn(1, 1, *size)).shape == (1, 1, *size)


def test_an_autoencoder_with_a_factor_an_axis_is_exact_at_full_rank():
    pack = ModelPack.model_validate(tiny_pack(3) | {"autoencoder": {"factor": [1, 2, 4], "channels": 8, "width": 8}})
    autoencoder = build_autoencoder(pack).eval()
    patches = randn(500, 8, seed=1) @ randn(8, 8, seed=2)
    assert autoencoder.begin(patches) == pytest.approx(1, abs=1e-6)
    x = randn(1, 1, 3, 6, 8)
    torch.testing.assert_close(autoencoder.reconstruct(x), x, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", TABLES)
def test_statistics_make_latents_white(kind):
    _, autoencoder = build(kind, 2)
    x = randn(4, 1, 64, 64) * 0.2 + 0.5
    before = autoencoder.encode(x)[0]
    decoded = autoencoder.decode(before)
    over = before.movedim(1, 0).flatten(1)
    autoencoder.set_latent_statistics(over.mean(1), over.std(1))
    after = autoencoder.encode(x)[0]
    std = after.movedim(1, 0).flatten(1).std(1)
    torch.testing.assert_close(std, torch.ones(autoencoder.channels), atol=1e-3, rtol=0)
    torch.testing.assert_close(autoencoder.decode(after), decoded, atol=1e-4, rtol=1e-3)


def test_finite_levels_use_their_codes_alike_on_white_latents():
    levels = FiniteLevels([8, 5, 5])
    z = randn(4, 3, 100, 100)
    share = torch.bincount(levels.codes(z).flatten(), minlength=levels.size) / 40_000
    assert levels.size == 200
    assert share.min() > 0.5 / 200
    assert share.max() < 1.6 / 200


def test_finite_levels_round_to_the_nearest_and_pass_gradients():
    levels = FiniteLevels([3])
    z = torch.linspace(-2.5, 2.5, 101).view(1, 1, -1, 1).requires_grad_()
    rounded, loss = levels(z)
    assert len(rounded.detach().unique()) == 3
    assert float(loss) == 0
    twice, _ = levels(rounded.detach())
    torch.testing.assert_close(twice, rounded.detach())  # a code is its own code
    rounded.sum().backward()
    inside = z.detach().abs() < torch.special.ndtri(torch.tensor(1 - 0.5 / 3))
    assert torch.equal(z.grad, inside.float())


def test_codes_number_what_is_rounded_alike():
    for quantizer in (FiniteLevels([4, 3]), Codebook(2, 16)):
        quantizer.train()(randn(2, 2, 8, 8))
        quantizer.eval()
        z = randn(2, 2, 8, 8, seed=3)
        rounded = quantizer(z)[0].movedim(1, -1).reshape(-1, 2)
        codes = quantizer.codes(z).flatten()
        for code in codes.unique():
            assert len(rounded[codes == code].round(decimals=5).unique(dim=0)) == 1
        assert len(codes.unique()) == len(rounded.round(decimals=5).unique(dim=0))


def test_a_codebook_stays_alive_and_finds_the_clusters():
    """Data of 16 tight clusters, 64 entries: every cluster is met, and nearly every entry is in use."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(16, 4, generator=generator) * 5
    book = Codebook(4, 64, decay=0.9).train()
    for _ in range(200):
        which = torch.randint(16, (1024,), generator=generator)
        points = centres[which] + 0.05 * torch.randn(1024, 4, generator=generator)
        book(points.T.reshape(1, 4, 32, 32))
    book.eval()
    points = centres.repeat_interleave(64, 0) + 0.05 * torch.randn(1024, 4, generator=generator)
    points = points.T.reshape(1, 4, 32, 32)
    rounded, _ = book(points)
    assert (rounded - points).norm(dim=1).max() < 0.6
    assert len(book.codes(points).unique()) > 0.8 * 64


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ({"factor": [4, 4, 4], "channels": 4}, "one number, or 2"),
        ({"factor": 4, "channels": 4, "quantizer": {"kind": "levels", "levels": [4, 4]}}, "a latent channel"),
        ({"kind": "pac", "factor": 4, "channels": 4}, "pca"),
        ({"factor": 0, "channels": 4}, "greater than"),
    ],
)
def test_an_autoencoder_that_makes_no_sense_is_refused(table, reason):
    recipe = tiny_table(2)
    recipe["pack"]["autoencoder"] = table
    with pytest.raises(RecipeError, match=reason):
        parse_recipe(recipe)


def test_compression_counts_pixels_a_latent_number():
    _, autoencoder = build("pca", 3)
    assert autoencoder.compression == math.prod(autoencoder.factor) / autoencoder.channels == 16
