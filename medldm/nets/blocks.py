"""Building blocks that several networks share, and how their weights lie in memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

CONVOLUTION: dict[int, Any] = {2: nn.Conv2d, 3: nn.Conv3d}


class ResidualBlock(nn.Module):
    """``x + conv(relu(conv(relu(x))))`` with the last convolution zero at the start.

    separable : the first convolution is each channel's own, the second mixes channels at a point (Howard et al. 2017):
        many times fewer weights, in 3D above all
    """

    def __init__(self, dims: int, width: int, *, separable: bool = False) -> None:
        super().__init__()
        conv = CONVOLUTION[dims]
        self.first = conv(width, width, 3, padding=1, groups=width if separable else 1)
        self.second = conv(width, width, 1) if separable else conv(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.second(torch.relu_(self.first(torch.relu(x))))
        return out.add_(x)


def last_convolution(network: nn.Module) -> Tensor:
    """Weights of the convolution that a network ends with, one that names its layers in the order of their use."""
    *_, last = (module.weight for module in network.modules() if isinstance(module, (nn.Conv2d, nn.Conv3d)))
    return last


def channels_last(module: nn.Module, dims: int) -> None:
    """Let the weights of convolutions lie channels last, in place; what they convolve then follows.

    On a CPU autoencoders and heads train 1.1 to 1.4 times as fast so (`benchmarks/training_speed.py`); the U-Net,
    whose attention wants rows of its own, does not. Values stay; sums are taken in another order. On other devices
    nothing is changed: there it has not been measured.
    """
    form = torch.channels_last if dims == 2 else torch.channels_last_3d
    for parameter in module.parameters():
        if parameter.device.type == "cpu" and parameter.ndim == 2 + dims:
            parameter.data = parameter.data.contiguous(memory_format=form)


def rows_last(module: nn.Module) -> None:
    """The reverse: every weight contiguous, as weights that are to be divided must be."""
    for parameter in module.parameters():
        parameter.data = parameter.data.contiguous()
