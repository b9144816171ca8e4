"""Do synthetic radiographs help to find pneumonia? A classifier learns from few or many real ones, with and without.

    medldm synthesize -o SYNTHETIC --model PACK -n 768 --seed 0 --condition population=child --condition finding=*
    python -m benchmarks.augmentation --synthetic SYNTHETIC [--quick]

Children's radiographs (Kermany et al. 2018), pneumonia of either kind against none, at 64 x 64. A residual network
learns from 10, 25 or 100 % of the training patients: from real images alone; with classical augmentation (moved,
turned, zoomed, brighter, darker); with that and synthetic images, a part of each batch. Same network, steps and draws,
five seeds. The share that is synthetic is chosen on patients held out of the training split (`--choose`); the figures
are of the test split, looked at once: area under the ROC curve and balanced accuracy, the gain paired by seed and
patient (bootstrap, 95 %). The model that drew the synthetic ones has seen all labels of the training split, as shared
packs have.
"""

from __future__ import annotations

import argparse
import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.networks.nets.resnet import ResNet
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torchmetrics.functional.classification import binary_auroc

from benchmarks import protocol, record
from medldm.io.manifest import draw_splits
from medldm.io.picture import HISTORY

SIZE, BATCH, STEPS, SEEDS = 64, 32, 500, 5
SHARES, SYNTHETIC_SHARE = (0.1, 0.25, 1.0), 0.5
ARMS = ("real", "classical", "classical and synthetic")
ROUNDS = 2000  # of the bootstrap


@dataclass(frozen=True)
class Images:
    """Images (N, 1, SIZE, SIZE) in [0, 1], 1 where pneumonia was found, and whose they are."""

    x: Tensor
    y: Tensor
    patients: list[str]

    def of(self, chosen: np.ndarray) -> Images:
        return Images(self.x[chosen], self.y[chosen], [self.patients[i] for i in chosen])


