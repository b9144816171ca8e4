"""Autoencoder that starts as a whitened block PCA.

Decision: it begins as block PCA, which is exact and instant, and residual blocks at the latent
resolution, whose last convolution is zero, learn what is not linear (residual autoencoding: Chen et al.
2024, DC-AE). Because: on these images the linear start is decibels ahead of a convolutional autoencoder
of the same training time (docs/decisions/0001-autoencoder.md). The branches see and say
white numbers: in units of pixels a block's brightness would hide its detail, and what is left out is a hundredth of
that. There is no norm over space and no attention, so a tile's latents are the whole's latents.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medldm.nets.autoencoder import Autoencoder
from medldm.nets.blocks import CONVOLUTION, ResidualBlock, last_convolution
from medldm.nets.patches import depth_to_space, space_to_depth
from medldm.nets.quantizers import Quantizer

LOG_STD_RANGE = 4.0
LEAST_DEVIATION = 1e-3  # of a component brought to deviation 1: what is below is the rounding of stored images


def _residual_branch(dims: int, c_in: int, c_out: int, width: int, depth: int) -> nn.Sequential:
    conv = CONVOLUTION[dims]
    last = conv(width, c_out, 3, padding=1)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    blocks = [ResidualBlock(dims, width) for _ in range(depth)]
    return nn.Sequential(conv(c_in, width, 3, padding=1), *blocks, nn.ReLU(), last)


class PCAAutoencoder(Autoencoder):
    """Block PCA with residual branches.

    factor : downsampling along each axis
    width, encoder_depth, decoder_depth : of the residual branches
    white_branches : the encoder's branch sees all principal components at deviation 1, and the decoder's speaks in
        deviations of those that the latents leave out; else both are in the units of pixels (packs of before)
    noise_std : standard deviation of the latent's Gaussian, in units of the latent's own
    learned_std : let the encoder say the deviation of each latent, from `noise_std` on; else it is fixed
    """

    mean: Tensor
    analysis: Tensor
    synthesis: Tensor
    whitening: Tensor
    colouring: Tensor

    def __init__(
        self,
        dims: int,
        *,
        factor: Sequence[int],
        channels: int,
        width: int = 96,
        encoder_depth: int = 2,
        decoder_depth: int = 4,
        noise_std: float = 0.01,
        learned_std: bool = False,
        white_branches: bool = True,
        quantizer: Quantizer | None = None,
    ) -> None:
        halo = 2 + 2 * max(encoder_depth, decoder_depth)
        super().__init__(dims, channels=channels, factor=factor, halo=halo, quantizer=quantizer)
        self.noise_std, self.learned_std = noise_std, learned_std
        patch = math.prod(self.factor)
        self.register_buffer("mean", torch.zeros(patch))
        self.register_buffer("analysis", torch.eye(patch)[:channels].clone())
        self.register_buffer("synthesis", torch.eye(patch)[:, :channels].clone())
        self.white_branches = white_branches
        if white_branches:
            self.register_buffer("whitening", torch.eye(patch))
            self.register_buffer("colouring", torch.eye(patch))
        outputs = channels * (2 if learned_std else 1)
        self.encoder = _residual_branch(dims, patch, outputs, width, encoder_depth)
        self.decoder = _residual_branch(dims, channels, patch, width, decoder_depth)

    def begin(self, patches: Tensor) -> float:
        """Set the linear part to the block PCA of `patches` (N, prod(factor)); returns the variance kept (0..1)."""
        patches = patches.double()
        mean = patches.mean(0)
        values, vectors = torch.linalg.eigh(torch.atleast_2d(torch.cov(patches.T)))
        values, vectors = values.flip(0).clamp_min(1e-12), vectors.flip(1)
        top, kept = vectors[:, : self.channels], values[: self.channels]
        self.mean.copy_(mean)
        self.analysis.copy_((top / kept.sqrt()).T)
        self.synthesis.copy_(top * kept.sqrt())
        if self.white_branches:
            self.whitening.copy_((vectors / values.sqrt().clamp_min(LEAST_DEVIATION)).T)
            left_out = values[min(self.channels, len(values) - 1)]
            self.colouring.copy_(vectors * values.clamp_max(left_out).sqrt())
        return float(kept.sum() / values.sum())

    @property
    def last_weight(self) -> Tensor:
        return last_convolution(self.decoder)

    def raw_channel_deviation(self) -> Tensor:
        norm: Tensor = self.synthesis.norm(dim=0)
        return norm

    def raw_encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        patches = space_to_depth(x, self.factor) - self.per_channel(self.mean)
        with torch.autocast(x.device.type, enabled=False):  # half precision would cap the result at 48 dB
            linear = torch.einsum("cp,bp...->bc...", self.analysis, patches)
            seen = torch.einsum("qp,bp...->bq...", self.whitening, patches) if self.white_branches else patches
        learned = self.encoder(seen).to(linear.dtype)
        if not self.learned_std:
            return linear + learned, linear.new_full((1,) * linear.ndim, self.noise_std)
        shift, log_std = learned.chunk(2, dim=1)
        return linear + shift, self.noise_std * torch.exp(log_std.clamp(-LOG_STD_RANGE, LOG_STD_RANGE))

    def raw_decode(self, z: Tensor) -> Tensor:
        said = self.decoder(z).to(z.dtype)
        with torch.autocast(z.device.type, enabled=False):
            linear = torch.einsum("pc,bc...->bp...", self.synthesis, z) + self.per_channel(self.mean)
            learned = torch.einsum("pq,bq...->bp...", self.colouring, said) if self.white_branches else said
        return depth_to_space(linear + learned, self.factor)
