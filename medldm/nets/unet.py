"""The diffusion network: MONAI's UNet in the latent space, and what it can be told beside x_t."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from medldm.nets import monai_files
from medldm.nets.blocks import CONVOLUTION

DiffusionModelUNet = monai_files.load("monai.networks.nets.diffusion_model_unet.DiffusionModelUNet")
FEW_CELLS = 1024  # that attend to each other


class Condition(NamedTuple):
    """What a network is told beside x_t and the noise level; a part that is None is not there.

    concat : (B, C, *S) beside x_t; vector : (B, 4 * channels[0]), added to the level's embedding
    tokens : (B, L, width), attended to
    control : one (B, C_i, *S_i) a skip of the U-Net, and one for its middle, added to them
    """

    concat: Tensor | None = None
    vector: Tensor | None = None
    tokens: Tensor | None = None
    control: tuple[Tensor, ...] | None = None

    def beside(self, cells: Tensor) -> Condition:
        """The same with further channels concatenated; of a batch of one, for the whole batch."""
        if self.concat is None:
            return self._replace(concat=cells)
        size = max(len(self.concat), len(cells))
        both = [part if len(part) == size else part.expand(size, *part.shape[1:]) for part in (self.concat, cells)]
        return self._replace(concat=torch.cat(both, dim=1))

    def map(self, change: Callable[[Tensor], Tensor]) -> Condition:
        """The same with every tensor changed."""
        concat, vector, tokens = (
            None if part is None else change(part) for part in (self.concat, self.vector, self.tokens)
        )
        return Condition(concat, vector, tokens, None if self.control is None else tuple(map(change, self.control)))


class LatentUNet(nn.Module):
    """(x_t scaled to unit variance, noise level 0..1, condition) -> latents.

    channels : widths, one a level; each a multiple of 16, of 32 where there is attention
    attention_levels : which levels attend (32 channels a head, flash)
    vector, token_width : whether there is a vector, and how wide tokens are (0: there are none)

    A 1 x 1 convolution leads from what is concatenated straight to the output, since the encoded measurement is
    often most of the answer.
    """

    def __init__(
        self,
        dims: int,
        *,
        latent_channels: int,
        concat_channels: int,
        channels: Sequence[int],
        attention_levels: Sequence[bool],
        num_res_blocks: int = 1,
        vector: bool = False,
        token_width: int = 0,
    ) -> None:
        super().__init__()
        self.multiple = 2 ** (len(channels) - 1)
        self.attends = 2 ** attention_levels.index(True) if any(attention_levels) else 0  # cells of x an axis of one
        self.concat_channels = concat_channels
        self.unet = DiffusionModelUNet(
            spatial_dims=dims,
            in_channels=latent_channels + concat_channels,
            out_channels=latent_channels,
            channels=tuple(channels),
            attention_levels=tuple(attention_levels),
            num_res_blocks=num_res_blocks,
            norm_num_groups=16,
            num_head_channels=32,
            use_flash_attention=True,
            num_class_embeds=1 if vector else None,
            with_conditioning=token_width > 0,
            cross_attention_dim=token_width or None,
        )
        if vector:
            self.unet.class_embedding = nn.Identity()  # it is embedded already
        if concat_channels:
            self.skip = CONVOLUTION[dims](concat_channels, latent_channels, 1)
            nn.init.zeros_(self.skip.weight)
            nn.init.zeros_(self.skip.bias)

    def forward(self, x: Tensor, level: Tensor, condition: Condition) -> Tensor:
        """x : (B, C, *S), each size a multiple of `multiple`; level : (B,); a condition of 1 is for the whole batch."""
        told = condition.map(lambda part: part if len(part) == len(x) else part.expand(len(x), *part.shape[1:]))
        control = told.control
        with sdpa_kernel(SDPBackend.MATH) if self._trains_small(x) else contextlib.nullcontext():
            out: Tensor = self.unet(
                x if told.concat is None else torch.cat([x, told.concat], dim=1),
                timesteps=level * 1000,
                context=told.tokens,
                class_labels=told.vector,
                down_block_additional_residuals=None if control is None else control[:-1],
                mid_block_additional_residual=None if control is None else control[-1],
            )
        if told.concat is not None:
            out = out + self.skip(told.concat)
        return out.to(x.dtype)

    def _trains_small(self, x: Tensor) -> bool:
        """Where the plain attention is the faster one: on a CPU the backward pass of the flash kernel takes a sixth of
        a step of 16 x 16 cells, and the plain one, which keeps a matrix of all pairs, next to nothing."""
        few = math.prod(n // self.attends for n in x.shape[2:]) <= FEW_CELLS if self.attends else False
        return few and x.device.type == "cpu" and torch.is_grad_enabled()
