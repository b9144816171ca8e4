"""One level of a cascade: what draws the latents of whole images, at one resolution, under conditions.

Anatomy is decided on coarse images, where a step costs little; finer levels, which see the coarser image, add what it
lacks. They are taught on coarse images with noise, and told how much, since the images that they will be given are not
perfect either (cascaded diffusion with conditioning augmentation: Ho et al. 2022).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medldm.diffusion.process import Denoiser
from medldm.diffusion.timed import process_of
from medldm.net_tables import GeneratorTable, ImportedNetTable
from medldm.nets.autoencoder import Autoencoder
from medldm.nets.conditioner import Conditioner, Conditions, NumberEmbedding
from medldm.nets.imported.unet import ForeignConditioner, ForeignUNet
from medldm.nets.patches import space_to_depth
from medldm.nets.unet import Condition, LatentUNet
from medldm.pack import ModelPack

LINEAR = {2: "bilinear", 3: "trilinear"}


class Coarse(NamedTuple):
    """The image of the level before, (B, 1, *S), and the deviation of the noise that was added to it, (B,)."""

    image: Tensor
    noise_std: Tensor


class Generator(nn.Module):
    """Level `number` of the pack's cascade.

    Its latents are the autoencoder's, of images coarsened by `coarsen`, and at finer levels what is lacking in those of
    the interpolated coarser image; brought to mean 0 and deviation 1 a channel by statistics of its own.

    table : the level's; None: as the pack says
    """

    latent_mean: Tensor
    latent_std: Tensor

    def __init__(self, pack: ModelPack, number: int, table: GeneratorTable | None = None) -> None:
        super().__init__()
        assert pack.synthesis is not None
        self.table, self.dims = table or pack.synthesis.cascade[number], pack.dims
        self._guide: tuple[Generator, ...] = ()  # a tuple: its weights are no part of this module's
        self.factor, channels = pack.latent_factor, pack.autoencoder.channels
        whole = padded_shape(pack, pack.synthesis.shape[: pack.dims])
        self.cells = [n // (f * self.table.coarsen) for n, f in zip(whole, self.factor, strict=True)]
        unet = self.table.unet
        if isinstance(unet, ImportedNetTable):
            self.ratio = 0
            self.conditioner: nn.Module = ForeignConditioner(pack.synthesis.conditions, pack.dims, unet)
            self.denoiser = Denoiser(ForeignUNet(pack.dims, unet, pack.spacing), process_of(self.table.process))
            self._begin(channels)
            return
        block = [factor * self.table.coarsen for factor in self.factor]
        conditioner = Conditioner(pack.synthesis.conditions, pack.dims, unet.channels, unet.num_res_blocks, block)
        self.conditioner, concat = conditioner, conditioner.concat_channels
        self.ratio = 0
        concat += pack.dims * self.table.coordinates
        if number:
            self.ratio = pack.synthesis.cascade[number - 1].coarsen // self.table.coarsen
            self.noise_embedding = NumberEmbedding(4 * unet.channels[0])
            concat += math.prod(self._depth())
        net = LatentUNet(
            pack.dims,
            latent_channels=channels,
            concat_channels=concat,
            channels=unet.channels,
            attention_levels=unet.attention_levels,
            num_res_blocks=unet.num_res_blocks,
            vector=conditioner.has_vector or bool(number),
            token_width=unet.channels[-1] if conditioner.has_tokens else 0,
        )
        self.denoiser = Denoiser(net, process_of(self.table.process))
        self._begin(channels)

    def _begin(self, channels: int) -> None:
        self.register_buffer("latent_mean", torch.zeros(channels))
        self.register_buffer("latent_std", torch.ones(channels))

    @property
    def guide(self) -> Generator | None:
        """The same with a smaller network and in the same units, that estimates are moved away from; None: none."""
        return self._guide[0] if self._guide else None

    def follow(self, guide: Generator) -> None:
        self._guide = (guide,)

    def _depth(self) -> list[int]:
        """Coarse pixels in a latent cell along each axis, 1 where they are as large or larger."""
        return [max(1, factor // self.ratio) for factor in self.factor]

    def where(self, cells: Sequence[int]) -> Tensor | None:
        """Where the cells of a field lie, (1, dims, *cells): from its middle, in halves of the model's image.

        None where the network is not told."""
        if not self.table.coordinates:
            return None
        axes = [(torch.arange(n) + 0.5 - n / 2) / (whole / 2) for n, whole in zip(cells, self.cells, strict=True)]
        return torch.stack(torch.meshgrid(*axes, indexing="ij"))[None].to(self.latent_mean)

    def condition(self, asked: Conditions, coarse: Coarse | None, where: Tensor | None) -> Condition:
        """What the denoiser is told: the conditions; where its cells lie (B, dims, *cells), if it has coordinates; and,
        but at the first level, the coarser image."""
        told: Condition = self.conditioner(asked)
        if where is not None and self.table.coordinates:
            told = told.beside(where)
        if coarse is None:
            return told
        image, depth = (coarse.image - 0.5) * 2, self._depth()
        size = [n * self.ratio // f for n, f in zip(image.shape[2:], self.factor, strict=True)]  # latent grid
        fine = [n * d for n, d in zip(size, depth, strict=True)]
        if list(image.shape[2:]) != fine:
            image = F.interpolate(image, size=fine, mode=LINEAR[self.dims], align_corners=False)
        told = told.beside(space_to_depth(image, depth))
        low, high = self.table.coarse_noise
        noise = self.noise_embedding((coarse.noise_std - low) / max(high - low, 1e-6))
        vector = noise if told.vector is None else told.vector + noise
        return told._replace(vector=vector)

    def forward(
        self, x_t: Tensor, sigma: Tensor, asked: Conditions, coarse: Coarse | None, where: Tensor | None = None
    ) -> Tensor:
        """Noisy latents in this level's units (B, C, *S), (B,) -> E[x_0]; the rest as `condition` takes it, and without
        `where` they are those of a whole image."""
        where = self.where(x_t.shape[2:]) if where is None else where
        x_0: Tensor = self.denoiser(x_t, sigma, self.condition(asked, coarse, where))
        return x_0

    def guess(self, autoencoder: Autoencoder, coarse: Coarse | None) -> Tensor | None:
        """Latents of the coarser image, interpolated: what a finer level begins from; None at the first.

        It draws what is lacking to the image, so that blocks agree in what the coarser image says already.
        """
        if coarse is None:
            return None
        mode = LINEAR[self.dims]
        return autoencoder.encode(F.interpolate(coarse.image, scale_factor=self.ratio, mode=mode))[0]

    def own(self, z: Tensor, guess: Tensor | None) -> Tensor:
        """The autoencoder's latents in this level's units, less what was guessed."""
        lacking = z if guess is None else z - guess
        return (lacking - self._channels(self.latent_mean)) / self._channels(self.latent_std)

    def of_autoencoder(self, x_0: Tensor, guess: Tensor | None) -> Tensor:
        """The reverse of `own`."""
        lacking = x_0 * self._channels(self.latent_std) + self._channels(self.latent_mean)
        return lacking if guess is None else guess + lacking

    def set_units(self, mean: Tensor, std: Tensor) -> None:
        """What is 0 and 1 in each channel of the level's latents, and of its guide's."""
        for part in (self, self.guide):
            if part is not None:
                part.latent_mean.copy_(mean)
                part.latent_std.copy_(std)

    def _channels(self, values: Tensor) -> Tensor:
        return values.view(1, -1, *(1,) * self.dims)


def coarsened(x: Tensor, ratio: int) -> Tensor:
    """Means of blocks of `ratio` voxels an axis: (B, C, *S) -> (B, C, *S / ratio)."""
    pool = F.avg_pool2d if x.ndim == 4 else F.avg_pool3d
    return x if ratio == 1 else pool(x, ratio)


def padded_shape(pack: ModelPack, shape: Sequence[int]) -> list[int]:
    """What whole images are padded to, so that every level of the cascade takes them (dims numbers)."""
    assert pack.synthesis is not None
    multiples = [
        math.lcm(*(f * level.coarsen * level.unet.multiple for level in pack.synthesis.cascade))
        for f in pack.latent_factor
    ]
    return [-(-n // m) * m for n, m in zip(shape, multiples, strict=False)]
