"""What does diffusion in latents buy? Pixels against f = 4 and f = 8, one network, one set of images, one run.

    python -m benchmarks.latent_vs_pixel [--quick] [--minutes N]

Radiographs of 256 x 256 (train split). The same U-Net (its parameters differ by what its first and last convolution
see) denoises pixels, or the latents of a block PCA with f = 4, c = 4 or f = 8, c = 16, in deviations of each channel.
Throughput is images a CPU second of training (forward, backward, step) and of sampling (10 steps, decoding included),
at 256 and, for sampling, 512: ratios to pixels, since seconds differ from machine to machine. Then each trains for the
same CPU time, three seeds, and KID (times 1000) of samples against patients of the train split that were held out; what
was trained before the run was ended is not trained again. As in table 6 of Rombach et al. 2022; the autoencoder here is
the linear one, which costs nothing to train.
"""

from __future__ import annotations

import argparse
import copy
import csv
import math
import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks import plot, protocol, record
from benchmarks.cache import remembered
from medldm.diffusion.noise import FieldNoise
from medldm.diffusion.predict import bind
from medldm.diffusion.process import Denoiser, NoiseProcess
from medldm.diffusion.samplers import dpmpp_2m
from medldm.evaluate.features import image_features
from medldm.evaluate.kid import kid
from medldm.io.manifest import draw_splits
from medldm.nets.efficientnet import EfficientNetLite0
from medldm.nets.patches import space_to_depth
from medldm.nets.pca_autoencoder import PCAAutoencoder
from medldm.nets.unet import Condition, LatentUNet

WIDTHS = (64, 96, 128)
SPACES = {"pixels": (1, 1), "f = 4, c = 4": (4, 4), "f = 8, c = 16": (8, 16)}
SEEDS, STEPS, BATCH, HELD_OUT = 3, 10, 4, 0.2
CPU = torch.device("cpu")


@dataclass
class Space:
    """Images (B, 1, *S) in [0, 1] to latents of deviation 1 a channel, and back."""

    autoencoder: PCAAutoencoder
    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, images: Tensor, factor: int, channels: int) -> Space:
        autoencoder = PCAAutoencoder(2, factor=(factor,) * 2, channels=channels, width=8, decoder_depth=0).eval()
        cells = space_to_depth(images, autoencoder.factor).movedim(1, -1).flatten(0, -2)
        autoencoder.begin(cells[:: max(1, len(cells) // 200_000)])
        found = cls(autoencoder.requires_grad_(False), torch.zeros(1, channels, 1, 1), torch.ones(1, channels, 1, 1))
        z = torch.cat([found.encode(part) for part in images.split(32)])
        found.mean, found.std = z.mean((0, 2, 3), keepdim=True), z.std((0, 2, 3), keepdim=True)
        return found

    def encode(self, x: Tensor) -> Tensor:
        """The linear part alone: nothing was trained."""
        patches = space_to_depth(x, self.autoencoder.factor) - self.autoencoder.per_channel(self.autoencoder.mean)
        return (torch.einsum("cp,bpij->bcij", self.autoencoder.analysis, patches) - self.mean) / self.std

    def decode(self, z: Tensor) -> Tensor:
        return self.autoencoder.decode(z * self.std + self.mean)


def denoiser_of(space: Space, seed: int) -> Denoiser:
    torch.manual_seed(seed)
    net = LatentUNet(
        2,
        latent_channels=space.autoencoder.channels,
        concat_channels=0,
        channels=WIDTHS,
        attention_levels=(False,) * len(WIDTHS),
    )
    return Denoiser(net, NoiseProcess(sigma_max=80.0, log_mean=0.3, log_std=1.2))


class Training:
    """Steps of one denoiser on whole images, and the running mean of its weights."""

    def __init__(self, space: Space, images: Tensor, seed: int) -> None:
        self.space, self.images = space, images
        self.denoiser = denoiser_of(space, seed)
        self.average = copy.deepcopy(self.denoiser)
        self.optimizer = torch.optim.AdamW(self.denoiser.parameters(), lr=5e-4, betas=(0.9, 0.99), fused=True)
        self.generator, self.steps = torch.Generator().manual_seed(seed), 0

    def step(self, share: float) -> None:
        """One step; `share` of the plan is over."""
        process = self.denoiser.process
        chosen = torch.randint(len(self.images), (BATCH,), generator=self.generator)
        z = self.space.encode(self.images[chosen])
        sigma = process.draw(torch.randn(BATCH, generator=self.generator))
        along = sigma.view(-1, 1, 1, 1)
        x_t = z + along * torch.randn(z.shape, generator=self.generator)
        loss = (process.weight(along) * (self.denoiser(x_t, sigma, Condition()) - z).square()).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for group in self.optimizer.param_groups:
            group["lr"] = 5e-4 * min(1, (self.steps + 1) / 50) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * share)))
        torch.nn.utils.clip_grad_norm_(self.denoiser.parameters(), 1.0)
        self.optimizer.step()
        self.steps += 1
        decay = min(0.999, (1 + self.steps) / (10 + self.steps))
        with torch.no_grad():
            for mean, now in zip(self.average.parameters(), self.denoiser.parameters(), strict=True):
                mean.lerp_(now, 1 - decay)


