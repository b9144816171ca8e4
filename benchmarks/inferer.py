"""How few steps does DPM-Solver++(2M) need for what MONAI's LatentDiffusionInferer gives in 50 of DDIM's?

    python -m benchmarks.inferer --model PACK --recipe RECIPE [--data FOLDER] [--count N]

Both draw from the same weights, the first level of a pack's cascade, the same noise, and the conditions of the patients
that the recipe holds out of its training. MONAI is given them as what it expects: a network that says the noise, an
autoencoder that decodes, a DDIM scheduler with the tutorials' levels (scaled linear, 0.0015 to 0.0205). KID (times
1000) of the images against the held-out patients', CPU seconds an image of one core with decoding, and their ratio.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from monai.inferers import LatentDiffusionInferer
from monai.networks.schedulers import DDIMScheduler
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import medldm
from benchmarks import protocol, record
from medldm.diffusion.cascade import Guidance, sample_level
from medldm.diffusion.generator import Generator, coarsened
from medldm.diffusion.noise import FieldNoise
from medldm.diffusion.predict import bind
from medldm.diffusion.samplers import ddim, dpmpp_2m
from medldm.evaluate.features import image_features
from medldm.evaluate.kid import kid
from medldm.nets.conditioner import Conditions
from medldm.nets.efficientnet import EfficientNetLite0
from medldm.recipe import load_recipe
from medldm.training.data import load_scans

BATCH, CPU = 16, torch.device("cpu")
DDIM_STEPS, OUR_STEPS, TIMES = 50, (4, 10, 15, 20), 2.5


class NoiseOf(nn.Module):
    """What MONAI's loop expects as its network, of a medldm generator: variance preserving x, t -> noise."""

    def __init__(self, generator: Generator, asked: Conditions, alphas: Tensor) -> None:
        super().__init__()
        self.predict, self.alphas = bind(generator.denoiser, generator.condition(asked, None)), alphas

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor | None = None) -> Tensor:
        alpha = self.alphas[int(timesteps)]
        x_t, sigma = x / alpha.sqrt(), ((1 - alpha) / alpha).sqrt()
        noise: Tensor = (x_t - self.predict(x_t, sigma)) / sigma
        return noise


def by_monai(model: medldm.Model, generator: Generator, asked: Conditions, x_T: Tensor) -> Tensor:
    scheduler = DDIMScheduler(1000, "scaled_linear_beta", clip_sample=False, beta_start=0.0015, beta_end=0.0205)
    scheduler.set_timesteps(DDIM_STEPS)
    decode = SimpleNamespace(
        decode_stage_2_outputs=lambda z: model.networks.autoencoder.decode(generator.of_autoencoder(z, None))
    )
    network = NoiseOf(generator, asked, scheduler.alphas_cumprod)
    inferer = LatentDiffusionInferer(scheduler, scale_factor=1.0)
    image: Tensor = inferer.sample(x_T, decode, network, scheduler, verbose=False)
    return image


def by_medldm(sampler: Any, steps: int) -> Callable[[medldm.Model, Generator, Conditions, Tensor], Tensor]:
    def draw(model: medldm.Model, generator: Generator, asked: Conditions, x_T: Tensor) -> Tensor:
        x_T = x_T * generator.denoiser.process.sigmas(steps)[0]
        z = sample_level(generator, asked, None, x_T, steps=steps, sampler=sampler, guidance=Guidance())
        return model.networks.autoencoder.decode(generator.of_autoencoder(z, None))

    return draw


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--recipe", required=True, type=Path)
    parser.add_argument("--data", type=Path, default=protocol.data_folder())
    parser.add_argument("--count", type=int, default=256)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, recipe = medldm.load_model(options.model), load_recipe(options.recipe)
    generator, table = model.networks.generator(0), recipe.pack.synthesis
    assert table is not None
    scans = load_scans(recipe, options.data, part="validation")
    network, level = EfficientNetLite0.pretrained(), generator.table.coarsen
    real = torch.cat([coarsened(scan.image[None, None], level) for scan in scans])[:, 0].clamp(0, 1)
    features, patients = image_features(list(real.numpy()), network), [scan.patient for scan in scans]
    cells = [n // f for n, f in zip(real.shape[1:], model.networks.autoencoder.factor, strict=True)]
    size = [n * level for n in real.shape[1:]]
    ways = {
        f"MONAI's inferer, DDIM, {DDIM_STEPS} steps": by_monai,
        f"DDIM, {DDIM_STEPS} steps": by_medldm(ddim, DDIM_STEPS),
    }
    ways |= {f"DPM-Solver++(2M), {steps} steps": by_medldm(dpmpp_2m, steps) for steps in OUR_STEPS}
    rows: list[dict[str, Any]] = []
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, way in ways.items():
            made, spent = [], 0.0
            for start in range(0, options.count, BATCH):
                numbers = range(start, min(start + BATCH, options.count))
                asked = Conditions.together(
                    [Conditions.of(table.conditions, scans[n % len(scans)].conditions, size) for n in numbers]
                )
                noise = FieldNoise([(0, n) for n in numbers], CPU)
                x_T = noise.next(torch.empty(len(numbers), recipe.pack.autoencoder.channels, *cells))
                began = time.process_time()
                made.append(way(model, generator, asked, x_T))
                spent += time.process_time() - began
            found = kid(
                image_features(list(torch.cat(made)[:, 0].clamp(0, 1).numpy()), network), features, groups_b=patients
            )
            rows.append(
                {"way": name, "kid": found.mean, "low": found.low, "high": found.high, "s": spent / options.count}
            )
            print(rows[-1], flush=True)
    theirs = rows[0]
    shown = Table("", "KID", "95 % interval", "CPU s an image", "times as fast")
    bars = []
    for row in rows:
        row["times"] = theirs["s"] / row["s"]
        shown.add_row(
            row["way"],
            f"{row['kid']:.0f}",
            f"{row['low']:.0f} to {row['high']:.0f}",
            f"{row['s']:.3f}",
            f"{row['times']:.2f}",
        )
    for row in rows[-2:]:
        bars.append(
            record.bar(f"{row['way']}: KID to MONAI's", row["kid"] / theirs["kid"], "<= 1", row["kid"] <= theirs["kid"])
        )
        bars.append(record.bar(f"{row['way']}: times as fast", row["times"], f">= {TIMES}", row["times"] >= TIMES))
    console = Console()
    console.print(shown)
    for one in bars:
        console.print(f"{'holds' if one['holds'] else 'MISSED'}: {one['name']} {one['value']} ({one['target']})")
    record.write("inferer", rows, bars)


if __name__ == "__main__":
    main()
