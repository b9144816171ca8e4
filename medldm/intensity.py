"""Invertible scaling between a scan's unit and the model's range; nothing is ever clipped."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medldm.errors import InputError, PixelError
from medldm.volume import Volume

BULK = 2.0  # spans of 98 % of the values; the ranges of the training's scans do not reach 1.6
SPIKE = 3.0  # the same of single values, before noise is damped
NEGATIVE, FEW = 0.05, 0.002  # share of the range that interpolation undershoots by, of the voxels that go deeper
AIR_DEPTH, AIR_SHARE = 0.2, 0.1  # air: the darkest fifth of the range, if it holds a tenth of the voxels
_GREY_RANGE = {"grey8": (0.0, 255.0), "grey16": (0.0, 65535.0)}


@dataclass(frozen=True)
class Scaling:
    """``(x - offset) / scale``: `offset` becomes 0, `offset + scale` becomes 1; both in the scan's unit."""

    offset: float
    scale: float

    def __post_init__(self) -> None:
        if not (np.isfinite(self.offset) and np.isfinite(self.scale) and self.scale > 0):
            got = f"offset {self.offset:g}, scale {self.scale:g}"
            raise PixelError("intensity", got, "finite values, scale > 0")

    def forward(self, x: ArrayLike) -> NDArray[Any]:
        """Values in the scan's unit to the model's range."""
        return np.asarray((np.asarray(x) - self.offset) / self.scale)

    def inverse(self, x: ArrayLike) -> NDArray[Any]:
        """Values in the model's range to the scan's unit."""
        return np.asarray(np.asarray(x) * self.scale + self.offset)

    def std_forward(self, noise_std: float) -> float:
        """A standard deviation in the scan's unit to the model's range."""
        return float(noise_std / self.scale)

    def std_inverse(self, std: ArrayLike) -> NDArray[Any]:
        """Standard deviations in the model's range to the scan's unit."""
        return np.asarray(np.asarray(std) * self.scale)


@dataclass(frozen=True)
class Intensity:
    """How a model's range is found in a scan; stored with the model.

    Parameters
    ----------
    kind : "window" or "percentile"
        "window": `low` and `high` are values in the scan's unit (e.g. HU) that become 0 and 1. "percentile":
        they are percentiles of a copy in which noise is damped, so that it does not widen the range.
    low, high : float
    zero_floor : bool
        For "percentile": 0 stays 0 (pure scaling, as magnitude images need; a scan whose values were shifted is
        shifted back, so that its air is 0) and percentile `high` is that
        of the foreground, the values above Otsu's threshold (Otsu 1979); `low` is not used.
    """

    kind: Literal["window", "percentile"]
    low: float
    high: float
    zero_floor: bool = False

    def __post_init__(self) -> None:
        if self.kind not in ("window", "percentile"):
            raise InputError("intensity", f"kind {self.kind!r}", "'window' or 'percentile'")
        if not (np.isfinite(self.low) and np.isfinite(self.high) and self.low < self.high):
            got = f"low {self.low:g}, high {self.high:g}"
            raise InputError("intensity", got, "finite numbers, low < high")
        if self.kind == "percentile" and not (self.low >= 0 and self.high <= 100):
            got = f"low {self.low:g}, high {self.high:g}"
            raise InputError("intensity", got, "percentiles in 0..100")
        if self.kind == "window" and self.zero_floor:
            raise InputError("intensity", "zero_floor with a window", "a window without it", "set low to 0 instead")

    def fit(self, volume: Volume, value_range: tuple[float, float] | None = None) -> Scaling:
        """Scaling for one scan.

        Parameters
        ----------
        volume : Volume
            Units "grey8" and "grey16" have their own range (0..255, 0..65535) unless `zero_floor` is set.
        value_range : (float, float), optional
            Values that become 0 and 1, instead of the rule.

        Raises
        ------
        PixelError
            For values that are not finite, an image without any contrast, or negative values of a scan without air
            where `zero_floor` is set.
        InputError
            For a `value_range` that is not increasing.
        """
        array = volume.array
        if not np.isfinite(array).all():
            count = int(np.count_nonzero(~np.isfinite(array)))
            raise PixelError("intensity", f"{count} values that are not finite", "finite values", "fill them")
        if value_range is not None:
            low, high = (float(v) for v in value_range)
            if not (np.isfinite(low) and np.isfinite(high) and low < high):
                raise InputError("value_range", f"{low:g} to {high:g}", "two finite values, the first one smaller")
            return Scaling(low, high - low)
        if array.min() == array.max():
            raise PixelError("intensity", "the same value everywhere", "an image with contrast")
        if volume.unit in _GREY_RANGE and not self.zero_floor:
            low, high = _GREY_RANGE[volume.unit]
        elif self.kind == "window":
            low, high = self.low, self.high
        else:
            low, high = self._in_bulk(array)
            if self.zero_floor:
                low = _floor(array, high)
                if low != 0:  # found in values that begin at 0
                    high = low + self._in_bulk(array - np.float32(low))[1]
        if not high > low:
            got = f"a range from {low:g} to {high:g}"
            raise PixelError("intensity", got, "an image with contrast", "give value_range")
        return Scaling(low, high - low)

    def _in_bulk(self, array: NDArray[np.float32]) -> tuple[float, float]:
        """The range by the rule; again without what lies far outside of 98 % of the values, if that decided it."""
        bottom, top = self._bulk(array, SPIKE)
        if bottom < top and (array.min() < bottom or array.max() > top):
            first, last = self._bulk(array, 1)[::-1]
            array = np.where(array > top, first, np.where(array < bottom, last, array))
        calm = _damp_noise(array)
        low, high = self._by_rule(calm)
        bottom, top = self._bulk(calm, BULK)
        if bottom < top and (low < bottom or high > top):
            return self._by_rule(calm[(calm >= bottom) & (calm <= top)])
        return low, high

    def _bulk(self, values: NDArray[Any], spans: float) -> tuple[float, float]:
        """As many spans of 98 % of the values, up from their lower end and down from their upper one."""
        least, most = (float(v) for v in np.percentile(values, (1, 99)))
        if self.zero_floor:
            least = min(least, 0.0)
        return most - spans * (most - least), least + spans * (most - least)

    def _by_rule(self, calm: NDArray[Any]) -> tuple[float, float]:
        if self.zero_floor:
            return 0.0, float(np.percentile(calm[calm > _otsu(calm)], self.high))
        low, high = (float(v) for v in np.percentile(calm, (self.low, self.high)))
        return low, high

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return asdict(self)

    @classmethod
    def from_dict(cls, table: dict[str, Any]) -> Intensity:
        """Inverse of `to_dict`; raises InputError for unknown or missing keys."""
        unknown = sorted(set(table) - {"kind", "low", "high", "zero_floor"})
        missing = sorted({"kind", "low", "high"} - set(table))
        if unknown or missing:
            got = f"unknown keys {unknown}, missing {missing}"
            raise InputError("intensity", got, "kind, low, high, zero_floor")
        return cls(table["kind"], float(table["low"]), float(table["high"]), bool(table.get("zero_floor", False)))


