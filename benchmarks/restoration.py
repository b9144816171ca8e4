"""How good are denoising and super-resolution beside classical methods? (Protocol: benchmarks/protocol.py.)

    python -m benchmarks.restoration [--quick] [--task chest|children|brain|stripped|ct] [--skip-slow] [--skip-model]

Means over patients with 95 % bootstrap intervals. Bars: the mean gain in PSNR over the classical method that
`TARGETS` asks for; the share of BM3D's and BM4D's processor time, measured side by side on one scan; and no patient's
scan may come back worse than it was. BM3D and BM4D are computed once and kept.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks import ct, methods, plot, protocol, record
from benchmarks.methods import Method
from benchmarks.protocol import Case
from medldm.evaluate.intervals import Interval, interval, paired_difference

MODEL, NLM = "medldm", "non-local means"
QUICK_SLOW_HEADS = 2
NO_HARM_DB = 0.05
# kind of task and level: the classical method, and the mean gain over it in dB
TARGETS = {
    ("Gaussian noise", 0.02): ("BM3D", -0.2),
    ("Gaussian noise", 0.05): ("BM3D", 0.2),
    ("Gaussian noise", 0.10): ("BM3D", 0.5),
    ("Gaussian noise", 0.20): ("BM3D", 0.9),
    ("block average", 4): ("cubic", 1.0),
    ("Rician noise", 0.03): ("BM4D debiased", -0.1),
    ("Rician noise", 0.05): ("BM4D debiased", 0.1),
    ("Rician noise", 0.10): ("BM4D debiased", 0.4),
    ("through-plane block average", 2): ("cubic back-projected", 1.1),
    ("through-plane block average", 4): ("cubic back-projected", 0.7),
    **{("white noise", level): ("BM3D", 0.3) for level in ct.NOISE_HU},
    **{("noise of a sharp kernel", level): ("BM3D", 0.3) for level in ct.NOISE_HU},
}
TIME_REPEATS = 3
TIME_SHARES = {"BM3D": 0.5, "BM4D debiased": 0.25}
AREAS = ("chest", "children", "brain", "stripped", "ct")
RADIOGRAPHS = {"chest": "chest-xray-256", "children": "chest-xray-children-256"}


@dataclass(frozen=True)
class Task:
    """One table: the same images, degraded at each level, restored by each method."""

    name: str
    degrade: Callable[[Case, float], NDArray[np.float64]]
    levels: tuple[float, ...]
    methods: tuple[Method, ...]
    reference: str
    slow_cases: int | None = None


def tasks(area: str, *, quick: bool) -> list[Task]:
    """The two tables of an area; `quick` leaves out x2 of the radiographs."""
    if area == "ct":
        return [
            Task("ct, white noise", ct.white, ct.NOISE_HU, methods.CT_DENOISE, NLM),
            Task("ct, noise of a sharp kernel", ct.sharp, ct.NOISE_HU, methods.CT_DENOISE_SHARP, NLM),
        ]
    if area in RADIOGRAPHS:
        factors = (4,) if quick else protocol.FACTORS
        return [
            Task(f"{area}, Gaussian noise", protocol.gaussian, protocol.CHEST_NOISE, methods.CHEST_DENOISE, NLM),
            Task(f"{area}, block average", _in_plane, factors, methods.CHEST_SUPER_RESOLVE, "cubic"),
        ]
    noise, coarse = f"{area}, Rician noise", f"{area}, through-plane block average"
    return [
        Task(noise, protocol.rician, protocol.BRAIN_NOISE, methods.BRAIN_DENOISE, NLM, QUICK_SLOW_HEADS),
        Task(coarse, _through_plane, protocol.FACTORS, methods.BRAIN_SUPER_RESOLVE, "cubic back-projected"),
    ]


def cases_of(area: str, *, quick: bool) -> list[Case]:
    if area in RADIOGRAPHS:
        return protocol.chest_cases(protocol.QUICK_CHEST if quick else None, RADIOGRAPHS[area])
    if area == "ct":
        return ct.slices(quick=quick)
    return protocol.brain_cases() if area == "brain" else protocol.stripped_cases()


def _in_plane(case: Case, factor: float) -> NDArray[np.float64]:
    return protocol.in_plane(case, int(factor))


def _through_plane(case: Case, factor: float) -> NDArray[np.float64]:
    return protocol.through_plane(case, int(factor))


@dataclass(frozen=True, eq=False)
class Measured:
    """Scores of one method at one level, by patient, and the mean seconds an image; bias: of CT, in soft tissue."""

    method: str
    psnr: dict[str, float]
    ssim: dict[str, float]
    bias: dict[str, float]
    seconds: float


def measure(task: Task, method: Method, level: float, cases: Sequence[Case]) -> Measured:
    scores: dict[str, dict[str, list[float]]] = {"psnr": {}, "ssim": {}, "bias": {}}  # by patient, of each image
    seconds = 0.0
    for case in cases:
        y = task.degrade(case, level)
        start = time.perf_counter()
        result = method.restore(case, y, level)
        seconds += time.perf_counter() - start
        for name, value in case.score(result).items():
            scores[name].setdefault(case.patient, []).append(value)
    psnr, ssim, bias = ({who: float(np.mean(v)) for who, v in found.items()} for found in scores.values())
    return Measured(method.name, psnr, ssim, bias, seconds / len(cases))


def difference(measured: Measured, other: Measured) -> Interval:
    """PSNR of `measured` above `other`, paired, over the patients that both have."""
    shared = sorted(set(measured.psnr) & set(other.psnr))
    return paired_difference({p: measured.psnr[p] for p in shared}, {p: other.psnr[p] for p in shared})


def run_task(
    task: Task, cases: Sequence[Case], *, quick: bool, skip_slow: bool, skip_model: bool, console: Console
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Measure, print and return a task's rows and bars."""
    rows: list[dict[str, Any]] = []
    bars: list[dict[str, Any]] = []
    for level in task.levels:
        done: dict[str, Measured] = {}
        for method in task.methods:
            if not method.available or (method.name == MODEL and skip_model):
                continue
            if method.slow and skip_slow:
                continue
            subset = cases[: task.slow_cases] if method.slow and quick else cases
            with console.status(f"{task.name}, {level:g}: {method.name}"):
                done[method.name] = measure(task, method, level, subset)
        rows += [_row(task, level, measured, done) for measured in done.values()]
        if MODEL in done:
            bars += _bars(task, level, done)
        _print(task, level, rows[-len(done) :], console)
    if not (skip_slow or skip_model):
        bars += _time_bars(task, cases[0])
    return rows, bars


