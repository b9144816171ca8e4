"""What does diffusion make of an autoencoder's latents? Equal sizes, the same denoiser, the same steps.

    python -m benchmarks.latent_diffusion [--quick] [--rows FOLDER]

Radiographs, f = 4, c = 4: the block PCA, medldm's default autoencoder and MONAI's network, the last two trained for the
same CPU seconds. On the white latents of each, a conditional U-Net of the same size learns to denoise for the same
steps, on the same batches. Losses in latent space cannot be compared between autoencoders, images can: PSNR of the
decoded posterior mean, one evaluation, no head. Beside it what the autoencoder alone keeps, the ceiling. Test patients
by the protocol of benchmarks/protocol.py, paired differences from the block PCA with 95 % bootstrap intervals.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks import protocol, record
from benchmarks.autoencoder_training import train_autoencoder
from benchmarks.autoencoders import QUICK_CASES, model_input, reconstruct
from benchmarks.protocol import Case, Image
from benchmarks.sweep_rows import DEFAULT, MONAI, Spec, kept, recipe_of
from medldm.evaluate.intervals import interval, paired_difference
from medldm.model import Model
from medldm.operators.measurement import Measurement
from medldm.operators.operator import Identity
from medldm.operators.problem import problems_of
from medldm.recipe import Recipe, load_recipe, parse_recipe
from medldm.training.batches import prefetch
from medldm.training.data import load_scans
from medldm.training.latents import measure_latents
from medldm.training.loop import Hooks, run_stage
from medldm.training.parallel import start_fabric
from medldm.training.scan import Scan
from medldm.training.stages import build_stage, stage_batches

BASE = Path(__file__).resolve().parents[1] / "configs" / "chest-xray-autoencoder-f4-short.toml"
AUTOENCODERS = {"block PCA": DEFAULT, "default": DEFAULT, "MONAI": MONAI}
RATES = {"block PCA": 1e-3, "default": 3e-3, "MONAI": 3e-4}  # chosen by benchmarks/sweep.py, equal-time
UNET = {"channels": [48, 64, 64], "attention_levels": [False, False, True]}
SECONDS, STEPS = 150.0, 300
DENOISER = 1  # number of its stage
STATISTICS = 64  # scans that the latents' statistics are taken of
NOISE = (0.05, 0.10, 0.20)


def denoising_recipe(name: str, seconds: float, steps: int, seed: int) -> Recipe:
    """Denoising alone: no coarse measurements."""
    table = load_recipe(BASE).model_dump(mode="json", by_alias=True)
    table["pack"] |= {"unet": UNET}
    alone = {"problems": {"denoise": 1.0}}
    table["stage"][DENOISER] |= alone | {"steps": steps, "crop": [128, 128], "batch_size": 8, "lr": 1e-3}
    return recipe_of(parse_recipe(table), Spec(name, name, AUTOENCODERS[name], seconds, RATES[name], seed))


def train_denoiser(model: Model, recipe: Recipe, scans: Sequence[Scan]) -> float:
    """The denoiser of a model whose autoencoder is trained, on its white latents; returns the last tenth's loss."""
    table, problems = recipe.stages[DENOISER], problems_of(recipe.pack)
    measure_latents(model.networks.autoencoder, scans[:STATISTICS])
    fabric, precision = start_fabric("cpu", recipe.precision, recipe.pack.dims)
    batches = stage_batches(recipe, scans, DENOISER, problems)
    stage = build_stage(table, model.networks, problems)
    hooks = Hooks(None, lambda *_: None, lambda _: None, float("inf"), lambda _: None)

    def from_step(first: int) -> Any:
        make = functools.partial(stage.batch, batches)
        return prefetch(make, range(first, table.steps), 0, batches.scans_of, table.name)

    losses = run_stage(table.name, fabric, stage, from_step, str, table, hooks, precision, None)
    model.networks.eval()
    return losses["loss"]


@torch.inference_mode()
def denoised(model: Model, case: Case, noise_std: float) -> Image:
    """The decoded posterior mean of a noisy case, its noise level known."""
    _, scaling = model_input(model, case)
    noisy = torch.from_numpy(scaling.forward(protocol.gaussian(case, noise_std))).float()[None, None]
    measurement = Measurement.of(Identity(), noisy[..., None], float(scaling.std_forward(noise_std)), 2)
    networks = model.networks
    mean = networks.denoiser.posterior_mean(networks.condition(measurement), networks.autoencoder.channels)
    image = networks.autoencoder.decode(mean)
    return scaling.inverse(image[0, 0].double().numpy())


def measured(
    name: str, scans: Sequence[Scan], cases: list[Case], seconds: float, steps: int, seed: int
) -> dict[str, Any]:
    """Each case's PSNR: of the autoencoder alone, and of the posterior mean at each noise level."""
    recipe = denoising_recipe(name, seconds, steps, seed)
    trained = train_autoencoder(recipe, scans, 0 if name == "block PCA" else seconds)
    model, loss = trained.model, train_denoiser(trained.model, recipe, scans)
    again = {f"{c.index}": reconstruct(model.networks.autoencoder, model, c) for c in cases}
    each = {"autoencoder alone": {f"{c.index}": c.score(again[f"{c.index}"])["psnr"] for c in cases}}
    for noise_std in NOISE:
        each[f"{noise_std:g}"] = {f"{c.index}": c.score(denoised(model, c, noise_std))["psnr"] for c in cases}
    return {"autoencoder": name, "seed": seed, "autoencoder_steps": trained.steps, "loss": loss, "each": each}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="seconds of training, to see that it works")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--rows", type=Path, default=Path("runs/sweep"), help="folder of finished rows")
    arguments = parser.parse_args()
    suffix, seconds, steps = ("-quick", 3.0, 4) if arguments.quick else ("", SECONDS, STEPS)
    cases = protocol.chest_cases(QUICK_CASES if arguments.quick else None)
    scans, rows = load_scans(load_recipe(BASE), protocol.data_folder()), []
    pca: dict[int, dict[str, dict[str, float]]] = {}
    table = Table(title=f"{len(cases)} test patients: PSNR (dB), and above the block PCA [95 %]")
    for heading in ("autoencoder", "seed", "alone", *(f"noise {n:g}" for n in NOISE)):
        table.add_column(heading)
    for seed in arguments.seeds:
        for name in AUTOENCODERS:
            spec = {
                "autoencoder": name,
                "seed": seed,
                "seconds": seconds,
                "steps": steps,
                "lr": RATES[name],
                "cases": len(cases),
            }
            path = arguments.rows / f"latent-diffusion{suffix}" / f"{name.replace(' ', '-')}-seed{seed}.json"
            one = kept(path, spec, lambda name=name, seed=seed: measured(name, scans, cases, seconds, steps, seed))
            each = one["each"]
            pca[seed] = pca.get(seed, each)  # the block PCA comes first
            for key in list(each):
                one[f"psnr {key}"] = interval(list(each[key].values())).to_dict()
                one[f"above PCA {key}"] = paired_difference(each[key], pca[seed][key]).to_dict()
            rows.append(one)
            cells = [
                f"{one[f'psnr {key}']['mean']:.2f}  {(d := one[f'above PCA {key}'])['mean']:+.2f} "
                f"[{d['low']:+.2f}, {d['high']:+.2f}]"
                for key in each
            ]
            table.add_row(name, str(seed), *cells)
    Console(width=160).print(table)
    record.write(f"latent-diffusion{suffix}", [{k: v for k, v in r.items() if k != "each"} for r in rows], [])


if __name__ == "__main__":
    main()
