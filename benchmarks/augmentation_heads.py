"""Do synthetic heads help to segment tissues? A segmenter learns from few or many labelled heads, with and without.

    python -m benchmarks.augmentation_heads [--model heads] [--seeds 5] [--quick] [--choose]

Heads of brain-t1-2mm; the tissues of the model's label map. A U-Net (MONAI's) learns from 10, 25 or 100 % of the
training heads: from real ones alone; with classical augmentation (mirrored, turned, zoomed, gain, gamma, noise); with
that and heads that the model draws by bent copies of the maps of the same few heads, a part of each batch. Same
network, steps and draws. The share that is synthetic is chosen on training heads that were kept aside (`--choose`); the
figures are of the test heads: mean Dice, the gain paired by seed and patient (bootstrap, 95 %). The
model that drew has seen all heads of the training split with their maps, as shared packs have.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.losses import DiceCELoss
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import medldm
from benchmarks import record
from benchmarks.cache import cached, remembered
from benchmarks.label_maps import Head, dice, heads, network, scaled
from medldm.conditions import LabelMapCondition
from medldm.model import Model
from medldm.nets.blocks import channels_last
from medldm.training.parallel import fastest_precision
from medldm.volume import Volume

BATCH, CROP, MARGIN, STEPS, SEEDS, EACH, DEFORM_MM, KEPT_ASIDE = 2, 48, 8, 800, 5, 4, 6.0, 5
SHARES, SYNTHETIC_SHARE = (0.1, 0.25, 1.0), 0.25
ARMS = ("real", "classical", "classical and synthetic")
ROUNDS = 2000  # of the bootstrap


@dataclass(frozen=True)
class Few:
    """Heads to learn from, and those that were drawn by their maps."""

    real: list[Head]
    made: list[Head]


def drawn(model: Model, name: str, table: LabelMapCondition, head: Head, count: int) -> list[Head]:
    """By bent copies of a head's map, which are their labels."""
    label_map, found = medldm.read(head.labels), []
    for number in range(count):
        bent = medldm.deform_labels(label_map, DEFORM_MM, (0, number))

        def draw(number: int = number, bent: Volume = bent) -> np.ndarray:
            (scan,) = medldm.synthesize(model=model, n=1, seed=0, first=number, conditions={name: bent})
            return np.asarray(scan.array, dtype=np.float64)

        array = cached(f"drawn {model.weights_sha256} {number}", bent.array.astype(np.float64), 0.0, draw)
        tissue = np.zeros(bent.array.shape, np.int64)
        for value, group in enumerate(table.labels.values(), start=1):
            tissue[np.isin(bent.array, group)] = value
        found.append(Head(f"{head.name} {number}", scaled(array), torch.from_numpy(tissue), head.labels))
    return found