def _time_bars(task: Task, case: Case) -> list[dict[str, Any]]:
    """The model's share of a classical method's processor time, one scan, both computed now: the least of each, in
    turn, since what else runs on the machine only adds."""
    level = task.levels[-1]
    y = task.degrade(case, level)
    bars = []
    for method in task.methods:
        if method.name in TIME_SHARES and method.available:
            both = (next(m for m in task.methods if m.name == MODEL), method)
            seconds = [float("inf")] * len(both)
            for _ in range(TIME_REPEATS):
                for number, each in enumerate(both):
                    start = time.process_time()
                    (each.fresh or each.restore)(case, y, level)
                    seconds[number] = min(seconds[number], time.process_time() - start)
            share, most = seconds[0] / seconds[1], TIME_SHARES[method.name]
            bars.append(record.bar(f"{task.name}: time / {method.name}", share, f"<= {most:g}", share <= most))
    return bars


def _row(task: Task, level: float, measured: Measured, done: dict[str, Measured]) -> dict[str, Any]:
    row: dict[str, Any] = {
        "task": task.name,
        "level": level,
        "method": measured.method,
        "psnr": interval(list(measured.psnr.values())).to_dict(),
        "ssim": interval(list(measured.ssim.values())).to_dict(),
        "time_ratio": measured.seconds / max(done[task.reference].seconds, 1e-9),
    }
    if MODEL in done and measured.method != MODEL:
        row["medldm_minus_this"] = difference(done[MODEL], measured).to_dict()
    return row


