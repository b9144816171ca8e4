"""What do perceptual and adversarial terms buy an autoencoder of radiographs, and what do they cost?

    python -m benchmarks.perceptual_autoencoders --model SQUARED_ERROR --model PERCEPTUAL [--validation]

PSNR, SSIM, HaarPSI and KID (x 1000) of reconstructions. Test patients by the protocol of benchmarks/protocol.py, means
over patients with 95 % bootstrap intervals; KID is paired, between the reconstructions and their originals. The first
model is what the others are held against: KID at most half of its own, at no more than 1.5 dB less PSNR.
--validation : the patients that the first model's recipe holds out of training, to choose weights on
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import medldm
from benchmarks import protocol, record
from benchmarks.autoencoders import held_out, reconstruct, trained_by
from benchmarks.protocol import Case
from medldm.evaluate.features import Features, image_features
from medldm.evaluate.intervals import interval, paired_difference
from medldm.evaluate.kid import kid
from medldm.evaluate.similarity import haarpsi
from medldm.model import Model
from medldm.nets.efficientnet import EfficientNetLite0

MOST_LOST, KID_SHARE = 1.5, 0.5


def measured(
    model: Model, cases: list[Case], network: EfficientNetLite0, originals: Features
) -> tuple[dict[str, Any], dict[str, float]]:
    """A row of the table, and the PSNR of each patient."""
    autoencoder = model.networks.autoencoder
    again = {case.patient: np.clip(reconstruct(autoencoder, model, case), 0, 1) for case in cases}
    found = {case.patient: case.score(again[case.patient]) for case in cases}
    for case in cases:
        found[case.patient]["haarpsi"] = haarpsi(again[case.patient], case.truth)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # few validation patients: the interval says so
        distance = kid(image_features(again.values(), network), originals, paired=True)
    row = {"model": model.name, "weights_sha256": model.weights_sha256, "patients": len(cases)}
    row |= {key: interval([s[key] for s in found.values()]).to_dict() for key in ("psnr", "ssim", "haarpsi")}
    return row | {"kid": distance.to_dict()}, {patient: s["psnr"] for patient, s in found.items()}


def bars_of(first: dict[str, Any], mine: dict[str, Any], lost: float) -> list[dict[str, Any]]:
    share = mine["kid"]["mean"] / first["kid"]["mean"]
    return [
        record.bar(f"{mine['model']}: share of KID", share, f"<= {KID_SHARE}", share <= KID_SHARE),
        record.bar(f"{mine['model']}: PSNR lost (dB)", lost, f"<= {MOST_LOST}", lost <= MOST_LOST),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", action="append", required=True)
    parser.add_argument("--validation", action="store_true")
    arguments = parser.parse_args()
    models = [medldm.load_model(name) for name in arguments.model]
    cases = held_out(trained_by(arguments.model[0])) if arguments.validation else protocol.chest_cases()
    network = EfficientNetLite0.pretrained()
    originals = image_features([case.truth for case in cases], network)
    results = [measured(model, cases, network, originals) for model in models]
    rows, bars = [row for row, _ in results], []
    for row, psnr in results[1:]:
        gain = paired_difference(psnr, results[0][1])
        row["psnr_above_first"] = gain.to_dict()
        bars += bars_of(rows[0], row, -gain.mean)
    table = Table(title=f"{len(cases)} {'validation images' if arguments.validation else 'test patients'}")
    for title in ("model", "PSNR dB [95 %]", "SSIM", "HaarPSI", "KID x 1000 [95 %]"):
        table.add_column(title)
    for name, row in zip(arguments.model, rows, strict=True):
        psnr, distance = row["psnr"], row["kid"]
        table.add_row(
            f"{row['model']} ({Path(name).name})",
            f"{psnr['mean']:.2f} [{psnr['low']:.2f}, {psnr['high']:.2f}]",
            f"{row['ssim']['mean']:.4f}",
            f"{row['haarpsi']['mean']:.4f}",
            f"{distance['mean']:.4f} [{distance['low']:.4f}, {distance['high']:.4f}]",
        )
    Console().print(table)
    for one in bars:
        print(f"{'holds ' if one['holds'] else 'MISSED'} {one['name']}: {one['value']:g} ({one['target']})")
    if not arguments.validation:
        record.write("perceptual-autoencoders", rows, bars)


if __name__ == "__main__":
    main()
