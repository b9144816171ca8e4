"""Plots of what benchmarks measured: curves with their intervals, side by side, as SVG in docs/images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
OURS, OUR_COLOUR = "medldm", "tab:red"
COLOURS = (
    "tab:blue",
    "tab:orange",
    "tab:green",
    "tab:purple",
    "tab:brown",
    "tab:pink",
    "tab:gray",
    "tab:olive",
    "tab:cyan",
)
# Text stays text (a tenth of the size), and nothing in the file depends on the day or on chance.
STYLE = {"svg.fonttype": "none", "svg.hashsalt": "medldm", "font.family": "sans-serif", "font.size": 9}


@dataclass(frozen=True)
class Curve:
    """Points (N,) each. y : numbers, or intervals with mean, low and high; style : as matplotlib's, e.g. "--" """

    name: str
    x: Sequence[float | str]
    y: Sequence[float | Mapping[str, Any]]
    colour: str | None = None
    style: str = "-"


@dataclass(frozen=True)
class Panel:
    """Curves over common axes; on logarithmic ones where `log_x`, `log_y` say so. marks : of the x axis"""

    title: str
    curves: Sequence[Curve]
    x_label: str
    y_label: str
    log_x: bool = False
    log_y: bool = False
    marks: Sequence[float] = ()


def draw(name: str, panels: Sequence[Panel], folder: Path = IMAGES) -> Path:
    """The panels in a row, and one legend; returns the file NAME.svg in `folder`."""
    out = folder / f"{name}.svg"
    with plt.rc_context(STYLE):
        figure, found = plt.subplots(
            1, len(panels), figsize=(4.2 * len(panels) + 0.6, 4.0), layout="constrained", squeeze=False
        )
        entries: dict[str, Any] = {}
        for axes, panel in zip(found[0], panels, strict=True):
            for curve in panel.curves:
                entries.setdefault(curve.name, _draw(axes, curve, entries))
            _label(axes, panel)
        figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=3, frameon=False)
        figure.savefig(out, metadata={"Date": None})
        plt.close(figure)
    return out


def _draw(axes: Any, curve: Curve, before: Mapping[str, Any]) -> Any:
    """A name has one colour in all panels; no other curve has ours."""
    intervals = [y for y in curve.y if isinstance(y, Mapping)]
    means = [y["mean"] if isinstance(y, Mapping) else y for y in curve.y]
    ours = curve.name == OURS
    names = [name for name in (*before, curve.name) if name != OURS]
    colour = curve.colour or (OUR_COLOUR if ours else COLOURS[names.index(curve.name) % len(COLOURS)])
    reach = None
    if len(intervals) == len(means):
        reach = [[y["mean"] - y["low"] for y in intervals], [y["high"] - y["mean"] for y in intervals]]
    width = 2.2 if ours else 1.2
    return axes.errorbar(curve.x, means, reach, color=colour, ls=curve.style, marker="o", ms=3, capsize=2, lw=width)


def _label(axes: Any, panel: Panel) -> None:
    axes.set_title(panel.title)
    axes.set_xlabel(panel.x_label)
    axes.set_ylabel(panel.y_label)
    if panel.log_x:
        axes.set_xscale("log", base=2)
    if panel.log_y:
        axes.set_yscale("log")
    if panel.marks:
        axes.set_xticks(panel.marks, [f"{mark:g}" for mark in panel.marks])
        axes.minorticks_off()
    axes.grid(alpha=0.3)
