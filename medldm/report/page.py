"""One self-contained HTML file: pictures, figures, checks, timings, provenance. Never who the patient is."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any, Protocol

import numpy as np

from medldm.io.atomic import write_whole
from medldm.report.pictures import Window, detail, montage, place_of_change
from medldm.report.plots import Plot
from medldm.volume import Volume

TITLES = {"denoise": "Denoised", "super_resolve": "Super-resolved", "inpaint": "Filled"}
FOOTER = (
    "Planes are shown in radiological orientation: the patient's left is on the right. One grey window holds for the "
    "images of a section; images are interpolated for display, save an input on a coarser grid."
)
UNITS = {"arbitrary": "", "grey8": "grey levels", "grey16": "grey levels"}


def title_of(task: str) -> str:
    """What a section on a restoration is called, of a plugin's problem as well."""
    return TITLES.get(task, task.replace("_", " ").capitalize())


class Restored(Protocol):
    """What a report shows of a restoration; `medldm.restoration.result.Restoration` is one."""

    @property
    def volume(self) -> Volume: ...
    @property
    def residual(self) -> Volume: ...
    @property
    def uncertainty(self) -> Volume | None: ...
    @property
    def report(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Picture:
    """A PNG with its caption, and the window's legend where the colours mean something."""

    caption: str
    png: bytes
    window: Window | None = None
    unit: str = ""


@dataclass(frozen=True)
class Table:
    """Figures: a heading, a column each, one row a method; row `best` is set off."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    best: int | None = None
    note: str = ""


@dataclass(frozen=True)
class Gallery:
    """Small pictures in a grid under a heading; wide : for pictures that are several planes."""

    title: str
    pictures: tuple[Picture, ...]
    wide: bool = False


@dataclass(frozen=True)
class Section:
    """One scan, or one gallery, of the report.

    points : sentences, each with how good that is: "good", "fair" or "bad"
    """

    title: str
    text: str = ""
    pictures: tuple[Picture, ...] = ()
    details: tuple[Picture, ...] = ()
    tables: tuple[Table, ...] = ()
    warnings: tuple[str, ...] = ()
    facts: dict[str, str] = field(default_factory=dict)
    points: tuple[tuple[str, str], ...] = ()
    galleries: tuple[Gallery, ...] = ()
    plots: tuple[Plot, ...] = ()

    @classmethod
    def of_restoration(
        cls,
        title: str,
        scan: Volume,
        result: Restored,
        *,
        text: str = "",
        truth: Volume | None = None,
        others: Sequence[tuple[str, Volume]] = (),
        tables: Sequence[Table] = (),
        at: tuple[float, float, float] | None = None,
        bounds: tuple[Volume, Volume] | None = None,
    ) -> Section:
        """Input, other methods, result, truth, residual and uncertainty of one restoration.

        truth : what the result should have been, where it is known
        others : results of other methods, by name
        at : where the planes cut, as shares of the field of view along left, posterior, superior; by default through
            the middle of what was restored
        bounds : of an interval of the result, lower and upper
        """
        if at is None:
            at = place_of_change(result.residual if result.uncertainty is None else result.uncertainty)
        window = Window.of(result.volume if truth is None else truth)
        named = [("Input", scan), *others, ("medldm", result.volume)]
        if truth is not None:
            named.append(("Truth", truth))
        unit = UNITS.get(scan.unit, scan.unit)
        finer = scan.geometry.shape != result.volume.geometry.shape
        pictures = [
            Picture(name, montage(v, window, at=at, smooth=not (finer and v is scan)), window, unit)
            for name, v in named
        ]
        signed = Window.signed(result.residual)
        pictures.append(Picture("Residual: input minus result", montage(result.residual, signed, at=at), signed, unit))
        if result.uncertainty is not None:
            spread = Window.positive(result.uncertainty)
            caption = "Uncertainty: standard deviation of the error"
            pictures.append(Picture(caption, montage(result.uncertainty, spread, at=at), spread, unit))
        if bounds is not None:
            said, width = _of_interval(bounds, unit)
            text = f"{text} {said}".strip()
            shown = Window.positive(width)
            pictures.append(Picture("Width of the interval", montage(width, shown, at=at), shown, unit))
        return cls(
            title,
            text=text,
            pictures=tuple(pictures),
            details=tuple(
                Picture(
                    name,
                    detail(
                        v,
                        window,
                        plane=_plane_of_interest(scan, result.volume),
                        at=at,
                        smooth=not (finer and v is scan),
                    ),
                )
                for name, v in named
            ),
            tables=tuple(tables),
            warnings=tuple(str(w) for w in result.report.get("warnings", ())),
            facts=provenance(result.report),
        )

    @classmethod
    def of_gallery(
        cls, title: str, scans: Sequence[Volume], *, text: str = "", facts: dict[str, str] | None = None
    ) -> Section:
        """Scans side by side, numbered."""
        pictures = [Picture(f"{number}", montage(v, Window.of(v))) for number, v in enumerate(scans, 1)]
        return cls(title, text=text, pictures=tuple(pictures), facts=facts or {})


def _of_interval(bounds: tuple[Volume, Volume], unit: str) -> tuple[str, Volume]:
    """A sentence, and how wide the interval is."""
    lower, upper = bounds
    width = lower.with_array(upper.array - lower.array)
    level = float(lower.history[-1]["level"])
    low, middle, high = (f"{value:.3g}" for value in np.percentile(width.array, (5, 50, 95)))
    text = f"By its calibration the true value lies within the interval in {100 * level:g} of 100 voxels, if the noise "
    text += f"level is right. The interval is at most {middle} {unit} wide in half of the voxels, and {low} to {high} "
    text += f"{unit} in nine of ten."
    return text.replace("  ", " "), width


def _plane_of_interest(scan: Volume, result: Volume) -> str:
    """Where a change of spacing is seen: coronal, where it is along superior-inferior."""
    before, after = (v.geometry.spacing[2] for v in (scan.reorient("LPS"), result.reorient("LPS")))
    return "coronal" if abs(before - after) > 1e-3 else "axial"


def provenance(report: dict[str, Any]) -> dict[str, str]:
    """The lines of a restoration's report that a reader needs, as text; other keys are left out."""
    facts: dict[str, str] = {}
    for key, label in (("task", "task"), ("model", "model"), ("device", "device"), ("sampler", "sampler")):
        if report.get(key) is not None:
            facts[label] = str(report[key]).replace("_", "-")
    if report.get("weights_sha256"):
        facts["weights (SHA-256)"] = str(report["weights_sha256"])[:16]
    for key in ("mode", "samples", "steps", "seed"):
        if report.get(key) is not None:
            facts[key] = f"{report[key]:g}" if isinstance(report[key], float) else str(report[key])
    if report.get("noise_std") is not None:
        unit = UNITS.get(str(report.get("unit", "")), str(report.get("unit", "")))
        how = "estimated" if report.get("noise_std_estimated") else "given"
        level = f"{float(report['noise_std']):.4g} {unit} ({how})".replace("  ", " ")
        of_slices = report.get("noise_std_of_slices")
        if of_slices:
            level += f", {min(of_slices):.4g} to {max(of_slices):.4g} in its slices"
        facts["noise level"] = level if report["noise_std"] else "taken as free of noise"
    for key, value in dict(report.get("checks", {})).items():
        if isinstance(value, float) and math.isnan(value):
            continue
        text = f"{value:.4g}" if isinstance(value, float) else ("yes" if value is True else str(value))
        facts[key.replace("_", " ")] = "no" if value is False else text
    timings = {key: value for key, value in dict(report.get("timings_s", {})).items()}
    if timings:
        facts["time"] = ", ".join(f"{key} {float(value):.1f} s" for key, value in timings.items())
    versions = dict(report.get("versions", {}))
    if versions:
        facts["versions"] = ", ".join(f"{key} {value}" for key, value in versions.items())
    return facts


def _text(value: object) -> str:
    return html.escape(str(value), quote=True)


def _legend(window: Window, unit: str) -> str:
    colours = ", ".join(f"rgb{colour}" for colour in window.colours)
    high = f"{window.high:.3g} {unit}".strip()
    return (
        f'<div class="legend"><span>{window.low:.3g}</span>'
        f'<i style="background:linear-gradient(to right, {colours})"></i><span>{_text(high)}</span></div>'
    )


def _figure(picture: Picture) -> str:
    data = base64.b64encode(picture.png).decode("ascii")
    legend = _legend(picture.window, picture.unit) if picture.window else ""
    caption = _text(picture.caption)
    return (
        f'<figure><img alt="{caption}" src="data:image/png;base64,{data}">'
        f"<figcaption>{caption}{legend}</figcaption></figure>"
    )


def _table(table: Table) -> str:
    head = "".join(f"<th>{_text(column)}</th>" for column in table.columns)
    body = ""
    for number, row in enumerate(table.rows):
        cells = "".join(f"<td>{_text(cell)}</td>" for cell in row)
        body += f'<tr class="best">{cells}</tr>' if number == table.best else f"<tr>{cells}</tr>"
    note = f'<p class="note">{_text(table.note)}</p>' if table.note else ""
    head = f"<thead><tr>{head}</tr></thead>"
    return f"<h3>{_text(table.title)}</h3><table>{head}<tbody>{body}</tbody></table>{note}"


def _section(section: Section) -> str:
    parts = [f"<section><h2>{_text(section.title)}</h2>"]
    if section.text:
        parts.append(f"<p>{_text(section.text)}</p>")
    parts += [f'<p class="warning">{_text(warning)}</p>' for warning in section.warnings]
    if section.points:
        points = [f'<li class="{_text(level)}"><b>{_text(level)}</b>{_text(p)}</li>' for level, p in section.points]
        parts.append(f'<ul class="points">{"".join(points)}</ul>')
    for label, pictures, kind in (("", section.pictures, "views"), ("Detail", section.details, "details")):
        if pictures:
            parts.append(f"<h3>{label}</h3>" if label else "")
            parts.append(f'<div class="{kind}">{"".join(map(_figure, pictures))}</div>')
    for gallery in section.galleries:
        kind, figures = "wide" if gallery.wide else "small", "".join(map(_figure, gallery.pictures))
        parts.append(f"<h3>{_text(gallery.title)}</h3>" if gallery.title else "")
        parts.append(f'<div class="{kind}">{figures}</div>')
    if section.plots:
        drawn = "".join(f"<figure>{p.svg}<figcaption>{_text(p.caption)}</figcaption></figure>" for p in section.plots)
        parts.append(f'<div class="plots">{drawn}</div>')
    parts += [_table(table) for table in section.tables]
    if section.facts:
        rows = "".join(f"<dt>{_text(k)}</dt><dd>{_text(v)}</dd>" for k, v in section.facts.items())
        parts.append(f"<h3>How it was made</h3><dl>{rows}</dl>")
    return "".join(parts) + "</section>"


def render(sections: Sequence[Section], *, title: str = "medldm report", text: str = "", footer: str = FOOTER) -> str:
    """The report as HTML text; needs nothing but itself to be shown."""
    template = Template(resources.files("medldm.report").joinpath("page.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=_text(title), text=_text(text), sections="\n".join(map(_section, sections)), footer=_text(footer)
    )


def write_report(
    path: Path,
    sections: Sequence[Section],
    *,
    title: str = "medldm report",
    text: str = "",
    footer: str = FOOTER,
) -> None:
    """Write the report, whole or not at all. Raises OutputError."""
    content = render(sections, title=title, text=text, footer=footer)
    write_whole(path, lambda hidden: hidden.write_text(content, encoding="utf-8"))
