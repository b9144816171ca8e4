"""How much of an image do the autoencoders keep, beside the block PCA of the same factor and channels?

    python -m benchmarks.autoencoders [--quick] [--model NAME_OR_FOLDER ...]

Test patients by the protocol of benchmarks/protocol.py: radiographs in [0, 1], heads over the brain. Means over
patients with 95 % bootstrap intervals. Without --model, the shipped packs. Each model has a file of results of its own,
benchmarks/results/autoencoders-NAME.json.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

import medldm
from benchmarks import protocol, record
from benchmarks.protocol import Case, Image
from medldm.evaluate.intervals import interval, paired_difference
from medldm.installed import TRAINING, folder_of, read_tables
from medldm.intensity import Scaling
from medldm.model import Model
from medldm.nets.autoencoder import Autoencoder
from medldm.nets.pca_autoencoder import PCAAutoencoder
from medldm.recipe import Recipe, parse_recipe
from medldm.space import ModelSpace
from medldm.training.data import load_scans
from medldm.training.latents import begin_from_data
from medldm.training.stages import stage_batches

# (dims, factor, channels): PSNR and SSIM that one of radiographs must reach on a CPU; one of heads: gain over the PCA
CHEST_BARS = {(4, 4): (40.5, 0.983), (8, 16): (41.0, None)}
BRAIN_GAINS = {(2, 4): 1.0, (4, 8): 1.0}
QUICK_CASES = 24


def trained_by(model: str) -> Recipe:
    """The recipe that a model, by name or folder, was trained by. Raises RecipeError, ModelError."""
    training = json.loads((folder_of(model) / TRAINING).read_text(encoding="utf-8"))
    return parse_recipe({"pack": read_tables(model).model_dump(mode="json", exclude={"seen"}), **training}, where=model)


def block_pca(recipe: Recipe, autoencoder: Autoencoder) -> PCAAutoencoder:
    """The block PCA of the recipe's training images, at the factor and channels of `autoencoder`."""
    scans = load_scans(recipe, protocol.data_folder())
    pca = PCAAutoencoder(autoencoder.dims, factor=autoencoder.factor, channels=autoencoder.channels, width=8)
    begin_from_data(pca, stage_batches(recipe, scans, 0, {}))
    return pca.eval()


def model_input(model: Model, case: Case) -> tuple[Tensor, Scaling]:
    """A case, which lies in the model's axes, in its intensity, (1, 1, *S), and the way back."""
    array = case.truth.astype(np.float32)
    flat = array.ndim == 2
    affine = np.eye(4) if case.affine is None else case.affine
    volume = medldm.Volume(
        array[..., None] if flat else array,
        medldm.Geometry(affine, (*array.shape, 1)[:3]),
        "arbitrary",
        model.pack.modality[0],
    )
    space = ModelSpace.of(model.pack, volume).fitted(volume)
    return space.image(volume)[None, None], space.range


@torch.inference_mode()
def reconstruct(autoencoder: Autoencoder, model: Model, case: Case) -> Image:
    """A case through the autoencoder, in the model's intensity and orientation."""
    x, scaling = model_input(model, case)
    return np.asarray(scaling.inverse(autoencoder.reconstruct(x)[0, 0].numpy()), dtype=np.float64)


def held_out(recipe: Recipe) -> list[Case]:
    """One case a scan that the recipe holds out of training, in the model's range: to choose on."""
    scans = load_scans(recipe, protocol.data_folder(), part="validation")
    return [Case(f"{n}", n, scan.image.numpy().astype(np.float64).clip(0, 1)) for n, scan in enumerate(scans)]


def scores(autoencoder: Autoencoder, model: Model, cases: list[Case]) -> dict[str, dict[str, float]]:
    return {case.patient: case.score(reconstruct(autoencoder, model, case)) for case in cases}


def row(name: str, autoencoder: Autoencoder, found: dict[str, dict[str, float]]) -> dict[str, Any]:
    parameters = sum(p.numel() for p in autoencoder.parameters())
    return {
        "autoencoder": name,
        "factor": list(autoencoder.factor),
        "channels": autoencoder.channels,
        "parameters": parameters,
        "psnr": interval([s["psnr"] for s in found.values()]).to_dict(),
        "ssim": interval([s["ssim"] for s in found.values()]).to_dict(),
    }


def bars_of(model: Model, autoencoder: Autoencoder, mine: dict[str, Any], gain: float) -> list[dict[str, Any]]:
    key = (autoencoder.factor[0], autoencoder.channels)
    name = f"{model.name}, f={key[0]} c={key[1]}"
    psnr, ssim = mine["psnr"]["mean"], mine["ssim"]["mean"]
    if model.pack.dims == 2 and key in CHEST_BARS:
        least, least_ssim = CHEST_BARS[key]
        bars = [record.bar(f"{name}: PSNR (dB)", psnr, f">= {least}", psnr >= least)]
        if least_ssim is not None:
            bars.append(record.bar(f"{name}: SSIM", ssim, f">= {least_ssim}", ssim >= least_ssim))
        return bars
    if model.pack.dims == 3 and key in BRAIN_GAINS:
        least = BRAIN_GAINS[key]
        return [record.bar(f"{name}: gain over the block PCA (dB)", gain, f">= {least}", gain >= least)]
    return []


def measured(model: Model, recipe: Recipe, cases: list[Case]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of the block PCA and of the model's autoencoder beside it, and the bars that there are for such a one."""
    autoencoder = model.networks.autoencoder
    pca = block_pca(recipe, autoencoder)
    trained, untrained = scores(autoencoder, model, cases), scores(pca, model, cases)
    gain = paired_difference({p: s["psnr"] for p, s in trained.items()}, {p: s["psnr"] for p, s in untrained.items()})
    mine = row(model.name, autoencoder, trained)
    rows = [row("block PCA", pca, untrained), mine | {"gain_over_pca": gain.to_dict()}]
    return rows, bars_of(model, autoencoder, mine, gain.mean)


def show(title: str, rows: list[dict[str, Any]], bars: list[dict[str, Any]]) -> None:
    """Print the table of `measured`, and its bars."""
    table = Table(title=title)
    for heading in ("autoencoder", "f", "c", "PSNR dB [95 %]", "SSIM", "above the PCA (dB)"):
        table.add_column(heading)
    for one in rows:
        psnr = one["psnr"]
        above = one.get("gain_over_pca")
        table.add_row(
            one["autoencoder"],
            "x".join(map(str, one["factor"])),
            str(one["channels"]),
            f"{psnr['mean']:.2f} [{psnr['low']:.2f}, {psnr['high']:.2f}]",
            f"{one['ssim']['mean']:.4f}",
            f"{above['mean']:+.2f} [{above['low']:+.2f}, {above['high']:+.2f}]" if above else "",
        )
    Console().print(table)
    for one in bars:
        print(f"{'holds ' if one['holds'] else 'MISSED'} {one['name']}: {one['value']:g} ({one['target']})")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--model", action="append", default=[])
    arguments = parser.parse_args()
    for name in arguments.model or ["chest-xray-256", "brain-t1-2mm"]:
        model = medldm.load_model(name)
        chest = model.pack.dims == 2
        cases = protocol.chest_cases(QUICK_CASES if arguments.quick else None) if chest else protocol.brain_cases()
        rows, bars = measured(model, trained_by(name), cases)
        show(f"{model.name}: {len(cases)} test patients", rows, bars)
        record.write(f"autoencoders-{model.name}{'-quick' if arguments.quick else ''}", rows, bars)


if __name__ == "__main__":
    main()