@torch.inference_mode()
def samples(denoiser: Denoiser, space: Space, count: int, size: int, seed: int, steps: int = STEPS) -> Tensor:
    made = []
    for index in range(count):
        noise, process = FieldNoise([(seed, index)], CPU), denoiser.process
        cells = [size // f for f in space.autoencoder.factor]
        x = process.sigma_max * noise.next(torch.empty(1, space.autoencoder.channels, *cells))
        for step in dpmpp_2m(bind(denoiser, Condition()), x, process.sigmas(steps)):
            x = step.x_t
        made.append(space.decode(x).clamp(0, 1))
    return torch.cat(made)


def load() -> tuple[Tensor, Tensor, list[str]]:
    """Training images, held-out images of the train split, and whose those are."""
    folder = protocol.data_folder() / "chest-xray-256"
    with (folder / "index.csv").open(newline="") as handle:
        rows = [row for row in csv.DictReader(handle) if row["split"] == "train"]
    splits = draw_splits([row["patient"] for row in rows], test=0, validation=HELD_OUT, seed=0)
    files = [folder / "images" / row["file"] for row in rows]
    arrays = [np.asarray(Image.open(file).convert("L"), np.float32) / 255 for file in files]
    held = [splits[row["patient"]] == "validation" for row in rows]
    inside, outside = ([a for a, h in zip(arrays, held, strict=True) if h == wanted] for wanted in (False, True))
    patients = [row["patient"] for row, h in zip(rows, held, strict=True) if h]
    return torch.from_numpy(np.stack(inside))[:, None], torch.from_numpy(np.stack(outside))[:, None], patients


def throughput(space: Space, images: Tensor, seconds: float) -> dict[str, float]:
    """Images a CPU second: training, sampling at 256 and at 512."""
    training, found = Training(space, images, 0), {}
    training.step(0.0)  # pays for what is set up once
    start, steps = time.process_time(), 0
    while time.process_time() - start < seconds:
        training.step(0.0)
        steps += 1
    found["training"] = BATCH * steps / (time.process_time() - start)
    for size in (256, 512):
        samples(training.average, space, 1, size, 0, steps=2)
        start = time.process_time()
        samples(training.average, space, 1, size, 0, steps=4)
        sampling = time.process_time() - start
        found[f"sampling at {size}"] = 4 / STEPS / sampling
    return found


def quality(space: Space, images: Tensor, minutes: float, seed: int, count: int) -> tuple[Tensor, int]:
    training, start = Training(space, images, seed), time.process_time()
    while (spent := time.process_time() - start) < 60 * minutes:
        training.step(spent / (60 * minutes))
    return samples(training.average, space, count, 256, seed), training.steps


def panels(rows: list[dict[str, Any]]) -> list[plot.Panel]:
    """What each space costs, and how good it is after the same time."""
    spaces = [row["space"] for row in rows]
    kinds = ("training", "sampling at 256", "sampling at 512")
    speeds = [plot.Curve(kind, spaces, [row[f"{kind}, times pixels"] for row in rows]) for kind in kinds]
    means = [{"mean": row["kid"], "low": min(row["kid_by_seed"]), "high": max(row["kid_by_seed"])} for row in rows]
    return [
        plot.Panel("speed", speeds, "", "images a CPU second, times pixels", log_y=True),
        plot.Panel("quality", [plot.Curve("KID, and its range over seeds", spaces, means)], "", "KID x 1000"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="throughput alone; nothing is written")
    parser.add_argument("--minutes", type=float, default=6.0, help="of CPU time, for each training")
    options = parser.parse_args()
    torch.set_num_threads(1)
    minutes, seeds, count = options.minutes, 0 if options.quick else SEEDS, 50
    images, held_out, patients = load()
    network = EfficientNetLite0.pretrained()
    real = image_features(list(held_out[:, 0].numpy()), network)
    rows: list[dict[str, Any]] = []
    for name, (factor, channels) in SPACES.items():
        space = Space.of(images, factor, channels)
        row: dict[str, Any] = {"space": name, **throughput(space, images, 15.0)}
        row["parameters"] = sum(p.numel() for p in denoiser_of(space, 0).parameters())

        def trained(space: Space = space, seed: int = 0) -> dict[str, Any]:
            made, steps = quality(space, images, minutes, seed, count)
            features = image_features(list(made[:, 0].numpy()), network)
            return {"steps": steps, "kid": kid(features, real, groups_b=patients).mean}

        found = []
        for seed in range(seeds):
            one = remembered(f"latent_vs_pixel {name} {minutes:g} {seed} {count}", partial(trained, seed=seed))
            found.append(one["kid"])
            row["steps"] = one["steps"]
        if found:
            row["kid"], row["kid_by_seed"] = float(np.mean(found)), found
        rows.append(row)
        print(row, flush=True)
    pixels, bars = rows[0], []
    table = Table("space", "parameters", "training", "sampling at 256", "at 512", f"KID after {minutes:g} min")
    for row in rows:
        ratios = {key: row[key] / pixels[key] for key in ("training", "sampling at 256", "sampling at 512")}
        row |= {f"{key}, times pixels": ratio for key, ratio in ratios.items()}
        found = row.get("kid_by_seed", [])
        spread = f"{row['kid']:.0f} ({min(found):.0f} to {max(found):.0f})" if found else "not measured"
        table.add_row(row["space"], f"{row['parameters']:,}", *(f"{r:.1f}x" for r in ratios.values()), spread)
        if row is not pixels:
            where = row["space"]
            bars.append(record.bar(f"training, {where}", ratios["training"], ">= 10x", ratios["training"] >= 10))
            small, large = ratios["sampling at 256"], ratios["sampling at 512"]
            bars.append(record.bar(f"sampling at 256, {where}", small, ">= 10x", small >= 10))
            bars.append(record.bar(f"sampling at 512, {where}", large, "more than at 256", large > small))
            if found:
                better = pixels["kid"] / row["kid"]
                bars.append(record.bar(f"KID of pixels over {where}", better, ">= 1.6", better >= 1.6))
    console = Console()
    console.print(table)
    for one in bars:
        console.print(f"{'holds' if one['holds'] else 'MISSED'}: {one['name']} {one['value']} ({one['target']})")
    if not options.quick:
        record.write("latent_vs_pixel", rows, bars)
        console.print(f"plot: {plot.draw('latent_vs_pixel', panels(rows))}")


if __name__ == "__main__":
    main()
