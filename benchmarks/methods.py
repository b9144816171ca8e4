"""The methods that `benchmarks.restoration` compares: classical ones and medldm through its public API."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from benchmarks import ct
from benchmarks.cache import cached
from benchmarks.protocol import Case, coarse
from medldm.evaluate import baselines
from medldm.geometry import Geometry

if TYPE_CHECKING:
    from medldm.model import Model

Image = NDArray[np.float64]
# (case, measurement, noise level or factor) -> result on the truth's grid
Restore = Callable[[Case, Image, float], Image]

CHEST_MODEL, BRAIN_MODEL = "chest-xray-256", "brain-t1-2mm"


@dataclass(frozen=True)
class Method:
    """One row of a table. slow: BM3D and BM4D, computed once and kept; fresh: computed now, where it is to be timed;
    package: what it needs installed."""

    name: str
    restore: Restore
    slow: bool = False
    package: str | None = None
    fresh: Restore | None = None

    @property
    def available(self) -> bool:
        return self.package is None or importlib.util.find_spec(self.package) is not None


def _bm3d(case: Case, y: Image, s: float) -> Image:
    return cached(f"bm3d {version('bm3d')}", y, s, lambda: baselines.bm3d(y, s))


def _bm3d_hu(case: Case, y: Image, level: float) -> Image:
    return _bm3d(case, y, level / ct.RANGE)


def _bm3d_told(case: Case, y: Image, level: float) -> Image:
    """With the noise's spectrum, which no method else is told."""
    s = level / ct.RANGE

    def compute() -> Image:
        with mock.patch.object(np, "trapz", np.trapezoid, create=True):  # the package's, gone with NumPy 2
            return baselines.bm3d(y, s**2 * y.size * ct.sharp_power(y.shape))

    return cached(f"bm3d {version('bm3d')}, a sharp kernel's", y, s, compute)


def _bm4d(case: Case, y: Image, s: float) -> Image:
    plain = cached(f"bm4d {version('bm4d')}", y, s, lambda: baselines.bm4d(y, s))
    return baselines.debias(plain, s)


@cache
def _model(name: str) -> Model:
    """Loaded once, so that times are those of restoring."""
    import medldm

    return medldm.load_model(name)


def _chest_denoise(case: Case, y: Image, s: float) -> Image:
    import medldm

    result = medldm.denoise(y, model=_model(CHEST_MODEL), noise_std=s, value_range=(0.0, 1.0))
    return np.asarray(result.array, dtype=np.float64)


def _chest_super_resolve(case: Case, y: Image, factor: float) -> Image:
    import medldm

    result = medldm.super_resolve(y, model=_model(CHEST_MODEL), scale=int(factor), value_range=(0.0, 1.0))
    return np.asarray(result.array, dtype=np.float64)


def _brain_denoise(case: Case, y: Image, s: float) -> Image:
    import medldm

    result = medldm.denoise(y, model=_model(BRAIN_MODEL), noise_std=s, affine=case.affine)
    return np.asarray(result.array, dtype=np.float64)


def _brain_super_resolve(case: Case, y: Image, factor: float) -> Image:
    import medldm

    assert case.affine is not None
    scale = coarse(case, int(factor))
    grid = Geometry(case.affine, case.truth.shape).zoom(tuple(1 / f for f in scale))
    result = medldm.super_resolve(y, model=_model(BRAIN_MODEL), scale=scale, affine=grid.affine)
    return np.asarray(result.array, dtype=np.float64)


CHEST_DENOISE = (
    Method("noisy", lambda case, y, s: y),
    Method("wavelet", lambda case, y, s: baselines.wavelet(y, s), package="pywt"),
    Method("total variation", lambda case, y, s: baselines.total_variation(y, s)),
    Method("non-local means", lambda case, y, s: baselines.non_local_means(y, s)),
    Method("BM3D", _bm3d, slow=True, package="bm3d", fresh=lambda case, y, s: baselines.bm3d(y, s)),
    Method("medldm", _chest_denoise),
)
CHEST_SUPER_RESOLVE = (
    Method("linear", lambda case, y, f: baselines.interpolate(y, (int(f), int(f)), order=1)),
    Method("cubic", lambda case, y, f: baselines.interpolate(y, (int(f), int(f)))),
    Method("medldm", _chest_super_resolve),
)
CT_DENOISE = (
    Method("noisy", lambda case, y, s: y),
    Method("total variation", lambda case, y, s: baselines.total_variation(y, s / ct.RANGE)),
    Method("non-local means", lambda case, y, s: baselines.non_local_means(y, s / ct.RANGE)),
    Method("BM3D", _bm3d_hu, slow=True, package="bm3d", fresh=lambda case, y, s: baselines.bm3d(y, s / ct.RANGE)),
    Method("medldm", ct.restored),
)
CT_DENOISE_SHARP = (
    *CT_DENOISE[:-1],
    Method("BM3D, told the spectrum", _bm3d_told, slow=True, package="bm3d"),
    CT_DENOISE[-1],
)
BRAIN_DENOISE = (
    Method("noisy", lambda case, y, s: y),
    Method("non-local means", lambda case, y, s: baselines.non_local_means(y, s, rician=True)),
    Method(
        "non-local means (s = 0)",
        lambda case, y, s: baselines.non_local_means(y, s, rician=True, subtract=False),
    ),
    Method("BM4D debiased", _bm4d, slow=True, package="bm4d", fresh=lambda case, y, s: baselines.bm4d(y, s)),
    Method("medldm", _brain_denoise),
)
BRAIN_SUPER_RESOLVE = (
    Method("linear", lambda case, y, f: baselines.interpolate(y, coarse(case, int(f)), order=1)),
    Method("cubic", lambda case, y, f: baselines.interpolate(y, coarse(case, int(f)))),
    Method("cubic back-projected", lambda case, y, f: baselines.back_projected(y, coarse(case, int(f)))),
    Method("medldm", _brain_super_resolve),
)
