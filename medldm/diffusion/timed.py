"""The process of a network that another library trained at whole times: levels and times from its own schedule."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from medldm.diffusion.process import NoiseProcess, Parameterisation
from medldm.net_tables import ProcessTable, ScheduleTable

# a flow begins at time 1, where sigma = t / (1 - t) is infinite: at this one, x_0 is not in float32 any more
LARGEST_SIGMA = 1e7
SIGMOID_RANGE = 6.0
COSINE_SHIFT, LARGEST_BETA = 0.008, 0.999  # Nichol and Dhariwal 2021


def process_of(table: ProcessTable | ScheduleTable) -> NoiseProcess:
    """The process that a pack says."""
    if isinstance(table, ProcessTable):
        return NoiseProcess(**table.model_dump())
    sigmas, kind = levels_of(table), "flow" if table.betas == "flow" else table.prediction
    return TimedProcess(cast(Parameterisation, kind), sigmas[0].item(), sigmas[-1].item(), table=table)


def levels_of(table: ScheduleTable) -> Tensor:
    """sigma of each time, rising, float64: (times,), of a flow from time 1 on."""
    n = table.times
    if table.betas == "flow":
        time = torch.arange(1, n + 1, dtype=torch.float64) / n
        return (time / (1 - time)).clamp(max=LARGEST_SIGMA)
    if table.betas == "cosine":
        share = torch.linspace(0, 1, n + 1, dtype=torch.float64)
        kept = torch.cos((share + COSINE_SHIFT) / (1 + COSINE_SHIFT) * math.pi / 2).square()
        betas = (1 - kept[1:] / kept[:-1]).clamp(0, LARGEST_BETA)
    elif table.betas == "sigmoid":
        share = torch.sigmoid(torch.linspace(-SIGMOID_RANGE, SIGMOID_RANGE, n, dtype=torch.float64))
        betas = share * (table.beta_end - table.beta_start) + table.beta_start
    elif table.betas == "scaled_linear":
        betas = torch.linspace(table.beta_start**0.5, table.beta_end**0.5, n, dtype=torch.float64).square()
    else:
        betas = torch.linspace(table.beta_start, table.beta_end, n, dtype=torch.float64)
    kept = torch.cumprod(1 - betas, 0)
    return ((1 - kept) / kept).sqrt()


@dataclass(frozen=True, kw_only=True)
class TimedProcess(NoiseProcess):
    """Levels are those of the schedule's times; between them, the network is asked at a time between.

    What such a network sees is ``x_t / sqrt(1 + sigma^2)`` of our ``x_t = x_0 + sigma n``, or of a flow
    ``x_t / (1 + sigma)``: the same state in units in which its own process keeps the variance, or lies on the line.
    """

    table: ScheduleTable

    def scalings(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As of any process, but that MONAI's flows say x_0 minus the noise."""
        skip, out, scale = super().scalings(sigma)
        return skip, (-out if self.parameterisation == "flow" else out), scale

    def level(self, sigma: Tensor) -> Tensor:
        """The schedule's time of each sigma, (B,) float32; whole where the schedule has it."""
        if self.table.betas == "flow":
            time = self.table.times * sigma.double() / (1 + sigma.double())
        else:
            known = levels_of(self.table).to(sigma.device).log()
            wanted = sigma.double().log().clamp(known[0], known[-1])
            after = torch.searchsorted(known, wanted).clamp(1, len(known) - 1)
            before = known[after - 1]
            time = after - 1 + (wanted - before) / (known[after] - before)
        whole = time.round()
        return torch.where((time - whole).abs() < 1e-2, whole, time).float()

    def first_std(self, sigma: float) -> float:
        """Their samples begin with noise of deviation 1 in their units, as if it were the latents' as well."""
        return 1 + sigma if self.parameterisation == "flow" else math.sqrt(1 + sigma**2)

    def sigmas(self, steps: int, kind: str = "") -> Tensor:
        """Levels of the times that the library would take, falling, and a final 0: (steps + 1,) at most, float64."""
        n, known = self.table.times, levels_of(self.table)
        steps = min(steps, n)
        if self.table.betas == "flow":
            time, shift = (n * (1 - torch.arange(steps, dtype=torch.float64) / steps)).round() / n, self.table.shift
            time = shift * time / (1 + (shift - 1) * time)
            return torch.cat([(time / (1 - time)).clamp(max=LARGEST_SIGMA), torch.zeros(1, dtype=torch.float64)])
        if self.table.spacing == "leading":
            chosen = torch.arange(steps).flip(0) * (n // steps) + self.table.offset
        elif self.table.spacing == "trailing":
            chosen = torch.arange(n, 0, -n / steps, dtype=torch.float64).round().long()[:steps] - 1
        else:
            last = n - 1 - self.table.offset
            chosen = torch.linspace(last, 0, steps, dtype=torch.float64).round().long() + self.table.offset
        return torch.cat([known[chosen.clamp(0, n - 1)], torch.zeros(1, dtype=torch.float64)])
