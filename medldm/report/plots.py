"""Plots as inline SVG, in the page's own colours: lines, steps of a histogram, a mark at a limit."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
WIDTH, HEIGHT = 560, 300
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 14, 46
INK = ("synthetic", "real", "other")  # classes of the page's style


@dataclass(frozen=True)
class Line:
    """Points (N,) each. ink : one of `INK`; filled : the area down to 0 is shaded; dashed : drawn so"""

    name: str
    x: Numbers
    y: Numbers
    ink: str
    filled: bool = False
    dashed: bool = False


@dataclass(frozen=True)
class Plot:
    """A drawing with its caption; `svg` is markup that `line_plot` made."""

    caption: str
    svg: str


def steps(counts: Numbers, edges: Numbers) -> tuple[Numbers, Numbers]:
    """The outline of a histogram: counts (N,), edges (N + 1,) -> x and y (2 N + 2,)."""
    x = np.repeat(edges, 2)
    return x, np.concatenate([[0], np.repeat(counts, 2), [0]])


def line_plot(
    caption: str,
    lines: Sequence[Line],
    *,
    x_label: str,
    y_label: str,
    limit: tuple[float, str] | None = None,
) -> Plot:
    """Lines over common axes, a legend, an upright mark with its name at `limit`. Points not finite are left out."""
    lines = [_finite(line) for line in lines]
    xs = np.concatenate([line.x for line in lines] + ([np.array([limit[0]])] if limit else []))
    ys = np.concatenate([line.y for line in lines])
    x_marks, (x_low, x_high) = _marks(xs, whole=False)
    y_marks, (y_low, y_high) = _marks(ys, whole=True)

    def place(x: float, y: float) -> str:
        right = LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)
        down = HEIGHT - BOTTOM - (y - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)
        return f"{right:.1f},{down:.1f}"

    def rule(a: str, b: str, kind: str) -> str:
        (x1, y1), (x2, y2) = a.split(","), b.split(",")
        return f'<line class="{kind}" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"/>'

    parts = []
    for y in y_marks:
        at = place(x_low, y)
        parts.append(rule(at, place(x_high, y), "grid"))
        parts.append(_text(LEFT - 8, float(at.split(",")[1]) + 4, f"{y:g}", "end"))
    for x in x_marks:
        parts.append(_text(float(place(x, y_low).split(",")[0]), HEIGHT - BOTTOM + 18, f"{x:g}", "middle"))
    parts.append(rule(place(x_low, y_low), place(x_high, y_low), "axis"))
    for line in lines:
        points = [place(x, y) for x, y in zip(line.x, line.y, strict=True)]
        if line.filled and points:
            floor = max(y_low, 0.0)
            around = " ".join([place(line.x[0], floor), *points, place(line.x[-1], floor)])
            parts.append(f'<polygon class="{line.ink}" points="{around}"/>')
        dash = ' stroke-dasharray="5 4"' if line.dashed else ""
        parts.append(f'<polyline class="{line.ink}" points="{" ".join(points)}"{dash}/>')
    if limit is not None:
        top = place(limit[0], y_high)
        parts.append(rule(place(limit[0], y_low), top, "limit"))
        right = float(top.split(",")[0])
        side, anchor = (-6, "end") if right > WIDTH / 2 else (6, "start")
        parts.append(_text(right + side, TOP + 12, limit[1], anchor))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, x_label, "middle"))
    middle = (TOP + HEIGHT - BOTTOM) / 2
    turned = f' transform="rotate(-90 14 {middle:.0f})"'
    parts.append(_text(14, middle, y_label, "middle", turned))
    legend = "".join(
        f'<span class="{line.ink}{" dashed" if line.dashed else ""}">{html.escape(line.name)}</span>' for line in lines
    )
    label = html.escape(caption, quote=True)
    drawing = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'
    return Plot(caption, f'{drawing}<div class="key">{legend}</div>')


def _text(x: float, y: float, text: str, anchor: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{more}>{html.escape(text)}</text>'


def _finite(line: Line) -> Line:
    kept = np.isfinite(line.x) & np.isfinite(line.y)
    return Line(line.name, line.x[kept], line.y[kept], line.ink, line.filled, line.dashed)


def _marks(values: Numbers, *, whole: bool) -> tuple[list[float], tuple[float, float]]:
    """Round numbers along an axis, and its ends; `whole`: the ends are such numbers, too."""
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    if not high > low:
        low, high = low - 0.5, high + 0.5
    raw = (high - low) / 5
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(m * unit for m in (1, 2, 2.5, 5, 10) if m * unit >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    if not whole:
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    marks = [round(n * step, 10) for n in range(first, last + 1)]
    return marks, (marks[0], marks[-1]) if whole else (low, high)
