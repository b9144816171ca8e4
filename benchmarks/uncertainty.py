"""Are the intervals honest? How often the truth lies inside the one that is claimed, by patient, decile and region.

    python -m benchmarks.uncertainty [--area chest|brain|ct] [--quick]

The interval is `Restoration.interval(0.9)`; CT is in white noise. A bar holds where its mean coverage over patients is
within 3 % of 90 %; in each decile of the predicted deviation (of the image's own voxels) and each region (air, dark,
middle, bright, edges; inside the brain or the body) within 8 %. "plain" is the result +- 1.645 times its uncertainty.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

import medldm
from benchmarks import ct, protocol, record
from benchmarks.methods import BRAIN_MODEL, CHEST_MODEL
from medldm.conformal import DECILES, REGIONS, Case
from medldm.evaluate.intervals import Interval, interval
from medldm.geometry import Geometry

if TYPE_CHECKING:
    from medldm.model import Model
    from medldm.restoration.result import Restoration

LEVEL, QUANTILE = 0.90, 1.645
NOISE = (0.02, 0.05, 0.10)
WHOLE, GROUP = 0.03, 0.08  # that coverage may be off
LEAST = 50  # voxels of a group in a patient
QUICK_BRAIN = 2
MODELS = {"chest": CHEST_MODEL, "brain": BRAIN_MODEL, "ct": ct.MODEL}


def restored(area: str, case: protocol.Case, task: str, level: float, model: Model) -> Restoration:
    """One test image in the state that the restoration benchmark gives it, restored."""
    if area == "ct":
        noisy = ct.volume_of(case, ct.white(case, level * ct.RANGE))
        return medldm.denoise(noisy, model=model, noise_std=level * ct.RANGE)
    if area == "chest":
        settings: dict[str, Any] = {"model": model, "value_range": (0.0, 1.0)}
        if task == "denoise":
            return medldm.denoise(protocol.gaussian(case, level), noise_std=level, **settings)
        return medldm.super_resolve(protocol.in_plane(case, int(level)), scale=int(level), noise_std=0.0, **settings)
    assert case.affine is not None
    if task == "denoise":
        return medldm.denoise(protocol.rician(case, level), model=model, noise_std=level, affine=case.affine)
    scale = [int(level) if axis == protocol.BRAIN_SUPERIOR_AXIS else 1 for axis in range(3)]
    i, j, k = (1 / f for f in scale)
    coarse = Geometry(case.affine, case.truth.shape).zoom((i, j, k))
    y = protocol.through_plane(case, int(level))
    return medldm.super_resolve(y, model=model, scale=scale, noise_std=0.0, affine=coarse.affine)


def shares(case: protocol.Case, result: Restoration) -> dict[str, float]:
    """Of the voxels whose truth is inside: of all, of each group, and of all by the plain interval."""
    truth = case.truth
    if isinstance(case, ct.Slice):
        truth = ct.volume_of(case, truth).array
    elif truth.ndim == 2:
        truth = truth.T[..., None]
    lower, upper = result.interval(LEVEL)
    inside = (lower.array <= truth) & (truth <= upper.array)
    spread, value = result.uncertainty.array, result.volume.array
    report = result.report
    offset, scale = report["intensity"]["offset"], report["intensity"]["scale"]
    assert result.intervals is not None
    known = Case(report["task"], float(max(report["factor"])), report["noise_std"] / scale)
    _, region = result.intervals.groups((value - offset) / scale, spread / scale, known)
    decile = np.searchsorted(np.quantile(spread, np.arange(1, DECILES) / DECILES), spread)
    masks: dict[str, NDArray[np.bool_]] = {f"decile {d + 1}": decile == d for d in range(DECILES)}
    masks |= {name: region == number for number, name in enumerate(REGIONS)}
    if case.mask is not None:
        masks["inside"] = case.mask.reshape(truth.shape)
    found = {"all": float(inside.mean())}
    found |= {name: float(inside[mask].mean()) for name, mask in masks.items() if mask.sum() >= LEAST}
    plain = np.abs(truth - value) <= QUANTILE * spread
    width = float((upper.array - lower.array).mean()) / scale
    return {**found, "plain": float(plain.mean()), "width": width}


def over_patients(found: Sequence[Mapping[str, float]]) -> dict[str, Interval]:
    """Of each group, over those patients that have any of it."""
    names = list(dict.fromkeys(name for each in found for name in each))
    return {name: interval([each[name] for each in found if name in each]) for name in names}


def cases_of(area: str, quick: bool) -> list[protocol.Case]:
    if area == "chest":
        return protocol.chest_cases(protocol.QUICK_CHEST if quick else None)
    return ct.slices(quick=quick) if area == "ct" else protocol.brain_cases(QUICK_BRAIN if quick else None)


def problems(area: str) -> list[tuple[str, float]]:
    factors = () if area == "ct" else protocol.FACTORS
    return [("denoise", level) for level in NOISE] + [("super_resolve", float(factor)) for factor in factors]


def worst(means: Mapping[str, Interval], names: Sequence[str]) -> str:
    return max((name for name in names if name in means), key=lambda name: abs(means[name].mean - LEVEL))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.uncertainty", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="24 radiographs instead of 80, 2 heads instead of 5, a slice a patient"
    )
    parser.add_argument("--area", choices=MODELS, help="without: all")
    chosen = parser.parse_args(arguments)
    quick = chosen.quick
    console = Console(width=140)
    table = Table("images", "problem", "n", "plain", "in the interval [95 %]", "worst decile", "worst region", "width")
    rows, bars = [], []
    for area in (chosen.area,) if chosen.area else MODELS:
        name = MODELS[area]
        model, cases = medldm.load_model(name), cases_of(area, quick)
        for task, level in problems(area):
            means = over_patients([shares(case, restored(area, case, task, level, model)) for case in cases])
            console.print(f"{area}, {task} {level:g}: {means['all']}")  # heads take their time
            rows.append({"area": area, "task": task, "level": level} | {k: v.to_dict() for k, v in means.items()})
            decile = worst(means, [key for key in means if key.startswith("decile")])
            region = worst(means, [*REGIONS, "inside"])
            title = f"{area}, {'noise' if task == 'denoise' else 'x'} {level:g}"
            for what, allowed in (("all", WHOLE), (decile, GROUP), (region, GROUP)):
                mean = means[what].mean
                target = f"{LEVEL - allowed:.2f} to {LEVEL + allowed:.2f}"
                bars.append(record.bar(f"{title}: {what}", mean, target, abs(mean - LEVEL) <= allowed))
            table.add_row(
                area,
                f"{task} {level:g}",
                str(len(cases)),
                f"{means['plain'].mean:.3f}",
                str(means["all"]),
                f"{decile.removeprefix('decile ')}: {means[decile]}",
                f"{region}: {means[region]}",
                f"{means['width'].mean:.4f}",
            )
    console.print(table)
    for entry in bars:
        verdict = "holds" if entry["holds"] else "FAILS"
        console.print(f"{verdict}  {entry['name']}: {entry['value']:.3f} (target {entry['target']})")
    suffix = (f"-{chosen.area}" if chosen.area else "") + ("-quick" if quick else "")
    record.write(f"uncertainty{suffix}", rows, bars)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
