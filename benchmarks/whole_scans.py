"""Whole clinical scans: a head at 1 mm and a CT of 512 x 512 x 300. How well, how long, in how much memory, any seam?

    python -m benchmarks.whole_scans [--scan head|ct] [--slices N]

The head is the MNI template (needs nilearn) of 192 x 220 x 180 voxels with Rician noise of 5 %; non-local means beside
it, PSNR where there is signal. A seam is where the result jumps more than the truth does: the jump across each plane
over the truth's, that over the median of the planes around it; the mean of every fourth plane, as the latents' blocks
and the borders of tiles lie, of the worst of four. Single planes vary with anatomy: the largest is given for non-local
means, too, which knows neither blocks nor tiles. The CT is a phantom with 20 HU of noise; `--slices N` ends it after N
slices, since memory and time a slice are known by then. Each scan has a process of its own, one thread; memory is the
most that the process held, the scan included.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

import medldm
from benchmarks import record
from medldm.evaluate import baselines
from medldm.evaluate.similarity import psnr

HEAD, HEAD_NOISE, HEAD_SEED = (192, 220, 180), 0.05, 7
CT, CT_NOISE_HU, CT_MM = (512, 512, 300), 20.0, (0.8, 0.8, 1.25)
AHEAD_DB, HEAD_GB, CT_GB, SEAM = 1.0, 4.0, 6.0, 1.05
AROUND, BLOCK = 17, 4  # planes of which the median is taken; voxels of a latent cell's edge


class Enough(Exception):
    """As many slices as were asked for."""


def template() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The head, its bright tissue at 1, and its affine."""
    from nilearn.datasets import load_mni152_template

    image = load_mni152_template(resolution=1)
    values = np.clip(np.asarray(image.dataobj, np.float64), 0, None)
    values[values < 1e-3] = 0
    values /= np.percentile(values[values > 0.1 * values.max()], 99.5)
    return values[tuple(slice(n) for n in HEAD)], image.affine


