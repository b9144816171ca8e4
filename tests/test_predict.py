"""One network, bound, guided, tiled and brought to agree with a measurement; and whose random numbers are whose."""

import numpy as np
import pytest
import torch

from medldm.diffusion.cascade import levels_of
from medldm.diffusion.generator import Generator
from medldm.diffusion.noise import sample_generator
from medldm.diffusion.predict import agreement, bind, consistent, guided, tiled
from medldm.diffusion.process import Denoiser, NoiseProcess
from medldm.errors import RecipeError
from medldm.nets.pca_autoencoder import PCAAutoencoder
from medldm.operators.block_average import BlockAverage
from medldm.operators.mask import Mask
from medldm.recipe import parse_recipe
from tests.tiny import tiny_pack, tiny_table, with_pack


def gaussian(std):
    """E[x_0 | x_t] of data N(0, std^2)."""
    return lambda x_t, sigma: x_t * std**2 / (std**2 + sigma**2)


def test_a_denoiser_is_exact_for_the_network_that_is_exact():
    """Of N(0, s^2) the best output of an EDM network is known in closed form, at any sigma_data."""
    process, std = NoiseProcess(sigma_data=0.5), 0.8

    class Exact(torch.nn.Module):
        def forward(self, scaled, level, condition):
            c_skip, c_out, c_in = process.scalings(sigma)
            x_t = scaled / c_in
            return (x_t * std**2 / (std**2 + sigma**2) - c_skip * x_t) / c_out

    for value in (0.01, 0.5, 20.0):
        sigma = torch.tensor([[value]], dtype=torch.float64)
        x_t = torch.randn(1, 6, dtype=torch.float64)
        found = bind(Denoiser(Exact(), process), None)(x_t, value)
        torch.testing.assert_close(found, gaussian(std)(x_t, value), rtol=1e-5, atol=1e-6)


def test_the_weight_evens_the_networks_error_over_the_levels():
    process, sigma = NoiseProcess(sigma_data=0.5), torch.tensor([0.01, 1.0, 30.0])
    torch.testing.assert_close(process.weight(sigma) * process.scalings(sigma)[1].square(), torch.ones(3))


def test_sampling_stops_at_the_last_level_and_takes_the_estimate_there():
    table = tiny_pack(2)
    level = table["synthesis"]["cascade"][0] | {"last_sigma": 0.4}
    pack = parse_recipe(with_pack(tiny_table(2), synthesis=table["synthesis"] | {"cascade": [level]})).pack
    generator = Generator(pack, 0)
    levels = levels_of(generator, 6)
    assert len(levels) == 7 and levels[0].item() == pytest.approx(80) and levels[-1] == 0
    assert levels[-2].item() == pytest.approx(0.4) and bool((levels.diff() < 0).all())
    for wrong, expected in ((100, "a level of the process, 0.008 to 80"), (0, "greater than 0")):
        bad = with_pack(tiny_table(2), synthesis=table["synthesis"] | {"cascade": [level | {"last_sigma": wrong}]})
        with pytest.raises(RecipeError, match="last_sigma") as refused:
            parse_recipe(bad)
        assert expected in str(refused.value)


def test_guidance_goes_on_beyond_the_condition_within_its_interval():
    calls = []
    unconditional = lambda x_t, sigma: calls.append(sigma) or torch.zeros_like(x_t)  # noqa: E731
    x = torch.ones(1, 2)
    two = guided(lambda x_t, sigma: x_t, [(unconditional, 1.0)], (0.1, 5.0))
    assert [float(two(x, sigma)[0, 0]) for sigma in (0.05, 1.0, 8.0)] == [1.0, 2.0, 1.0] and calls == [1.0]
    assert float(guided(lambda x_t, sigma: x_t, [(unconditional, 0.0)])(x, 1.0)[0, 0]) == 1.0 and calls == [1.0]


def test_tiles_of_a_local_estimate_are_the_whole_and_seams_are_blended():
    x_t = torch.randn(2, 3, 40, 23, generator=torch.Generator().manual_seed(0))
    local = gaussian(0.7)
    found = tiled(lambda box: local, (40, 23), (16, 9), (4, 2))(x_t, 0.5)
    torch.testing.assert_close(found, local(x_t, 0.5))
    steps = tiled(lambda box: lambda x, sigma: torch.full_like(x, float(box[0].start > 0)), (40, 8), (20, 8), (6, 0))
    line = steps(torch.zeros(1, 1, 40, 8), 1.0)[0, 0, :, 0]
    assert line[0] == 0 and line[-1] == 1 and float(line.diff().abs().max()) < 0.2  # and not 1 at the seam


def test_an_estimate_is_brought_to_the_measurement():
    torch.manual_seed(0)
    autoencoder = PCAAutoencoder(3, factor=(2, 2, 2), channels=8, width=4).eval()
    autoencoder.begin(torch.randn(4000, 8))
    truth = torch.rand(1, 1, 8, 8, 8)
    wrong = lambda x_t, sigma: torch.zeros_like(x_t)  # noqa: E731
    mask = np.zeros((8, 8, 8), dtype=bool)
    mask[2:4] = True
    for operator in (BlockAverage((2, 1, 1)), Mask(mask)):
        y, nothing = operator.forward(truth), torch.zeros(1, 8, 4, 4, 4)

        def brought(noise_std: float, operator=operator, y=y):
            def towards(x, sigma):
                return x + agreement(sigma, noise_std) * (operator.project(x, y) - x)

            return consistent(wrong, autoencoder.decode, lambda x: autoencoder.encode(x)[0], towards)

        with torch.no_grad():
            z = brought(0.0)(nothing, 1.0)
            assert (operator.forward(autoencoder.decode(z)) - y).abs().max() < 1e-2
            noisy = brought(0.5)(nothing, 0.01)
            assert (operator.forward(autoencoder.decode(noisy)) - y).abs().max() > 0.1  # surer than the measurement


def test_no_two_samples_share_their_numbers():
    """By seed and index: neither sums nor products of them may meet."""
    pairs = [(seed, index) for seed in (0, 1, 7919, 1000003) for index in (0, 1, 7919, 1000003)]
    drawn = {tuple(torch.randn(4, generator=sample_generator(*pair)).tolist()) for pair in pairs}
    assert len(drawn) == len(pairs)
