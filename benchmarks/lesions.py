"""Are small lesions kept, and does none appear where there is none?

    python -m benchmarks.lesions [--area chest|brain|ct] [--quick]

Balls (discs in images) of 4, 6, 8 and 10 mm, three times as far from what surrounds them as the noise is wide, put
into the scans of test patients: bright in radiographs and CT, dark in T1-weighted heads; partial volumes are reckoned
with. Noise of 5 % (radiographs; Rician in heads), of 20 HU (CT), and each method is told its level. The same noise is
restored with and without the lesions: of the difference, the mean within a lesion less that of the ring around it, as
a share of what was put in. So a lesion that is smeared out counts as lost, and what the scan shows at that place plays
no part.

Blank phantoms, which slope and have an outline: the mean error over balls of the same sizes, inside, in standard errors
of that mean in what came in. Above 5 something would be seen that is not there.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy import ndimage, signal

from benchmarks import ct, methods, protocol, record
from benchmarks.methods import Method
from benchmarks.protocol import Case, Image
from medldm.evaluate.intervals import interval

DIAMETERS_MM = (4.0, 6.0, 8.0, 10.0)
WANTED = (0.70, 0.85, 0.92, 0.95)  # of the contrast, for each diameter
CONTRAST_TO_NOISE, MOST_SIGMA = 3.0, 5.0
EACH = 4  # lesions of a size in a scan
APART_MM, EDGE_MM = 24.0, 14.0
FINE = 5  # parts of a voxel's edge, by which partial volumes are found
CHEST_MM = 1.6  # an adult chest of 41 cm on 256 pixels
PHANTOMS, PHANTOMS_3D = 8, 2


@dataclass(frozen=True)
class Area:
    """Scans of one kind. level: of the noise, as the methods are told; sigma: the same as a share of the range; sign:
    whether lesions are brighter or darker."""

    name: str
    cases: Callable[[bool], list[Case]]
    degrade: Callable[[Case, float], Image]
    methods: tuple[Method, ...]
    level: float
    sigma: float
    sign: float

    def spacing(self, case: Case) -> float:
        return CHEST_MM if case.affine is None else float(np.linalg.norm(case.affine[:3, 0]))


CLASSICAL = ("non-local means", "BM3D", "BM4D debiased", "medldm")
QUICK_CHEST, QUICK_HEADS = 8, 2


def _chest(quick: bool) -> list[Case]:
    return protocol.chest_cases(QUICK_CHEST if quick else protocol.QUICK_CHEST)


def _heads(quick: bool) -> list[Case]:
    return protocol.brain_cases(QUICK_HEADS if quick else None)


def _ct(quick: bool) -> list[Case]:
    return ct.slices(quick=True)


AREAS = {
    area.name: area
    for area in (
        Area("chest", _chest, protocol.gaussian, methods.CHEST_DENOISE, 0.05, 0.05, 1.0),
        Area("brain", _heads, protocol.rician, methods.BRAIN_DENOISE, 0.05, 0.05, -1.0),
        Area("ct", _ct, ct.white, methods.CT_DENOISE, 20.0, 20.0 / ct.RANGE, 1.0),
    )
}


def ball(ndim: int, diameter: float) -> Image:
    """The share of each voxel that a ball of `diameter` voxels, centred on the middle one, covers."""
    reach = int(np.ceil(diameter / 2))
    fine = ((np.arange((2 * reach + 1) * FINE) + 0.5) / FINE - reach - 0.5) / (diameter / 2)
    inside = radius([fine] * ndim) <= 1
    shape = [n for _ in range(ndim) for n in (2 * reach + 1, FINE)]
    covered: Image = inside.reshape(shape).mean(tuple(range(1, 2 * ndim, 2)))
    return covered


def radius(axes: Sequence[Image], power: int = 2) -> Image:
    """Distance from 0 on the grid of these coordinates, one list an axis; power: 2, or more for rounded boxes."""
    total = np.zeros([len(axis) for axis in axes])
    for along in np.meshgrid(*axes, indexing="ij", sparse=True):
        total += np.abs(along) ** power
    found: Image = total ** (1 / power)
    return found


def inner_part(case: Case, spacing: float) -> NDArray[np.bool_]:
    """Where a lesion may lie: in the brain, the body or the middle of the chest, not where values are cut off."""
    if case.mask is None:
        inside = np.zeros(case.truth.shape, bool)
        inside[tuple(slice(n // 5, n - n // 5) for n in case.truth.shape)] = True
    else:
        inside = ndimage.distance_transform_edt(case.mask) * spacing > EDGE_MM
    smooth = ndimage.gaussian_filter(case.truth, EDGE_MM / 4 / spacing)
    found: NDArray[np.bool_] = inside & (smooth > 0.25) & (smooth < 0.75 if case.mask is None else smooth < np.inf)
    return found


def places(case: Case, spacing: float) -> list[tuple[int, ...]]:
    """Up to EACH places for each diameter, in turn, wide apart; the same for every method."""
    generator = np.random.default_rng(case.index)
    free, found = inner_part(case, spacing), list[tuple[int, ...]]()
    while free.any() and len(found) < EACH * len(DIAMETERS_MM):
        candidates = np.argwhere(free)
        chosen = candidates[generator.integers(len(candidates))]
        found.append(tuple(int(c) for c in chosen))
        axes = [(np.arange(n) - c) * spacing for n, c in zip(free.shape, chosen, strict=True)]
        free &= radius(axes) > APART_MM
    return found


def put(shape: tuple[int, ...], centre: tuple[int, ...], covered: Image) -> Image:
    """`covered` around `centre` in an image of zeros."""
    image, reach = np.zeros(shape), covered.shape[0] // 2
    image[tuple(slice(c - reach, c + reach + 1) for c in centre)] = covered
    return image


def kept(difference: Image, lesion: Image) -> float:
    """The share of a lesion's contrast that `difference` holds: within less around, (*S) and (*S) of shares covered."""
    near = ndimage.binary_dilation(lesion > 0, iterations=1)
    ring = ndimage.binary_dilation(near, iterations=2) & ~near
    inside = lesion >= 0.5
    return float((difference[inside].mean() - difference[ring].mean()) / lesion[inside].mean())