def jumps(result: NDArray[np.float64], truth: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """By axis, for each plane: the mean jump across it as a share of the truth's, over the median of those around it.

    Planes with little signal are NaN.
    """
    signal, found = truth > 0.1, []
    for axis in range(truth.ndim):
        both = np.logical_and(*(signal.take(range(a, truth.shape[axis] - 1 + a), axis) for a in (0, 1)))
        others = tuple(other for other in range(truth.ndim) if other != axis)
        sums = [np.where(both, np.abs(np.diff(x, axis=axis)), 0).sum(others) for x in (result, truth)]
        inside = both.sum(others) > 0.2 * both.sum(others).max()
        share = sums[0][inside] / sums[1][inside]
        found.append(np.full(len(inside), np.nan))
        found[-1][inside] = share / ndimage.median_filter(share, AROUND, mode="nearest")
    return found


def seam(planes: list[NDArray[np.float64]]) -> float:
    """Of every BLOCK-th plane, those between the latents' blocks among them, the mean of the worst, over all axes."""
    return max(float(np.nanmean(plane[start::BLOCK])) for plane in planes for start in range(BLOCK))


def head() -> dict[str, Any]:
    truth, affine = template()
    generator = np.random.default_rng(HEAD_SEED)
    first, second = (HEAD_NOISE * generator.standard_normal(truth.shape) for _ in range(2))
    y = np.sqrt((truth + first) ** 2 + second**2)
    signal = truth > 0.1
    said: list[tuple[float, float]] = []
    started = time.process_time()
    result = medldm.denoise(
        y.astype(np.float32),
        model="brain-t1-2mm",
        noise_std=HEAD_NOISE,
        affine=affine,
        forecast=lambda seconds, memory: said.append((seconds, memory)),
    )
    row: dict[str, Any] = {"scan": "head", "cpu_s": time.process_time() - started, "peak_gb": record.peak_bytes() / 1e9}
    row |= {"forecast_s": said[0][0], "forecast_gb": said[0][1] / 1e9} if said else {}
    restored = np.asarray(result.array, np.float64)
    nlm = [baselines.non_local_means(y, HEAD_NOISE, rician=True, subtract=subtract) for subtract in (True, False)]
    row |= {"noisy": psnr(y, truth, mask=signal), "medldm": psnr(restored, truth, mask=signal)}
    row["non-local means"] = max(psnr(each, truth, mask=signal) for each in nlm)
    for name, image in (("medldm", restored), ("non-local means", nlm[0])):
        planes = jumps(image, truth)
        row |= {f"seam, {name}": seam(planes), f"single plane, {name}": max(float(np.nanmax(p)) for p in planes)}
    return row


def ct(slices: int | None) -> dict[str, Any]:
    hu = np.full(CT, -1000, np.float32)
    hu[80:430, 100:400] = 40
    hu += CT_NOISE_HU * np.random.default_rng(0).standard_normal(CT, dtype=np.float32)
    scan = medldm.Volume(hu, medldm.Geometry.from_spacing(CT, CT_MM), "HU", "CT")
    said: list[tuple[float, float]] = []
    seen = 0.0

    def progress(task: str, done: int, total: int) -> None:
        nonlocal seen
        seen = done / total * CT[2]
        if slices is not None and seen >= slices:
            raise Enough

    started, wall = time.process_time(), time.perf_counter()
    with contextlib.suppress(Enough):
        medldm.denoise(
            scan,
            model="ct-torso",
            noise_std=CT_NOISE_HU,
            progress=progress,
            forecast=lambda seconds, memory: said.append((seconds, memory)),
        )
    row: dict[str, Any] = {"scan": "ct", "slices": seen, "peak_gb": record.peak_bytes() / 1e9}
    row |= {"cpu_s_a_slice": (time.process_time() - started) / seen, "wall_s": time.perf_counter() - wall}
    return row | ({"forecast_s": said[0][0], "forecast_gb": said[0][1] / 1e9} if said else {})


def bars_of(row: dict[str, Any]) -> list[dict[str, Any]]:
    memory, most = row["peak_gb"], HEAD_GB if row["scan"] == "head" else CT_GB
    found = [record.bar(f"{row['scan']}: memory (GB)", memory, f"<= {most:g}", memory <= most)]
    told = float("forecast_s" in row)
    found.append(record.bar(f"{row['scan']}: says before how long it takes", told, "1", bool(told)))
    if row["scan"] == "head":
        ahead = row["medldm"] - row["non-local means"]
        found.append(record.bar("head: ahead of non-local means (dB)", ahead, f">= {AHEAD_DB:g}", ahead >= AHEAD_DB))
        if told:
            share = row["forecast_gb"] / memory
            found.append(
                record.bar("head: memory said before, over what it took", share, "0.8 to 1.25", 0.8 <= share <= 1.25)
            )
        jump = row["seam, medldm"]
        found.append(record.bar("head: jump between blocks over others", jump, f"<= {SEAM:g}", jump <= SEAM))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scan", choices=("head", "ct"), help="without: both")
    parser.add_argument("--slices", type=int, help="of the CT; without: all 300")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)  # in a process of its own
    options = parser.parse_args()
    if options.alone:
        torch.set_num_threads(1)
        print(json.dumps(head() if options.scan == "head" else ct(options.slices)))
        return
    rows, bars = [], []
    for scan in (options.scan,) if options.scan else ("head", "ct"):
        command = [sys.executable, "-m", "benchmarks.whole_scans", "--alone", "--scan", scan]
        command += ["--slices", str(options.slices)] if options.slices else []
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print({key: round(value, 3) if isinstance(value, float) else value for key, value in rows[-1].items()})
        bars += bars_of(rows[-1])
    for one in bars:
        print(f"{'holds' if one['holds'] else 'MISSED'}: {one['name']} {one['value']} ({one['target']})")
    record.write("whole-scans" + (f"-{options.scan}" if options.scan else ""), rows, bars)


if __name__ == "__main__":
    main()
