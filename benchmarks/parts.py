"""What does each part of a restoring model bring? Patients of the train split whom its training kept aside.

    python -m benchmarks.parts [--quick] [--model NAME --recipe RECIPE]

One measurement goes through all of it: the decoded latent estimate alone, the first head, the collaborative filter
once and twice, the second head. PSNR in dB of the range, over the image's foreground, mean over patients.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

import medldm
from benchmarks import protocol, record
from medldm.evaluate.intervals import interval
from medldm.model import Model
from medldm.nets.head import MeasurementHead
from medldm.nets.patches import pad_to_multiple
from medldm.operators.measurement import Measurement, noise_model
from medldm.restoration.estimate import merge_both_ways
from medldm.training.data import load_scans
from medldm.training.scan import Scan
from medldm.training.start import resolve

LEVELS = (0.01, 0.02, 0.05, 0.10, 0.20)
QUICK, SLAB = 4, 64  # patients; planes of a volume
PARTS = ("measured", "latent estimate", "first head", "filter once", "filter twice", "second head")


def parts(model: Model, x: Tensor, noise_std: float, seed: int) -> Iterator[tuple[str, Tensor]]:
    """Each part's answer (*S) to one noisy copy of x (*S)."""
    networks, head = model.networks, model.networks.head(model.pack.problems["denoise"].head)
    generator = torch.Generator().manual_seed(seed)
    y = noise_model(model.pack.noise).sample(x, torch.tensor(noise_std), generator)[None, None]
    size = y.shape[2:]
    level = torch.full((1, 1, *(1,) * len(size)), noise_std)
    blur = torch.ones(1, len(size), *(1,) * len(size))
    told = Measurement(pad_to_multiple(y, model.pack.multiple)[0], level, blur)
    inside = tuple(slice(0, n) for n in size)
    yield "measured", y[0, 0]
    decoded = networks.autoencoder.decode(
        networks.denoiser.posterior_mean(networks.condition(told), networks.autoencoder.channels)
    )
    yield "latent estimate", decoded[0, 0][inside]

    def merge(head: MeasurementHead, decoded: Tensor, told: Measurement) -> Tensor:
        return merge_both_ways(head, decoded, told, torch.ones(1), lambda: None)[0]

    given, told = networks.before(head.after, decoded, told, merge)
    answer = merge(head, given, told)[0, 0][inside]
    if told.alike is None:
        yield "first head", answer
        return
    yield "first head", given[0, 0][inside]
    yield "filter once", told.alike[0, 0][inside]
    yield "filter twice", told.alike[0, 1][inside]
    yield "second head", answer


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="chest-xray-256")
    parser.add_argument("--recipe", default="chest-xray-256-alike")
    parser.add_argument("--quick", action="store_true")
    asked = parser.parse_args()
    model = medldm.load_model(asked.model)
    recipe, _ = resolve(asked.recipe)
    by_patient: dict[tuple[str, str], Scan] = {}
    for scan in load_scans(recipe, protocol.data_folder(), part="validation"):
        if scan.source.synthesis:  # a whole one
            by_patient.setdefault((scan.source.folder, scan.patient), scan)
    console, rows = Console(), []
    for folder in dict.fromkeys(folder for folder, _ in by_patient):
        scans = [scan for (source, _), scan in by_patient.items() if source == folder][: QUICK if asked.quick else None]
        table = Table(title=f"{asked.model}, {folder}: {len(scans)} patients, PSNR (dB)", title_justify="left")
        for column in ("noise", *PARTS):
            table.add_column(column, justify="right")
        for noise_std in LEVELS:
            scores: dict[str, list[float]] = {}
            for number, scan in enumerate(scans):
                x = scan.image.float()
                if x.ndim == 3:  # a slab of it
                    start = max((x.shape[1] - SLAB) // 2, 0)
                    x = x[:, start : start + SLAB]
                seen = x > 0.05 if x.ndim == 3 else torch.ones_like(x, dtype=torch.bool)
                for name, image in parts(model, x, noise_std, number):
                    error = (image.clamp(0, 1) if x.ndim == 2 else image) - x
                    scores.setdefault(name, []).append(-10 * np.log10(float(error[seen].square().mean())))
            rows += [
                {"data": folder, "noise_std": noise_std, "part": name, "psnr": interval(values).to_dict()}
                for name, values in scores.items()
            ]
            table.add_row(f"{noise_std:g}", *(f"{np.mean(scores[n]):.2f}" if n in scores else "" for n in PARTS))
        console.print(table)
    record.write(f"parts-{asked.model}", rows, [])


if __name__ == "__main__":
    main()
