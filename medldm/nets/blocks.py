"""Building blocks that several networks share."""

from __future__ import annotations

import torch
from monai.networks.layers.factories import Conv
from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """``x + conv(relu(conv(relu(x))))`` with the last convolution zero at the start."""

    def __init__(self, dims: int, width: int) -> None:
        super().__init__()
        conv = Conv[Conv.CONV, dims]
        self.first = conv(width, width, 3, padding=1)
        self.second = conv(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.second(torch.relu(self.first(torch.relu(x))))
        return out
