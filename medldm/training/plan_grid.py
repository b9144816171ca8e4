"""What of a plan follows from the grids of the scans, and the sizes of networks that there are to choose from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medldm.training.fingerprint import Kind

CELLS = 16  # latent cells along the coarsest level: where anatomy is decided (docs/synthesis.md)
THICK = (1.6, 3.0)  # spacing over the finest: from here on a factor of 2, of 1


@dataclass(frozen=True)
class Size:
    """Widths of the networks and batches, chosen by what the time allows."""

    width: dict[int, int]
    unet: tuple[int, ...]
    head: tuple[int, ...]
    generator: tuple[int, ...]
    finer: tuple[int, ...]
    batch: dict[int, int]
    lr: float
    depth: int = 2


SIZES = (
    Size({2: 16, 3: 16}, (16, 32), (8, 16), (16, 32), (16, 32), {2: 4, 3: 2}, 1e-3, 1),
    Size({2: 48, 3: 24}, (32, 48, 64), (24, 48, 64), (32, 64, 96), (32, 48, 64), {2: 8, 3: 2}, 1e-3),
    Size({2: 96, 3: 48}, (64, 96, 128), (48, 80, 96), (64, 96, 128), (48, 64, 96), {2: 16, 3: 4}, 6e-4),
    Size({2: 96, 3: 64}, (96, 128, 192), (64, 96, 128), (128, 192, 256), (64, 96, 128), {2: 32, 3: 8}, 4e-4),
)


def guide_widths(channels: Sequence[int]) -> list[int]:
    """Of the guide of a network of these widths: half, as its groups and heads want; none for the smallest."""
    units = [16] * (len(channels) - 1) + [32]
    half = [max(unit, c // 2 // unit * unit) for c, unit in zip(channels, units, strict=True)]
    return half if sum(half) < 0.7 * sum(channels) else []


@dataclass(frozen=True)
class Grid:
    """What follows from the grids of the scans.

    shape, factor : along the model's axes, `dims` numbers
    cascade : how many voxels an axis the images of each level are means of
    """

    axcodes: str
    agreeing: float
    spacing: tuple[float, ...]
    shape: tuple[int, ...]
    assumed: bool
    factor: tuple[int, ...]
    channels: int
    cascade: tuple[int, ...]

    @classmethod
    def of(cls, kind: Kind, size: Size) -> Grid:
        """size : of the networks that draw"""
        dims = kind.dims
        codes = [look.axcodes for look in kind.looked]
        axcodes = max(dict.fromkeys(codes), key=codes.count) if dims == 3 else "LPS"
        lain = [look.along(axcodes) if dims == 3 else (look.shape, look.spacing) for look in kind.looked]
        spacing = [float(f"{s:.4g}") for s in np.median([s for _, s in lain], axis=0)]
        assumed = all(look.assumed for look in kind.looked)
        extents = np.array([np.multiply(n, s) / spacing if resamples(kind) else n for n, s in lain])[:, :dims]
        shape = [math.ceil(n - 0.01) for n in np.percentile(extents, 90, axis=0, method="higher")]
        ratio = [s / min(spacing[:dims]) for s in spacing[:dims]]
        base = 8 if dims == 2 and max(shape) > 640 else 4
        factor = tuple(1 if r >= THICK[1] else 2 if r >= THICK[0] else base for r in ratio)
        halvings = 2 ** (len(size.generator) - 1)
        cascade = _cascade(shape, factor, halvings)
        return cls(axcodes, codes.count(axcodes) / len(codes) if dims == 3 else 1.0, tuple(spacing), tuple(shape),
                   assumed, factor, 16 if base == 8 else 8, cascade)  # fmt: skip

    def padded(self, size: Size) -> list[int]:
        """The shape as the cascade computes it."""
        halvings = [2 ** (len(u) - 1) for u in (size.generator, size.finer)]
        block = math.lcm(self.cascade[0] * halvings[0], *(c * halvings[1] for c in self.cascade[1:]))
        return [-(-n // (f * block)) * f * block for n, f in zip(self.shape, self.factor, strict=True)]


def _cascade(shape: Sequence[int], factor: Sequence[int], halvings: int) -> tuple[int, ...]:
    """Coarsening of each level: the first has about `CELLS` latent cells along its longest axis, and little padding."""

    def cells(coarsen: int) -> float:
        return max(n / (f * coarsen) for n, f in zip(shape, factor, strict=True))

    def waste(coarsen: int) -> float:
        blocks = [f * coarsen * halvings for f in factor]
        return math.prod(-(-n // b) * b / n for n, b in zip(shape, blocks, strict=True))

    fitting = [c for c in (2**n for n in range(10)) if c == 1 or cells(c) >= CELLS / 2]
    near = [c for c in fitting if cells(c) <= 1.5 * CELLS] or fitting[-1:]
    levels = [min(near, key=lambda c: round(waste(c), 1) + abs(math.log2(cells(c) / CELLS)))]
    while levels[-1] > 1:
        levels.append(max(1, levels[-1] // 4))
    return tuple(levels)


def cropped(wanted: int, shape: Sequence[int], multiple: Sequence[int]) -> list[int]:
    """A crop of about so many voxels along each axis that networks take."""
    return [max(m, min(wanted, n) // m * m) for n, m in zip(shape, multiple, strict=True)]


def attention_levels(channels: Sequence[int], dims: int) -> list[bool]:
    """Where cells are few, and channels make whole heads of attention."""
    last = len(channels) - 1
    return [c % 32 == 0 and (level == last or level > dims - 2) for level, c in enumerate(channels)]


def resamples(kind: Kind) -> bool:
    """Whether scans are brought to one voxel size: where they differ, and say so."""
    said = not all(look.assumed for look in kind.looked)
    return said and not kind.alike
