"""The answer of a restoration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medldm import thumbnail
from medldm.marks import MAPS, QUANTITY, RESEARCH_USE
from medldm.volume import Volume


@dataclass(frozen=True, eq=False, repr=False)
class Restoration:
    """A restored scan and how far to trust it.

    volume : the result, in the scan's unit; on its grid (super-resolution: on the finer one)
    array : the result in the shape, axis order, unit and scale of what was given
    residual : measurement minus (degraded) result, on the scan's grid
    uncertainty : standard deviation of the result's error, in the scan's unit, on the result's grid
    report : plain data: model, settings, noise level, checks, warnings, timings, versions

    The two maps say in their history what they are (`Volume.quantity`), and so in every file that is written of them.

    >>> medldm.denoise(scan, model=model, noise_std=20.0)
    Restoration(denoise by tiny-3d: 24 x 20 x 16, 2 x 2 x 3 mm, RAS, arbitrary, MR; noise_std 20; 0 warnings)
    """

    volume: Volume
    array: NDArray[np.float32]
    residual: Volume
    uncertainty: Volume
    report: dict[str, Any]

    def __post_init__(self) -> None:
        for what in MAPS:
            object.__setattr__(self, what, _named(getattr(self, what), what))

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
