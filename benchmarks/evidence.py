"""What does the latent estimate bring to a restoration? Four systems, the same CPU time, three seeds.

    python -m benchmarks.evidence [--minutes 4] [--seeds 3] [--quick]

Radiographs of the train split, Gaussian noise of 0.5 to 25 % of the range. Trained alike (crops of 96 x 96, batches of
8, AdamW, cosine, averaged weights) for the same processor time of one core: the latent estimate, decoded; the head,
given the measurement in the place of that estimate; both, a third of the time for the first; and MONAI's BasicUNet,
told the noise and answering in its unit as the head does, as wide as gives both's operations a pixel. The autoencoder
is the linear one that a training begins with, which costs nothing. PSNR on patients of the train split that were held
out, mean over patients and seeds; intervals over patients of the differences.
"""

from __future__ import annotations

import argparse
import copy
import functools
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from monai.networks.nets.basic_unet import BasicUNet
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import protocol, record
from benchmarks.cache import remembered
from medldm.evaluate.intervals import interval
from medldm.net_tables import MeasurementTable
from medldm.nets.condition import error_scale
from medldm.networks import Networks
from medldm.operators.measurement import Measurement, noise_model
from medldm.operators.problem import problems_of
from medldm.recipe import Recipe, parse_recipe
from medldm.stage_tables import DenoiserStage as DenoiserTable
from medldm.training.batches import Batch
from medldm.training.data import load_scans
from medldm.training.latents import begin_from_data, measure_latents
from medldm.training.parallel import fastest_precision
from medldm.training.scan import Scan
from medldm.training.stages import DenoiserStage, stage_batches
from medldm.training.start import resolve

LEVELS = (0.02, 0.05, 0.10, 0.20)
BATCH, CROP, LR, PATIENTS = 8, [96, 96], 7e-4, 24
LATENT_SHARE = 1 / 3  # of the time of both
CPU = torch.device("cpu")
System = Callable[[Measurement], Tensor]


def recipe_of() -> Recipe:
    """The radiographs' own, with its networks, and short stages."""
    shipped, _ = resolve("chest-xray-256")
    pack = shipped.pack.model_dump(mode="json", exclude={"seen"})
    pack["problems"] = {"denoise": pack["problems"]["denoise"]}
    stage = {"steps": 1, "batch_size": BATCH, "crop": CROP, "lr": LR}
    stages = [
        {"train": "autoencoder", **stage},
        {"train": "denoiser", "problems": {"denoise": 1.0}, "mean_share": 1.0, **stage},
        {"train": "head", "head": "main", "problems": {"denoise": 1.0}, **stage},
    ]
    source = [one.model_dump(mode="json") for one in shipped.sources if one.folder == "chest-xray-256"]
    kept = {"seed": 1, "augment_gain": shipped.augment_gain, "augment_zoom": shipped.augment_zoom}
    return parse_recipe({**kept, "pack": pack, "source": source, "stage": stages})


class UNet(nn.Module):
    """MONAI's, told how strong the noise is, and what it adds to the measurement is in that unit."""

    def __init__(self, width: int) -> None:
        super().__init__()
        widths = (width, width, 2 * width, 4 * width, 8 * width, width)
        self.net = BasicUNet(2, 2, 1, widths, norm=("group", {"num_groups": 4}))

    def forward(self, told: Measurement) -> Tensor:
        level = torch.log(told.noise_std).expand_as(told.image) / 4 + 1
        change: Tensor = self.net(torch.cat([told.image - 0.5, level], 1))
        return told.image + error_scale(told, MeasurementTable()) * change.float()


class Bench:
    """Scans, untrained networks, and what a measurement and its cost is."""

    def __init__(self) -> None:
        self.recipe = recipe_of()
        data = protocol.data_folder()
        self.scans = load_scans(self.recipe, data)
        held: dict[str, Scan] = {}
        for scan in load_scans(self.recipe, data, part="validation"):
            held.setdefault(scan.patient, scan)
        self.held_out = list(held.values())[:PATIENTS]
        self.problems = problems_of(self.recipe.pack)
        self.half = fastest_precision(CPU, 2) == "bf16-mixed"

    def networks(self, seed: int) -> Networks:
        torch.manual_seed(seed)
        networks = Networks(self.recipe.pack)
        begin_from_data(networks.autoencoder, stage_batches(self.recipe, self.scans, 0, self.problems))
        measure_latents(networks.autoencoder, self.scans)
        networks.autoencoder.requires_grad_(False)
        return networks.train()

    def width(self) -> int:
        """Of the U-Net whose operations are nearest to those of both."""
        networks, told = self.networks(0).eval(), self.measured(torch.rand(256, 256), 0.1, 0)
        wanted = _operations(lambda: both(networks)(told))
        costs = {width: _operations(functools.partial(UNet(width).eval(), told)) for width in range(16, 97, 8)}
        return min(costs, key=lambda width: abs(math.log(costs[width] / wanted)))

    def measured(self, x: Tensor, noise_std: float, seed: int) -> Measurement:
        y = noise_model("gaussian").sample(x, torch.tensor(noise_std), torch.Generator().manual_seed(seed))[None, None]
        return Measurement(y, torch.full_like(y, noise_std), torch.ones(1, 2, 1, 1).expand(1, 2, *y.shape[2:]))

    def learn(
        self, learner: nn.Module, loss_of: Callable[[Batch], Tensor], stage: int, seed: int, seconds: float
    ) -> int:
        """For so many seconds of the processor; `learner` then has its averaged weights. Returns the steps."""
        recipe = self.recipe.model_copy(update={"seed": seed})
        batches = stage_batches(recipe, self.scans, stage, self.problems)
        optimizer = torch.optim.AdamW(learner.parameters(), lr=LR, weight_decay=1e-3, fused=True)
        average, step, start = copy.deepcopy(learner), 0, time.process_time()
        while (share := (time.process_time() - start) / seconds) < 1:
            for group in optimizer.param_groups:
                group["lr"] = LR * min(1, (step + 1) / 50) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * share)))
            with torch.autocast("cpu", torch.bfloat16, enabled=self.half):
                loss = loss_of(batches.restoration(step))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(learner.parameters(), 5.0)
            optimizer.step()
            step += 1
            decay = min(0.999, (1 + step) / (10 + step))
            with torch.no_grad():
                for mean, now in zip(average.parameters(), learner.parameters(), strict=True):
                    mean.lerp_(now, 1 - decay)
        learner.load_state_dict(average.state_dict())
        return step

    def image_loss(self, system: System) -> Callable[[Batch], Tensor]:
        """Squared error, each noise level counting alike: that of a head's training."""

        def loss(batch: Batch) -> Tensor:
            assert batch.measurement is not None
            error = (system(batch.measurement).float() - batch.x).square().flatten(1).mean(1)
            return (self.problems["denoise"].error_weight(batch.x, batch.measurement) * error).mean()

        return loss


