"""Block average: thick slices and large pixels, each the mean over the voxels that it covers; and its problem."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from medldm.errors import InputError
from medldm.geometry import Geometry
from medldm.operators.measurement import Measurement
from medldm.operators.operator import Operator
from medldm.operators.problem import Axes, Draw, Problem
from medldm.tables import wrong


@lru_cache(maxsize=64)
def _upsampling_matrix(n: int, factor: int) -> Tensor:
    """Cubic interpolation of `n` block means to ``n * factor`` voxels, back-projected ten times.

    Returns (n * factor, n). Back-projection (Irani and Peleg 1991) makes the block means of the
    result equal the measurement; both steps are linear, so along an axis they are one matrix.
    """
    from scipy import ndimage

    centres = (np.arange(n * factor) + 0.5) / factor - 0.5
    order = 3 if n > 1 else 0
    cubic = np.stack([ndimage.map_coordinates(row, [centres], order=order, mode="nearest") for row in np.eye(n)])
    up = cubic.T
    down = np.kron(np.eye(n), np.full((1, factor), 1.0 / factor))
    result = up.copy()
    for _ in range(10):
        result += up @ (np.eye(n) - down @ result)
    return torch.from_numpy(result).float()


def _along(matrix: Tensor, x: Tensor, axis: int) -> Tensor:
    return torch.movedim(torch.movedim(x, axis, -1) @ matrix.T.to(x), -1, axis)


@dataclass(frozen=True)
class BlockAverage(Operator):
    """``A`` = mean over blocks of ``factor`` voxels along I, J, K (a box slice profile).

    factor : three integers >= 1
    """

    factor: tuple[int, int, int]

    def __post_init__(self) -> None:
        if len(self.factor) != 3 or any(int(f) != f or f < 1 for f in self.factor):
            raise InputError("BlockAverage", f"factor {self.factor}", "three integers >= 1")

    @classmethod
    def example(cls) -> BlockAverage:
        return cls((2, 1, 4))

    def output_geometry(self, geometry: Geometry) -> Geometry:
        i, j, k = (1.0 / f for f in self.factor)
        return geometry.zoom((i, j, k))

    def input_geometry(self, geometry: Geometry) -> Geometry:
        i, j, k = (float(f) for f in self.factor)
        return geometry.zoom((i, j, k))

    def blur(self) -> tuple[float, float, float]:
        i, j, k = (float(f) for f in self.factor)
        return (i, j, k)

    def forward(self, x: Tensor) -> Tensor:
        for axis, f in enumerate(self.factor, start=2):
            if x.shape[axis] % f:
                raise InputError(
                    "BlockAverage",
                    f"size {x.shape[axis]} on axis {axis - 2}",
                    f"a multiple of {f}",
                    "crop or pad",
                )
            x = x.unflatten(axis, (-1, f)).mean(axis + 1)
        return x

    def adjoint(self, y: Tensor) -> Tensor:
        for axis, f in enumerate(self.factor, start=2):
            y = y.repeat_interleave(f, dim=axis) / f
        return y

    def first_guess(self, y: Tensor) -> Tensor:
        """Cubic interpolation to the fine grid with ``A first_guess(y) = y`` (to 1e-3 of the range or better)."""
        for axis, f in enumerate(self.factor, start=2):
            if f > 1:
                y = _along(_upsampling_matrix(y.shape[axis], f), y, axis)
        return y

    def project_above(self, x: Tensor, y: Tensor, floor: float | None) -> Tensor:
        """`project`, then each block exactly: moved to its mean, and what the floor adds is taken off in proportion."""
        x = self.project(x, y)
        x = x + self._spread(y - self.forward(x))
        if floor is None:
            return x
        above, wanted = (x - floor).clamp_min(0), y - floor
        share = wanted / self.forward(above).clamp_min(torch.finfo(x.dtype).tiny)
        kept = floor + above * self._spread(share.clamp(0, 1))
        return torch.where(self._spread(wanted) > 0, kept, self._spread(y))  # a mean below the floor stands as it is

    def _spread(self, y: Tensor) -> Tensor:
        """Every voxel of a block as the block."""
        for axis, f in enumerate(self.factor, start=2):
            y = y.repeat_interleave(f, dim=axis)
        return y


class SuperResolve(Problem):
    """Finer voxels, by whole factors; the outer edges of the field of view stay.

    factors : that the pack was trained on, drawn as often as `factor_weights` say (equally if None)
    through_plane : along one axis at a time; else along both axes of an image alike
    noisy_share : of the training's coarse images that are noisy
    """

    factors: tuple[Annotated[int, Field(ge=2)], ...] = Field(min_length=1)
    factor_weights: tuple[Annotated[float, Field(ge=0)], ...] | None = None
    through_plane: bool = False
    noisy_share: float = Field(0.4, ge=0, le=1)

    operator_type: ClassVar[type[Operator]] = BlockAverage

    @model_validator(mode="after")
    def _one_weight_a_factor(self) -> Self:
        weights = self.factor_weights
        if weights is not None and (len(weights) != len(self.factors) or sum(weights) <= 0):
            expected = f"as many numbers as factors, {len(self.factors)}, one above 0"
            raise wrong(("factor_weights",), list(weights), expected)
        return self

    @classmethod
    def untrained(cls, dims: int) -> Self:
        """By any factor to 8."""
        factors, every = tuple(range(2, 9)), {"head": "", "noise_std": (0.001, 1.0)}
        return cls.model_validate({**every, "factors": factors, "through_plane": dims == 3})

    @property
    def multiple(self) -> int:
        return math.lcm(*self.factors)

    def operator(self, options: Mapping[str, Any], axes: Axes) -> BlockAverage:
        """options : `scale`, a factor (of an image's axes, or of a volume's thickest), or one an axis of the scan; or
        `target_spacing`, the voxel size to reach in mm."""
        scale, spacing = options.get("scale"), options.get("target_spacing")
        unknown = sorted(set(options) - {"scale", "target_spacing"})
        if unknown or (scale is None) == (spacing is None):
            got = unknown[0] if unknown else "both or neither of scale and target_spacing"
            raise InputError("super_resolve", got, "one of scale and target_spacing")
        factor = self._factor(scale, axes) if spacing is None else self._towards(spacing, axes)
        text, refined = " x ".join(map(str, factor)), [f for f in factor if f != 1]
        if not refined or any(f not in self.factors for f in refined):
            known = ", ".join(map(str, self.factors))
            raise InputError("scale", text, f"factors out of {known}", "take another scale")
        if self.through_plane and len(refined) > 1:
            raise InputError("scale", text, "one axis: this model refines through plane", "e.g. 1x1x2")
        if not self.through_plane and (factor[0] != factor[1] or factor[2] != 1):
            raise InputError("scale", text, "the same factor on both axes of the image")
        i, j, k = axes.to_model(factor)
        return BlockAverage((int(i), int(j), int(k)))

    def of_slice(
        self, options: Mapping[str, Any], geometry: Geometry, order: tuple[int, int, int], number: int
    ) -> Mapping[str, Any]:
        """Numbers for each axis of the scan become those of the slice; nothing is refined across slices."""
        turned = dict(options)
        for name, stays in (("scale", 1.0), ("target_spacing", geometry.spacing[2])):
            value = options.get(name)
            if not isinstance(value, Sequence | np.ndarray) or isinstance(value, str) or len(value) != 3:
                continue
            turned[name] = [value[axis] for axis in order]
            through = turned[name][2]
            if isinstance(through, int | float | np.number) and abs(through - stays) > 0.02 * stays:
                text = " x ".join(map(str, value))
                do = "refine both other axes alike, or take a model of volumes"
                raise InputError(name, text, f"{stays:.4g} across the slices: this model refines in plane", do)
        return turned

    @staticmethod
    def _factor(scale: Any, axes: Axes) -> tuple[int, int, int]:
        """Of each axis of the scan. Raises InputError for what is no whole number, or not one an axis."""
        wanted = "a whole factor (2), or one an axis of the scan (1, 1, 2)"
        try:
            factors = np.atleast_1d(np.asarray(scale, dtype=float))
        except (TypeError, ValueError):
            raise InputError("scale", repr(scale)[:60], wanted) from None
        whole = factors.ndim == 1 and len(factors) in {1, axes.dims, 3} and bool((factors == np.rint(factors)).all())
        if not whole or not (np.isfinite(factors) & (factors >= 1)).all():
            raise InputError("scale", repr(scale)[:60], wanted)
        factor = [1, 1, 1]
        if len(factors) > 1:
            factor[: len(factors)] = [int(f) for f in factors]
        elif axes.dims == 2:
            factor[:2] = [int(factors[0])] * 2
        else:
            spacing = axes.geometry.spacing
            factor[max(range(3), key=lambda axis: (spacing[axis], axis))] = int(factors[0])
        return (factor[0], factor[1], factor[2])

    @staticmethod
    def _towards(spacing: Any, axes: Axes) -> tuple[int, int, int]:
        """The factor of each axis that reaches a spacing in mm. Raises InputError."""
        now = np.array(axes.geometry.spacing)
        try:
            wanted = np.broadcast_to(np.asarray(spacing, dtype=float), (3,))
        except (TypeError, ValueError):
            wanted = np.zeros(3)
        if not (np.isfinite(wanted).all() and (wanted > 0).all()):
            raise InputError("voxel size to reach", str(spacing), "one or three lengths > 0 in mm")
        exact = np.where(np.arange(3) < axes.dims, now / wanted, 1.0)
        factor = np.rint(exact)
        if np.any(np.abs(exact - factor) > 0.02 * factor) or np.any(factor < 1):
            expected = f"whole fractions of the scan's {' x '.join(f'{s:.4g}' for s in now)} mm"
            raise InputError("voxel size to reach", str(spacing), expected, "or give scale")
        return (int(factor[0]), int(factor[1]), int(factor[2]))

    def drawn_operator(self, shape: tuple[int, int, int], draw: Draw, dims: int) -> BlockAverage:
        """One for all examples of a step: the heads turn a batch so that its coarse axis comes first."""
        weights = self.factor_weights
        share = None if weights is None else np.array(weights) / sum(weights)
        f = int(draw.step.choice(self.factors, p=share))
        if not self.through_plane:
            return BlockAverage((f, f, f if dims == 3 else 1))
        axis = int(draw.step.integers(dims))
        return BlockAverage((f if axis == 0 else 1, f if axis == 1 else 1, f if axis == 2 else 1))

    def drawn_noise(self, draw: Draw) -> float:
        noise_std = super().drawn_noise(draw)
        return noise_std if draw.own.random() < self.noisy_share else 0.0

    def believes(self, noise_std: float, sure: bool) -> bool:
        """Not where it may be anatomy: a clean scan comes back with its block means."""
        return sure and noise_std <= 2 * self.noise_std[1]

    def error_weight(self, x: Tensor, measurement: Measurement) -> Tensor:
        """Of interpolation, less where noise is to be taken off, too."""
        coarsest = measurement.blur.flatten(1).amax(1)
        noise_std = measurement.noise_std.flatten(1).amax(1)
        return 2000 * torch.where(coarsest > 2.5, 1.0, 2.0) / (1 + noise_std / 0.05)
