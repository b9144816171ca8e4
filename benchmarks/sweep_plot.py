"""The plot of the sweep: PSNR over the factor for each kind of autoencoder, docs/images/autoencoders.png."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

OUT = Path(__file__).resolve().parents[1] / "docs" / "images" / "autoencoders.png"
STYLES = {
    "PCA": ("block PCA, 4 pixels a number", "0.45", "--"),
    "KL": ("KL, 4 pixels a number", "tab:blue", "-"),
    "VQ": ("codebook", "tab:orange", "-"),
    "FSQ": ("finite levels", "tab:green", "-"),
}


def draw(rows: Sequence[dict[str, Any]], out: Path = OUT) -> Path:
    """A line a kind, with the intervals over patients as bars; returns the file."""
    figure, axes = plt.subplots(figsize=(6.4, 4), layout="constrained")
    for kind, (label, colour, line) in STYLES.items():
        found = sorted((one for one in rows if one["kind"] == kind), key=lambda one: one["factor"][0])
        factors = [one["factor"][0] for one in found]
        means = [one["psnr"]["mean"] for one in found]
        low = [one["psnr"]["mean"] - one["psnr"]["low"] for one in found]
        high = [one["psnr"]["high"] - one["psnr"]["mean"] for one in found]
        axes.errorbar(factors, means, (low, high), label=label, color=colour, ls=line, marker="o", ms=4, capsize=3)
    axes.set_xscale("log", base=2)
    ticks = sorted({one["factor"][0] for one in rows})
    axes.set_xticks(ticks, [str(f) for f in ticks])
    axes.set_xlabel("downsampling factor f")
    axes.set_ylabel("PSNR of test patients (dB)")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(out, dpi=110)
    plt.close(figure)
    return out
