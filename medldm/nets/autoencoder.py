"""Autoencoder that starts as a whitened linear code.

Decision: the code begins as block PCA, which is exact and instant, and residual blocks at the latent
resolution, whose last convolution is zero, learn what is not linear (residual autoencoding: Chen et al.
2024, DC-AE). Because: on these images the linear start is decibels ahead of a convolutional autoencoder
of the same training time (docs/decisions/0001-autoencoder.md). There is no norm over space and no
attention, so a tile's latents are the whole's latents.
"""

from __future__ import annotations

import math

import torch
from monai.networks.layers.factories import Conv
from torch import Tensor, nn

from medldm.nets.patches import depth_to_space, space_to_depth


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


def _residual_branch(dims: int, c_in: int, c_out: int, width: int, depth: int) -> nn.Sequential:
    conv = Conv[Conv.CONV, dims]
    last = conv(width, c_out, 3, padding=1)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    blocks = [ResidualBlock(dims, width) for _ in range(depth)]
    return nn.Sequential(conv(c_in, width, 3, padding=1), *blocks, nn.ReLU(), last)


class Autoencoder(nn.Module):
    """Images (B, 1, *S) to latents (B, channels, *S / factor) and back.

    dims : 2 or 3
    factor : downsampling, the same along each axis
    channels : latent channels
    width, encoder_depth, decoder_depth : of the residual branches
    noise_std : standard deviation of the latent's Gaussian (fixed, in units of the latent's own)

    Latents have mean 0 and standard deviation 1 a channel over the training set: block PCA is whitened, and
    `set_latent_statistics` stores what was measured after training.
    """

    mean: Tensor
    analysis: Tensor
    synthesis: Tensor
    latent_mean: Tensor
    latent_std: Tensor

    def __init__(
        self,
        dims: int,
        *,
        factor: int,
        channels: int,
        width: int = 96,
        encoder_depth: int = 2,
        decoder_depth: int = 4,
        noise_std: float = 0.01,
    ) -> None:
        super().__init__()
        self.dims, self.channels, self.noise_std = dims, channels, noise_std
        self.factor = (factor,) * dims
        patch = math.prod(self.factor)
        self.register_buffer("mean", torch.zeros(patch))
        self.register_buffer("analysis", torch.eye(patch)[:channels].clone())
        self.register_buffer("synthesis", torch.eye(patch)[:, :channels].clone())
        self.register_buffer("latent_mean", torch.zeros(channels))
        self.register_buffer("latent_std", torch.ones(channels))
        self.encoder = _residual_branch(dims, patch, channels, width, encoder_depth)
        self.decoder = _residual_branch(dims, channels, patch, width, decoder_depth)

    def start_linear(self, patches: Tensor) -> float:
        """Set the linear code to the block PCA of `patches` (N, prod(factor)); returns the variance kept (0..1)."""
        patches = patches.double()
        mean = patches.mean(0)
        values, vectors = torch.linalg.eigh(torch.cov(patches.T))
        values, vectors = values.flip(0).clamp_min(1e-12), vectors.flip(1)
        top, kept = vectors[:, : self.channels], values[: self.channels]
        self.mean.copy_(mean)
        self.analysis.copy_((top / kept.sqrt()).T)
        self.synthesis.copy_(top * kept.sqrt())
        return float(kept.sum() / values.sum())

    def set_latent_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Store the latents' mean and deviation a channel (channels,), measured with the statistics at 0 and 1."""
        self.latent_mean.copy_(mean)
        self.latent_std.copy_(std)

    def channel_weights(self) -> Tensor:
        """Deviation of the image that a channel carries, of mean 1: (1, channels, 1, ...)."""
        deviation = self.synthesis.norm(dim=0) * self.latent_std
        return self._per_channel(deviation / deviation.mean())

    def _per_channel(self, values: Tensor) -> Tensor:
        return values.view(1, -1, *(1,) * self.dims)

    def encode(self, x: Tensor) -> tuple[Tensor, float]:
        """(B, 1, *S), each size a multiple of the factor -> mean of the latents, and their deviation."""
        patches = space_to_depth(x, self.factor) - self._per_channel(self.mean)
        with torch.autocast(x.device.type, enabled=False):  # half precision would cap the code at 48 dB
            linear = torch.einsum("cp,bp...->bc...", self.analysis, patches)
        z = linear + self.encoder(patches).to(linear.dtype)
        return (z - self._per_channel(self.latent_mean)) / self._per_channel(self.latent_std), self.noise_std

    def decode(self, z: Tensor) -> Tensor:
        """Latents (B, channels, *S / factor) -> image (B, 1, *S)."""
        z = z * self._per_channel(self.latent_std) + self._per_channel(self.latent_mean)
        with torch.autocast(z.device.type, enabled=False):
            linear = torch.einsum("pc,bc...->bp...", self.synthesis, z) + self._per_channel(self.mean)
        return depth_to_space(linear + self.decoder(z).to(linear.dtype), self.factor)
