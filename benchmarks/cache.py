"""Slow classical results, kept in benchmarks/.cache by the content that they were computed from."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float64]

FOLDER = Path(__file__).parent / ".cache"


def cached(name: str, image: Image, noise_std: float, compute: Callable[[], Image]) -> Image:
    """`compute()`, or what it gave last time for the same method, image and noise level.

    name : method, its settings and the version of its package; another text is another result
    """
    text = f"{name} {noise_std!r} {image.shape} {image.dtype}"
    key = hashlib.sha256(text.encode() + np.ascontiguousarray(image).tobytes()).hexdigest()[:24]
    path = FOLDER / f"{key}.npy"
    if path.is_file():
        return np.load(path, allow_pickle=False).astype(np.float64)
    result = compute()
    FOLDER.mkdir(exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    with part.open("wb") as file:
        np.save(file, result.astype(np.float32), allow_pickle=False)
    part.replace(path)
    return result
