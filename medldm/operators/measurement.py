"""A measurement as the networks take it, and its noise, in image units (never to be mixed with ``sigma``)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from medldm.operators.operator import Operator

NoiseName = Literal["gaussian", "rician"]


@dataclass(frozen=True)
class Gaussian:
    """``y = x + noise_std n``."""

    def sample(self, x: Tensor, noise_std: Tensor, generator: torch.Generator) -> Tensor:
        """`noise_std` broadcasts against `x`; returns a tensor like `x`."""
        return x + noise_std * torch.randn(x.shape, generator=generator)

    def mean(self, x: Tensor, noise_std: Tensor) -> Tensor:
        """Of what is measured of `x`."""
        return x


@dataclass(frozen=True)
class Kernel:
    """Gaussian, of the deviation `noise_std`, and coloured as a reconstruction kernel colours it: its power rises with
    the spatial frequency to the power of `slope`, up to the share `cut` of the largest along an axis, then falls evenly
    to nothing at one and a half of that. Above 1.4 it never falls: as in slices that were made coarser."""

    slope: float = 1.0
    cut: float = 2 / 3

    def sample(self, x: Tensor, noise_std: Tensor, generator: torch.Generator) -> Tensor:
        """`noise_std` broadcasts against `x` (..., I, J): planes; returns a tensor like `x`."""
        across, down = (torch.fft.fftfreq(n) * 2 for n in x.shape[-2:])
        frequency = torch.sqrt(across[:, None] ** 2 + down**2)
        falling = self.cut**self.slope * (3 - 2 * frequency / self.cut).clamp_min(0)
        power = torch.minimum(frequency**self.slope, falling)
        power = power / power.mean().clamp_min(1e-12)
        white = torch.fft.fft2(torch.randn(x.shape, generator=generator))
        coloured: Tensor = torch.fft.ifft2(white * power.sqrt()).real
        return x + noise_std * coloured

    def mean(self, x: Tensor, noise_std: Tensor) -> Tensor:
        """Of what is measured of `x`."""
        return x


@dataclass(frozen=True)
class Rician:
    """Magnitude of a complex signal with Gaussian noise in both parts (Gudbjartsson and Patz 1995)."""

    def sample(self, x: Tensor, noise_std: Tensor, generator: torch.Generator) -> Tensor:
        """`noise_std` is that of either part; it broadcasts against `x`; returns a tensor like `x`."""
        real = x + noise_std * torch.randn(x.shape, generator=generator)
        imaginary = noise_std * torch.randn(x.shape, generator=generator)
        return torch.sqrt(real.square() + imaginary.square())

    def mean(self, x: Tensor, noise_std: Tensor) -> Tensor:
        """Of what is measured of `x`: above it, the more so the darker it is."""
        quarter = (x / noise_std).square() / 4
        bessel = (1 + 2 * quarter) * torch.special.i0e(quarter) + 2 * quarter * torch.special.i1e(quarter)
        raised: Tensor = noise_std * math.sqrt(math.pi / 2) * bessel
        return raised


Noise = Gaussian | Kernel | Rician


def noise_model(name: NoiseName) -> Noise:
    return Rician() if name == "rician" else Gaussian()


class Measurement(NamedTuple):
    """A degraded image, with maps that say voxel by voxel how it was measured.

    image : (B, 1, *S) first guess on the fine grid, scaled to 0..1
    noise_std : (B, 1, *S) noise of the measurement before any interpolation, in the unit of `image`
    blur : (B, dims, *S) voxels that a measured value spreads over along each axis (1: none)
    missing : (B, 1, *S) 1 where nothing was measured and `image` is interpolated, else 0; None: nowhere
    alike : (B, estimates, *S) what patches that look alike say of the image (`medldm.nets.collaborative`); None: not
        asked
    A map that is the same everywhere has sizes of 1 in the place of *S.
    """

    image: Tensor
    noise_std: Tensor
    blur: Tensor
    missing: Tensor | None = None
    alike: Tensor | None = None

    @classmethod
    def of(cls, operator: Operator, image: Tensor, noise_std: float, dims: int) -> Measurement:
        """Of one scan.

        image : (1, 1, I, J, K), the operator's first guess, in the model's range, as is `noise_std`; K is dropped
            where `dims` is 2
        """
        spread = torch.tensor([operator.blur()[:dims]], dtype=image.dtype, device=image.device)
        level, missing = torch.tensor([[noise_std]], dtype=image.dtype, device=image.device), operator.missing()
        return cls(
            image[..., 0] if dims == 2 else image,
            level.view(1, 1, *(1,) * dims),
            spread.view(1, dims, *(1,) * dims),
            None if missing is None else (missing[..., 0] if dims == 2 else missing).to(image),
        )

    @classmethod
    def together(cls, parts: list[Measurement]) -> Measurement:
        """One batch of several, each with a map of what is missing or none."""
        image, noise_std, blur, missing, _ = zip(*parts, strict=True)
        known = [m for m in missing if m is not None]
        return cls(torch.cat(image), torch.cat(noise_std), torch.cat(blur), torch.cat(known) if known else None)

    def map(self, change: Callable[[Tensor], Tensor]) -> Measurement:
        """The same with every tensor changed."""
        return Measurement(*(None if field is None else change(field) for field in self))  # type: ignore[arg-type]

    def on_image(self, change: Callable[[Tensor], Tensor]) -> Measurement:
        """The same with what lies on the image's grid changed (flipped, cut, padded); what is constant stays."""
        size = self.image.shape[2:]
        return self.map(lambda field: change(field) if field.shape[2:] == size and max(size) > 1 else field)

    def swapped(self, a: int, b: int) -> Measurement:
        """The same with axes `a` and `b` of the image exchanged."""
        order = list(range(self.blur.shape[1]))
        order[a], order[b] = order[b], order[a]
        turned = self.map(lambda field: field.transpose(2 + a, 2 + b))
        return turned._replace(blur=turned.blur[:, order])

    def coarse_axis(self) -> int:
        """The one axis along which a batch was measured coarsely, 0 where there is none or more than one."""
        coarse = (self.blur > 1).movedim(1, 0).flatten(1).any(1)
        return int(coarse.int().argmax()) if int(coarse.sum()) == 1 else 0