def _operations(run: Callable[[], object]) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def latent(networks: Networks) -> System:
    def system(told: Measurement) -> Tensor:
        z = networks.denoiser.posterior_mean(networks.condition(told), networks.autoencoder.channels)
        return networks.autoencoder.decode(z)

    return system


def head(networks: Networks, guess: System) -> System:
    def system(told: Measurement) -> Tensor:
        with torch.no_grad():
            decoded = guess(told)
        return networks.head("main")(decoded, told, torch.ones(len(decoded)))[0]

    return system


def both(networks: Networks) -> System:
    return head(networks, latent(networks))


def trained(bench: Bench, arm: str, seed: int, seconds: float, width: int) -> dict[str, Any]:
    """PSNR of held-out patients at each level, by patient."""
    networks, steps = bench.networks(seed), []
    table = bench.recipe.stages[1]
    assert isinstance(table, DenoiserTable)
    share = {"latent estimate": 1.0, "both": LATENT_SHARE}.get(arm, 0.0)
    if share:
        stage = DenoiserStage(networks, table)
        steps.append(bench.learn(networks.denoiser, lambda batch: stage(batch)["loss"], 1, seed, share * seconds))
        system = latent(networks)
    if arm == "U-Net":
        torch.manual_seed(seed)
        net = UNet(width)
        system = net
        steps.append(bench.learn(net, bench.image_loss(net), 2, seed, seconds))
    elif share < 1:
        networks.denoiser.requires_grad_(False)
        system = both(networks) if share else head(networks, lambda told: told.image)
        steps.append(bench.learn(networks.head("main"), bench.image_loss(system), 2, seed, (1 - share) * seconds))
    networks.eval()
    found: dict[str, list[float]] = {}
    with torch.inference_mode():
        for level in LEVELS:
            found[f"{level:g}"] = [
                -10
                * math.log10(
                    float((system(bench.measured(s.image, level, n)).clamp(0, 1)[0, 0] - s.image).square().mean())
                )
                for n, s in enumerate(bench.held_out)
            ]
    return {"steps": steps, "psnr": found}


ARMS = ("latent estimate", "head", "both", "U-Net")


def rows_of(found: dict[str, list[dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    """Means over seeds and patients, and differences to the head alone over patients."""

    def by_patient(arm: str, level: str) -> np.ndarray:
        return np.mean([one["psnr"][level] for one in found[arm]], axis=0)

    for arm in ARMS:
        for level in (f"{level:g}" for level in LEVELS):
            own = by_patient(arm, level)
            seeds = [float(np.mean(one["psnr"][level])) for one in found[arm]]
            row = {"arm": arm, "noise_std": float(level), "psnr": float(own.mean()), "by_seed": seeds}
            if arm != "head":
                row["minus_head"] = interval((own - by_patient("head", level)).tolist()).to_dict()
            yield row | {"steps": [one["steps"] for one in found[arm]]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=4.0, help="of processor time, for each training")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="six seconds, one seed; nothing is written")
    options = parser.parse_args()
    torch.set_num_threads(1)
    seconds, seeds = (6.0, 1) if options.quick else (60 * options.minutes, options.seeds)
    bench = Bench()
    width = bench.width()
    print(f"{len(bench.scans)} scans, {len(bench.held_out)} patients held out; U-Net of width {width}", flush=True)
    found: dict[str, list[dict[str, Any]]] = {arm: [] for arm in ARMS}
    for seed in range(seeds):
        for arm in ARMS:
            name = f"evidence {arm} {seconds:g} {seed} {width}"
            found[arm].append(remembered(name, functools.partial(trained, bench, arm, seed, seconds, width)))
            means = {level: round(float(np.mean(v)), 2) for level, v in found[arm][-1]["psnr"].items()}
            print(seed, arm, found[arm][-1]["steps"], means, flush=True)
    rows = list(rows_of(found))
    table = Table("system", *(f"noise {level:g}" for level in LEVELS))
    for arm in ARMS:
        own = [row for row in rows if row["arm"] == arm]
        table.add_row(
            arm, *(f"{row['psnr']:.2f} ({min(row['by_seed']):.2f} to {max(row['by_seed']):.2f})" for row in own)
        )
    Console().print(table)
    if not options.quick:
        record.write("evidence", rows, [])


if __name__ == "__main__":
    main()
