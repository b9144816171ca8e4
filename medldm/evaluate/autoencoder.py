"""How well an autoencoder keeps scans, and how its latents are distributed."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medldm.errors import InputError, ModelError
from medldm.evaluate.features import Features, image_features
from medldm.evaluate.intervals import Interval
from medldm.evaluate.kid import FEWEST, kid
from medldm.evaluate.latent_statistics import LatentMoments, LatentStatistics, finite
from medldm.evaluate.similarity import haarpsi, psnr, ssim
from medldm.nets.autoencoder import Autoencoder
from medldm.nets.efficientnet import EfficientNetLite0
from medldm.nets.patches import pad_to_multiple, space_to_depth
from medldm.nets.pca_autoencoder import PCAAutoencoder

Progress = Callable[[str, int, int], None]
LINEAR_LARGEST = 1024  # numbers a patch; beyond it, its covariance takes longer than it is worth
LINEAR_PATCHES = 200_000
OUTLIER = 0.5  # how far beyond its scan's darkest and brightest voxel one lies that is an outlier; the range is 1


@dataclass(frozen=True)
class Quality:
    """One scan and its reconstruction.

    psnr, ssim, haarpsi : in dB, and shares, over the range [0, 1]; nan for an image of too few voxels, and where the
        reconstruction is not finite
    nonfinite : voxels of the reconstruction that are not finite
    beyond : how far it leaves the scan's own range, at most
    outliers : share of its voxels that leave it by more than `OUTLIER`
    """

    name: str
    psnr: float
    ssim: float
    haarpsi: float = math.nan
    nonfinite: int = 0
    beyond: float = 0.0
    outliers: float = 0.0


@dataclass(frozen=True)
class AutoencoderQuality:
    """What was measured over all scans.

    latents : of these scans, once the latents' statistics are measured
    raw_mean, raw_std : by which latents are made white, in the network's own units
    linear_psnr, linear_haarpsi : means of a block PCA of the same factor and channels; None where there is none
    kid : distance of the reconstructions from the scans, times 1000; None where it was not measured, for a reason
    """

    scans: tuple[Quality, ...]
    latents: LatentStatistics
    raw_mean: tuple[float, ...]
    raw_std: tuple[float, ...]
    linear_psnr: float | None
    linear_haarpsi: float | None = None
    kid: Interval | None = None
    without_kid: str = ""

    @property
    def psnr(self) -> float:
        return self._mean("psnr")

    @property
    def ssim(self) -> float:
        return self._mean("ssim")

    @property
    def haarpsi(self) -> float:
        return self._mean("haarpsi")

    def _mean(self, name: str) -> float:
        """Over the scans of which it is known."""
        return _mean([getattr(scan, name) for scan in self.scans])

    def worst(self, count: int) -> list[int]:
        """Numbers of the scans with the lowest PSNR, before them those that are not finite."""
        return sorted(range(len(self.scans)), key=lambda n: _or_least(self.scans[n].psnr))[:count]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form; what is not a number is None."""
        rows = [{k: finite(v) if isinstance(v, float) else v for k, v in asdict(scan).items()} for scan in self.scans]
        return {
            **{name: finite(getattr(self, name)) for name in ("psnr", "ssim", "haarpsi")},
            "linear_psnr": self.linear_psnr,
            "linear_haarpsi": self.linear_haarpsi,
            "kid": None if self.kid is None else self.kid.to_dict(),
            "without_kid": self.without_kid,
            "latents": {"mean": [*map(finite, self.raw_mean)], "std": [*map(finite, self.raw_std)]},
            "white_latents": self.latents.to_dict(),
            "scans": rows,
        }


def _or_least(value: float) -> float:
    return -math.inf if math.isnan(value) else value


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan


@contextlib.contextmanager
def _in_evaluation(autoencoder: Autoencoder) -> Iterator[None]:
    """A codebook would go on learning otherwise."""
    training = autoencoder.training
    autoencoder.eval()
    try:
        yield
    finally:
        autoencoder.train(training)


@torch.no_grad()
def reconstructed(autoencoder: Autoencoder, image: Tensor) -> Tensor:
    """(*S) in the autoencoder's range, encoded and decoded."""
    with _in_evaluation(autoencoder):
        return autoencoder.reconstruct(image[None, None].to(autoencoder.latent_mean))[0, 0].float().cpu()