def of_case(area: Area, method: Method, case: Case) -> dict[float, list[float]]:
    """What is kept of each lesion in one scan, by diameter."""
    spacing, ndim = area.spacing(case), case.truth.ndim
    contrast = area.sign * CONTRAST_TO_NOISE * area.sigma
    lesions = [
        (diameter, put(case.truth.shape, centre, ball(ndim, diameter / spacing)))
        for centre, diameter in zip(places(case, spacing), DIAMETERS_MM * EACH, strict=False)
    ]
    if not lesions:
        return {}
    ill = type(case)(case.patient, case.index, case.truth.copy(), case.mask, case.affine)
    for _, lesion in lesions:
        ill.truth[...] += contrast * lesion
    difference = method.restore(ill, area.degrade(ill, area.level), area.level)
    difference = (difference - method.restore(case, area.degrade(case, area.level), area.level)) / contrast
    found: dict[float, list[float]] = {}
    for diameter, lesion in lesions:
        found.setdefault(diameter, []).append(kept(difference, lesion))
    return found


def phantoms(area: Area, like: Case) -> list[Case]:
    """Blank scans of the area's size: a rounded body whose values slope, and nothing in it."""
    shape, ndim = like.truth.shape, like.truth.ndim
    axes, found = [np.linspace(-1, 1, n) for n in shape], []
    inside = radius(axes, 4) < 0.8
    for index in range(PHANTOMS if ndim == 2 else PHANTOMS_3D):
        slope = np.random.default_rng(index).uniform(-0.15, 0.15, ndim)
        values = 0.5 + sum(np.meshgrid(*(s * x for s, x in zip(slope, axes, strict=True)), indexing="ij", sparse=True))
        truth = np.where(inside, values, 0.02)
        found.append(type(like)(f"phantom {index}", index, truth, inside, like.affine))
    return found


