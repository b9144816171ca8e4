"""What does perceptual mode change? Restorations of radiographs in both modes: error, and KID to the true images.

    python -m benchmarks.perceptual [--count N]

Test patients of chest-xray-256, white noise of 5, 10 and 20 %, and images coarsened twofold. PSNR, and KID (times
1000) of the restored images to their truths, 95 % intervals over patients. Bars: KID at most half of fidelity's, at no
more than 2 dB less.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import medldm
from benchmarks import protocol, record
from medldm.evaluate.features import image_features
from medldm.evaluate.intervals import interval
from medldm.evaluate.kid import kid
from medldm.nets.efficientnet import EfficientNetLite0

MODES = ("fidelity", "perceptual")
RANGE = {"spacing": 1.0, "value_range": (0.0, 1.0)}


def restored(case: protocol.Case, problem: str, mode: str, model: medldm.Model) -> protocol.Image:
    if problem == "x2":
        measured = protocol.in_plane(case, 2).astype(np.float32)
        return np.asarray(medldm.super_resolve(measured, model=model, scale=2, mode=mode, **RANGE).array)
    level = float(problem)
    measured = protocol.gaussian(case, level).astype(np.float32)
    return np.asarray(medldm.denoise(measured, model=model, noise_std=level, mode=mode, **RANGE).array)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, help="of the test patients; without: all")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, network = medldm.load_model("chest-xray-256", "cpu"), EfficientNetLite0.pretrained()
    cases = protocol.chest_cases(options.count)
    truths = image_features([case.truth.astype(np.float32) for case in cases], network)
    rows: list[dict[str, Any]] = []
    bars, shown = [], Table("problem", "mode", "PSNR", "KID", "95 % interval")
    for problem in ("0.05", "0.1", "0.2", "x2"):
        for mode in MODES:
            images = [restored(case, problem, mode, model).reshape(case.truth.shape) for case in cases]
            errors = [np.square(image - case.truth).mean() for image, case in zip(images, cases, strict=True)]
            psnr = interval([-10 * float(np.log10(error)) for error in errors])
            found = kid(
                image_features([image.clip(0, 1).astype(np.float32) for image in images], network),
                truths,
                groups_b=[case.patient for case in cases],
            )
            row = {"problem": problem, "mode": mode, "psnr": psnr.mean, "psnr_low": psnr.low, "psnr_high": psnr.high}
            rows.append(row | {"kid": found.mean, "kid_low": found.low, "kid_high": found.high})
            spread = f"{found.low:.0f} to {found.high:.0f}"
            shown.add_row(problem, mode, f"{psnr.mean:.2f}", f"{found.mean:.0f}", spread)
            print(rows[-1], flush=True)
        first, second = rows[-2:]
        share, lost = second["kid"] / first["kid"], first["psnr"] - second["psnr"]
        bars.append(record.bar(f"{problem}: KID, perceptual over fidelity", share, "<= 0.5", share <= 0.5))
        bars.append(record.bar(f"{problem}: dB lost", lost, "<= 2", lost <= 2))
    console = Console()
    console.print(shown)
    for one in bars:
        console.print(f"{'holds' if one['holds'] else 'MISSED'}: {one['name']} {one['value']} ({one['target']})")
    if options.count is None:
        record.write("perceptual", rows, bars)


if __name__ == "__main__":
    main()
