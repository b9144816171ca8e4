"""The picture of the README: docs/images/overview.png, one test patient of each model, the first of the list.

python -m benchmarks.overview
"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray

import medldm
from benchmarks import protocol
from benchmarks.methods import BRAIN_MODEL, CHEST_MODEL
from medldm.evaluate import baselines

OUT = Path(__file__).resolve().parents[1] / "docs" / "images" / "overview.png"
TITLES = ("measured", "non-local means", "medldm", "uncertainty", "truth")


def _rows() -> list[tuple[str, list[NDArray[np.float64]]]]:
    chest = protocol.chest_cases(1)[0]
    y = protocol.gaussian(chest, 0.10)
    result = medldm.denoise(y, model=CHEST_MODEL, noise_std=0.10, value_range=(0.0, 1.0))
    planes = [y, baselines.non_local_means(y, 0.10), result.array, result.uncertainty.array[..., 0].T * 8, chest.truth]
    rows = [("radiograph, Gaussian noise 10 %", [np.asarray(p, dtype=np.float64) for p in planes])]
    head = protocol.brain_cases(1)[0]
    y = protocol.rician(head, 0.10)
    result = medldm.denoise(y, model=BRAIN_MODEL, noise_std=0.10, affine=head.affine)
    volumes = [
        y,
        baselines.non_local_means(y, 0.10, rician=True),
        result.array,
        result.uncertainty.array * 4,
        head.truth,
    ]
    level = head.truth.shape[1] * 3 // 5  # above the face; rows run to the back, columns to the patient's left
    planes = [np.asarray(v, dtype=np.float64)[:, level, ::-1] for v in volumes]
    rows.append(("head at 2 mm, Rician noise 10 %", planes))
    return rows


def main() -> int:
    rows = _rows()
    figure, axes = plt.subplots(len(rows), len(TITLES), figsize=(12.5, 5.4), facecolor="black")
    for line, (label, planes) in enumerate(rows):
        for axis, plane, title in zip(axes[line], planes, TITLES, strict=True):
            axis.imshow(plane, cmap="inferno" if title == "uncertainty" else "gray", vmin=0, vmax=1)
            axis.set_xticks([])
            axis.set_yticks([])
            if line == 0:
                axis.set_title(title, color="white", fontsize=11)
        axes[line][0].set_ylabel(label, color="white", fontsize=9)
    figure.subplots_adjust(0.03, 0.01, 0.995, 0.93, 0.02, 0.03)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(OUT, dpi=100, facecolor="black")
    print(OUT)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
