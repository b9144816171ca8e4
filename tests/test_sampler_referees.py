"""Our samplers against diffusers' own schedulers, stepped live on the test problem of its scheduler tests."""

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

from medldm.diffusion.samplers import ddim, dpmpp_2m

BETAS = {"num_train_timesteps": 1000, "beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear"}
CASES = {
    "ddim": (ddim, lambda: DDIMScheduler(**BETAS, clip_sample=False, set_alpha_to_one=True)),
    "dpmpp_2m": (
        dpmpp_2m,
        lambda: DPMSolverMultistepScheduler(**BETAS, algorithm_type="dpmsolver++", final_sigmas_type="zero"),
    ),
}


def said(state: torch.Tensor, time: float) -> torch.Tensor:
    """The noise that the network of diffusers' scheduler tests finds in a state of kept variance."""
    return state * time / (time + 1)


def start() -> torch.Tensor:
    """The state that those tests begin with."""
    count = 4 * 3 * 8 * 8
    return (torch.arange(count, dtype=torch.float64).reshape(3, 8, 8, 4) / count).permute(3, 0, 1, 2)


@pytest.mark.parametrize("steps", [10, 20, 50])
@pytest.mark.parametrize("name", list(CASES))
def test_samplers_are_those_of_diffusers(name, steps):
    sampler, make = CASES[name]
    theirs = make()
    theirs.set_timesteps(steps)
    times = [float(t) for t in theirs.timesteps]
    state = start()
    for time in theirs.timesteps:
        state = theirs.step(said(state, float(time)), time, state).prev_sample

    kept = theirs.alphas_cumprod.double()[theirs.timesteps]
    sigmas = torch.cat([((1 - kept) / kept).sqrt(), torch.zeros(1, dtype=torch.float64)])
    time_of = dict(zip(sigmas.tolist(), times, strict=False))

    def predict_x0(x, sigma):
        return x - sigma * said(x / (1 + sigma**2) ** 0.5, time_of[sigma])

    *_, last = sampler(predict_x0, start() * (1 + sigmas[0] ** 2) ** 0.5, sigmas)
    assert float((last.x_t - state).abs().max()) < 1e-4 * float(state.abs().max())
