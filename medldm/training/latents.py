"""Latents of the training set: the linear start, the statistics that make them white, and those kept on disk."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from medldm.diffusion.generator import Coarse, Generator, coarsened, padded_shape
from medldm.diffusion.noise import PerSample
from medldm.io.array_cache import ArrayCache, cache_key
from medldm.nets.autoencoder import Autoencoder
from medldm.nets.patches import pad_to_multiple, space_to_depth
from medldm.pack import ModelPack
from medldm.space import centred
from medldm.training.batches import Batches
from medldm.training.scan import Scan

LINEAR_START = 10**9  # steps of the patches of the block PCA, far from those of training
PATCH_STEPS = 60


def begin_from_data(autoencoder: Autoencoder, batches: Batches) -> float | None:
    """Let the autoencoder take what it can from blocks of the training images; returns the variance kept."""
    patches = []
    for step in range(PATCH_STEPS):
        cells = space_to_depth(batches.images(LINEAR_START + step).x, autoencoder.factor)
        patches.append(cells.movedim(1, -1).flatten(0, -2))
    return autoencoder.begin(torch.cat(patches))


@torch.no_grad()
def measure_latents(autoencoder: Autoencoder, scans: Sequence[Scan]) -> None:
    """Latent mean and deviation a channel over the whole training set, not over one batch."""
    autoencoder.set_latent_statistics(torch.zeros(autoencoder.channels), torch.ones(autoencoder.channels))
    like = autoencoder.latent_mean
    padded = (pad_to_multiple(scan.image[None, None].to(like), autoencoder.multiple)[0] for scan in scans)
    latents = (autoencoder.encode(image)[0] for image in padded)
    autoencoder.set_latent_statistics(*_statistics(autoencoder, latents))


@torch.no_grad()
def measure_level(generator: Generator, autoencoder: Autoencoder, pack: ModelPack, scans: Sequence[Scan]) -> None:
    """The same of a level of the cascade, over whole images coarsened as it sees them."""
    assert pack.synthesis is not None
    size, like = padded_shape(pack, pack.synthesis.shape[: pack.dims]), autoencoder.latent_mean
    own, draws = generator.table, PerSample([0], like.device)

    def latents() -> Iterator[Tensor]:
        for scan in scans:
            if scan.source.synthesis:
                whole, coarse = centred(scan.image, size)[None, None].to(like), None
                image = coarsened(whole, own.coarsen)
                if generator.ratio:
                    small = coarsened(image, generator.ratio)
                    std = torch.full((1,), sum(own.coarse_noise) / 2, device=like.device)
                    coarse = Coarse(small + std * draws.like(small), std)
                z, guess = autoencoder.encode(image)[0], generator.guess(autoencoder, coarse)
                yield z if guess is None else z - guess

    generator.set_units(*_statistics(autoencoder, latents()))


def _statistics(autoencoder: Autoencoder, latents: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and deviation of the latents a channel."""
    training = autoencoder.training
    autoencoder.eval()
    count, total, squares = 0, torch.zeros(autoencoder.channels).double(), torch.zeros(autoencoder.channels).double()
    for found in latents:
        z = found.double().cpu().movedim(1, 0).flatten(1)
        count += z.shape[1]
        total, squares = total + z.sum(1), squares + z.square().sum(1)
    autoencoder.train(training)
    mean = total / count
    return mean.float(), (squares / count - mean.square()).clamp_min(1e-8).sqrt().float()


class KeptLatents:
    """What `autoencoder` encodes, each image by itself, looked up by the image's voxels and the autoencoder's weights.

    The key holds whatever else may change the numbers: precision, device, version of torch. Whether a mirror image is
    another image is no question here: its voxels lie elsewhere. Without a cache each example is encoded alone, too:
    the last bits of a convolution may depend on how many there are, and a training must not depend on its cache.
    """

    def __init__(self, cache: ArrayCache | None, autoencoder: Autoencoder) -> None:
        self.cache, self.autoencoder = cache, autoencoder
        self.weights_sha256 = "" if cache is None else _hash_of_weights(autoencoder)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 1, *S) -> mean and deviation of the latents, as `Autoencoder.encode`. Raises OutputError, InputError."""
        each = self.autoencoder.encode if self.cache is None else functools.partial(self._looked_up, self.cache)
        found = [each(image) for image in x.split(1)]
        return torch.cat([mean for mean, _ in found]), torch.cat([std for _, std in found])

    def _looked_up(self, cache: ArrayCache, image: Tensor) -> tuple[Tensor, Tensor]:
        keys = [cache_key([*self._context(image), part]) for part in ("mean", "std")]
        if all(map(cache.holds, keys)):
            kept = [cache.open(key) for key in keys]
            if kept[0] is not None and kept[1] is not None:
                return torch.from_numpy(kept[0]).to(image.device), torch.from_numpy(kept[1]).to(image.device)
        mean, std = self.autoencoder.encode(image)
        for key, part in zip(keys, (mean, std), strict=True):
            cache.put(key, part.cpu().numpy())
        return mean, std

    def _context(self, image: Tensor) -> list[object]:
        device = image.device.type
        half = str(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else "off"
        voxels = hashlib.sha256(_bytes(image)).hexdigest()
        return ["latents", voxels, list(image.shape), self.weights_sha256, half, device, torch.__version__]


def _hash_of_weights(autoencoder: Autoencoder) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(autoencoder.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(_bytes(value))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> bytes:
    raw: bytes = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return raw
