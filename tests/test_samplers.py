"""Samplers against the closed form: for data N(0, s^2), E[x_0 | x_t] = x_t s^2 / (s^2 + sigma^2)."""

import math

import pytest
import torch

from medldm import registry
from medldm.diffusion.process import NoiseProcess
from medldm.diffusion.samplers import Sampler

SECOND_ORDER = ("heun", "dpmpp_2m")
PROCESS = NoiseProcess()


def final_std(sampler: Sampler, steps: int, data_std: float) -> float:
    """Deviation of the samples: the flow is linear, so one trajectory started at one deviation tells it."""
    sigmas = PROCESS.sigmas(steps)
    x_T = torch.tensor([math.hypot(data_std, sigmas[0].item())], dtype=torch.float64)

    def predict_x0(x, sigma):
        return x * data_std**2 / (data_std**2 + sigma**2)

    *_, last = sampler(predict_x0, x_T, sigmas)
    return last.x_t.item()


def test_the_built_in_samplers_enter_by_the_plugin_door():
    assert {"ddim", "heun", "dpmpp_2m"} <= set(registry.names("samplers"))


@pytest.mark.parametrize("data_std", [1.0, 0.5, 0.1])
@pytest.mark.parametrize("name", SECOND_ORDER)
def test_second_order_samplers_reach_the_exact_deviation(name, data_std):
    sampler = registry.find("samplers", name)
    assert final_std(sampler, 20, data_std) == pytest.approx(data_std, rel=0.03)
    assert final_std(sampler, 100, data_std) == pytest.approx(data_std, rel=0.01)


@pytest.mark.parametrize("data_std", [1.0, 0.5, 0.1])
def test_ddim_halves_its_error_with_every_doubling_of_the_steps(data_std):
    sampler = registry.find("samplers", "ddim")
    # the levels end at sigma_min: what the last denoising takes away from narrow data is not DDIM's error
    floor = data_std**2 / math.hypot(data_std, 0.008)
    errors = [abs(final_std(sampler, n, data_std) - floor) / data_std for n in (25, 50, 100)]
    assert errors[2] < 0.05
    for coarse, fine in zip(errors[:-1], errors[1:], strict=True):
        assert 1.8 < coarse / fine < 2.3


@pytest.mark.parametrize("name", SECOND_ORDER)
def test_second_order_samplers_quarter_their_error(name):
    errors = [abs(final_std(registry.find("samplers", name), n, 1.0) - 1) for n in (20, 40, 80)]
    assert errors[0] / errors[1] > 3
    assert errors[1] / errors[2] > 3


@pytest.mark.parametrize("name", ["ddim", "heun", "dpmpp_2m"])
def test_samples_of_a_mixture_fall_on_its_modes(name):
    modes, width = torch.tensor([-1.5, 1.5], dtype=torch.float64), 0.05

    def predict_x0(x, sigma):
        variance = width**2 + sigma**2
        weights = torch.softmax(-((x[:, None] - modes) ** 2) / (2 * variance), dim=1)
        means = modes + (x[:, None] - modes) * width**2 / variance
        return (weights * means).sum(1)

    sigmas = PROCESS.sigmas(60)
    x_T = sigmas[0] * torch.randn(4000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    *_, last = registry.find("samplers", name)(predict_x0, x_T, sigmas)
    x = last.x_t
    assert ((x.abs() - 1.5).abs() < 5 * width).double().mean() > 0.98
    assert (x > 0).double().mean() == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("name", ["ddim", "heun", "dpmpp_2m"])
def test_steps_are_counted_and_start_only_when_asked(name):
    calls = []

    def predict_x0(x, sigma):
        calls.append(sigma)
        return 0 * x

    run = registry.find("samplers", name)(predict_x0, torch.ones(1), PROCESS.sigmas(5))
    assert calls == []
    first = next(run)
    assert (first.index, first.total) == (0, 5)
    run.close()
    assert len(calls) <= 2  # cancelled: nothing more was computed


@pytest.mark.parametrize("kind", ["karras", "log_uniform"])
def test_levels_fall_to_zero(kind):
    sigmas = NoiseProcess(sigma_min=0.01, sigma_max=10.0).sigmas(12, kind)
    assert sigmas.shape == (13,)
    assert sigmas[0] == pytest.approx(10.0)
    assert sigmas[-2] == pytest.approx(0.01)
    assert sigmas[-1] == 0
    assert (sigmas.diff() < 0).all()


def test_level_runs_from_zero_to_one():
    assert PROCESS.level(torch.tensor([0.0, 0.008, 40.0, 1e3])).tolist() == pytest.approx([0, 0, 1, 1])
