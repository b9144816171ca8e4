"""Pictures of scans: orthogonal planes in radiological orientation, true to scale, as PNG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medldm.errors import InputError
from medldm.thumbnail import png, scaled
from medldm.volume import Volume

Plane = NDArray[np.float32]
Cut = tuple[str, Plane, float, float]
CENTRE = (0.5, 0.5, 0.5)

# Colour at equal steps from low to high. Residuals: blue, white at 0, red. Uncertainty: black to pale yellow.
GREY = ((0, 0, 0), (255, 255, 255))
DIVERGING = ((33, 76, 150), (122, 160, 212), (245, 245, 245), (222, 140, 110), (160, 36, 40))
SEQUENTIAL = ((6, 6, 18), (72, 22, 98), (160, 48, 98), (232, 110, 62), (252, 232, 150))


@dataclass(frozen=True)
class Window:
    """What is shown darkest and brightest, in the scan's unit, and the colours between."""

    low: float
    high: float
    colours: tuple[tuple[int, int, int], ...] = GREY

    @classmethod
    def of(cls, volume: Volume) -> Window:
        """From the 0.5th to the 99.5th percentile."""
        low, high = np.percentile(volume.array, (0.5, 99.5))
        return cls(float(low), float(max(high, low + 1e-6)))

    @classmethod
    def signed(cls, volume: Volume) -> Window:
        """Symmetric around 0, up to the 99.5th percentile of the magnitude where there is any."""
        top = _top(np.abs(volume.array))
        return cls(-top, top, DIVERGING)

    @classmethod
    def positive(cls, volume: Volume) -> Window:
        """From 0 to the 99.5th percentile of what is above."""
        return cls(0.0, _top(volume.array), SEQUENTIAL)

    def colour(self, plane: Plane) -> NDArray[np.uint8]:
        """(rows, columns) values to (rows, columns, 3) colours."""
        place = np.clip((plane - self.low) / (self.high - self.low), 0, 1)
        anchors = np.array(self.colours, dtype=np.float64)
        steps = np.linspace(0, 1, len(anchors))
        return np.stack([np.interp(place, steps, anchors[:, c]) for c in range(3)], -1).round().astype(np.uint8)


def _top(array: Plane) -> float:
    """Of what changed alone: a restored slice in a large scan would be one colour otherwise."""
    changed = array[array > 0]
    return max(float(np.percentile(changed, 99.5)), 1e-6) if changed.size else 1e-6


def place_of_change(volume: Volume) -> tuple[float, float, float]:
    """The middle of what is not 0 in a map, as shares of its field of view along left, posterior, superior."""
    array = volume.reorient("LPS").array
    found = ndimage.find_objects((array != 0).astype(np.uint8))
    if not found:
        return CENTRE
    i, j, k = ((part.start + part.stop) / 2 / n for part, n in zip(found[0], array.shape, strict=True))
    return i, j, k


def planes(volume: Volume, at: tuple[float, float, float] = CENTRE) -> list[Cut]:
    """Axial, coronal and sagittal plane as a radiologist sees them: the patient's left is on the right.

    at : where to cut, as shares of the field of view along left, posterior, superior
    Returns (name, rows x columns, mm a row, mm a column) of each plane that is more than a line: one for a
    radiograph or a single slice.
    """
    turned = volume.reorient("LPS")
    array, (left, posterior, superior) = turned.array, turned.geometry.spacing
    i, j, k = (min(int(share * n), n - 1) for share, n in zip(at, array.shape, strict=True))
    every = [
        ("axial", array[:, :, k].T, posterior, left),
        ("coronal", array[:, j, ::-1].T, superior, left),
        ("sagittal", array[i, :, ::-1].T, superior, posterior),
    ]
    return [plane for plane in every if min(plane[1].shape) > 1]


def montage(
    volume: Volume,
    window: Window,
    *,
    at: tuple[float, float, float] = CENTRE,
    size: int = 260,
    smooth: bool = True,
) -> bytes:
    """PNG of the planes side by side, all to one scale.

    size : pixels of the longest edge (a single plane gets twice as many)
    smooth : cubic interpolation for display; otherwise every voxel is a rectangle
    Raises InputError for a volume that is a line or a point.
    """
    cuts = _cuts(volume, at)
    edge = max(max(p.shape[0] * r, p.shape[1] * c) for _, p, r, c in cuts)
    pixels_mm = size * (2 if len(cuts) == 1 else 1) / edge
    shown = [window.colour(scaled(p, row, column, pixels_mm, smooth=smooth)) for _, p, row, column in cuts]
    height = max(len(picture) for picture in shown)
    between = 8
    canvas = np.zeros((height, sum(p.shape[1] for p in shown) + between * (len(shown) - 1), 3), dtype=np.uint8)
    x = 0
    for picture in shown:
        top = (height - len(picture)) // 2
        canvas[top : top + len(picture), x : x + picture.shape[1]] = picture
        x += picture.shape[1] + between
    return png(canvas)


def joined(pictures: Sequence[bytes], *, below: bool = False) -> bytes:
    """PNGs as one, side by side or one below the other."""
    from PIL import Image

    arrays = [np.asarray(Image.open(io.BytesIO(png)).convert("RGB")) for png in pictures]
    along, across, between = (0, 1, 4) if below else (1, 0, 4)
    size = max(array.shape[across] for array in arrays)
    parts: list[NDArray[np.uint8]] = []
    for array in arrays:
        gap = np.zeros((2, 2), dtype=int)
        gap[across] = (size - array.shape[across]) // 2, -((array.shape[across] - size) // 2)
        gap[along, 0] = between if parts else 0
        parts.append(np.pad(array, [*map(tuple, gap), (0, 0)], constant_values=0))
    return png(np.concatenate(parts, along))


def detail(
    volume: Volume,
    window: Window,
    *,
    plane: str = "axial",
    at: tuple[float, float, float] = CENTRE,
    share: float = 0.3,
    size: int = 400,
    smooth: bool = True,
) -> bytes:
    """PNG of a square part of a plane, enlarged; `share` of the plane's shorter edge, around `at`.

    plane : "axial", "coronal" or "sagittal"; the first that there is, where there is no such plane
    """
    cuts = _cuts(volume, at)
    name, values, mm_row, mm_column = next((cut for cut in cuts if cut[0] == plane), cuts[0])
    left, posterior, superior = at
    down = posterior if name == "axial" else 1 - superior
    right = posterior if name == "sagittal" else left
    rows, columns = values.shape
    edge = share * min(rows * mm_row, columns * mm_column)
    height, width = max(round(edge / mm_row), 1), max(round(edge / mm_column), 1)
    top = int(np.clip(round(down * rows) - height // 2, 0, rows - height))
    start = int(np.clip(round(right * columns) - width // 2, 0, columns - width))
    part = values[top : top + height, start : start + width]
    return png(window.colour(scaled(part, mm_row, mm_column, size / edge, smooth=smooth)))


def _cuts(volume: Volume, at: tuple[float, float, float]) -> list[Cut]:
    cuts = planes(volume, at)
    if not cuts:
        raise InputError("picture", f"a volume of shape {volume.geometry.shape}", "two axes longer than one")
    return cuts
