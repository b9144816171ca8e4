"""MONAI's convolutional autoencoder behind our interface: the option beside the linear start.

It begins from random weights and has group norms, so a tile's latents are not those of the whole; attention is
off unless asked for. docs/decisions/0001-autoencoder.md compares both.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from medldm.nets import monai_files
from medldm.nets.autoencoder import Autoencoder
from medldm.nets.blocks import last_convolution
from medldm.nets.quantizers import Quantizer

AutoencoderKL = monai_files.load("monai.networks.nets.autoencoderkl.AutoencoderKL")


class MonaiAutoencoder(Autoencoder):
    """`monai.networks.nets.AutoencoderKL`, with no attention at its levels.

    widths : a level each, multiples of `norm_groups`; each level but the last halves the resolution
    middle_attention : at the lowest resolution, over the whole image, as MONAI's tutorials have it
    """

    def __init__(
        self,
        dims: int,
        *,
        channels: int,
        widths: Sequence[int] = (32, 64, 64),
        num_res_blocks: int = 2,
        norm_groups: int = 16,
        middle_attention: bool = False,
        quantizer: Quantizer | None = None,
    ) -> None:
        factor = (2 ** (len(widths) - 1),) * dims
        super().__init__(dims, channels=channels, factor=factor, halo=None, quantizer=quantizer)
        self.network = AutoencoderKL(
            spatial_dims=dims,
            in_channels=1,
            out_channels=1,
            num_res_blocks=num_res_blocks,
            channels=tuple(widths),
            attention_levels=(False,) * len(widths),
            latent_channels=channels,
            norm_num_groups=norm_groups,
            with_encoder_nonlocal_attn=middle_attention,
            with_decoder_nonlocal_attn=middle_attention,
        )

    @property
    def multiple(self) -> tuple[int, ...]:
        """Two cells along each axis: a group norm has no deviation over one."""
        return tuple(2 * f for f in self.factor)

    @property
    def last_weight(self) -> Tensor:
        return last_convolution(self.network.decoder)

    def raw_encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = self.network.encode(x - 0.5)
        return mean.float(), std.float().clamp(1e-4, 10)

    def raw_decode(self, z: Tensor) -> Tensor:
        image: Tensor = self.network.decode(z)
        return image.float() + 0.5
