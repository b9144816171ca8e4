"""The page of an evaluation: the verdict, figures, samples, nearest training scans, plots."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.ndimage import gaussian_filter1d

from medldm.errors import InputError
from medldm.evaluate.listing import Entry
from medldm.evaluate.scans import BINS, OUTSIDE, RADII, Range, Scans
from medldm.evaluate.verdict import summary
from medldm.report.page import Gallery, Picture, Section, Table, write_report
from medldm.report.pictures import Window, joined, montage
from medldm.report.plots import Line, Plot, line_plot, steps

if TYPE_CHECKING:
    from medldm.evaluate.synthetic import Evaluation

SAMPLES, PAIRS, LABELS = 16, 12, 40
FOOTER = (
    "Planes are shown in radiological orientation: the patient's left is on the right; interpolated for display. Grey "
    "runs over the range that the figures are taken in."
)


def write_page(path: Path, found: Evaluation) -> None:
    """Write one HTML file that needs nothing else. Raises OutputError."""
    table = found.table
    counts = {name: own["scans"] for name, own in table["counts"].items()}
    text = f"{counts['synthetic']} synthetic scans against {counts['training']} real training scans"
    text += f" and {counts['held-out']} held-out ones." if "held-out" in counts else "; none were held out."
    sections = [_verdict(table), _samples(found), _nearest(found), _looks(found)]
    if table["regions"]:
        sections.append(_regions(table["regions"]))
    sections.append(_sources(table))
    write_report(path, sections, title="Synthetic scans, evaluated", text=text, footer=FOOTER)


def _verdict(table: dict[str, Any]) -> Section:
    columns = ("", "synthetic", "other real scans", "what it says")
    floor, reference = table["floor"], table["reference"]
    note = f"Held against {reference['scans']} real scans ({reference['set']})"
    note += f"; the third column is {floor['scans']} other real ones, the floor." if floor else "."
    return Section(
        "In short",
        points=tuple((finding["level"], finding["text"]) for finding in table["verdict"]),
        warnings=tuple(table["warnings"]),
        tables=(Table("Figures, with 95 % intervals", columns, tuple(summary(table)), note=note),),
    )


def _picture(entry: Entry, scale: Range, size: int) -> bytes | None:
    try:
        volume = entry.read()
        found = scale.fit(volume)
        return montage(volume, Window(found.offset, found.offset + found.scale), size=size)
    except InputError:
        return None  # gone meanwhile


def _gallery(title: str, scans: Scans, scale: Range, dims: int) -> Gallery:
    """Evenly over the set, in its order: nothing is picked."""
    numbers = np.unique(np.linspace(0, len(scans) - 1, SAMPLES).round().astype(int))
    pictures = [(scans.entries[n].name, _picture(scans.entries[n], scale, 120 if dims == 2 else 130)) for n in numbers]
    return Gallery(title, tuple(Picture(name, png) for name, png in pictures if png is not None), wide=dims == 3)


def _samples(found: Evaluation) -> Section:
    dims = found.table["dims"]
    return Section(
        "Samples",
        "Taken evenly over each set; none was chosen.",
        galleries=(
            _gallery("Synthetic", found.synthetic, found.scale, dims),
            _gallery("Real", found.reference, found.scale, dims),
        ),
    )


def _nearest(found: Evaluation) -> Section:
    """The synthetic scans that are most alike a training scan, beside it."""
    dims, limit, alike = found.table["dims"], found.copies.limit, found.copies.similarity
    pictures = []
    for n in np.argsort(-alike, kind="stable")[:PAIRS]:
        pair = found.synthetic.entries[n], found.copies.training.entries[found.copies.nearest[n]]
        shown = [_picture(entry, found.scale, 120 if dims == 2 else 130) for entry in pair]
        if None not in shown:
            mark = "copy, " if alike[n] > limit else ""
            caption = f"{mark}similarity {alike[n]:.3f}\n{pair[0].name}\n{pair[1].name}"
            pictures.append(Picture(caption, joined([png for png in shown if png], below=dims == 3)))
    text = "Synthetic scans "
    text += "(left) beside the training scan (right)" if dims == 2 else "(above) and the training scan (below)"
    text += " that each is most alike, most alike first. Similarity is the correlation of coarse structure at the best "
    text += f"alignment; above {limit:.3f} a scan counts as a copy, which real scans of other patients hardly reach."
    return Section(
        "Nearest training scans",
        text,
        galleries=(Gallery("", tuple(pictures), wide=True),),
        plots=(_similarity(found, limit),),
    )


def _similarity(found: Evaluation, limit: float) -> Plot:
    real, fake = found.copies.real_similarity, found.copies.similarity
    edges = np.linspace(min(fake.min(), real.min(initial=1.0), 0.999), 1.0, 41)
    lines = []
    for name, values, ink in (
        ("real, another patient", real, "real"),
        ("synthetic", fake, "synthetic"),
    ):
        shares = np.histogram(values, edges)[0] / max(len(values), 1)
        lines.append(Line(name, *steps(100 * shares, edges), ink, filled=True))
    return line_plot(
        "How near scans are to the training",
        lines,
        x_label="similarity to the nearest training scan",
        y_label="% of scans",
        limit=(limit, "copies"),
    )


def _looks(found: Evaluation) -> Section:
    sets = [("real", found.reference, "real", False), ("synthetic", found.synthetic, "synthetic", False)]
    if found.other is not None:
        sets.insert(1, ("other real", found.other, "other", True))
    edges = np.linspace(-OUTSIDE, 1 + OUTSIDE, BINS + 1)
    radius = (np.arange(RADII) + 0.5) / RADII * 0.5
    grey = [
        Line(name, (edges[1:] + edges[:-1]) / 2, 100 * scans.histograms.mean(0), ink, filled=not dashed, dashed=dashed)
        for name, scans, ink, dashed in sets
    ]
    detail = [Line(name, radius, 10 * scans.spectra.mean(0), ink, dashed=dashed) for name, scans, ink, dashed in sets]
    grey = [Line(n.name, n.x, gaussian_filter1d(n.y, 1), n.ink, n.filled, n.dashed) for n in grey]  # 8 bits comb
    ceiling = np.concatenate([line.y[5:-5] for line in grey]).max() * 1.15  # air alone would flatten all else
    grey = [Line(n.name, n.x, n.y.clip(max=ceiling), n.ink, n.filled, n.dashed) for n in grey]
    return Section(
        "Intensity and detail",
        "Detail that falls below the real curve towards the right is blur; above it, grain.",
        plots=(
            line_plot("Intensities", grey, x_label="intensity, share of the range", y_label="% of voxels"),
            line_plot("Power spectrum", detail, x_label="cycles a voxel", y_label="power, dB"),
        ),
    )


def _regions(regions: dict[str, Any]) -> Section:
    rows = [
        (
            str(row["label"]),
            f"{row['synthetic']['mean']:.3g} ± {row['synthetic']['std']:.2g}",
            f"{row['real']['mean']:.3g} ± {row['real']['std']:.2g}",
            f"{row['ks']:.2f}",
            f"{row['p']:.2g}",
            "differs" if row["differs"] else "",
        )
        for row in sorted(regions["labels"], key=lambda row: row["p"])[:LABELS]
    ]
    columns = ("label", f"synthetic, {regions['unit']}", f"real, {regions['unit']}", "KS distance", "p", "")
    note = f"{len(regions['labels']) - LABELS} more in evaluation.json" if len(regions["labels"]) > LABELS else ""
    first = regions["labels"][0]
    text = (
        f"Sizes in {first['synthetic']['n']} synthetic and {first['real']['n']} real label maps, most different first."
    )
    return Section("Labelled regions", text, tables=(Table("Mean and deviation", columns, tuple(rows), note=note),))


def _sources(table: dict[str, Any]) -> Section:
    facts = {"medldm": table["medldm"], "dimensions": str(table["dims"]), "range": table["range"]}
    left_out = []
    for name, own in table["counts"].items():
        facts[name] = f"{own['scans']} scans of {own['patients']} patients"
        left_out += [(name, one["file"], one["why"]) for one in own["left_out"]]
    facts["features"] = "EfficientNet-Lite0 (ImageNet), 224 x 224"
    facts["seed"] = str(table["seed"])
    rows = tuple(left_out[:LABELS])
    more = f"{len(left_out) - LABELS} more in evaluation.json" if len(left_out) > LABELS else ""
    tables = (Table("Left out", ("set", "file", "why"), rows, note=more),) if rows else ()
    return Section("Sources", facts=facts, tables=tables)
