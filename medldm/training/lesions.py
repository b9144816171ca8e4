"""Small lesions put into training crops, so that a network does not take what is small and rare for noise.

A network that has seen healthy scans alone, and few spots, knows that a faint small spot is mostly noise, and takes it
away; where spots are as likely as not it keeps those that stand out of the noise.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

APART = 16  # voxels: at most one in a box of so many along each axis, in the mean
DIAMETER = (1.5, 10.0)  # voxels
CONTRAST = (0.02, 0.4)  # share of the model's range; a noise of 5 % and a contrast of three times it are 0.15
STRETCH = 1.6  # longest axis to the mean one, at most
EDGE = (0.3, 1.5)  # voxels over which a lesion's edge falls


def with_lesions(crop: Tensor, rng: np.random.Generator) -> Tensor:
    """A copy of a crop (*S) with some ellipsoids in it, brighter or darker than what is around, and never below 0
    where the crop is not."""
    out, dims = crop.clone(), crop.ndim
    for _ in range(int(rng.integers(1, 2 + crop.numel() // APART**dims))):
        diameter, contrast = (math.exp(rng.uniform(*np.log(span))) for span in (DIAMETER, CONTRAST))
        stretch = np.exp(rng.uniform(-1, 1, dims) * math.log(STRETCH))
        half = diameter / 2 * stretch / np.prod(stretch) ** (1 / dims)
        turn, _ = np.linalg.qr(rng.standard_normal((dims, dims)))
        centre = [rng.uniform(0, n - 1) for n in crop.shape]
        reach = float(half.max()) + 2 * EDGE[1]
        box = tuple(
            slice(max(0, math.floor(c - reach)), min(n, math.ceil(c + reach) + 1))
            for c, n in zip(centre, crop.shape, strict=True)
        )
        axes = [torch.arange(part.start, part.stop) - c for part, c in zip(box, centre, strict=True)]
        away = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).float()
        along = away @ torch.from_numpy(turn).float()
        inside = (1 - (along / torch.from_numpy(half).float()).norm(dim=-1)) * float(half.min())  # voxels from its edge
        share = torch.sigmoid(4 * inside / rng.uniform(*EDGE))
        out[box] += (1 if rng.random() < 0.5 else -1) * contrast * share
    return out.clamp_min(min(0.0, float(crop.min())))
