"""What the networks are told about the measurement.

Everything enters by concatenation: a network sees the measurement on the fine grid and, as maps, how noisy and how
coarse it was. All zeros, the flag included, mean "no measurement" (synthesis).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from medldm.net_tables import MeasurementTable
from medldm.nets.autoencoder import Autoencoder
from medldm.nets.patches import space_to_depth
from medldm.operators.measurement import Measurement


def level_maps(measurement: Measurement, block: Sequence[int], told: MeasurementTable) -> Tensor:
    """(B, 1 + dims, *S / block): noise on a log scale (0 and 1: `told.noise_std`) and half the log2 of the blur.

    Of a map that is not the same everywhere, each block tells its first voxel.
    """
    low, high = told.noise_std
    size = [n // b for n, b in zip(measurement.image.shape[2:], block, strict=True)]
    first = (slice(None), slice(None), *(slice(None, None, b) for b in block))
    noise_std, blur = (m[first] if m.shape[2:] == measurement.image.shape[2:] else m for m in measurement[1:3])
    log_noise = torch.log(noise_std.clamp(low, high) / low) / math.log(high / low)
    maps = [log_noise.to(measurement.image), torch.log2(blur.to(measurement.image)) / 2]
    return torch.cat([part.expand(-1, -1, *size) for part in maps], dim=1)


def error_scale(measurement: Measurement, told: MeasurementTable) -> Tensor:
    """About how far the first guess is off, (B, 1, *S) or the same everywhere: its noise, and what was not measured."""
    missing = told.blur_error * torch.log2(measurement.blur.amax(1, keepdim=True))
    if measurement.missing is not None:
        missing = missing + told.missing_error
    return torch.sqrt(measurement.noise_std.clamp_min(told.least_error).square() + missing.square())


def latent_condition(measurement: Measurement, autoencoder: Autoencoder, told: MeasurementTable) -> Tensor:
    """(B, condition_channels, *S / factor): flag, levels, encoded measurement, all its pixels.

    The denoiser knows noise alone: where something is missing it is told that there is at least as much noise as the
    interpolation is off.
    """
    if measurement.missing is not None:
        measurement = measurement._replace(noise_std=measurement.noise_std.clamp_min(told.missing_error))
    encoded, _ = autoencoder.encode(measurement.image)
    pixels = (space_to_depth(measurement.image, autoencoder.factor) - 0.5) * 2
    flag = torch.ones_like(encoded[:, :1])
    return torch.cat([flag, level_maps(measurement, autoencoder.factor, told), encoded, pixels], dim=1)


def condition_channels(autoencoder: Autoencoder) -> int:
    return 2 + autoencoder.dims + autoencoder.channels + math.prod(autoencoder.factor)