def moved(image: Tensor, tissue: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(1, 1, I, J, K) each: mirrored to the left and right (the last axis), turned by up to 10 degrees, zoomed by up to
    a tenth; then gain and gamma by up to a fifth, and noise."""
    angles, zoom = (torch.rand(3, generator=generator) * 2 - 1) * 0.17, torch.rand(1, generator=generator) * 0.2 - 0.1
    matrix = torch.eye(3) * (1 + zoom)
    for (a, b), angle in zip(((0, 1), (0, 2), (1, 2)), angles, strict=True):
        turn = torch.eye(3)
        turn[[a, b], [a, b]] = torch.cos(angle)
        turn[a, b], turn[b, a] = -torch.sin(angle), torch.sin(angle)
        matrix = matrix @ turn
    if torch.rand(1, generator=generator) < 0.5:
        matrix = matrix @ torch.diag(torch.tensor([-1.0, 1.0, 1.0]))  # the grid's first axis is the image's last
    grid = F.affine_grid(torch.cat([matrix, torch.zeros(3, 1)], 1)[None], list(image.shape), align_corners=False)
    image = F.grid_sample(image, grid, align_corners=False)
    tissue = F.grid_sample(tissue.float(), grid, mode="nearest", align_corners=False).long()
    gain, bend = (torch.rand(2, generator=generator) * 0.4 - 0.2).tolist()
    image = image.clamp_min(0) ** (1 + bend) * (1 + gain)
    return image + 0.02 * torch.randn(image.shape, generator=generator), tissue


def one(pool: list[Head], generator: torch.Generator, *, augment: bool) -> tuple[Tensor, Tensor]:
    """A part of a head."""
    head = pool[int(torch.randint(len(pool), (1,), generator=generator))]
    size = CROP + 2 * MARGIN if augment else CROP
    starts = [int(torch.randint(n - size + 1, (1,), generator=generator)) for n in head.image.shape]
    part = tuple(slice(start, start + size) for start in starts)
    image, tissue = head.image[part][None, None], head.tissue[part][None, None]
    if not augment:
        return image, tissue
    inside = (..., *(slice(MARGIN, -MARGIN),) * 3)  # what turned in from beyond the part is cut off
    image, tissue = moved(image, tissue, generator)
    return image[inside], tissue[inside]


def learned(arm: str, few: Few, classes: int, *, seed: int, share: float, steps: int) -> nn.Module:
    net, generator = network(classes, seed), torch.Generator().manual_seed(seed)
    channels_last(net, 3)
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    loss_of = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True)
    # no field of the network is two voxels wide (decision 0013)
    half = fastest_precision(torch.device("cpu"), 2) == "bf16-mixed"
    for _ in range(steps):
        synthetic = (torch.rand(BATCH, generator=generator) < share).tolist()
        parts = [
            one(few.made if made and arm == ARMS[2] else few.real, generator, augment=arm != ARMS[0])
            for made in synthetic
        ]
        image, tissue = (torch.cat(each) for each in zip(*parts, strict=True))
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            logits = net(image.contiguous(memory_format=torch.channels_last_3d))
        loss = loss_of(logits.float(), tissue)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    return net.eval()


def some(train: list[Head], made: dict[str, list[Head]], share: float, seed: int) -> Few:
    count = max(2, round(share * len(train)))
    kept = [train[n] for n in np.random.default_rng(seed).permutation(len(train))[:count]]
    return Few(kept, [head for each in kept for head in made[each.name]])


def scores(arm: str, few: Few, test: list[Head], classes: int, *, seed: int, share: float, steps: int) -> list[float]:
    """Mean Dice over the tissues, of each head; kept, as all of it takes hours."""

    def compute() -> dict[str, Any]:
        net = learned(arm, few, classes, seed=seed, share=share, steps=steps)
        return {"dice": [float(np.mean(dice(net, head.image, head.tissue, classes))) for head in test]}

    real, made = ([head.name for head in pool] for pool in (few.real, few.made))
    margin = "" if arm == ARMS[0] else f"margin {MARGIN}, "
    asked = [head.name for head in test]
    told = f"augmentation of heads: {margin}{arm}, {real}, {made if arm == ARMS[2] else []}, {asked}"
    found: list[float] = remembered(f"{told}, {classes} classes, seed {seed}, {share}, {steps} steps", compute)["dice"]
    print(f"{arm}, {len(real)} heads, seed {seed}, share {share}: {np.mean(found):.3f}", flush=True)
    return found


def paired(gains: np.ndarray, rng: np.random.Generator) -> tuple[float, float, float]:
    """Mean of (seeds, heads) and its 95 % interval over both."""
    seeds, count = gains.shape
    means = [
        gains[np.ix_(rng.integers(seeds, size=seeds), rng.integers(count, size=count))].mean() for _ in range(ROUNDS)
    ]
    low, high = np.quantile(means, [0.025, 0.975])
    return float(gains.mean()), float(low), float(high)


def choose(train: list[Head], made: dict[str, list[Head]], classes: int, steps: int) -> None:
    inside, outside = train[:-KEPT_ASIDE], train[-KEPT_ASIDE:]
    for share in (0.0, 0.25, 0.5, 0.75):
        few = [some(inside, made, SHARES[0], seed) for seed in range(2)]
        found = [
            np.mean(scores(ARMS[2], each, outside, classes, seed=seed, share=share, steps=steps))
            for seed, each in enumerate(few)
        ]
        print(f"synthetic share {share}: Dice {np.mean(found):.3f} {np.round(found, 3)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="heads")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--choose", action="store_true", help="the synthetic share, on heads kept aside from training")
    parser.add_argument("--quick", action="store_true", help="one seed, 20 steps, few heads; nothing is written")
    options = parser.parse_args()
    torch.set_num_threads(1)
    steps, seeds, each = (20, 1, 1) if options.quick else (options.steps, options.seeds, EACH)
    model = medldm.load_model(options.model)
    assert model.pack.synthesis is not None
    conditions = model.pack.synthesis.conditions
    name, table = next((key, one) for key, one in conditions.items() if isinstance(one, LabelMapCondition))
    classes = 1 + len(table.labels)
    train = heads("train", table)[: 4 if options.quick else None]
    made = {head.name: drawn(model, name, table, head, each) for head in train}
    print(f"{sum(map(len, made.values()))} heads are drawn", flush=True)
    if options.choose:
        choose(train, made, classes, steps)
        return
    test, rng = heads("test", table)[: 1 if options.quick else None], np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    for part in SHARES:
        found: dict[str, np.ndarray] = {}
        for arm in ARMS:
            few = [some(train, made, part, seed) for seed in range(seeds)]
            found[arm] = np.array(
                [
                    scores(arm, own, test, classes, seed=seed, share=SYNTHETIC_SHARE, steps=steps)
                    for seed, own in enumerate(few)
                ]
            )
            row: dict[str, Any] = {"labels": part, "heads": len(few[0].real), "arm": arm}
            row |= {"dice": float(found[arm].mean()), "by_seed": found[arm].mean(1).tolist()}
            if arm == ARMS[2]:
                row["gain"], row["low"], row["high"] = paired(found[arm] - found[ARMS[1]], rng)
            rows.append(row)
            print(row, flush=True)
    shown = Table("labels", "heads", "learned from", "mean Dice", "gain over classical")
    for row in rows:
        gain = f"{row['gain']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]" if "gain" in row else ""
        shown.add_row(f"{row['labels']:.0%}", str(row["heads"]), row["arm"], f"{row['dice']:.3f}", gain)
    Console().print(shown)
    first = next(row for row in rows if "gain" in row)
    bar = record.bar("paired gain at 10 % of the labels", first["gain"], "lower end > 0", first["low"] > 0)
    print(f"{'holds' if bar['holds'] else 'MISSED'}: {bar['name']} {bar['value']} ({bar['target']})")
    if not options.quick:
        record.write("augmentation-heads", rows, [bar])


if __name__ == "__main__":
    main()
