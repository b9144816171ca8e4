"""The convolutional autoencoder of latent diffusion (Rombach et al. 2022), by the names that diffusers gives it.

Residual blocks on every level, attention at the bottom, group norms. A second implementation, so that packs need
no other library; tests compare it with theirs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medldm.nets.blocks import CONVOLUTION

NORM_EPS = 1e-6
LOG_VARIANCE = (-30.0, 20.0)


def _conv(dims: int, c_in: int, c_out: int, size: int = 3, *, stride: int = 1, padding: int | None = None) -> nn.Module:
    made: nn.Module = CONVOLUTION[dims](
        c_in, c_out, size, stride=stride, padding=size // 2 if padding is None else padding
    )
    return made


class ResnetBlock(nn.Module):
    def __init__(self, dims: int, c_in: int, c_out: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, c_in, eps=NORM_EPS)
        self.conv1 = _conv(dims, c_in, c_out)
        self.norm2 = nn.GroupNorm(groups, c_out, eps=NORM_EPS)
        self.conv2 = _conv(dims, c_out, c_out)
        self.conv_shortcut = _conv(dims, c_in, c_out, 1) if c_in != c_out else None

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))
        out: Tensor = h + (x if self.conv_shortcut is None else self.conv_shortcut(x))
        return out


class Attention(nn.Module):
    """Every voxel of the bottom looks at every other, with one head."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.group_norm = nn.GroupNorm(groups, channels, eps=NORM_EPS)
        self.to_q, self.to_k, self.to_v = (nn.Linear(channels, channels) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor) -> Tensor:
        h = self.group_norm(x).flatten(2).transpose(1, 2)
        h = F.scaled_dot_product_attention(*(to(h)[:, None] for to in (self.to_q, self.to_k, self.to_v)))[:, 0]
        out: Tensor = x + self.to_out[0](h).transpose(1, 2).reshape(x.shape)
        return out


class Downsample(nn.Module):
    def __init__(self, dims: int, channels: int) -> None:
        super().__init__()
        self.pad = (0, 1) * dims
        self.conv = _conv(dims, channels, channels, stride=2, padding=0)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(F.pad(x, self.pad))
        return out


class Upsample(nn.Module):
    def __init__(self, dims: int, channels: int) -> None:
        super().__init__()
        self.conv = _conv(dims, channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return out


class Level(nn.Module):
    """Residual blocks, then half or twice the resolution, except at the last level."""

    def __init__(self, dims: int, c_in: int, c_out: int, groups: int, count: int, way: str | None) -> None:
        super().__init__()
        blocks = [ResnetBlock(dims, c_in if n == 0 else c_out, c_out, groups) for n in range(count)]
        self.resnets = nn.ModuleList(blocks)
        self.downsamplers = nn.ModuleList([Downsample(dims, c_out)] if way == "down" else [])
        self.upsamplers = nn.ModuleList([Upsample(dims, c_out)] if way == "up" else [])

    def forward(self, x: Tensor) -> Tensor:
        for module in (*self.resnets, *self.downsamplers, *self.upsamplers):
            x = module(x)
        return x


class Middle(nn.Module):
    def __init__(self, dims: int, channels: int, groups: int, *, attention: bool) -> None:
        super().__init__()
        self.resnets = nn.ModuleList([ResnetBlock(dims, channels, channels, groups) for _ in range(2)])
        self.attentions = nn.ModuleList([Attention(channels, groups)] if attention else [])

    def forward(self, x: Tensor) -> Tensor:
        for module in (self.resnets[0], *self.attentions, self.resnets[1]):
            x = module(x)
        return x


class Encoder(nn.Module):
    def __init__(
        self, dims: int, c_in: int, c_out: int, widths: Sequence[int], blocks: int, groups: int, *, attention: bool
    ) -> None:
        super().__init__()
        self.conv_in = _conv(dims, c_in, widths[0])
        before, last = [widths[0], *widths], len(widths) - 1
        self.down_blocks = nn.ModuleList(
            Level(dims, before[n], width, groups, blocks, "down" if n < last else None)
            for n, width in enumerate(widths)
        )
        self.mid_block = Middle(dims, widths[-1], groups, attention=attention)
        self.conv_norm_out = nn.GroupNorm(groups, widths[-1], eps=NORM_EPS)
        self.conv_out = _conv(dims, widths[-1], 2 * c_out)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level in self.down_blocks:
            x = level(x)
        out: Tensor = self.conv_out(F.silu(self.conv_norm_out(self.mid_block(x))))
        return out


class Decoder(nn.Module):
    def __init__(
        self, dims: int, c_in: int, c_out: int, widths: Sequence[int], blocks: int, groups: int, *, attention: bool
    ) -> None:
        super().__init__()
        up = list(reversed(widths))
        self.conv_in = _conv(dims, c_in, up[0])
        self.mid_block = Middle(dims, up[0], groups, attention=attention)
        before, last = [up[0], *up], len(up) - 1
        self.up_blocks = nn.ModuleList(
            Level(dims, before[n], width, groups, blocks + 1, "up" if n < last else None) for n, width in enumerate(up)
        )
        self.conv_norm_out = nn.GroupNorm(groups, up[-1], eps=NORM_EPS)
        self.conv_out = _conv(dims, up[-1], c_out)

    def forward(self, z: Tensor) -> Tensor:
        z = self.mid_block(self.conv_in(z))
        for level in self.up_blocks:
            z = level(z)
        out: Tensor = self.conv_out(F.silu(self.conv_norm_out(z)))
        return out


class KLNetwork(nn.Module):
    """Encoder, decoder and the 1 x 1 convolutions between them.

    widths : channels of each level; each level but the last halves the resolution
    blocks : residual blocks of a level of the encoder; the decoder has one more
    bottom_channels : of the encoder's result, before `quant_conv` makes latent_channels of them
    """

    def __init__(
        self,
        dims: int,
        *,
        in_channels: int,
        out_channels: int,
        latent_channels: int,
        bottom_channels: int,
        widths: Sequence[int],
        blocks: int,
        groups: int,
        attention: bool,
        quant_conv: bool,
        post_quant_conv: bool,
    ) -> None:
        super().__init__()
        bottom = bottom_channels
        self.encoder = Encoder(dims, in_channels, bottom, widths, blocks, groups, attention=attention)
        self.decoder = Decoder(dims, bottom, out_channels, widths, blocks, groups, attention=attention)
        self.quant_conv = _conv(dims, 2 * bottom, 2 * latent_channels, 1) if quant_conv else None
        self.post_quant_conv = _conv(dims, latent_channels, bottom, 1) if post_quant_conv else None

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        moments = self.encoder(x)
        if self.quant_conv is not None:
            moments = self.quant_conv(moments)
        mean, log_variance = moments.chunk(2, dim=1)
        return mean, torch.exp(0.5 * log_variance.clamp(*LOG_VARIANCE))

    def decode(self, z: Tensor) -> Tensor:
        image: Tensor = self.decoder(z if self.post_quant_conv is None else self.post_quant_conv(z))
        return image
