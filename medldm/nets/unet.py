"""The diffusion network: MONAI's UNet in the latent space, with the condition concatenated."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medldm.nets import monai_files
from medldm.nets.blocks import CONVOLUTION

DiffusionModelUNet = monai_files.load("monai.networks.nets.diffusion_model_unet.DiffusionModelUNet")


class LatentUNet(nn.Module):
    """(x_t scaled to unit variance, noise level 0..1, cond) -> latents.

    channels : widths, one a level; each a multiple of 16, of 32 where there is attention
    attention_levels : which levels attend (32 channels a head, flash)

    A 1 x 1 convolution leads from the condition straight to the output, since the encoded measurement is
    often most of the answer.
    """

    def __init__(
        self,
        dims: int,
        *,
        latent_channels: int,
        condition_channels: int,
        channels: Sequence[int],
        attention_levels: Sequence[bool],
        num_res_blocks: int = 1,
    ) -> None:
        super().__init__()
        self.multiple = 2 ** (len(channels) - 1)
        self.condition_channels = condition_channels
        self.unet = DiffusionModelUNet(
            spatial_dims=dims,
            in_channels=latent_channels + condition_channels,
            out_channels=latent_channels,
            channels=tuple(channels),
            attention_levels=tuple(attention_levels),
            num_res_blocks=num_res_blocks,
            norm_num_groups=16,
            num_head_channels=32,
            use_flash_attention=True,
        )
        self.skip = CONVOLUTION[dims](condition_channels, latent_channels, 1)
        nn.init.zeros_(self.skip.weight)
        nn.init.zeros_(self.skip.bias)

    def forward(self, x: Tensor, level: Tensor, cond: Tensor | None) -> Tensor:
        """x : (B, C, *S), each size a multiple of `multiple`; level : (B,); cond : (B, condition_channels, *S)."""
        if cond is None:
            cond = x.new_zeros(x.shape[0], self.condition_channels, *x.shape[2:])
        out: Tensor = self.unet(torch.cat([x, cond], dim=1), timesteps=level * 1000) + self.skip(cond)
        return out.to(x.dtype)
