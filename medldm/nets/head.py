"""Full-resolution head: merges the decoded estimate with the measurement.

The latents drop what they cannot hold; the measurement still has it. The head estimates
``E[x | z_0 estimate, y]``: told how sure the latent estimate is (its diffusion level), it answers with the
posterior mean when nothing but the measurement is known, and keeps to the sampled latents at the end of
sampling. It also predicts the standard deviation of its own error.

What it adds to the measurement is in units of the measurement's own error (`condition.error_scale`), so
that light and heavy noise ask for numbers of the same size: docs/decisions/0004-head-in-units-of-the-noise.md.
A head that comes `after` another one is given the other's answer in the place of the decoded estimate, and what patches
that look alike make of it (`medldm.nets.collaborative`): docs/decisions/0022-collaborative.md.
A scan that is coarse along one axis is turned so that this axis comes first: one thing to learn, not three.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medldm.net_tables import MeasurementTable
from medldm.nets.blocks import CONVOLUTION, ResidualBlock
from medldm.nets.collaborative import ESTIMATES
from medldm.nets.condition import error_scale, level_maps
from medldm.nets.patches import depth_to_space, space_to_depth
from medldm.operators.measurement import Measurement

FULL_WIDTH = 16


class MeasurementHead(nn.Module):
    """U-Net at half resolution with a thin finish at full resolution; no norm.

    channels : widths, one a level; the first is at half the image's resolution
    depth : residual blocks a level on each side
    separable : convolutions divided into space and channels, for a small head (`ResidualBlock`)
    mask : it is told where nothing was measured, and changes nothing else
    after : name of the head whose answer it is given, with what patches that look alike say; None: it comes first
    told : the scales by which it is told of the measurement
    """

    def __init__(
        self,
        dims: int,
        *,
        channels: Sequence[int],
        depth: int = 2,
        separable: bool = False,
        mask: bool = False,
        after: str | None = None,
        told: MeasurementTable | None = None,
    ) -> None:
        super().__init__()
        conv = CONVOLUTION[dims]
        self.dims = dims
        self.multiple = 2 ** len(channels)
        self.block = (2,) * dims
        self.mask, self.after, self.told = mask, after, told or MeasurementTable()
        self.guesses = 1 + (ESTIMATES if after else 0)
        inputs = (1 + self.guesses + mask) * 2**dims + 2 + dims
        self.stem = conv(inputs, channels[0], 1) if separable else conv(inputs, channels[0], 3, padding=1)
        self.pool = nn.AvgPool2d(2) if dims == 2 else nn.AvgPool3d(2)
        self.down = nn.ModuleList(
            nn.Sequential(*(ResidualBlock(dims, c, separable=separable) for _ in range(depth))) for c in channels
        )
        self.widen = nn.ModuleList(conv(a, b, 1) for a, b in zip(channels[:-1], channels[1:], strict=True))
        self.narrow = nn.ModuleList(conv(b, a, 1) for a, b in zip(channels[:-1], channels[1:], strict=True))
        self.up = nn.ModuleList(
            nn.Sequential(*(ResidualBlock(dims, c, separable=separable) for _ in range(depth))) for c in channels[:-1]
        )
        self.to_full = conv(channels[0], FULL_WIDTH * 2**dims // 2, 1)
        self.finish = nn.Sequential(
            conv(FULL_WIDTH // 2 + 1 + self.guesses + mask, FULL_WIDTH, 3, padding=1),
            nn.ReLU(inplace=True),
            conv(FULL_WIDTH, self.guesses + 2, 3, padding=1),
        )

    def silence(self, levels: int) -> None:
        """Let what lies below the first so many levels say nothing, until it has learned to."""
        for narrow in self.narrow[levels - 1 :]:
            for parameter in narrow.parameters():
                nn.init.zeros_(parameter)

    def forward(self, decoded: Tensor, measurement: Measurement, level: Tensor) -> tuple[Tensor, Tensor]:
        """Merge.

        decoded : (B, 1, *S) decoded latent estimate, each size a multiple of `multiple`
        measurement : on the same grid
        level : (B,) diffusion level of the latent estimate, 0..1 (1: nothing but the measurement is known)
        Returns the image (B, 1, *S) and the standard deviation of its error (B, 1, *S).
        """
        axis = measurement.coarse_axis()
        if axis:
            turned = measurement.swapped(0, axis)
            image, std = self._merge(decoded.transpose(2, 2 + axis), turned, level)
            return image.transpose(2, 2 + axis), std.transpose(2, 2 + axis)
        return self._merge(decoded, measurement, level)

    def _laid(self, x: Tensor) -> Tensor:
        """Channels last on a CPU, and so is all that convolutions make of it: they are faster, in 3D above all."""
        form = torch.channels_last if self.dims == 2 else torch.channels_last_3d
        return x.contiguous(memory_format=form) if x.device.type == "cpu" else x

    def _halved(self, h: Tensor) -> Tensor:
        """A pool in 3D that leaves channels last, which torch's own does not: in planes, then pairs of planes."""
        if self.dims == 2 or h.device.type != "cpu":
            pooled: Tensor = self.pool(h)
            return pooled
        planes = nn.functional.avg_pool2d(h.transpose(1, 2).flatten(0, 1), 2)
        pairs = planes.unflatten(0, (len(h), -1, 2))
        halved: Tensor = (pairs[:, :, 0] + pairs[:, :, 1]) / 2
        return halved.transpose(1, 2)

    def _merge(self, decoded: Tensor, measurement: Measurement, level: Tensor) -> tuple[Tensor, Tensor]:
        """`forward` for a scan whose coarse axis, if it has one, is the first."""
        missing = measurement.missing if self.mask else None
        where = [] if missing is None else [missing - 0.5]
        guesses = decoded if measurement.alike is None or not self.after else torch.cat([decoded, measurement.alike], 1)
        half = space_to_depth(torch.cat([measurement.image - 0.5, guesses - 0.5, *where], dim=1), self.block)
        level_map = level.to(half).view(-1, 1, *(1,) * self.dims).expand(-1, 1, *half.shape[2:])
        h = self.stem(self._laid(torch.cat([half, level_maps(measurement, self.block, self.told), level_map], dim=1)))
        skips: list[Tensor] = []
        for index, blocks in enumerate(self.down):
            h = blocks(h)
            if index < len(self.widen):
                skips.append(h)
                h = self.widen[index](self._halved(h))
        for index in reversed(range(len(self.up))):
            h = self.up[index](skips.pop() + nn.functional.interpolate(self.narrow[index](h), scale_factor=2))
        full = depth_to_space(self.to_full(torch.relu_(h)), self.block)
        scale = error_scale(measurement, self.told)
        apart = ((guesses - measurement.image) / scale).clamp(-4, 4)
        finish = self.finish(self._laid(torch.cat([full, measurement.image - 0.5, apart, *where], dim=1))).float()
        gate, residual, log_std = finish.split([self.guesses, 1, 1], dim=1)
        share = torch.sigmoid(gate - 2) if not self.after else torch.softmax(gate, dim=1)
        change = scale * ((share * apart).sum(1, keepdim=True) + residual)
        std = scale * torch.exp((log_std - 1).clamp(-6, 3))
        if missing is not None:
            change, std = missing * change, missing * std
        return measurement.image + change, std
