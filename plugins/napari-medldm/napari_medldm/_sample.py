"""Sample scans in one click, made up on the spot: nothing is downloaded, and nobody was scanned."""

from __future__ import annotations

from typing import Any

import numpy as np
from skimage.data import shepp_logan_phantom
from skimage.transform import resize

from medldm import Geometry, Volume
from napari_medldm.layers import layer_data


def noisy_mr() -> list[Any]:
    """A head-like phantom at 2 mm with Rician noise of 6 % of the range."""
    shape = (96, 112, 96)
    plane = resize(shepp_logan_phantom(), shape[:2], anti_aliasing=True)
    profile = np.sqrt(np.clip(1 - np.linspace(-1.1, 1.1, shape[2]) ** 2, 0, 1))
    signal = 1000 * np.clip(plane, 0, 1)[:, :, None] * profile
    rng, noise_std = np.random.default_rng(0), 60.0
    real, imaginary = (noise_std * rng.standard_normal(shape) for _ in range(2))
    array = np.sqrt((signal + real) ** 2 + imaginary**2).astype(np.float32)
    affine = np.array([[0, -2.0, 0, 111], [-2.0, 0, 0, 95], [0, 0, 2.0, -95], [0, 0, 0, 1]])
    step = {"step": "sample", "kind": "Shepp-Logan phantom", "noise_std": noise_std}
    return [layer_data(Volume(array, Geometry(affine, shape), "arbitrary", "MR", (step,)), "MR phantom")]


def ct() -> list[Any]:
    """A head-like phantom in HU, a third of the resolution along the table."""
    shape = (192, 192, 40)
    plane = resize(shepp_logan_phantom(), shape[:2], anti_aliasing=True)
    array = np.repeat((plane * 1000 - 1000)[:, :, None], shape[2], 2)
    array = array + 15 * np.random.default_rng(0).standard_normal(shape)
    affine = np.array([[0, -1.0, 0, 95], [-1.0, 0, 0, 95], [0, 0, 3.0, -60], [0, 0, 0, 1]])
    volume = Volume(array.astype(np.float32), Geometry(affine, shape), "HU", "CT", ({"step": "sample"},))
    return [layer_data(volume, "CT phantom")]