def _small(files: list[Path]) -> Tensor:
    arrays = [np.asarray(Image.open(file).convert("L"), np.float32) / 255 for file in files]
    return F.avg_pool2d(torch.from_numpy(np.stack(arrays))[:, None], arrays[0].shape[0] // SIZE)


def real(split: str) -> Images:
    folder = protocol.data_folder() / "chest-xray-children-256"
    with (folder / "index.csv").open(newline="") as handle:
        rows = [row for row in csv.DictReader(handle) if row["split"] == split]
    found = torch.tensor([float(row["finding"] != "no_finding") for row in rows])
    return Images(_small([folder / "images" / row["file"] for row in rows]), found, [row["patient"] for row in rows])


def synthetic(folder: Path) -> Images:
    """What `medldm synthesize` wrote: pictures that say what was asked for."""
    files = sorted(folder.glob("*.png"))
    found = [json.loads(Image.open(file).getexif()[HISTORY])[-1]["conditions"]["finding"] for file in files]
    return Images(_small(files), torch.tensor([float(name != "no_finding") for name in found]), [""] * len(files))


def moved(x: Tensor, generator: torch.Generator) -> Tensor:
    """Turned by up to 10 degrees, moved and zoomed by up to a tenth, gain and gamma by up to a fifth."""
    angle, right, down, zoom, gain, gamma = (torch.rand(6, len(x), generator=generator) * 2 - 1).unbind()
    cos, sin, scale = torch.cos(angle * 0.17), torch.sin(angle * 0.17), 1 + 0.1 * zoom
    rows = [
        torch.stack([cos * scale, -sin * scale, 0.2 * right], 1),
        torch.stack([sin * scale, cos * scale, 0.2 * down], 1),
    ]
    grid = F.affine_grid(torch.stack(rows, 1), list(x.shape), align_corners=False)
    x = F.grid_sample(x, grid, padding_mode="zeros", align_corners=False).clamp(0, 1)
    bend, lift = (1 + 0.2 * part.view(-1, 1, 1, 1) for part in (gamma, gain))
    return ((x + 1e-4) ** bend * lift).clamp(0, 1)


def classifier(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return ResNet("basic", [1, 1, 1, 1], [16, 32, 64, 128], spatial_dims=2, n_input_channels=1, num_classes=1,
                  conv1_t_stride=1, no_max_pool=True)  # fmt: skip


def scores(arm: str, train: Images, made: Images, test: Images, *, seed: int, share: float, steps: int) -> np.ndarray:
    """Log odds of pneumonia of the test images."""
    net, generator = classifier(seed).train(), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    others = round(BATCH * share) if arm == ARMS[2] else 0
    balance = [torch.nonzero(train.y == value)[:, 0] for value in (0, 1)]  # both findings equally often
    for _ in range(steps):
        half = (BATCH - others) // 2
        rows = torch.cat([part[torch.randint(len(part), (half,), generator=generator)] for part in balance])
        x, y = train.x[rows], train.y[rows]
        if others:
            own = torch.randint(len(made.x), (others,), generator=generator)
            x, y = torch.cat([x, made.x[own]]), torch.cat([y, made.y[own]])
        if arm != ARMS[0]:
            x = moved(x, generator)
        loss = F.binary_cross_entropy_with_logits(net((x - 0.5) * 4)[:, 0], y)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    net.eval()
    with torch.inference_mode():
        odds: np.ndarray = net((test.x - 0.5) * 4)[:, 0].numpy()
    return odds


def few(train: Images, share: float, seed: int) -> Images:
    """A share of the patients, with each finding."""
    rng, names = np.random.default_rng(seed), np.array(train.patients)
    kept: list[str] = []
    for value in (0.0, 1.0):
        own = np.unique(names[train.y.numpy() == value])
        kept += list(rng.permutation(own)[: max(2, round(share * len(own)))])
    return train.of(np.flatnonzero(np.isin(names, kept)))


def auc(odds: np.ndarray, truth: Tensor) -> float:
    return float(binary_auroc(torch.from_numpy(odds), truth.long()))


def balanced_accuracy(odds: np.ndarray, truth: Tensor) -> float:
    right = torch.from_numpy(odds > 0) == (truth > 0)
    return float(torch.stack([right[truth == value].double().mean() for value in (0, 1)]).mean())


def paired(a: np.ndarray, b: np.ndarray, test: Images, rng: np.random.Generator) -> tuple[float, float, float]:
    """Gain in AUC of b over a, (seeds, images) each, and its 95 % interval over patients and seeds."""
    truth, names = test.y, np.array(test.patients)
    places = [np.flatnonzero(names == name) for name in np.unique(names)]

    def gain(rows: np.ndarray, seeds: np.ndarray) -> float:
        return float(np.mean([auc(b[s, rows], truth[rows]) - auc(a[s, rows], truth[rows]) for s in seeds]))

    every = np.arange(len(a))
    drawn = []
    for _ in range(ROUNDS):
        rows = np.concatenate([places[i] for i in rng.integers(len(places), size=len(places))])
        if 0 < truth[rows].sum() < len(rows):
            drawn.append(gain(rows, rng.integers(len(every), size=len(every))))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return gain(np.arange(len(truth)), every), float(low), float(high)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--synthetic", required=True, type=Path)
    parser.add_argument("--quick", action="store_true", help="one seed, 100 steps; nothing is written")
    parser.add_argument(
        "--choose", action="store_true", help="the synthetic share, on held-out patients of the train split"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    train, made = real("train"), synthetic(options.synthetic)
    steps, seeds = (100, 1) if options.quick else (STEPS, SEEDS)
    if options.choose:
        splits = draw_splits(train.patients, test=0, validation=0.25, seed=0)
        held = np.array([splits[name] == "validation" for name in train.patients])
        inside, outside = train.of(np.flatnonzero(~held)), train.of(np.flatnonzero(held))
        for share in (0.0, 0.25, 0.5, 0.75):
            found = []
            for seed in range(3):
                odds = scores(ARMS[2], few(inside, 0.1, seed), made, outside, seed=seed, share=share, steps=steps)
                found.append(auc(odds, outside.y))
            print(f"synthetic share {share}: AUC {np.mean(found):.3f} {np.round(found, 3)}", flush=True)
        return
    test, rng = real("test"), np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    for part in SHARES:
        odds: dict[str, np.ndarray] = {}
        for arm in ARMS:
            own = [few(train, part, seed) for seed in range(seeds)]
            by_seed = [
                scores(arm, each, made, test, seed=seed, share=SYNTHETIC_SHARE, steps=steps)
                for seed, each in enumerate(own)
            ]
            odds[arm] = np.stack(by_seed)
            row: dict[str, Any] = {"labels": part, "images": round(np.mean([len(each.x) for each in own])), "arm": arm}
            row["auc"] = float(np.mean([auc(each, test.y) for each in odds[arm]]))
            row["balanced_accuracy"] = float(np.mean([balanced_accuracy(each, test.y) for each in odds[arm]]))
            if arm == ARMS[2]:
                row["gain"], row["low"], row["high"] = paired(odds[ARMS[1]], odds[arm], test, rng)
            rows.append(row)
            print(row, flush=True)
    shown = Table("labels", "images", "learned from", "AUC", "balanced accuracy", "gain over classical")
    for row in rows:
        gain = f"{row['gain']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]" if "gain" in row else ""
        accuracy = f"{row['balanced_accuracy']:.3f}"
        shown.add_row(f"{row['labels']:.0%}", str(row["images"]), row["arm"], f"{row['auc']:.3f}", accuracy, gain)
    Console().print(shown)
    first = next(row for row in rows if "gain" in row)
    bars = [record.bar("paired gain at 10 % of the labels", first["gain"], "lower end > 0", first["low"] > 0)]
    for one in bars:
        print(f"{'holds' if one['holds'] else 'MISSED'}: {one['name']} {one['value']} ({one['target']})")
    if not options.quick:
        record.write("augmentation", rows, bars)


if __name__ == "__main__":
    main()
