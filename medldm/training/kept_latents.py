"""Latents of images that come again as they were, kept on disk: mean and deviation, never a noisy draw.

An autoencoder that no longer learns says the same of the same image, so the second time it need not be asked.
"""

from __future__ import annotations

import functools
import hashlib

import torch
from torch import Tensor

from medldm.io.array_cache import ArrayCache, cache_key
from medldm.nets.autoencoder import Autoencoder


class KeptLatents:
    """What `code` encodes, each image by itself, looked up by the image's voxels and the code's weights.

    The key holds whatever else may change the numbers: precision, device, version of torch. Whether a mirror image is
    another image is no question here: its voxels lie elsewhere. Without a cache each example is encoded alone, too:
    the last bits of a convolution may depend on how many there are, and a training must not depend on its cache.
    """

    def __init__(self, cache: ArrayCache | None, code: Autoencoder) -> None:
        self.cache, self.code = cache, code
        self.weights_sha256 = "" if cache is None else _hash_of_weights(code)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 1, *S) -> mean and deviation of the latents, as `Autoencoder.encode`. Raises OutputError, InputError."""
        each = self.code.encode if self.cache is None else functools.partial(self._looked_up, self.cache)
        found = [each(image) for image in x.split(1)]
        return torch.cat([mean for mean, _ in found]), torch.cat([std for _, std in found])

    def _looked_up(self, cache: ArrayCache, image: Tensor) -> tuple[Tensor, Tensor]:
        keys = [cache_key([*self._context(image), part]) for part in ("mean", "std")]
        if all(map(cache.holds, keys)):
            kept = [cache.open(key) for key in keys]
            if kept[0] is not None and kept[1] is not None:
                return torch.from_numpy(kept[0]).to(image.device), torch.from_numpy(kept[1]).to(image.device)
        mean, std = self.code.encode(image)
        for key, part in zip(keys, (mean, std), strict=True):
            cache.put(key, part.cpu().numpy())
        return mean, std

    def _context(self, image: Tensor) -> list[object]:
        device = image.device.type
        half = str(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else "off"
        voxels = hashlib.sha256(_bytes(image)).hexdigest()
        return ["latents", voxels, list(image.shape), self.weights_sha256, half, device, torch.__version__]


def _hash_of_weights(code: Autoencoder) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(code.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(_bytes(value))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> bytes:
    raw: bytes = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return raw
