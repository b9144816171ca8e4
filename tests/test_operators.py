"""The operator of every problem of the registry is proven by the same check."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from medldm import registry
from medldm.errors import InputError
from medldm.geometry import Geometry
from medldm.operators.block_average import BlockAverage
from medldm.operators.measurement import Gaussian, Kernel, Rician
from medldm.operators.operator import Identity, check_operator
from medldm.operators.problem import Denoise


@pytest.mark.parametrize("name", registry.names("problems"))
def test_the_operator_of_each_problem_passes_the_shared_check(name):
    check_operator(registry.find("problems", name).operator_type.example())


def test_the_check_finds_a_first_guess_of_another_size():
    class Small(Identity):
        def first_guess(self, y):
            return y[:, :, 1:]

    with pytest.raises(InputError, match="first guess"):
        check_operator(Small())


def test_the_check_finds_a_wrong_adjoint():
    class Wrong(Identity):
        def adjoint(self, y):
            return 1.01 * y

    with pytest.raises(InputError, match="adjoint"):
        check_operator(Wrong())


def test_the_check_finds_what_is_not_linear():
    class Square(Identity):
        def forward(self, x):
            return x + 1

    with pytest.raises(InputError):
        check_operator(Square())


def test_block_average_equals_a_naive_loop():
    x = torch.randn(1, 1, 4, 6, 8, generator=torch.Generator().manual_seed(1))
    y = BlockAverage((2, 3, 4)).forward(x)[0, 0].numpy()
    naive = np.array(
        [
            [
                [x[0, 0, 2 * i : 2 * i + 2, 3 * j : 3 * j + 3, 4 * k : 4 * k + 4].mean() for k in range(2)]
                for j in range(2)
            ]
            for i in range(2)
        ]
    )
    np.testing.assert_allclose(y, naive, atol=1e-6)


@pytest.mark.parametrize("factor", [(2, 1, 1), (1, 3, 1), (4, 4, 1), (1, 1, 2)])
def test_upsampling_agrees_with_the_measurement(factor):
    y = torch.rand(1, 1, 9, 8, 7, generator=torch.Generator().manual_seed(2))
    operator = BlockAverage(factor)
    fine = operator.first_guess(y)
    assert (operator.forward(fine) - y).abs().max() < 2e-3


def test_upsampling_keeps_a_ramp_where_it_is():
    ramp = torch.arange(12.0).view(1, 1, 12, 1, 1)
    fine = BlockAverage((2, 1, 1)).first_guess(ramp)[0, 0, :, 0, 0]
    expected = (torch.arange(24.0) + 0.5) / 2 - 0.5
    assert (fine - expected)[6:-6].abs().max() < 0.02


def test_a_size_that_does_not_divide_is_refused():
    with pytest.raises(InputError, match="multiple of 2"):
        BlockAverage((2, 1, 1)).forward(torch.zeros(1, 1, 5, 4, 4))


def test_measured_geometry_pins_the_outer_edge():
    fine = Geometry.from_spacing((8, 8, 8), (1.0, 1.0, 1.0))
    coarse = BlockAverage((1, 1, 4)).output_geometry(fine)
    assert coarse.shape == (8, 8, 2)
    np.testing.assert_allclose(coarse.to_world([0, 0, -0.5]), fine.to_world([0, 0, -0.5]))


def test_gaussian_noise_has_its_deviation():
    x = torch.full((1, 1, 100, 100, 10), 5.0)
    y = Gaussian().sample(x, torch.tensor(0.3), torch.Generator().manual_seed(3))
    assert float((y - x).std()) == pytest.approx(0.3, rel=0.02)
    assert float((y - x).mean()) == pytest.approx(0, abs=0.005)


def test_rician_noise_in_air_is_rayleigh():
    y = Rician().sample(torch.zeros(1, 1, 100, 100, 10), torch.tensor(0.2), torch.Generator().manual_seed(4))
    assert float(y.mean()) == pytest.approx(0.2 * np.sqrt(np.pi / 2), rel=0.02)
    assert float(y.std()) == pytest.approx(0.2 * np.sqrt(2 - np.pi / 2), rel=0.02)


def test_noise_of_a_sharp_kernel_is_in_fine_detail():
    """Its deviation is what was asked for, its power rises to two thirds of the largest frequency, then falls."""
    noise = Kernel().sample(torch.zeros(8, 1, 96, 96), torch.tensor(0.1), torch.Generator().manual_seed(0))
    assert noise.std().item() == pytest.approx(0.1, rel=0.02) and abs(noise.mean().item()) < 1e-3
    power = torch.fft.fft2(noise).abs().square().mean((0, 1))
    along = [power[0, n : n + 4].mean().item() for n in (2, 14, 28, 42)]  # of at most 48
    assert along[0] < along[1] < along[2] > along[3]


@pytest.mark.parametrize(("cut", "falls"), [(0.4, True), (1.6, False)])
def test_noise_of_a_soft_kernel_has_no_fine_detail(cut, falls):
    """Nothing beyond one and a half of `cut`; one that never falls is strongest in the corner of the frequencies."""
    kernel = Kernel(slope=0.5, cut=cut)
    noise = kernel.sample(torch.zeros(8, 1, 96, 96), torch.tensor(0.1), torch.Generator().manual_seed(0))
    assert noise.std().item() == pytest.approx(0.1, rel=0.02)
    power = torch.fft.fft2(noise).abs().square().mean((0, 1))
    corner, peak = power[44:48, 44:48].mean() / power.mean(), power[0, 17:20].mean() / power.mean()
    assert (corner < 1e-6 and peak > 2) if falls else (corner > 1.3 and peak < 1)


def test_a_share_of_the_denoising_is_of_a_kernels_noise():
    x = torch.zeros(1, 1, 64, 64)
    batches = SimpleNamespace(own=np.random.default_rng(0), noise=torch.Generator().manual_seed(0))
    shares = []
    problem = Denoise(head="main", noise_std=(0.05, 0.05), sharp_share=0.5)
    for _ in range(40):
        image = problem.draw(x, Gaussian(), batches).image
        power = torch.fft.fft2(image[0, 0]).abs().square()
        shares.append((power[:4, :4].mean() / power.mean()).item() < 0.5)  # white noise: 1
    assert 10 < sum(shares) < 30
