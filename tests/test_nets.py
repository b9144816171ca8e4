"""Networks: exact inverses, linear start, tiles that equal the whole."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medldm.net_tables import MeasurementTable
from medldm.nets.condition import condition_channels, error_scale, latent_condition
from medldm.nets.head import MeasurementHead
from medldm.nets.patches import depth_to_space, pad_to_multiple, space_to_depth
from medldm.nets.pca_autoencoder import PCAAutoencoder
from medldm.operators.measurement import Measurement


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def fresh(network: torch.nn.Module, seed: int = 0, scale: float = 0.05) -> torch.nn.Module:
    """Random weights everywhere, so that nothing is hidden behind a zero."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.data = scale * torch.randn(parameter.shape, generator=generator)
    return network.eval()


@pytest.mark.parametrize("factor", [(2, 2), (4, 2), (2, 2, 2), (1, 2, 4)])
def test_depth_to_space_inverts_space_to_depth(factor):
    x = randn(2, 3, *(4 * f for f in factor))
    assert torch.equal(depth_to_space(space_to_depth(x, factor), factor), x)


def test_space_to_depth_gathers_a_block():
    x = torch.arange(16.0).view(1, 1, 4, 4)
    assert space_to_depth(x, (2, 2))[0, :, 0, 1].tolist() == [2, 3, 6, 7]


@settings(max_examples=30, deadline=None)
@given(size=st.lists(st.integers(1, 20), min_size=2, max_size=3), multiple=st.sampled_from([2, 8, 16]))
def test_padding_is_undone_by_its_crop(size, multiple):
    x = randn(1, 2, *size)
    padded, crop = pad_to_multiple(x, (multiple,) * len(size))
    assert all(n % multiple == 0 for n in padded.shape[2:])
    assert torch.equal(padded[crop], x)
    assert set(padded.unique().tolist()) <= set(x.unique().tolist())  # mirrored, nothing invented


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("batch", [1, 2])
def test_the_head_halves_as_a_pool_does(dims, batch):
    head, x = MeasurementHead(dims, channels=(8, 8), depth=1), randn(batch, 6, *(8, 4, 6)[:dims])
    for laid in (x, x.contiguous(memory_format=torch.channels_last if dims == 2 else torch.channels_last_3d)):
        torch.testing.assert_close(head._halved(laid), head.pool(x))


def test_linear_start_is_the_block_pca():
    """Against a second implementation by singular values."""
    autoencoder = PCAAutoencoder(2, factor=(4, 4), channels=5, width=8)
    patches = randn(4000, 16, seed=1) @ randn(16, 16, seed=2) + 3
    kept = autoencoder.begin(patches)
    image = depth_to_space(patches[:64].T.reshape(1, 16, 8, 8), (4, 4))
    z, _ = autoencoder.encode(image)
    centred = (patches - patches.mean(0)).double()
    _, values, basis = torch.linalg.svd(centred, full_matrices=False)
    expected = centred[:64] @ basis[:5].T @ basis[:5] + patches.mean(0).double()
    decoded = space_to_depth(autoencoder.decode(z), (4, 4)).flatten(2)[0].T
    torch.testing.assert_close(decoded.double(), expected, atol=1e-3, rtol=1e-3)
    assert kept == pytest.approx(float(values[:5].square().sum() / values.square().sum()), rel=1e-4)


def test_linear_start_is_white():
    autoencoder = PCAAutoencoder(3, factor=(2, 2, 2), channels=4, width=8)
    patches = randn(5000, 8, seed=1) @ randn(8, 8, seed=2)
    autoencoder.begin(patches)
    z = autoencoder.encode(depth_to_space(patches[:4096].T.reshape(1, 8, 16, 16, 16), (2, 2, 2)))[0].flatten(2)[0]
    torch.testing.assert_close(torch.cov(z), torch.eye(4), atol=0.1, rtol=0)


