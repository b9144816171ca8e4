"""The answer of a restoration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medldm import thumbnail
from medldm.conformal import Case, Intervals, uncalibrated
from medldm.errors import InputError, ModelError
from medldm.marks import BOUNDS, QUANTITY, RESEARCH_USE
from medldm.restoration.settings import PLANES
from medldm.volume import Volume


@dataclass(frozen=True, eq=False, repr=False)
class Restoration:
    """A restored scan and how far to trust it.

    volume : the result, in the scan's unit; on its grid (super-resolution: on the finer one)
    array : the result in the shape, axis order, unit and scale of what was given
    residual : measurement minus (degraded) result, on the scan's grid
    uncertainty : standard deviation of the result's error, in the scan's unit, on the result's grid
    report : plain data: model, settings, noise level, checks, warnings, timings, versions
    intervals : what the model's pack knows of its errors, for `interval`; None: it was not calibrated

    The two maps say in their history what they are (`Volume.quantity`), and so in every file that is written of them.

    >>> medldm.denoise(scan, model=model, noise_std=20.0)
    Restoration(denoise by tiny-3d: 24 x 20 x 16, 2 x 2 x 3 mm, RAS, arbitrary, MR; noise_std 20; 0 warnings)
    """

    volume: Volume
    array: NDArray[np.float32]
    residual: Volume
    uncertainty: Volume
    report: dict[str, Any]
    intervals: Intervals | None = None

    def __post_init__(self) -> None:
        for what in ("residual", "uncertainty"):
            object.__setattr__(self, what, _named(getattr(self, what), what))

    def interval(self, level: float = 0.9) -> tuple[Volume, Volume]:
        """Where the true value lies, in a share `level` of the voxels: lower and upper bound.

        level : from 0.5 to 0.98; default 0.9
        Both are volumes on the result's grid, in the scan's unit: the result minus and plus a multiple of its
        uncertainty. The multiples were found on patients kept aside (the model's card says whom), for voxels of like
        deviation, brightness and surroundings each (split conformal prediction by groups, risk controlled over
        patients: Angelopoulos et al. 2022, Conformal Risk Control). The share holds on average over patients like
        those; it promises nothing for a single voxel, a scan that `Model.fits` doubts, or a wrong `noise_std`.
        Raises InputError for another level, and for a posterior sample or several: the interval is that of the
        posterior mean; ModelError where the model was not calibrated for this.

        >>> result = medldm.denoise(scan, model=model, noise_std=20.0)
        >>> if result.has_interval:
        ...     lower, upper = result.interval(0.9)
        """
        known, case = self._known(), self._case()
        offset, scale = (np.float32(self.report["intensity"][key]) for key in ("offset", "scale"))
        result = self.volume.array
        half = scale * known.half_width(
            (result - offset) / scale, self.uncertainty.array / scale, case, level, flat=self._across, where=self._where
        )
        lower = result - half
        if known.floor:
            lower = np.maximum(lower, np.minimum(offset, result))
        about = {"step": f"{case.task} interval", "level": float(level)}
        low, high = (
            self.volume.with_array(array.astype(np.float32), {**about, QUANTITY: what})
            for array, what in zip((lower, result + half), BOUNDS, strict=True)
        )
        return low, high

    @property
    def has_interval(self) -> bool:
        """Whether `interval` has an answer."""
        try:
            self._known().check(self._case(), self._where)
        except (InputError, ModelError):
            return False
        return True

    @property
    def _where(self) -> str:
        return f"model {self.report.get('model', '')}".strip()

    def _known(self) -> Intervals:
        if self.intervals is None:
            raise uncalibrated(self._where)
        return self.intervals

    def _case(self) -> Case:
        """Raises InputError for a result that is no posterior mean."""
        report = self.report
        if report["method"] != "trained" or report["mode"] != 0 or report["samples"] > 1:
            got = f"method {report['method']}, mode {report['mode']:g}, {report['samples']} samples"
            raise InputError("interval", got, "trained, fidelity and one sample", "restore it so: it is the mean's")
        share = float(report["noise_std"]) / float(report["intensity"]["scale"])
        return Case(report["task"], max(float(each) for each in report["factor"]), share)

    @property
    def _across(self) -> int | None:
        """The axis across the slices of a volume that were restored one by one."""
        ends = PLANES.get(str(self.report.get("plane")), ())
        return next((axis for axis, code in enumerate(self.volume.geometry.axcodes) if code in ends), None)

    def __repr__(self) -> str:
        scan = repr(self.volume).removeprefix("Volume(").removesuffix(")")
        report, warnings = self.report, len(self.report.get("warnings", ()))
        noise = report.get("noise_std")
        parts = [scan, *([] if noise is None else [f"noise_std {noise:.4g}"]), f"{warnings} warnings"]
        return f"Restoration({report.get('task', 'a task')} by {report.get('model', 'a model')}: {'; '.join(parts)})"

    def _repr_html_(self) -> str:
        from medldm.report.pictures import Window

        report, pictures = self.report, {}
        shown = {
            "result": (self.volume, Window.of(self.volume)),
            "residual": (self.residual, Window.signed(self.residual)),
            "uncertainty": (self.uncertainty, Window.positive(self.uncertainty)),
        }
        for name, (volume, window) in shown.items():
            picture = thumbnail.slice_png(volume.array, volume.geometry, window.colour)
            pictures[f"{name}, {window.low:.4g} to {window.high:.4g}"] = picture
        checks = ", ".join(f"{name.replace('_', ' ')}: {value}" for name, value in report.get("checks", {}).items())
        figures = {
            "model": str(report.get("model", "")),
            "scan": repr(self.volume).removeprefix("Volume(").removesuffix(")"),
            "noise_std": f"{report['noise_std']:.4g}" if report.get("noise_std") is not None else "",
            "checks": checks,
            "warnings": "; ".join(report.get("warnings", ())),
            "use": RESEARCH_USE,
        }
        return thumbnail.page(pictures, figures, f"Restoration: {report.get('task', '')}")


def _named(volume: Volume, what: str) -> Volume:
    """The same volume, whose last step says what it is: a map beside a result must not pass for the result."""
    if volume.quantity == what:
        return volume
    last = volume.history[-1] if volume.history else {"step": "restore"}
    return volume.with_step({**last, "step": f"{last['step']} {what}", QUANTITY: what})
