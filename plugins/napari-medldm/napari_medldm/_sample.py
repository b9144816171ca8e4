"""Sample scans in one click: nothing is downloaded, and no patient is shown."""

from __future__ import annotations

from importlib.resources import as_file, files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medldm import Geometry, Volume, read
from napari_medldm.layers import layer_data

HEAD = "mni152-t1-2mm.nii.gz"  # beside its licence


def noisy_head() -> list[Any]:
    """The mean head of 152 persons (MNI152, Fonov et al. 2011) at 2 mm, without its skull, with Rician noise of 6 %."""
    with as_file(files("napari_medldm") / HEAD) as path:
        mean = read(path)
    noise_std = 60.0
    array = _rician(1000 / np.percentile(mean.array[mean.array > 0], 99.5) * mean.array, noise_std)
    step = {"step": "sample", "kind": "MNI152 T1 template", "noise_std": noise_std}
    return [layer_data(Volume(array, mean.geometry, "arbitrary", "MR", (step,)), "MR head")]


def noisy_mr() -> list[Any]:
    """A head-like phantom at 2 mm with Rician noise of 6 % of the range."""
    shape = (96, 112, 96)
    plane = _shepp_logan(shape[:2])
    profile = np.sqrt(np.clip(1 - np.linspace(-1.1, 1.1, shape[2]) ** 2, 0, 1))
    signal = 1000 * np.clip(plane, 0, 1)[:, :, None] * profile
    noise_std = 60.0
    affine = np.array([[0, -2.0, 0, 111], [-2.0, 0, 0, 95], [0, 0, 2.0, -95], [0, 0, 0, 1]])
    step = {"step": "sample", "kind": "Shepp-Logan phantom", "noise_std": noise_std}
    array = _rician(signal, noise_std)
    return [layer_data(Volume(array, Geometry(affine, shape), "arbitrary", "MR", (step,)), "MR phantom")]


def ct() -> list[Any]:
    """A head-like phantom in HU, a third of the resolution along the table."""
    shape = (192, 192, 40)
    plane = _shepp_logan(shape[:2])
    array = np.repeat((plane * 1000 - 1000)[:, :, None], shape[2], 2)
    array = array + 15 * np.random.default_rng(0).standard_normal(shape)
    affine = np.array([[0, -1.0, 0, 95], [-1.0, 0, 0, 95], [0, 0, 3.0, -60], [0, 0, 0, 1]])
    volume = Volume(array.astype(np.float32), Geometry(affine, shape), "HU", "CT", ({"step": "sample"},))
    return [layer_data(volume, "CT phantom")]


def _shepp_logan(shape: tuple[int, ...]) -> NDArray[np.floating]:
    from skimage.data import shepp_logan_phantom  # takes long to import, and nobody waits for it without a phantom
    from skimage.transform import resize

    return resize(shepp_logan_phantom(), shape, anti_aliasing=True)


def _rician(signal: NDArray[np.floating], noise_std: float) -> NDArray[np.float32]:
    """Magnitude of a signal with noise in both parts."""
    rng = np.random.default_rng(0)
    real, imaginary = (noise_std * rng.standard_normal(signal.shape) for _ in range(2))
    return np.sqrt((signal + real) ** 2 + imaginary**2).astype(np.float32)