def test_the_branches_see_and_say_white_numbers():
    """What the encoder's branch sees is white; of it, the decoder's branch can say all that the latents leave out."""
    autoencoder = PCAAutoencoder(2, factor=(4, 4), channels=5, width=8)
    patches = (randn(20000, 16, seed=1) @ randn(16, 16, seed=2)).double()
    autoencoder.begin(patches)
    centred = patches - patches.mean(0)
    seen = centred @ autoencoder.whitening.double().T
    torch.testing.assert_close(torch.cov(seen.T), torch.eye(16).double(), atol=1e-4, rtol=0)
    _, _, basis = torch.linalg.svd(centred, full_matrices=False)
    left_out = centred - centred @ basis[:5].T @ basis[:5]
    said = torch.cat([torch.zeros(20000, 5).double(), seen[:, 5:]], dim=1) @ autoencoder.colouring.double().T
    torch.testing.assert_close(said, left_out, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("dims", [2, 3])
def test_a_tile_has_the_latents_of_the_whole(dims):
    autoencoder = fresh(PCAAutoencoder(dims, factor=(4,) * dims, channels=4, width=8, encoder_depth=1, decoder_depth=1))
    x = randn(1, 1, *(96,) * dims) if dims == 2 else randn(1, 1, 64, 16, 16)
    whole = autoencoder.encode(x)[0]
    tile = autoencoder.encode(x[:, :, 16:])[0]
    reach = 4  # convolutions in the encoder's branch
    torch.testing.assert_close(tile[:, :, reach:], whole[:, :, 4 + reach :], atol=1e-4, rtol=1e-4)


def measured(image: torch.Tensor, noise_std: list[float], blur: list[tuple[float, ...]]) -> Measurement:
    """Noise and blur that are the same everywhere, one an example."""
    ones = (1,) * (image.ndim - 2)
    return Measurement(image, torch.tensor(noise_std).view(-1, 1, *ones), torch.tensor(blur).view(len(blur), -1, *ones))


def measurement(dims: int, n: int = 32, batch: int = 1) -> Measurement:
    return measured(randn(batch, 1, *(n,) * dims).abs(), [0.05] * batch, [(1,) * dims] * batch)


@pytest.mark.parametrize("dims", [2, 3])
def test_condition_has_the_channels_it_announces(dims):
    autoencoder = PCAAutoencoder(dims, factor=(4,) * dims, channels=4, width=8)
    cond = latent_condition(measurement(dims, 16), autoencoder, MeasurementTable())
    assert cond.shape[1] == condition_channels(autoencoder)
    assert (cond[:, 0] == 1).all()


@pytest.mark.parametrize("dims", [2, 3])
def test_head_takes_and_returns_images(dims):
    head = fresh(MeasurementHead(dims, channels=(8, 8), depth=1))
    y = measurement(dims, 16, batch=2)
    image, std = head(torch.zeros_like(y.image), y, torch.ones(2))
    assert image.shape == std.shape == y.image.shape
    assert (std > 0).all()


def untrained_head(noise_std: float, decoded: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    head = MeasurementHead(2, channels=(8, 8), depth=1)
    for parameter in head.finish[-1].parameters():
        torch.nn.init.zeros_(parameter)
    y = measured(measurement(2).image, [noise_std], [(1, 1)])
    image, std = head(y.image + decoded, y, torch.ones(1))
    return y.image, image, std


def test_an_untrained_head_goes_a_little_of_the_way_to_the_decoded_estimate():
    y, image, std = untrained_head(0.1, decoded=0.2)
    torch.testing.assert_close(image - y, torch.full_like(y, 0.2 * float(torch.sigmoid(torch.tensor(-2.0)))))
    assert (std < 0.1).all()


def test_what_the_head_adds_is_bounded_by_the_noise():
    y, image, _ = untrained_head(0.01, decoded=100.0)
    assert (image - y).abs().max() < 0.01


def test_error_scale_grows_with_noise_and_coarseness():
    image = torch.zeros(3, 1, 4, 4)
    y = measured(image, [0.1, 0.0, 0.0], [(1, 1), (2, 2), (4, 4)])
    assert error_scale(y, MeasurementTable()).flatten().tolist() == pytest.approx([0.1, 0.03, 0.06], rel=0.01)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_head_answers_alike_whichever_axis_is_coarse(axis):
    torch.manual_seed(0)
    head = fresh(MeasurementHead(3, channels=(8, 8), depth=1))
    decoded, image = randn(1, 1, 16, 12, 8, seed=1), randn(1, 1, 16, 12, 8, seed=2)
    first = measured(image, [0.01], [(2, 1, 1)])
    wanted = head(decoded, first, torch.ones(1))
    turned = head(decoded.transpose(2, 2 + axis), first.swapped(0, axis), torch.ones(1))
    for one, other in zip(wanted, turned, strict=True):
        torch.testing.assert_close(other, one.transpose(2, 2 + axis))
