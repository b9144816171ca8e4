"""Exponential average of the weights, whose memory grows with the run."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from medldm.training.sharding import scattered


class WeightAverage:
    """Running mean of a module's parameters over the last tenth of the run, up to ``1 / (1 - decay)`` steps.

    With the full memory from the start, the average of a short run is mostly what it began with. Buffers are
    not averaged.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module, self.decay, self.count = module, decay, 0
        self.mean = {name: p.detach().clone() for name, p in module.named_parameters()}

    @torch.no_grad()
    def update(self) -> None:
        share = max(1 - self.decay, 9 / (10 + self.count)) if self.count else 1.0
        for name, parameter in self.module.named_parameters():
            self.mean[name].lerp_(parameter.detach(), share)
        self.count += 1

    @torch.no_grad()
    def copy_to_module(self) -> None:
        for name, parameter in self.module.named_parameters():
            parameter.copy_(self.mean[name])

    def state_dict(self) -> dict[str, Tensor | int]:
        return {**self.mean, "count": self.count}

    def load_state_dict(self, state: dict[str, Tensor | int]) -> None:
        self.count = int(state["count"])
        for name, mean in self.mean.items():
            mean.copy_(scattered(cast(Tensor, state[name]), mean))
