"""Every parameterisation through every sampler, on data whose posterior mean is known in closed form."""

import math

import pytest
import torch

from medldm import registry
from medldm.diffusion.noise import PerSample
from medldm.diffusion.predict import bind
from medldm.diffusion.process import Denoiser, NoiseProcess

MANY = 20000
PARAMETERISATIONS = ("edm", "noise", "clean", "velocity", "flow")
SAMPLERS = ("ddim", "heun", "dpmpp_2m", "ddpm", "edm_stochastic")
STD = (1.3, 0.4)  # of the data's two channels, whose mean is MEAN
MEAN = 0.7


def posterior_mean(x_t, sigma):
    """E[x_0 | x_t] of N(MEAN, STD^2), channel by channel: (B, 2) float64."""
    variance = x_t.new_tensor(STD).square()
    return MEAN + (x_t - MEAN) * variance / (variance + sigma**2)


def normal(seed=0):
    """Standard normal numbers like a tensor, of one generator: which sample has which is another test's."""
    generator = torch.Generator().manual_seed(seed)
    return lambda like: torch.randn(like.shape, dtype=like.dtype, generator=generator)


class Exact(torch.nn.Module):
    """The network that a perfect training would give: what it says is what `scalings` turn into the posterior mean."""

    def __init__(self, process):
        super().__init__()
        self.process = process

    def forward(self, scaled, level, condition):
        span = math.log(self.process.sigma_max / self.process.sigma_min)
        sigma = (self.process.sigma_min * torch.exp(span * level))[:, None].to(scaled)
        skip, out, scale = self.process.scalings(sigma)
        x_t = scaled / scale
        return (posterior_mean(x_t, sigma) - skip * x_t) / out


@pytest.mark.parametrize("sigma_data", [1.0, 0.5, (1.3, 0.4)])
@pytest.mark.parametrize("parameterisation", PARAMETERISATIONS)
def test_every_parameterisation_becomes_the_same_denoiser(parameterisation, sigma_data):
    process = NoiseProcess(parameterisation, sigma_data=sigma_data)
    predict = bind(Denoiser(Exact(process), process), None)
    x_t = torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for sigma in (0.02, 0.7, 30.0):
        torch.testing.assert_close(predict(x_t, sigma), posterior_mean(x_t, sigma), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("parameterisation", "says"),
    [
        ("noise", lambda x_0, n, s: n),
        ("clean", lambda x_0, n, s: x_0),
        ("velocity", lambda x_0, n, s: (n - s * x_0) / math.sqrt(1 + s**2)),
        ("flow", lambda x_0, n, s: n - x_0),
    ],
)
def test_what_a_network_says_is_what_its_paper_names(parameterisation, says):
    """Of data of deviation 1; the scaled state, too, is the paper's."""
    process, generator = NoiseProcess(parameterisation), torch.Generator().manual_seed(1)
    x_0, n = torch.randn(2, 4, 1, dtype=torch.float64, generator=generator)
    for s in (0.05, 1.0, 20.0):
        x_t, sigma = x_0 + s * n, torch.full((4, 1), s, dtype=torch.float64)
        skip, out, scale = process.scalings(sigma)
        torch.testing.assert_close(skip * x_t + out * says(x_0, n, s), x_0)
        circle, line = (x_0 + s * n) / math.sqrt(1 + s**2), (x_0 + s * n) / (1 + s)
        torch.testing.assert_close(scale * x_t, line if parameterisation == "flow" else circle)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("parameterisation", PARAMETERISATIONS)
