"""Space to depth and back, in two and three dimensions, and the padding they need."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor


def space_to_depth(x: Tensor, factor: Sequence[int]) -> Tensor:
    """(B, C, *S) -> (B, C * prod(factor), *S / factor), exact."""
    batch, channels, *size = x.shape
    dims = len(factor)
    split = [n for s, f in zip(size, factor, strict=True) for n in (s // f, f)]
    order = [0, 1, *(3 + 2 * a for a in range(dims)), *(2 + 2 * a for a in range(dims))]
    x = x.reshape(batch, channels, *split).permute(order)
    return x.reshape(batch, channels * math.prod(factor), *(s // f for s, f in zip(size, factor, strict=True)))


def depth_to_space(x: Tensor, factor: Sequence[int]) -> Tensor:
    """The inverse of `space_to_depth`."""
    batch, depth, *size = x.shape
    dims = len(factor)
    x = x.reshape(batch, depth // math.prod(factor), *factor, *size)
    order = [0, 1, *(n for a in range(dims) for n in (2 + dims + a, 2 + a))]
    return x.permute(order).reshape(batch, -1, *(s * f for s, f in zip(size, factor, strict=True)))


def pad_to_multiple(x: Tensor, multiple: Sequence[int]) -> tuple[Tensor, tuple[slice, ...]]:
    """Mirror the far edges until each size is a multiple; returns the crop that undoes it.

    Mirroring repeats the edge voxel, so axes of any length (1 too) can be padded.
    """
    crop = (slice(None), slice(None), *(slice(0, s) for s in x.shape[2:]))
    for axis, m in enumerate(multiple, start=2):
        target = -(-x.shape[axis] // m) * m
        while x.shape[axis] < target:
            step = min(x.shape[axis], target - x.shape[axis])
            tail = x.narrow(axis, x.shape[axis] - step, step).flip(axis)
            x = F.pad(x, [0, 0] * (x.ndim - 1 - axis) + [0, step] + [0, 0] * axis)
            x.narrow(axis, x.shape[axis] - step, step).copy_(tail)
    return x, crop