def worst_error(area: Area, method: Method, case: Case) -> dict[float, float]:
    """By diameter: the largest mean error over a ball inside of a phantom, in standard errors of noise alone."""
    assert case.mask is not None
    spacing = area.spacing(case)
    error = method.restore(case, area.degrade(case, area.level), area.level) - case.truth
    inside = ndimage.distance_transform_edt(case.mask) * spacing > EDGE_MM
    found = {}
    for diameter in DIAMETERS_MM:
        weights = ball(case.truth.ndim, diameter / spacing)
        weights /= weights.sum()
        mean = signal.fftconvolve(error, weights, mode="same")
        found[diameter] = float(np.abs(mean[inside]).max() / (area.sigma * np.sqrt(np.square(weights).sum())))
    return found


def measured(area: Area, *, quick: bool, console: Console) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    rows, bars, cases = list[dict[str, Any]](), list[dict[str, Any]](), area.cases(quick)
    for method in (m for m in area.methods if m.name in CLASSICAL and m.available):
        shares: dict[float, dict[str, list[float]]] = {diameter: {} for diameter in DIAMETERS_MM}
        for number, case in enumerate(cases):
            with console.status(f"{area.name}: {method.name}, {number + 1} of {len(cases)}"):
                for diameter, values in of_case(area, method, case).items():
                    shares[diameter].setdefault(case.patient, []).extend(values)
        errors = [worst_error(area, method, phantom) for phantom in phantoms(area, cases[0])]
        for diameter, wanted in zip(DIAMETERS_MM, WANTED, strict=True):
            mine = interval([float(np.mean(values)) for values in shares[diameter].values()])
            worst = max(error[diameter] for error in errors)
            row = {"area": area.name, "method": method.name, "diameter_mm": diameter, "kept": mine.to_dict()}
            rows.append(row | {"lesions": sum(map(len, shares[diameter].values())), "phantoms_sigma": worst})
            if method.name == "medldm":
                name = f"{area.name}, {diameter:g} mm"
                said = f"{name}: contrast kept ([{mine.low:.2f}, {mine.high:.2f}]; {mine.n} patients)"
                bars.append(record.bar(said, mine.mean, f">= {wanted:g}", mine.mean >= wanted))
                said, most = f"{name}: blank phantoms, largest error (sigma)", f"<= {MOST_SIGMA:g}"
                bars.append(record.bar(said, worst, most, worst <= MOST_SIGMA))
    return rows, bars


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.lesions", description=__doc__.splitlines()[0])
    parser.add_argument("--area", choices=AREAS, help="without: all")
    parser.add_argument("--quick", action="store_true", help="8 radiographs, 2 heads")
    chosen = parser.parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 130)
    rows, bars = list[dict[str, Any]](), list[dict[str, Any]]()
    for name in (chosen.area,) if chosen.area else AREAS:
        more_rows, more_bars = measured(AREAS[name], quick=chosen.quick, console=console)
        rows, bars = rows + more_rows, bars + more_bars
    table = Table("area", "method", *(f"{d:g} mm" for d in DIAMETERS_MM), "phantoms, sigma")
    for key in dict.fromkeys((row["area"], row["method"]) for row in rows):
        mine = [row for row in rows if (row["area"], row["method"]) == key]
        shares = [f"{row['kept']['mean']:.0%} [{row['kept']['low']:.0%}, {row['kept']['high']:.0%}]" for row in mine]
        table.add_row(*key, *shares, f"{max(row['phantoms_sigma'] for row in mine):.1f}")
    console.print(table)
    for one in bars:
        console.print(f"{'holds' if one['holds'] else 'MISSED'}: {one['name']} {one['value']} ({one['target']})")
    suffix = (f"-{chosen.area}" if chosen.area else "") + ("-quick" if chosen.quick else "")
    record.write(f"lesions{suffix}", rows, bars)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
