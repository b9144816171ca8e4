"""How exact are the samplers, and how do those of diffusers and MONAI do on the same data?

    python -m benchmarks.samplers [--quick]

The data are known, so the best denoiser is, in closed form: N(0.7, s^2), and a mixture of two modes. Of a Gaussian the
result of a deterministic sampler is an affine function of where it starts: three states tell both moments exactly.
Of the mixture (one dimension, in which the flow keeps the order) the exact result of each starting quantile is known.
`order` is the logarithm (base 2) of how much twice the steps lessen the error of the deviation.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from typing import Any, get_args

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks import plot
from benchmarks.record import bar, write
from medldm import registry
from medldm.diffusion.noise import PerSample
from medldm.diffusion.predict import bind
from medldm.diffusion.process import Denoiser, NoiseProcess, Parameterisation

MEAN, STDS = 0.7, (1.0, 0.4)
MODES, WIDTH = (-1.5, 1.5), 0.1
STEPS = (10, 20, 25, 50, 100)
SECOND_ORDER = ("heun", "dpmpp_2m")
STOCHASTIC = ("ddpm", "edm_stochastic")
Predict = Callable[[Tensor, float], Tensor]


def gaussian(std: float) -> Predict:
    return lambda x, sigma: MEAN + (x - MEAN) * std**2 / (std**2 + sigma**2)


def mixture(x: Tensor, sigma: float) -> Tensor:
    """E[x_0 | x_t] of two modes of equal weight."""
    variance, modes = WIDTH**2 + sigma**2, x.new_tensor(MODES)
    shares = torch.softmax(-((x[:, None] - modes).square()) / (2 * variance), dim=1)
    return (shares * (modes + (x[:, None] - modes) * WIDTH**2 / variance)).sum(1)


def mixture_quantiles(q: Tensor, sigma: float) -> Tensor:
    """Where the mixture, blurred by sigma, has the share `q` below it; by bisection."""
    spread = math.hypot(WIDTH, sigma)
    low, high = torch.full_like(q, -10 * (1 + spread)), torch.full_like(q, 10 * (1 + spread))
    for _ in range(80):
        middle = (low + high) / 2
        below = sum(0.5 * torch.special.ndtr((middle - mode) / spread) for mode in MODES)
        low, high = torch.where(below < q, middle, low), torch.where(below < q, high, middle)
    return (low + high) / 2


class Exact(torch.nn.Module):
    """What a perfectly trained network of a parameterisation says of a Gaussian."""

    def __init__(self, process: NoiseProcess, std: float) -> None:
        super().__init__()
        self.process, self.predict = process, gaussian(std)

    def forward(self, scaled: Tensor, level: Tensor, condition: None) -> Tensor:
        span = math.log(self.process.sigma_max / self.process.sigma_min)
        sigma = (self.process.sigma_min * torch.exp(span * level.double()))[:, None]
        skip, out, scale = self.process.scalings(sigma)
        x_t = scaled / scale
        return (self.predict(x_t, float(sigma[0])) - skip * x_t) / out


def ours(name: str, predict: Predict, steps: int, std: float, samples: int) -> tuple[float, float]:
    """Mean and deviation that a sampler ends at."""
    run, sigmas = registry.find("samplers", name), NoiseProcess().sigmas(steps)
    start = math.hypot(float(sigmas[0]), std)
    if name in STOCHASTIC:
        noise = PerSample(range(samples), torch.device("cpu"))
        *_, last = run(predict, MEAN + start * noise.normal((1,)).double(), sigmas, noise=noise.like)
        return float(last.x_t.mean()), float(last.x_t.std())
    x_T = torch.tensor([[MEAN - start], [MEAN], [MEAN + start]], dtype=torch.float64)
    *_, last = run(predict, x_T, sigmas)
    return float(last.x_t[1, 0]), float(last.x_t[2, 0] - last.x_t[0, 0]) / 2


def theirs(scheduler: Any, steps: int, std: float) -> tuple[float, float]:
    """The same of a scheduler of diffusers or MONAI, on the variance preserving circle with its own levels."""
    scheduler.set_timesteps(steps)
    alphas = scheduler.alphas_cumprod.double()
    last = int(scheduler.timesteps[0])
    a = float(alphas[last].sqrt())
    spread = math.sqrt(a**2 * std**2 + 1 - a**2)
    x = torch.tensor([a * MEAN - spread, a * MEAN, a * MEAN + spread], dtype=torch.float64)[:, None, None, None]
    for t in scheduler.timesteps:
        a = float(alphas[int(t)].sqrt())
        s = math.sqrt(1 - a**2)
        x_0 = gaussian(std)(x / a, s / a)
        stepped = scheduler.step((x - a * x_0) / s, t, x)
        x = (stepped.prev_sample if hasattr(stepped, "prev_sample") else stepped[0]).double()
    return float(x[1, 0, 0, 0]), float(x[2, 0, 0, 0] - x[0, 0, 0, 0]) / 2


def peers() -> dict[str, Callable[[], Any]]:
    """Schedulers of other libraries, as their latent diffusion models use them, where they are installed."""
    found: dict[str, Callable[[], Any]] = {}
    common = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012}
    try:
        import diffusers

        known = common | {"beta_schedule": "scaled_linear", "timestep_spacing": "trailing"}
        found["diffusers DDIM"] = lambda: diffusers.DDIMScheduler(**known, clip_sample=False)
        found["diffusers DPM-Solver++(2M)"] = lambda: diffusers.DPMSolverMultistepScheduler(**known)
    except ImportError:
        pass
    from monai.networks.schedulers import DDIMScheduler

    found["MONAI DDIM"] = lambda: DDIMScheduler(schedule="scaled_linear_beta", clip_sample=False, **common)
    return found


def measure(samples: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    everyone: dict[str, Callable[[int, float], tuple[float, float]]] = {
        name: lambda steps, std, name=name: ours(name, gaussian(std), steps, std, samples)  # type: ignore[misc]
        for name in ("ddim", *SECOND_ORDER, *STOCHASTIC)
    }
    for name, make in peers().items():
        everyone[name] = lambda steps, std, make=make: theirs(make(), steps, std)  # type: ignore[misc]
    for name, run in everyone.items():
        for std in STDS:
            found = {steps: run(steps, std) for steps in STEPS}
            off = {steps: abs(spread / std - 1) for steps, (_, spread) in found.items()}
            row = {"sampler": name, "data_std": std, "order": math.log2(off[25] / max(off[50], 1e-12))}
            row |= {f"std error at {steps}": off[steps] for steps in STEPS}
            rows.append(row | {"mean error at 50": abs(found[50][0] - MEAN)})
    return rows


def through_parameterisations() -> float:
    """Largest difference of a sampled deviation between the five parameterisations and the denoiser itself."""
    worst = 0.0
    for name in ("ddim", *SECOND_ORDER):
        for std in STDS:
            direct = ours(name, gaussian(std), 50, std, 0)[1]
            for kind in get_args(Parameterisation):
                process = NoiseProcess(kind)
                wrapped = bind(Denoiser(Exact(process, std), process), None)
                worst = max(worst, abs(ours(name, wrapped, 50, std, 0)[1] / direct - 1))
    return worst


def of_the_mixture(name: str, steps: int) -> float:
    """Mean distance of each sample from where the exact flow takes it."""
    q = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
    sigmas = NoiseProcess().sigmas(steps)
    *_, last = registry.find("samplers", name)(mixture, mixture_quantiles(q, float(sigmas[0])), sigmas)
    return float((last.x_t - mixture_quantiles(q, 0.0)).abs().mean())


def panels(rows: Sequence[dict[str, Any]]) -> list[plot.Panel]:
    """The error over the steps, for each deviation of the data; a line of slope -1 is of order 1."""
    found = []
    for std in STDS:
        curves = []
        for row in rows:
            if row.get("data_std") == std:
                style = "-" if row["sampler"] in ("ddim", *SECOND_ORDER, *STOCHASTIC) else "--"
                errors = [100 * row[f"std error at {steps}"] for steps in STEPS]
                curves.append(plot.Curve(row["sampler"], STEPS, errors, style=style))
        title = f"data of deviation {std:g}"
        found.append(
            plot.Panel(title, curves, "steps", "error of the deviation (%)", log_x=True, log_y=True, marks=STEPS)
        )
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.samplers", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="20 000 samples of the stochastic samplers, not 200 000")
    chosen = parser.parse_args(arguments)
    rows = measure(20_000 if chosen.quick else 200_000)
    console = Console(width=150)
    table = Table(title="Error of the deviation, in %, on N(0.7, s^2)", title_justify="left")
    for column in ("sampler", "s", *(f"{steps} steps" for steps in STEPS), "order", "mean, 50 steps"):
        table.add_column(column, justify="left" if column == "sampler" else "right")
    for row in rows:
        cells = [f"{100 * row[f'std error at {steps}']:.3f}" for steps in STEPS]
        mean = f"{row['mean error at 50']:.1e}"
        table.add_row(row["sampler"], f"{row['data_std']:g}", *cells, f"{row['order']:.2f}", mean)
    console.print(table)
    bars = []
    for row in rows:
        if row["sampler"] in SECOND_ORDER:
            error = max(row["std error at 50"], row["mean error at 50"])
            label = f"{row['sampler']}, s = {row['data_std']:g}: error of mean and deviation at 50 steps"
            bars.append(bar(label, error, "<= 0.01", error <= 0.01))
    same = through_parameterisations()
    bars.append(bar("five parameterisations against the denoiser itself, 50 steps", same, "<= 1e-4", same <= 1e-4))
    for name in ("ddim", *SECOND_ORDER):
        off = {steps: of_the_mixture(name, steps) for steps in (20, 50)}
        rows.append({"sampler": name, "data": "mixture", **{f"distance at {k}": v for k, v in off.items()}})
        console.print(f"mixture of two modes (width {WIDTH}): {name} {off[20]:.4f} at 20 steps, {off[50]:.4f} at 50")
    for entry in bars:
        verdict = "holds" if entry["holds"] else "FAILS"
        console.print(f"{verdict}  {entry['name']}: {entry['value']} (target {entry['target']})")
    name = "samplers" + ("-quick" if chosen.quick else "")
    write(name, rows, bars)
    console.print(f"plot: {plot.draw(name, panels(rows))}")
    return 0 if all(entry["holds"] for entry in bars) else 1


if __name__ == "__main__":
    raise SystemExit(main())
