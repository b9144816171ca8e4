"""How well an autoencoder keeps scans, and how its latents are distributed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medldm.errors import InputError
from medldm.metrics.similarity import psnr, ssim
from medldm.nets.autoencoder import Autoencoder
from medldm.nets.linear_code import LinearCode
from medldm.nets.patches import pad_to_multiple, space_to_depth

Progress = Callable[[str, int, int], None]
LINEAR_LARGEST = 1024  # numbers a patch; beyond it, its covariance takes longer than it is worth
LINEAR_PATCHES = 200_000


@dataclass(frozen=True)
class Quality:
    """One scan and its reconstruction: PSNR in dB over the range [0, 1], SSIM (nan for an image of few voxels)."""

    name: str
    psnr: float
    ssim: float


@dataclass(frozen=True)
class CodeQuality:
    """What was measured over all scans.

    kurtosis : excess kurtosis of each latent channel, 0 for a normal distribution
    linear_psnr : mean PSNR of a block PCA of the same factor and channels, fitted to the same scans; None where there
        is none
    """

    scans: tuple[Quality, ...]
    kurtosis: tuple[float, ...]
    linear_psnr: float | None

    @property
    def psnr(self) -> float:
        return float(np.mean([scan.psnr for scan in self.scans]))

    @property
    def ssim(self) -> float:
        known = [scan.ssim for scan in self.scans if not math.isnan(scan.ssim)]
        return float(np.mean(known)) if known else math.nan

    def worst(self, count: int) -> list[int]:
        """Numbers of the scans with the lowest PSNR."""
        return sorted(range(len(self.scans)), key=lambda n: self.scans[n].psnr)[:count]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form; what is not a number is None."""
        table = asdict(self)
        table["scans"] = [
            {"name": scan.name, "psnr": _finite(scan.psnr), "ssim": _finite(scan.ssim)} for scan in self.scans
        ]
        return {"psnr": _finite(self.psnr), "ssim": _finite(self.ssim), **table}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


@torch.no_grad()
def reconstructed(code: Autoencoder, image: Tensor) -> Tensor:
    """(*S) in the autoencoder's range, encoded and decoded."""
    return code.reconstruct(image[None, None].to(code.latent_mean))[0, 0].float().cpu()


@torch.no_grad()
def measure_code(
    code: Autoencoder, images: Sequence[Tensor], names: Sequence[str], progress: Progress | None = None
) -> CodeQuality:
    """Reconstruct every scan, (*S) each in the autoencoder's range, once the latents' statistics are measured."""
    rows, count, fourth = [], 0, torch.zeros(code.channels).double()
    for number, (image, name) in enumerate(zip(images, names, strict=True), start=1):
        padded, crop = pad_to_multiple(image[None, None].to(code.latent_mean), code.multiple)
        z, _ = code.encode(padded)
        over = z.double().cpu().movedim(1, 0).flatten(1)
        count, fourth = count + over.shape[1], fourth + over.pow(4).sum(1)
        estimate, truth = code.decode(z)[crop][0, 0].float().cpu().numpy(), image.numpy()
        try:
            similarity = ssim(estimate, truth)
        except InputError:
            similarity = math.nan
        rows.append(Quality(name, psnr(estimate, truth), similarity))
        if progress is not None:
            progress("reconstruct", number, len(images))
    return CodeQuality(tuple(rows), tuple((fourth / count - 3).tolist()), _linear(code, images))


def _linear(code: Autoencoder, images: Sequence[Tensor]) -> float | None:
    """PSNR of the block PCA of the same size, the least that an autoencoder should be worth."""
    patch = math.prod(code.factor)
    if patch > LINEAR_LARGEST or code.channels >= patch:
        return None
    each = max(LINEAR_PATCHES // len(images), 1)
    cells = []
    for image in images:
        padded, _ = pad_to_multiple(image[None, None], code.factor)
        own = space_to_depth(padded, code.factor).movedim(1, -1).flatten(0, -2)
        cells.append(own[:: max(len(own) // each, 1)])
    linear = LinearCode(code.dims, factor=code.factor, channels=code.channels, width=1)
    linear.begin(torch.cat(cells))
    return float(np.mean([psnr(reconstructed(linear, image).numpy(), image.numpy()) for image in images]))
