"""What the networks are told about the measurement.

Everything enters by concatenation: a network sees the measurement on the fine grid and, as constant maps,
how noisy and how coarse it was. All zeros, the flag included, mean "no measurement" (synthesis).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from medldm.nets.autoencoder import Autoencoder
from medldm.nets.patches import space_to_depth

NOISE_STD_RANGE = (0.001, 0.3)
GAP_ERROR = 0.1  # of an interpolated gap, as a share of the range; the denoiser knows noise alone, and is told this


class Measurement(NamedTuple):
    """A degraded image as the networks take it.

    image : (B, 1, *S) on the fine grid (interpolated where it was measured coarsely), scaled to 0..1
    noise_std : (B,) noise of the measurement before interpolation, same unit as `image`
    factor : (B, dims) blocks averaged along each axis (1 = none)
    gap : (B, 1, *S) 1 where nothing was measured and `image` is interpolated, else 0; None: no gaps
    """

    image: Tensor
    noise_std: Tensor
    factor: Tensor
    gap: Tensor | None = None

    def map(self, change: Callable[[Tensor], Tensor]) -> Measurement:
        """The same with every tensor changed."""
        return Measurement(*(None if field is None else change(field) for field in self))  # type: ignore[arg-type]

    def on_image(self, change: Callable[[Tensor], Tensor]) -> Measurement:
        """The same with what lies on the image's grid changed: flipped, cut."""
        return self._replace(image=change(self.image), gap=None if self.gap is None else change(self.gap))

    def swapped(self, a: int, b: int) -> Measurement:
        """The same with axes `a` and `b` of the image exchanged."""
        order = list(range(self.factor.shape[1]))
        order[a], order[b] = order[b], order[a]
        return self.on_image(lambda t: t.transpose(2 + a, 2 + b))._replace(factor=self.factor[:, order])

    def level_maps(self, size: torch.Size | tuple[int, ...]) -> Tensor:
        """(B, 1 + dims, *size): noise level (0 at 0.1 % of the range, 1 at 30 %) and log2 of the factor."""
        low, high = NOISE_STD_RANGE
        log_noise = torch.log(self.noise_std.clamp(low, high) / low) / torch.log(torch.tensor(high / low))
        levels = torch.cat(
            [log_noise[:, None].to(self.image), torch.log2(self.factor.to(self.image)) / 2], dim=1
        )
        return levels.view(*levels.shape, *(1,) * len(size)).expand(-1, -1, *size)

    def error_scale(self) -> Tensor:
        """(B,) about how far the interpolated measurement is off: its noise, and 3 % of the range for each halving."""
        missing = 0.03 * torch.log2(self.factor.amax(1)) + (0.0 if self.gap is None else GAP_ERROR)
        return torch.sqrt(self.noise_std.clamp_min(0.003).square() + missing.square())

    def to_latent_condition(self, autoencoder: Autoencoder) -> Tensor:
        """(B, condition_channels, *S / factor): flag, levels, encoded measurement, all its pixels."""
        told = self if self.gap is None else self._replace(noise_std=self.noise_std.clamp_min(GAP_ERROR))
        encoded, _ = autoencoder.encode(self.image)
        pixels = (space_to_depth(self.image, autoencoder.factor) - 0.5) * 2
        flag = torch.ones_like(encoded[:, :1])
        return torch.cat([flag, told.level_maps(encoded.shape[2:]), encoded, pixels], dim=1)


def coarse_axis(factor: Tensor) -> int:
    """The one axis along which a batch was measured coarsely, 0 where there is none or more than one."""
    coarse = (factor > 1).any(0)
    return int(coarse.int().argmax()) if int(coarse.sum()) == 1 else 0


def condition_channels(autoencoder: Autoencoder) -> int:
    return 2 + autoencoder.dims + autoencoder.channels + math.prod(autoencoder.factor)