def _floor(array: NDArray[np.float32], high: float) -> float:
    """What is 0 for a model that knows no negative values: 0 itself, or the air of a scan whose values were shifted.

    Raises PixelError where negative values are neither a few of an interpolation, nor around noise in air, nor those
    of a shifted scan with air.
    """
    if array.min() >= 0:
        return 0.0
    low = float(np.percentile(array, 0.1))
    deep = -NEGATIVE * (high if high > 0 else float(np.ptp(array)))
    if low >= deep or float((array < deep).mean()) < FEW:
        return 0.0
    if float((array < low + AIR_DEPTH * (float(np.percentile(array, 99)) - low)).mean()) >= AIR_SHARE:
        return low
    got = f"values down to {float(array.min()):.4g}, and no air to tell where 0 is"
    raise PixelError("intensity", got, "magnitudes, 0 in air", "give value_range=(low, high), low being that of air")


def _damp_noise(array: NDArray[np.float32]) -> NDArray[Any]:
    """Copy whose extremes are those of structures, not of noise: 3 x 3 median (2D), 2 x 2 x 2 means (3D)."""
    if 1 in array.shape:
        from scipy import ndimage

        size = [3 if n > 1 else 1 for n in array.shape]
        return np.asarray(ndimage.median_filter(array, size=size, mode="nearest"))
    i, j, k = (n // 2 for n in array.shape)
    blocks = array[: 2 * i, : 2 * j, : 2 * k].reshape(i, 2, j, 2, k, 2)
    return np.asarray(blocks.mean(axis=(1, 3, 5), dtype=np.float64))


def _otsu(values: NDArray[Any]) -> float:
    """Threshold of the largest variance between classes (Otsu 1979), the brightest 0.1 % taken as one value.

    Without that cap a few very bright voxels (vessels, metal) would become the foreground.
    """
    capped = np.minimum(values, np.percentile(values, 99.9))
    if capped.min() == capped.max():
        return float(np.nextafter(capped.max(), -np.inf))
    counts, edges = np.histogram(capped, bins=256)
    centres = (edges[:-1] + edges[1:]) / 2
    below, total = np.cumsum(counts), np.cumsum(counts * centres)
    above = below[-1] - below
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (total / below - (total[-1] - total) / above) ** 2
    return float(edges[1 + int(np.nanargmax(between[:-1]))])
