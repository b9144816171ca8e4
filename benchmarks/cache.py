"""Slow results, kept in benchmarks/.cache: images by what they were computed from, figures by what was asked."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


def remembered(name: str, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """`compute()`, or what it gave last time under this name: what takes hours goes on where it was ended.

    name : says all that the figures depend on; delete benchmarks/.cache where the code that makes them has changed
    """
    path = FOLDER / f"{hashlib.sha256(name.encode()).hexdigest()[:24]}.json"
    if path.is_file():
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found
    result = compute()
    FOLDER.mkdir(exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    part.write_text(json.dumps(result), encoding="utf-8")
    part.replace(path)
    return result
