"""Samplers: functions of ``(predict_x0, x_T, sigmas)`` that yield their steps.

Each goes from sigmas[0] down to sigmas[-1] (0): `ddim`, `heun` and `dpmpp_2m` along the probability flow ODE
``dx/dsigma = (x - E[x_0 | x, sigma]) / sigma``; `ddpm` and `edm_stochastic` with noise of their own at each step.
Yielding makes progress, preview and cancelling free. All are proven on data whose posterior mean is known in closed
form (tests/test_samplers.py, tests/test_process.py; `python -m benchmarks.samplers`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

PredictX0 = Callable[[Tensor, float], Tensor]
Noise = Callable[[Tensor], Tensor]  # standard normal numbers like a tensor, each sample's its own


@dataclass(frozen=True)
class Step:
    """One step of a sampler: `x_0` is the estimate at `sigma`, `x_t` the state after the step."""

    index: int
    total: int
    sigma: float
    x_0: Tensor
    x_t: Tensor


class Sampler(Protocol):
    """What an entry point of `medldm.samplers` offers."""

    def __call__(
        self, predict_x0: PredictX0, x_T: Tensor, sigmas: Tensor, *, noise: Noise = torch.randn_like
    ) -> Iterator[Step]: ...


def ddim(predict_x0: PredictX0, x_T: Tensor, sigmas: Tensor, *, noise: Noise = torch.randn_like) -> Iterator[Step]:
    """Deterministic DDIM, which is Euler's method in sigma (Song et al. 2021): first order, one evaluation a step.

    predict_x0 : (x_t, sigma) -> E[x_0 | x_t]
    x_T : initial state, of deviation about sigmas[0]
    sigmas : (n + 1,) falling, the last may be 0
    noise : unused, the sampler draws nothing
    """
    levels, x, total = sigmas.tolist(), x_T, len(sigmas) - 1
    for index in range(total):
        sigma, after = levels[index], levels[index + 1]
        x_0 = predict_x0(x, sigma)
        x = x_0 + (after / sigma) * (x - x_0)
        yield Step(index, total, sigma, x_0, x)


def heun(predict_x0: PredictX0, x_T: Tensor, sigmas: Tensor, *, noise: Noise = torch.randn_like) -> Iterator[Step]:
    """Heun's method in sigma (Karras et al. 2022, algorithm 1): second order, two evaluations a step but the last."""
    levels, x, total = sigmas.tolist(), x_T, len(sigmas) - 1
    for index in range(total):
        sigma, after = levels[index], levels[index + 1]
        x_0, x = _heun_step(predict_x0, x, sigma, after)
        yield Step(index, total, sigma, x_0, x)


def _heun_step(predict_x0: PredictX0, x: Tensor, sigma: float, after: float) -> tuple[Tensor, Tensor]:
    """The estimate at `sigma`, and the state at `after`."""
    x_0 = predict_x0(x, sigma)
    slope = (x - x_0) / sigma
    euler = x + (after - sigma) * slope
    if after == 0:
        return x_0, euler
    slope_after = (euler - predict_x0(euler, after)) / after
    return x_0, x + (after - sigma) * (slope + slope_after) / 2


def dpmpp_2m(predict_x0: PredictX0, x_T: Tensor, sigmas: Tensor, *, noise: Noise = torch.randn_like) -> Iterator[Step]:
    """DPM-Solver++(2M) (Lu et al. 2022): second order multistep in log sigma, one evaluation a step.

    The last step, to sigma 0, is of first order: log sigma ends there.
    """
    levels, x, total = sigmas.tolist(), x_T, len(sigmas) - 1
    previous: tuple[Tensor, float] | None = None
    for index in range(total):
        sigma, after = levels[index], levels[index + 1]
        x_0 = predict_x0(x, sigma)
        if after == 0:
            x = x_0
        else:
            h = math.log(sigma / after)
            estimate = x_0
            if previous is not None:
                before, h_before = previous
                estimate = x_0 + (h / (2 * h_before)) * (x_0 - before)
            x = (after / sigma) * x - math.expm1(-h) * estimate
            previous = (x_0, h)
        yield Step(index, total, sigma, x_0, x)


def ddpm(predict_x0: PredictX0, x_T: Tensor, sigmas: Tensor, *, noise: Noise = torch.randn_like) -> Iterator[Step]:
    """Ancestral sampling (Ho et al. 2020): each state is drawn from what is likely between the last one and x_0.

    In units in which ``x_t = x_0 + sigma n``: mean ``x_0 + (after / sigma)^2 (x_t - x_0)``, variance
    ``after^2 (sigma^2 - after^2) / sigma^2``. First order; at few steps too narrow.
    """
    levels, x, total = sigmas.tolist(), x_T, len(sigmas) - 1
    for index in range(total):
        sigma, after = levels[index], levels[index + 1]
        x_0 = predict_x0(x, sigma)
        x = x_0 + (after / sigma) ** 2 * (x - x_0)
        if after > 0:
            x = x + after * math.sqrt(sigma**2 - after**2) / sigma * noise(x)
        yield Step(index, total, sigma, x_0, x)


CHURN, CHURN_LOW, CHURN_HIGH = 40.0, 0.05, 50.0  # Karras et al. 2022, table 5, ImageNet


def edm_stochastic(
    predict_x0: PredictX0, x_T: Tensor, sigmas: Tensor, *, noise: Noise = torch.randn_like
) -> Iterator[Step]:
    """Heun's steps with noise put back before each (Karras et al. 2022, algorithm 2): errors of before are washed out.

    The constants are those of the paper for ImageNet, but that the noise is not inflated by 0.3 %: a denoiser that is
    exact needs none. Two evaluations a step but the last.
    """
    levels, x, total = sigmas.tolist(), x_T, len(sigmas) - 1
    churn = min(CHURN / total, math.sqrt(2) - 1)
    for index in range(total):
        sigma, after = levels[index], levels[index + 1]
        if CHURN_LOW <= sigma <= CHURN_HIGH:
            raised = sigma * (1 + churn)
            x = x + math.sqrt(raised**2 - sigma**2) * noise(x)
            sigma = raised
        x_0, x = _heun_step(predict_x0, x, sigma, after)
        yield Step(index, total, sigma, x_0, x)