@torch.no_grad()
def measure_autoencoder(
    autoencoder: Autoencoder,
    images: Sequence[Tensor],
    names: Sequence[str],
    progress: Progress | None = None,
    *,
    stage: str = "reconstruct",
    fitted_to: Sequence[Tensor] | None = None,
) -> AutoencoderQuality:
    """Reconstruct every scan, (*S) each in the autoencoder's range, once the latents' statistics are measured.

    fitted_to : scans that the block PCA beside it is fitted to (those that the autoencoder learned from); None:
        to `images` themselves
    stage : what progress is told
    """
    network, without = _judge(autoencoder.dims, len(images))
    rows, moments, features = [], LatentMoments(autoencoder.channels), []
    for number, (image, name) in enumerate(zip(images, names, strict=True), start=1):
        padded, crop = pad_to_multiple(image[None, None].to(autoencoder.latent_mean), autoencoder.multiple)
        with _in_evaluation(autoencoder):
            z, std = autoencoder.encode(padded)
            estimate = autoencoder.decode(z)[crop][0, 0].float().cpu()
        moments.add(z, std)
        rows.append(_quality(name, estimate, image))
        if network is not None and not rows[-1].nonfinite:
            features.append(image_features([image.numpy(), estimate.numpy()], network))
        if progress is not None:
            progress(stage, number, len(images))
    if network is not None and len(features) < FEWEST:
        network, without = None, "reconstructions that are not finite"
    linear_psnr, linear_haarpsi = _linear(autoencoder, images, images if fitted_to is None else fitted_to)
    return AutoencoderQuality(
        tuple(rows),
        moments.statistics(),
        tuple(autoencoder.latent_mean.double().cpu().tolist()),
        tuple(autoencoder.latent_std.double().cpu().tolist()),
        linear_psnr,
        linear_haarpsi,
        None if network is None else _distance(np.stack(features)),
        without,
    )


def _quality(name: str, estimate: Tensor, image: Tensor) -> Quality:
    bad = int((~torch.isfinite(estimate)).sum())
    if bad:
        return Quality(name, math.nan, math.nan, nonfinite=bad)
    excess = torch.maximum(estimate - image.max(), image.min() - estimate).clamp_min(0)
    a, b = estimate.numpy(), image.numpy()
    outliers = float((excess > OUTLIER).double().mean())
    return Quality(name, psnr(a, b), _known(ssim, a, b), _known(haarpsi, a, b), 0, float(excess.max()), outliers)


def _known(metric: Callable[..., float], estimate: Any, truth: Any) -> float:
    """nan for an image that is too small for the metric."""
    try:
        return metric(estimate, truth)
    except InputError:
        return math.nan


def _judge(dims: int, count: int) -> tuple[EfficientNetLite0 | None, str]:
    """The network whose features the distance is of, or why there is no distance."""
    if dims == 3:
        return None, "it is measured of images alone, not of volumes"
    if count < FEWEST:
        return None, f"{count} images; below {FEWEST} it is uncertain"
    try:
        return EfficientNetLite0.pretrained(), ""
    except ModelError as failure:
        return None, str(failure)


def _distance(features: Features) -> Interval:
    """Of pairs (N, 2, d): scan, reconstruction."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return kid(features[:, 1], features[:, 0], paired=True)


def _linear(
    autoencoder: Autoencoder, images: Sequence[Tensor], fitted_to: Sequence[Tensor]
) -> tuple[float | None, float | None]:
    """PSNR and HaarPSI of the block PCA of the same size, the least that an autoencoder should be worth."""
    patch = math.prod(autoencoder.factor)
    if patch > LINEAR_LARGEST or autoencoder.channels >= patch:
        return None, None
    each = max(LINEAR_PATCHES // len(fitted_to), 1)
    cells = []
    for image in fitted_to:
        padded, _ = pad_to_multiple(image[None, None], autoencoder.factor)
        own = space_to_depth(padded, autoencoder.factor).movedim(1, -1).flatten(0, -2)
        cells.append(own[:: max(len(own) // each, 1)])
    linear = PCAAutoencoder(autoencoder.dims, factor=autoencoder.factor, channels=autoencoder.channels, width=1)
    linear.begin(torch.cat(cells))
    found = [_quality("", reconstructed(linear, image), image) for image in images]
    similar = _mean([scan.haarpsi for scan in found])
    return _mean([scan.psnr for scan in found]), finite(similar)
