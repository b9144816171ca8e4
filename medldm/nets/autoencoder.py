"""What every autoencoder of medldm is: images to white latents and back.

A kind of autoencoder fills in five things: `raw_encode`, `raw_decode`, `last_weight`, `halo`, and, where data can
set it before any training, `begin`. Everything else (white latents, quantisation, sizes that do not divide) is
here, once.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medldm.nets.patches import pad_to_multiple
from medldm.nets.quantizers import Quantizer


class Autoencoder(nn.Module, ABC):
    """Images (B, 1, *S) to latents (B, channels, *S / factor) and back.

    dims : 2 or 3
    channels : latent channels
    factor : downsampling along each axis
    halo : latent cells around a tile that its own encoding or decoding depends on; None where a tile depends on
        the whole image (a norm over space, attention)
    quantizer : what latents are rounded to before they are decoded; None for continuous (KL) latents

    Latents have mean 0 and standard deviation 1 a channel over the training set, by `set_latent_statistics`.
    Quantised latents are diffused before they are rounded, as in Rombach et al. 2022, section 3.1 (VQ-reg).
    """

    latent_mean: Tensor
    latent_std: Tensor

    def __init__(
        self,
        dims: int,
        *,
        channels: int,
        factor: Sequence[int],
        halo: int | None,
        quantizer: Quantizer | None = None,
    ) -> None:
        super().__init__()
        self.dims, self.channels, self.factor, self.halo = dims, channels, tuple(factor), halo
        self.quantizer = quantizer
        self.register_buffer("latent_mean", torch.zeros(channels))
        self.register_buffer("latent_std", torch.ones(channels))

    @abstractmethod
    def raw_encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation of the latents (broadcastable to the mean), in the network's own units."""

    @abstractmethod
    def raw_decode(self, z: Tensor) -> Tensor:
        """Latents in the network's own units -> image."""

    @property
    @abstractmethod
    def last_weight(self) -> Tensor:
        """Weights of the convolution that decoding ends with: where an adversary's gradient is measured."""

    def begin(self, patches: Tensor) -> float | None:
        """Set what data can set before any training, from blocks (N, prod(factor)); the variance kept, or None."""
        return None

    def raw_channel_deviation(self) -> Tensor:
        """Deviation in the image that a unit of each latent carries, up to a common factor: (channels,)."""
        return torch.ones_like(self.latent_std)

    def per_channel(self, values: Tensor) -> Tensor:
        return values.view(1, -1, *(1,) * self.dims)

    def set_latent_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Store the latents' mean and deviation a channel (channels,), measured with the statistics at 0 and 1."""
        self.latent_mean.copy_(mean)
        self.latent_std.copy_(std)

    def channel_weights(self) -> Tensor:
        """Deviation of the image that a channel carries, of mean 1: (1, channels, 1, ...)."""
        deviation = self.raw_channel_deviation() * self.latent_std
        return self.per_channel(deviation / deviation.mean())

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 1, *S), each size a multiple of its factor -> mean of the white latents, and their deviation."""
        mean, std = self.raw_encode(x)
        scale = self.per_channel(self.latent_std)
        return (mean - self.per_channel(self.latent_mean)) / scale, std / scale

    def quantize(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """White latents as they will be decoded, and the loss that keeps encoder and codebook together (a number)."""
        raw = z * self.per_channel(self.latent_std) + self.per_channel(self.latent_mean)
        if self.quantizer is None:
            return raw, raw.new_zeros(())
        rounded, loss = self.quantizer(raw)
        return rounded, loss

    def decode(self, z: Tensor) -> Tensor:
        """White latents (B, channels, *S / factor) -> image (B, 1, *S)."""
        return self.raw_decode(self.quantize(z)[0])

    def reconstruct(self, x: Tensor) -> Tensor:
        """(B, 1, *S) of any size, encoded (mean) and decoded; padded inside, cropped back."""
        padded, crop = pad_to_multiple(x, self.multiple)
        return self.decode(self.encode(padded)[0])[crop]

    @property
    def multiple(self) -> tuple[int, ...]:
        """What sizes are padded to a multiple of: the factor, unless the kind needs several cells."""
        return self.factor

    @property
    def compression(self) -> float:
        """Pixels a latent number."""
        return math.prod(self.factor) / self.channels
