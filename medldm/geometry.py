"""Where voxels lie: an affine and a shape, without voxels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medldm.errors import GeometryError

_CODES = (("L", "R"), ("P", "A"), ("I", "S"))
LARGEST_COORDINATE = 1e6


@dataclass(frozen=True, eq=False, repr=False)
class Geometry:
    """A grid of voxels in the world.

    affine : (4, 4) float64, voxel indices -> RAS+ millimetres, voxel centres at whole indices
    shape : (I, J, K)
    Raises GeometryError for values that are not finite, a singular matrix or an empty shape.

    >>> grid = medldm.Geometry.from_spacing((64, 64, 20), (1, 1, 3))
    >>> grid.zoom((1, 1, 3)).shape
    (64, 64, 60)
    """

    affine: NDArray[np.float64]
    shape: tuple[int, int, int]

    def __post_init__(self) -> None:
        affine = np.array(self.affine, dtype=np.float64)
        shape = tuple(int(n) for n in self.shape)
        if affine.shape != (4, 4):
            raise GeometryError("affine", f"shape {affine.shape}", "(4, 4)")
        if not np.isfinite(affine).all() or np.abs(affine).max() > LARGEST_COORDINATE:
            raise GeometryError("affine", "values that are not finite or above 1e6", "finite millimetres")
        if not np.allclose(affine[3], [0, 0, 0, 1]):
            raise GeometryError("affine", f"last row {affine[3].tolist()}", "0 0 0 1")
        lengths = np.linalg.norm(affine[:3, :3], axis=0)
        if lengths.min() <= 0 or abs(np.linalg.det(affine[:3, :3] / lengths)) < 1e-3:
            raise GeometryError("affine", "a singular matrix", "three independent axes")
        if len(shape) != 3 or min(shape) < 1:
            raise GeometryError("shape", str(shape), "three sizes >= 1")
        affine.setflags(write=False)
        object.__setattr__(self, "affine", affine)
        object.__setattr__(self, "shape", shape)

    def __repr__(self) -> str:
        size, spacing = " x ".join(map(str, self.shape)), " x ".join(f"{s:.3g}" for s in self.spacing)
        return f"Geometry({size}, {spacing} mm, {''.join(self.axcodes)})"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled and copied read-only, as it is."""
        return type(self), (np.array(self.affine), self.shape)

    @classmethod
    def from_spacing(
        cls, shape: Sequence[int], spacing: Sequence[float], origin: Sequence[float] = (0.0, 0.0, 0.0)
    ) -> Geometry:
        """A grid of `shape` along right, anterior, superior; `spacing` and `origin` (first voxel's centre) in mm."""
        if len(spacing) != 3 or not all(np.isfinite(s) and s > 0 for s in spacing):
            raise GeometryError("spacing", f"{tuple(spacing)}", "three lengths > 0 in mm")
        affine = np.diag([*np.asarray(spacing, dtype=np.float64), 1.0])
        affine[:3, 3] = origin
        return cls(affine, (shape[0], shape[1], shape[2]))

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxel centres along I, J, K, mm."""
        i, j, k = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
        return i, j, k

    @property
    def axcodes(self) -> tuple[str, str, str]:
        """Nearest anatomical direction of each axis, e.g. ("P", "S", "R")."""
        world, sign = self._nearest_axes()
        i, j, k = (_CODES[w][int(s > 0)] for w, s in zip(world, sign, strict=True))
        return i, j, k

    @property
    def is_sheared(self) -> bool:
        """Whether any two axes are off a right angle by more than 1e-3 (tilted gantries)."""
        unit = self.affine[:3, :3] / np.linalg.norm(self.affine[:3, :3], axis=0)
        return bool(np.abs(unit.T @ unit - np.eye(3)).max() > 1e-3)

    def _nearest_axes(self) -> tuple[list[int], list[int]]:
        """World axis and sign of each voxel axis; an assignment, so that no world axis is taken twice."""
        unit = self.affine[:3, :3] / np.linalg.norm(self.affine[:3, :3], axis=0)
        world, sign, left = [-1, -1, -1], [0, 0, 0], np.abs(unit)
        for _ in range(3):
            w, v = np.unravel_index(int(np.argmax(left)), left.shape)
            world[int(v)], sign[int(v)] = int(w), int(np.sign(unit[w, v]))
            left[w, :], left[:, v] = -1, -1
        return world, sign

    def to_world(self, ijk: ArrayLike) -> NDArray[np.float64]:
        """Voxel indices `ijk` (..., 3) -> RAS+ mm (..., 3)."""
        return np.asarray(np.asarray(ijk, dtype=np.float64) @ self.affine[:3, :3].T + self.affine[:3, 3])

    def to_voxel(self, xyz: ArrayLike) -> NDArray[np.float64]:
        """RAS+ mm `xyz` (..., 3) -> voxel indices (..., 3), not rounded."""
        inverse = np.linalg.inv(self.affine)
        return np.asarray(np.asarray(xyz, dtype=np.float64) @ inverse[:3, :3].T + inverse[:3, 3])

    def corners(self) -> NDArray[np.float64]:
        """Centres of the eight corner voxels, RAS+ mm, (8, 3)."""
        ends = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)])
        return self.to_world(ends * (np.array(self.shape) - 1))

    def _moved(self, matrix: NDArray[np.float64], start: ArrayLike, shape: Sequence[int]) -> Geometry:
        affine = np.eye(4)
        affine[:3, :3] = self.affine[:3, :3] @ matrix
        affine[:3, 3] = self.to_world(start)
        return Geometry(affine, (shape[0], shape[1], shape[2]))

    def crop(self, start: Sequence[int], stop: Sequence[int]) -> Geometry:
        """Voxels from `start` up to, not with, `stop`. Raises GeometryError outside the grid."""
        inside = all(0 <= a < b <= n for a, b, n in zip(start, stop, self.shape, strict=True))
        if not inside:
            raise GeometryError("crop", f"{tuple(start)} to {tuple(stop)}", f"a range inside {self.shape}")
        return self._moved(np.eye(3), start, [b - a for a, b in zip(start, stop, strict=True)])

    def pad(self, before: Sequence[int], after: Sequence[int]) -> Geometry:
        """More voxels `before` and `after` along each axis. Raises GeometryError for negative numbers."""
        if min(*before, *after) < 0:
            raise GeometryError("pad", f"{tuple(before)}, {tuple(after)}", "numbers >= 0")
        size = [n + b + a for n, b, a in zip(self.shape, before, after, strict=True)]
        return self._moved(np.eye(3), [-b for b in before], size)

    def flip(self, axes: Sequence[int]) -> Geometry:
        """Reverse some `axes`; each voxel stays where it is in the world. Raises GeometryError."""
        if len(set(axes)) != len(axes) or not set(axes) <= {0, 1, 2}:
            raise GeometryError("flip", f"axes {tuple(axes)}", "different ones of 0, 1, 2")
        sign = np.array([-1.0 if a in axes else 1.0 for a in range(3)])
        start = [n - 1 if a in axes else 0 for a, n in enumerate(self.shape)]
        return self._moved(np.diag(sign), start, self.shape)

    def permute(self, order: Sequence[int]) -> Geometry:
        """New axis a is the old axis `order`[a]. Raises GeometryError."""
        if sorted(order) != [0, 1, 2]:
            raise GeometryError("permute", str(tuple(order)), "an order of 0, 1, 2")
        return self._moved(np.eye(3)[:, list(order)], (0, 0, 0), [self.shape[a] for a in order])

    def zoom(self, factor: Sequence[float]) -> Geometry:
        """A grid `factor` times as fine along each axis (> 1: finer), its outer edge where it was.

        The field of view starts at index -1/2, so the first centre moves by half the difference of the
        spacings; the shape is rounded. Raises GeometryError.
        """
        if len(factor) != 3 or not all(np.isfinite(f) and f > 0 for f in factor):
            raise GeometryError("zoom", f"factor {tuple(factor)}", "three numbers > 0")
        size = [max(1, round(n * f)) for n, f in zip(self.shape, factor, strict=True)]
        inverse = np.array([1.0 / f for f in factor])
        return self._moved(np.diag(inverse), (inverse - 1) / 2, size)

    def orientation_to(self, axcodes: Sequence[str]) -> tuple[tuple[int, int, int], tuple[int, ...]]:
        """The exact ``permute(order)`` and then ``flip(flips)`` that bring the axes nearest to `axcodes`.

        Raises GeometryError for codes that are not one each of L/R, P/A, I/S.
        """
        wanted = []
        for code in axcodes:
            wanted += [(w, int(code == pair[1]) * 2 - 1) for w, pair in enumerate(_CODES) if code in pair]
        if sorted(w for w, _ in wanted) != [0, 1, 2] or len(axcodes) != 3:
            raise GeometryError("axcodes", "".join(axcodes), "one each of L/R, P/A, I/S, e.g. RAS")
        world, sign = self._nearest_axes()
        i, j, k = (world.index(w) for w, _ in wanted)
        flips = tuple(a for a, (w, s) in enumerate(wanted) if sign[world.index(w)] != s)
        return (i, j, k), flips

    def isclose(self, other: Geometry, atol: float = 1e-3) -> bool:
        """Whether the `other` has the same shape, and corners within `atol` mm."""
        return self.shape == other.shape and bool(np.abs(self.corners() - other.corners()).max() <= atol)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {"affine": self.affine.tolist(), "shape": list(self.shape)}

    @classmethod
    def from_dict(cls, table: dict[str, Any]) -> Geometry:
        """From a `table` of `to_dict`."""
        i, j, k = table["shape"]
        return cls(np.array(table["affine"], dtype=np.float64), (i, j, k))