def _bars(task: Task, level: float, done: dict[str, Measured]) -> list[dict[str, Any]]:
    """The gain that is asked for at this level; denoising never below its input."""
    where = f"{task.name}, {level:g}"
    bars = []
    name, target = TARGETS.get((task.name.split(", ")[1], level), ("", 0.0))
    if name in done:
        gain = difference(done[MODEL], done[name])
        label = f"{where}: medldm - {name} (dB [{gain.low:+.2f}, {gain.high:+.2f}]; {gain.n} patients)"
        bars.append(record.bar(label, gain.mean, f">= {target}", gain.mean >= target))
    if "noisy" in done:
        worst = min(done[MODEL].psnr[p] - done["noisy"].psnr[p] for p in done[MODEL].psnr)
        label = f"{where}: worst patient above the input (dB)"
        bars.append(record.bar(label, worst, f">= {-NO_HARM_DB}", worst >= -NO_HARM_DB))
    if done[MODEL].bias:
        bars.append(ct.bias_bar(task.name, level, done[MODEL].bias))
    return bars


def _print(task: Task, level: float, rows: Sequence[dict[str, Any]], console: Console) -> None:
    table = Table(title=f"{task.name}, {level:g}", title_justify="left")
    time_ratio = f"time / {task.reference}"
    for column in ("method", "n", "PSNR dB [95 %]", "SSIM [95 %]", "medldm minus this (dB)", time_ratio):
        table.add_column(column, justify="left" if column == "method" else "right", overflow="fold")
    for row in rows:
        p, s, d = row["psnr"], row["ssim"], row.get("medldm_minus_this")
        table.add_row(
            row["method"],
            str(p["n"]),
            f"{p['mean']:.2f} [{p['low']:.2f}, {p['high']:.2f}]",
            f"{s['mean']:.3f} [{s['low']:.3f}, {s['high']:.3f}]",
            f"{d['mean']:+.2f} [{d['low']:+.2f}, {d['high']:+.2f}]" if d else "",
            f"{row['time_ratio']:.2f}",
        )
    console.print(table)


def panels(rows: Sequence[dict[str, Any]]) -> list[plot.Panel]:
    """PSNR over the levels of each task that has more than one; without what was measured itself."""
    found = []
    for name in dict.fromkeys(row["task"] for row in rows if "method" in row):
        mine = [row for row in rows if row["task"] == name and row["method"] != "noisy"]
        levels = sorted({row["level"] for row in mine})
        if len(levels) < 2:
            continue
        curves = []
        for method in dict.fromkeys(row["method"] for row in mine):
            one = [row for row in mine if row["method"] == method]
            curves.append(plot.Curve(method, [row["level"] for row in one], [row["psnr"] for row in one]))
        unit = "HU" if name.startswith("ct") else "share of the range"
        said = f"noise, {unit}" if "noise" in name else "voxels averaged"
        found.append(plot.Panel(name, curves, said, "PSNR of test patients (dB)", log_x=True, marks=levels))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.restoration", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="24 radiographs, x4 only, BM4D of 2 heads, a CT slice each"
    )
    parser.add_argument("--task", choices=AREAS, help="one of the areas; without: chest and brain")
    parser.add_argument("--skip-slow", action="store_true", help="without BM3D and BM4D")
    parser.add_argument("--skip-model", action="store_true", help="classical rows only; nothing is recorded")
    chosen = parser.parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 130)
    rows: list[dict[str, Any]] = []
    bars: list[dict[str, Any]] = []
    for area in (chosen.task,) if chosen.task else ("chest", "brain"):
        cases = cases_of(area, quick=chosen.quick)
        for task in tasks(area, quick=chosen.quick):
            more_rows, more_bars = run_task(
                task,
                [protocol.whole_blocks(case) for case in cases] if task.degrade is _through_plane else cases,
                quick=chosen.quick,
                skip_slow=chosen.skip_slow,
                skip_model=chosen.skip_model,
                console=console,
            )
            rows, bars = rows + more_rows, bars + more_bars
        if area == "ct" and not chosen.skip_model:
            more_rows, more_bars = ct.real_pair()
            rows, bars = rows + more_rows, bars + more_bars
    for entry in bars:
        verdict = "holds" if entry["holds"] else "FAILS"
        console.print(f"{verdict}  {entry['name']}: {entry['value']:+.2f} (target {entry['target']})")
    if not chosen.skip_model:
        name = "restoration" if not chosen.task else f"restoration-{chosen.task}"
        name += "-quick" if chosen.quick else ""
        record.write(name, rows, bars)
        console.print(f"plot: {plot.draw(name, panels(rows))}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
