"""How to restore: the options that every restoring function shares, written once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from medldm import registry
from medldm.errors import InputError
from medldm.volume import Volume

Progress = Callable[[str, int, int], None]
Preview = Callable[[Volume], None]
Forecast = Callable[[float, int], None]
METHODS = ("trained", "posterior")
MODES = {"fidelity": 0.0, "perceptual": 1.0}
PLANES = {"axial": ("S", "I"), "coronal": ("A", "P"), "sagittal": ("R", "L")}  # where the axis across it points


class RestoreOptions(TypedDict, total=False):
    """Keyword arguments of every restoring function: where the scan lies, how to restore it, where to compute.

    spacing : mm an axis (rows x columns of a picture), or one number for all, of a scan that is an array (default None:
        of a picture 1 mm is assumed)
    affine : (4, 4), voxel indices -> RAS+ mm, of a scan that is an array, in the place of `spacing` (default None)
    series : which one, of a path that holds several (default None: there is but one)
    device : "cpu", "cuda", "cuda:1" (default None: a GPU where there is one, or where a loaded model is)
    noise_std : of the scan, in its own unit (default None: estimated; in super-resolution 0 where it may be anatomy)
    method : "trained" (default), by networks trained for the problem; "posterior", by a model that was trained to
        synthesize alone, and any problem: slow, and no better than its samples look
    mode : "fidelity" (default; the posterior mean), "perceptual" (the same with a little noise, a fifth of the
        deviation of its error: less smooth), or a number between, 0..1; by "posterior", "perceptual" is one of the
        samples
    samples : with more than one, so many posterior samples are drawn, and their spread goes into the uncertainty
        (default 1: none)
    steps : of the sampler that draws them (default 20)
    sampler : "dpmpp_2m" (default), "heun", "ddim", or that of a plugin
    seed : default 0; the same seed gives the same result
    force : restore what a calibrated model refuses, a scan of noise alone; the report says so (default False)
    value_range : (low, high) in the scan's unit: the model's 0 and 1 (default None: found in the scan)
    plane : "axial", "coronal" or "sagittal", of the slices of a volume that a model of single images takes (default
        None: that in which they were acquired)
    progress : called with (task, steps done, steps in all); whatever it raises ends the work (default None)
    preview : called with the decoded estimate, a Volume on the result's grid, after each step; slice by slice, with
        the slice (default None)
    forecast : called once, before most of the work, with the seconds and the bytes that it will take about; not where
        it is soon done, and not with "posterior" (default None)

    >>> options: medldm.RestoreOptions = {"noise_std": 20.0, "seed": 1}
    >>> medldm.denoise(scan, model=model, **options).report["seed"]
    1
    """

    spacing: Sequence[float] | float | None
    affine: NDArray[Any] | None
    series: str | None
    device: str | None
    noise_std: float | None
    method: str
    mode: str | float
    samples: int
    steps: int
    sampler: str
    seed: int
    force: bool
    value_range: tuple[float, float] | None
    plane: str | None
    progress: Progress | None
    preview: Preview | None
    forecast: Forecast | None


@dataclass(frozen=True)
class Settings:
    """Those of `RestoreOptions` that say how to restore, with their defaults, checked."""

    noise_std: float | None = None
    method: str = "trained"
    mode: str | float = "fidelity"
    samples: int = 1
    steps: int = 20
    sampler: str = "dpmpp_2m"
    seed: int = 0
    force: bool = False
    value_range: tuple[float, float] | None = None
    plane: str | None = None
    progress: Progress | None = None
    preview: Preview | None = None
    forecast: Forecast | None = None

    def __post_init__(self) -> None:
        """Raises InputError for a setting that makes no sense."""
        self.texture()
        if self.method not in METHODS:
            raise InputError("method", repr(self.method), " or ".join(METHODS))
        if self.sampler not in registry.names("samplers"):
            registry.find("samplers", str(self.sampler))  # says which there are
        for name, least in (("samples", 1), ("steps", 2), ("seed", 0)):
            value = getattr(self, name)
            if not isinstance(value, int | np.integer) or value < least:
                raise InputError(name, repr(value), f"a whole number, at least {least}")
        if self.noise_std is not None and not _is_number(self.noise_std, least=0):
            expected = "a number >= 0 in the scan's unit, or None to estimate it"
            raise InputError("noise_std", repr(self.noise_std), expected)
        if self.value_range is not None and not _is_range(self.value_range):
            raise InputError("value_range", str(self.value_range), "(low, high) with low < high")
        if self.plane is not None and self.plane not in PLANES:
            raise InputError("plane", repr(self.plane), f"{', '.join(PLANES)}, or None: as it was acquired")
        for name in ("progress", "preview", "forecast"):
            if getattr(self, name) is not None and not callable(getattr(self, name)):
                raise InputError(name, repr(getattr(self, name))[:60], "a function, or None")

    def texture(self) -> float:
        """The mode as a number: 0 fidelity, 1 perceptual. Raises InputError."""
        try:
            share = MODES[self.mode] if self.mode in MODES else float(self.mode)
        except (TypeError, ValueError):
            share = float("nan")
        if not 0 <= share <= 1:
            raise InputError("mode", repr(self.mode), "fidelity, perceptual, or a number from 0 to 1")
        return share


def _is_range(value: object) -> bool:
    pair = isinstance(value, Sequence | np.ndarray) and not isinstance(value, str) and len(value) == 2
    return pair and all(_is_number(v, least=-np.inf) for v in value) and bool(value[0] < value[1])  # type: ignore[index,attr-defined]


def _is_number(value: object, *, least: float) -> bool:
    return isinstance(value, int | float | np.number) and bool(np.isfinite(value)) and float(value) >= least
