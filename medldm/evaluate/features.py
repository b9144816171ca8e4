"""Features of images for distances between distributions: EfficientNet-Lite0's, of images resized to 224 x 224."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray

from medldm.errors import InputError
from medldm.nets.efficientnet import EfficientNetLite0, wide_planes

Features = NDArray[np.float64]

EDGE = 224
BATCH = 16
PLANES = {"S": "axial", "I": "axial", "A": "coronal", "P": "coronal", "R": "sagittal", "L": "sagittal"}
MIDDLE = (0.2, 0.8)


def image_features(images: Iterable[ArrayLike], network: EfficientNetLite0) -> Features:
    """Features (N, 1280) of grey images (I, J), (I, J, 1) or (1, I, J), each of any size, in [0, 1].

    Values are clipped to [0, 1]; the image is repeated to three channels and resized to a square (bilinear,
    antialiased: Parmar et al. 2022 show what distances are worth without). Axes keep their order.
    Raises InputError for no images, or one that is not a plane of finite values.
    """
    prepared = [_square(image, number) for number, image in enumerate(images)]
    if not prepared:
        raise InputError("image features", "no images", "at least one")
    device = network._fc.weight.device
    with torch.no_grad():
        parts = [
            network.pooled(torch.stack(prepared[start : start + BATCH]).to(device)).double().cpu().numpy()
            for start in range(0, len(prepared), BATCH)
        ]
    return np.concatenate(parts)


def plane_features(
    volumes: Iterable[ArrayLike], axcodes: str, network: EfficientNetLite0, *, slices: int = 8
) -> dict[str, tuple[Features, NDArray[np.intp]]]:
    """For "axial", "coronal" and "sagittal": features of slices, and the number of the volume of each.

    volumes : (I, J, K) in [0, 1], all in one orientation (two sets to be compared: in the same one)
    axcodes : where the axes lead, such as "RAS"
    slices : how many a plane, evenly over the middle 60 % of the axis (fewer where there are fewer)

    Planes less than 16 voxels wide are left out. Raises InputError.
    """
    if len(axcodes) != 3 or {PLANES.get(code) for code in axcodes} != set(PLANES.values()):
        raise InputError("plane features", f"axcodes {axcodes!r}", "one letter of RL, AP and SI each")
    cuts: dict[str, list[NDArray[np.float32]]] = {}
    owners: dict[str, list[int]] = {}
    for number, values in enumerate(volumes):
        volume = np.asarray(values, dtype=np.float32)
        if volume.ndim != 3:
            raise InputError("plane features", f"a volume of shape {volume.shape}", "three axes")
        for axis in wide_planes(volume.shape):
            name = PLANES[axcodes[axis]]
            at = _positions(volume.shape[axis], slices)
            cuts.setdefault(name, []).extend(np.moveaxis(volume, axis, 0)[at])
            owners.setdefault(name, []).extend([number] * len(at))
    if not cuts:
        raise InputError("plane features", "no volumes", "at least one")
    return {name: (image_features(cuts[name], network), np.asarray(owners[name])) for name in sorted(cuts)}


def _positions(size: int, slices: int) -> Sequence[int]:
    low, high = MIDDLE
    shares = low + (high - low) * (np.arange(slices) + 0.5) / slices
    return sorted({int(share * size) for share in shares})


def _square(image: ArrayLike, number: int) -> torch.Tensor:
    """(1, 224, 224), float32."""
    values = np.asarray(image, dtype=np.float32)
    plane = values.squeeze() if values.ndim == 3 else values
    if plane.ndim != 2 or not np.isfinite(plane).all():
        raise InputError(
            f"image {number}", f"shape {values.shape} or values that are not finite", "a finite grey image (I, J)"
        )
    x = torch.from_numpy(np.ascontiguousarray(plane.clip(0, 1)))[None, None]
    return F.interpolate(x, (EDGE, EDGE), mode="bilinear", antialias=True, align_corners=False)[0]
