"""What does diffusion make of the latents of a code? Codes of the same size, the same denoiser, the same steps.

    python -m benchmarks.latent_diffusion [--quick] [--rows FOLDER]

Radiographs, f = 4, c = 4: the block PCA, medldm's default code and MONAI's plain network, the last two trained for the
same CPU seconds. On the white latents of each, a conditional U-Net of the same size learns to denoise for the same
steps, on the same batches. Losses in latent space cannot be compared between codes, images can: PSNR of the decoded
posterior mean, one evaluation, no head. Beside it what the code alone keeps, the ceiling. Test patients by the protocol
of benchmarks/protocol.py, paired differences from the block PCA with 95 % bootstrap intervals.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks import protocol, record
from benchmarks.autoencoders import QUICK_CASES, model_input, reconstruct
from benchmarks.code_training import train_code
from benchmarks.protocol import Case, Image
from benchmarks.sweep_rows import LINEAR_DEFAULT, MONAI_PLAIN, Spec, kept, recipe_of
from medldm.evaluate.intervals import interval, paired_difference
from medldm.model import Model
from medldm.nets.condition import Measurement
from medldm.recipe import Recipe, load_recipe, parse_recipe
from medldm.training.batches import prefetch
from medldm.training.data import Scan, load_scans
from medldm.training.latents import measure_latents
from medldm.training.loop import Hooks, run_stage
from medldm.training.parallel import start_fabric
from medldm.training.stages import build_stage, stage_batches

BASE = Path(__file__).resolve().parents[1] / "configs" / "chest-xray-code-f4-short.toml"
CODES = {"block PCA": LINEAR_DEFAULT, "default": LINEAR_DEFAULT, "MONAI": MONAI_PLAIN}
RATES = {"block PCA": 1e-3, "default": 3e-3, "MONAI": 3e-4}  # chosen by benchmarks/sweep.py, equal-time
UNET = {"channels": [48, 64, 64], "attention_levels": [False, False, True]}
SECONDS, STEPS = 150.0, 300
STATISTICS = 64  # scans that the latents' statistics are taken of
NOISE = (0.05, 0.10, 0.20)


def denoising_recipe(name: str, seconds: float, steps: int, seed: int) -> Recipe:
    """Denoising alone: no coarse measurements, no synthesis."""
    table = load_recipe(BASE).model_dump(mode="json")
    table |= {"unet": UNET}
    table["sources"] = [source | {"synthesis": False} for source in table["sources"]]
    table["degradation"] |= {"super_resolution_share": 0.0}
    table["stage_denoiser"] |= {"steps": steps, "crop": [128, 128], "batch_size": 8, "lr": 1e-3}
    return recipe_of(parse_recipe(table), Spec(name, name, CODES[name], seconds, RATES[name], seed))


def train_denoiser(model: Model, scans: Sequence[Scan]) -> float:
    """The denoiser of a model whose code is trained, on its white latents; returns the last tenth's loss."""
    recipe, table = model.recipe, model.recipe.stage_denoiser
    measure_latents(model.networks.autoencoder, scans[:STATISTICS])
    fabric, precision = start_fabric("cpu", recipe.precision)
    batches = stage_batches(recipe, scans, "denoiser", table)
    stage = build_stage("denoiser", model.networks, recipe)
    hooks = Hooks(None, lambda *_: None, lambda _: None, float("inf"), lambda _: None)

    def drawn(first: int) -> Any:
        return prefetch(lambda step: stage.batch(batches, step), range(first, table.steps), 0, batches.scans_of, "denoiser")

    losses = run_stage("denoiser", fabric, stage, drawn, str, table, hooks, precision, None)
    model.networks.eval()
    return losses["loss"]


@torch.inference_mode()
def denoised(model: Model, case: Case, noise_std: float) -> Image:
    """The decoded posterior mean of a noisy case, its noise level given."""
    _, scaling = model_input(model, case)
    noisy = torch.from_numpy(scaling.forward(protocol.gaussian(case, noise_std))).float()[None, None]
    level = torch.tensor([scaling.std_forward(noise_std)])
    code = model.networks.autoencoder
    cond = Measurement(noisy, level, torch.ones(1, 2)).to_latent_condition(code)
    image = code.decode(model.networks.denoiser.posterior_mean(cond, code.channels))
    return scaling.inverse(image[0, 0].double().numpy())


def measured(
    name: str, scans: Sequence[Scan], cases: list[Case], seconds: float, steps: int, seed: int
) -> dict[str, Any]:
    """Each case's PSNR: of the code alone, and of the posterior mean at each noise level."""
    recipe = denoising_recipe(name, seconds, steps, seed)
    trained = train_code(recipe, scans, 0 if name == "block PCA" else seconds)
    model, loss = trained.model, train_denoiser(trained.model, scans)
    each = {
        "code alone": {f"{c.index}": c.score(reconstruct(model.networks.autoencoder, model, c))["psnr"] for c in cases}
    }
    for noise_std in NOISE:
        each[f"{noise_std:g}"] = {f"{c.index}": c.score(denoised(model, c, noise_std))["psnr"] for c in cases}
    return {"code": name, "seed": seed, "code_steps": trained.steps, "loss": loss, "each": each}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="seconds of training, to see that it works")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--rows", type=Path, default=Path("runs/sweep"), help="folder of finished rows")
    given = parser.parse_args()
    suffix, seconds, steps = ("-quick", 3.0, 4) if given.quick else ("", SECONDS, STEPS)
    cases = protocol.chest_cases(QUICK_CASES if given.quick else None)
    scans, rows = load_scans(load_recipe(BASE), protocol.data_folder()), []
    linear: dict[int, dict[str, dict[str, float]]] = {}
    table = Table(title=f"{len(cases)} test patients: PSNR (dB), and above the block PCA [95 %]")
    for heading in ("code", "seed", "code alone", *(f"noise {n:g}" for n in NOISE)):
        table.add_column(heading)
    for seed in given.seeds:
        for name in CODES:
            spec = {
                "code": name,
                "seed": seed,
                "seconds": seconds,
                "steps": steps,
                "lr": RATES[name],
                "cases": len(cases),
            }
            path = given.rows / f"latent-diffusion{suffix}" / f"{name.replace(' ', '-')}-seed{seed}.json"
            one = kept(path, spec, lambda name=name, seed=seed: measured(name, scans, cases, seconds, steps, seed))
            each = one["each"]
            linear[seed] = linear.get(seed, each)  # the block PCA comes first
            for key in list(each):
                one[f"psnr {key}"] = interval(list(each[key].values())).to_dict()
                one[f"above PCA {key}"] = paired_difference(each[key], linear[seed][key]).to_dict()
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