def test_samples_have_the_datas_mean_and_deviation(parameterisation, sampler):
    """Deterministic samplers are affine maps here, so three states tell mean and deviation exactly."""
    process = NoiseProcess(parameterisation, sigma_data=STD)
    predict, sigmas = bind(Denoiser(Exact(process), process), None), process.sigmas(50)
    run = registry.find("samplers", sampler)
    if sampler in ("ddpm", "edm_stochastic"):
        noise = normal()
        x_T = MEAN + torch.hypot(sigmas[0], torch.tensor(STD)) * noise(sigmas.new_empty(MANY, 2))
        *_, last = run(predict, x_T, sigmas, noise=noise)
        tolerance = 0.03 if sampler == "edm_stochastic" else 0.12  # first order at 50 steps; and 20000 samples
        mean, std = last.x_t.mean(0), last.x_t.std(0)
    else:
        start = torch.hypot(sigmas[0], torch.tensor(STD, dtype=torch.float64))
        *_, last = run(predict, torch.stack([MEAN - start, MEAN + 0 * start, MEAN + start]), sigmas)
        tolerance = 0.08 if sampler == "ddim" else 0.01
        mean, std = last.x_t.mean(0), (last.x_t[2] - last.x_t[0]) / 2
    torch.testing.assert_close(mean, torch.full_like(mean, MEAN), atol=max(tolerance, 0.03), rtol=0)
    torch.testing.assert_close(std / torch.tensor(STD), torch.ones_like(std), atol=tolerance, rtol=0)


def test_ancestral_sampling_draws_from_the_exact_posterior():
    """Of one point there is nothing to estimate: at every level the state has exactly that level's deviation."""
    sigmas = NoiseProcess().sigmas(6)
    noise = normal()
    x_T = sigmas[0] * noise(sigmas.new_empty(MANY, 1))
    for step in registry.find("samplers", "ddpm")(lambda x, sigma: 0 * x, x_T, sigmas, noise=noise):
        assert float(step.x_t.std()) == pytest.approx(float(sigmas[step.index + 1]), rel=0.03)


@pytest.mark.parametrize("sampler", ["ddpm", "edm_stochastic"])
def test_a_samples_noise_is_its_own(sampler):
    """Whatever is sampled beside it, and in whichever order."""
    process = NoiseProcess()

    def samples(seeds):
        noise = PerSample(seeds, torch.device("cpu"))
        x_T = 40.0 * noise.normal((3,))
        *_, last = registry.find("samplers", sampler)(
            lambda x, sigma: x / (1 + sigma**2), x_T, process.sigmas(8), noise=noise.like
        )
        return last.x_t

    together = samples((5, 6, 7, 8))
    for position, seed in ((0, 5), (3, 8)):
        torch.testing.assert_close(samples((seed,))[0], together[position], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(samples((8, 5)), together[[3, 0]], rtol=1e-6, atol=1e-6)


def test_levels_are_drawn_as_the_process_says():
    normal = torch.randn(40000, generator=torch.Generator().manual_seed(0))
    logs = NoiseProcess(log_mean=-0.4, log_std=1.2).draw(normal).log()
    assert float(logs.mean()) == pytest.approx(-0.4, abs=0.02) and float(logs.std()) == pytest.approx(1.2, abs=0.02)
    even = NoiseProcess(levels="log_uniform")
    assert float(even.level(even.draw(normal)).std()) == pytest.approx(1 / math.sqrt(12), abs=0.01)
    sigma = NoiseProcess(levels="time_uniform", sigma_max=1e3).draw(normal)
    assert float((sigma / (1 + sigma)).mean()) == pytest.approx(0.5, abs=0.01)


def test_weights_are_those_of_their_papers():
    sigma = torch.tensor([0.1, 1.0, 10.0])[:, None]
    even = NoiseProcess("velocity", sigma_data=0.5)
    torch.testing.assert_close(even.weight(sigma) * even.scalings(sigma)[1].square(), torch.ones(3, 1))
    snr = NoiseProcess(weighting="min_snr").weight(sigma)[:, 0]
    torch.testing.assert_close(snr, torch.tensor([5.0, 1.0, 0.01]))
    sigmoid = NoiseProcess(weighting="sigmoid").weight(sigma)[:, 0] * sigma[:, 0].square()
    torch.testing.assert_close(sigmoid, torch.sigmoid(2.0 - torch.log(1 / sigma[:, 0].square())))
