"""The training loop of MONAI's own VAE-GAN tutorial, written again for radiographs: the other side of training_speed.

Source: Project-MONAI/tutorials, generation/2d_ldm/train_autoencoder.py, its utils.py and config/config_train_16g.json.
Network, batch, crop, losses and their weights, Adam, single precision, a cached data set, a loader without workers,
scalars written to TensorBoard at each step: as there. What differs, and why:

- The perceptual term is the distance of medldm's EfficientNet-Lite0 in place of SqueezeNet's, whose weights
  `monai.losses.PerceptualLoss` would download.
- A batch is one crop each of so many radiographs, in place of so many slices of one volume; the transforms that turn
  a volume and pick its slices are left out.
- `torch.autograd.set_detect_anomaly(True)`, which the tutorial leaves on, is off here: it would only slow it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from monai.data import CacheDataset, DataLoader
from monai.losses import PatchAdversarialLoss
from monai.networks.nets import AutoencoderKL, PatchDiscriminator
from monai.transforms import (
    Compose,
    DivisiblePadd,
    EnsureChannelFirstd,
    EnsureTyped,
    Lambdad,
    LoadImaged,
    RandSpatialCropd,
    ScaleIntensityRangePercentilesd,
)
from monai.utils import set_determinism
from torch import Tensor
from torch.nn import L1Loss
from torch.utils.tensorboard import SummaryWriter

from medldm.training.losses import PerceptualDistance

CHANNELS, LATENT_CHANNELS, NORM_GROUPS = (64, 128, 256), 1, 32
BATCH_SIZE, CROP = 13, 240
LR, PERCEPTUAL_WEIGHT, KL_WEIGHT, ADVERSARIAL_WEIGHT = 2.5e-5, 1.0, 1e-6, 0.5

Pace = Callable[[Iterator[dict[str, Tensor]]], Iterator[dict[str, Tensor]]]


@dataclass(frozen=True)
class Terms:
    """Which losses are computed beside L1 and KL. The tutorial's adversary begins after its sixth epoch."""

    perceptual: bool
    adversary: bool


def tutorial_network() -> AutoencoderKL:
    return AutoencoderKL(
        spatial_dims=2,
        in_channels=1,
        out_channels=1,
        latent_channels=LATENT_CHANNELS,
        channels=CHANNELS,
        num_res_blocks=2,
        norm_num_groups=NORM_GROUPS,
        norm_eps=1e-6,
        attention_levels=(False,) * len(CHANNELS),
        with_encoder_nonlocal_attn=True,
        with_decoder_nonlocal_attn=True,
    )


def loader(files: Sequence[Path], batch_size: int, crop: int) -> DataLoader:
    divisible = 2 ** (len(CHANNELS) - 1)
    transforms = Compose(
        [
            LoadImaged(keys=["image"], reader="PILReader"),
            EnsureChannelFirstd(keys=["image"]),
            Lambdad(keys="image", func=lambda x: x[0]),  # grey images may be stored as three equal channels
            EnsureChannelFirstd(keys=["image"], channel_dim="no_channel"),
            EnsureTyped(keys=["image"]),
            DivisiblePadd(keys=["image"], k=divisible),
            ScaleIntensityRangePercentilesd(keys="image", lower=0, upper=100.0, b_min=-1, b_max=1),
            RandSpatialCropd(keys=["image"], roi_size=(crop, crop), random_size=False),
            EnsureTyped(keys="image", dtype=torch.float32),
        ]
    )
    cached = CacheDataset([{"image": str(file)} for file in files], transforms, cache_rate=1.0, progress=False)
    return DataLoader(cached, batch_size=batch_size, shuffle=True, num_workers=0, drop_last=True)


def kl_loss(mean: Tensor, std: Tensor) -> Tensor:
    each = 0.5 * torch.sum(mean.pow(2) + std.pow(2) - torch.log(std.pow(2)) - 1, dim=list(range(1, std.ndim)))
    return torch.sum(each) / each.shape[0]


def run(files: Sequence[Path], terms: Terms, batch_size: int, crop: int, log: Path, pace: Pace) -> None:
    """Train on crops of `files` for as long as `pace` lets a batch through; scalars go to the folder `log`."""
    set_determinism(42)
    batches = loader(files, batch_size, crop)
    autoencoder = tutorial_network()
    discriminator = PatchDiscriminator(
        spatial_dims=2, num_layers_d=3, channels=32, in_channels=1, out_channels=1, norm="INSTANCE"
    )
    intensity_loss, adv_loss = L1Loss(), PatchAdversarialLoss(criterion="least_squares")
    distance = PerceptualDistance().requires_grad_(False) if terms.perceptual else None
    optimizer_g = torch.optim.Adam(autoencoder.parameters(), lr=LR)
    optimizer_d = torch.optim.Adam(discriminator.parameters(), lr=LR)
    writer = SummaryWriter(str(log))
    autoencoder.train()
    discriminator.train()

    def epochs() -> Iterator[dict[str, Tensor]]:
        while True:
            yield from batches

    for step, batch in enumerate(pace(epochs()), start=1):
        images = batch["image"]
        optimizer_g.zero_grad(set_to_none=True)
        reconstruction, mean, std = autoencoder(images)
        scalars = {"recon": intensity_loss(reconstruction, images), "kl": kl_loss(mean, std)}
        loss_g = scalars["recon"] + KL_WEIGHT * scalars["kl"]
        if distance is not None:
            scalars["perceptual"] = distance(reconstruction.float(), images.float()).mean()
            loss_g = loss_g + PERCEPTUAL_WEIGHT * scalars["perceptual"]
        if terms.adversary:
            logits = discriminator(reconstruction.contiguous().float())[-1]
            scalars["adv"] = adv_loss(logits, target_is_real=True, for_discriminator=False)
            loss_g = loss_g + ADVERSARIAL_WEIGHT * scalars["adv"]
        loss_g.backward()
        optimizer_g.step()
        if terms.adversary:
            optimizer_d.zero_grad(set_to_none=True)
            logits = discriminator(reconstruction.contiguous().detach())[-1]
            scalars["fake"] = adv_loss(logits, target_is_real=False, for_discriminator=True)
            logits = discriminator(images.contiguous().detach())[-1]
            scalars["real"] = adv_loss(logits, target_is_real=True, for_discriminator=True)
            (ADVERSARIAL_WEIGHT * (scalars["fake"] + scalars["real"]) * 0.5).backward()
            optimizer_d.step()
        for name, value in scalars.items():
            writer.add_scalar(f"train_{name}_loss_iter", value, step)
    writer.close()
