"""Do drawn heads hold what their label maps asked for? A segmenter that learned from real heads looks for it.

    python -m benchmarks.label_maps --model PACK [--each N] [--segmenter FILE] [--quick]

Heads of brain-t1-2mm. A U-Net (MONAI's, one core, about 15 minutes) learns the tissues of the pack's label map from
the training split's heads. It is then shown the test split's heads, and N heads drawn by the label map of each of these
(numbers 0 to N - 1 of seed 0). Mean Dice over the tissues, intervals over patients: what is missing in the drawn heads
is what the segmenter does not find. Two more rows tell how much that says: drawn without a map, and another patient's
head.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
import torch.nn.functional as F
from monai.inferers import sliding_window_inference
from monai.losses import DiceCELoss
from monai.networks.nets import UNet
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_model, save_model
from torch import Tensor, nn

import medldm
from benchmarks import protocol, record
from medldm.conditions import LabelMapCondition
from medldm.evaluate.intervals import interval
from medldm.model import Model

CROP, BATCH, STEPS, QUICK = 64, 2, 1200, 40
ROWS = ("real", "drawn by its map", "drawn without a map", "another patient's")


@dataclass(frozen=True)
class Head:
    """image : (I, J, K) over its 99.5th percentile; tissue : like it, 0 and the numbers of the tissues from 1"""

    name: str
    image: Tensor
    tissue: Tensor
    labels: Path


def scaled(array: np.ndarray) -> Tensor:
    return torch.from_numpy((array / np.percentile(array, 99.5)).clip(0, 1.5).astype(np.float32))


def heads(split: str, table: LabelMapCondition) -> list[Head]:
    folder = protocol.data_folder() / "brain-t1-2mm"
    with (folder / "participants.csv").open(newline="") as handle:
        names = sorted(row["participant"] for row in csv.DictReader(handle) if row["split"] == split)
    found = []
    for name in names:
        labels = folder / "labels" / f"{name}.nii.gz"
        values = np.asarray(nib.load(labels).dataobj)
        tissue = np.zeros(values.shape, np.int64)
        for number, group in enumerate(table.labels.values(), start=1):
            tissue[np.isin(values, group)] = number
        image = scaled(np.asarray(nib.load(folder / "t1" / f"{name}.nii.gz").dataobj, dtype=np.float32))
        found.append(Head(name, image, torch.from_numpy(tissue), labels))
    return found


def crops(train: list[Head], generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Parts of heads with another gain, bend and noise each: a segmenter must not live by the scanner's shades."""
    while True:
        images, tissues = [], []
        for _ in range(BATCH):
            head = train[int(torch.randint(len(train), (1,), generator=generator))]
            starts = [int(torch.randint(n - CROP + 1, (1,), generator=generator)) for n in head.image.shape]
            part = tuple(slice(start, start + CROP) for start in starts)
            gain, bend, noise = (torch.rand(3, generator=generator) * 2 - 1).tolist()
            image = (head.image[part] * (1 + 0.15 * gain)).clamp_min(0) ** (1 + 0.2 * bend)
            image = image + 0.02 * (1 + noise) * torch.randn(image.shape, generator=generator)
            images.append(image)
            tissues.append(head.tissue[part])
        yield torch.stack(images)[:, None], torch.stack(tissues)[:, None]


def network(classes: int, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return UNet(3, 1, classes, channels=(16, 32, 64, 96), strides=(2, 2, 2), num_res_units=1, norm="instance")


def segmenter(train: list[Head], classes: int, steps: int) -> nn.Module:
    net = network(classes)
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    loss_of = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True)
    drawn = crops(train, torch.Generator().manual_seed(0))
    for step in range(steps):
        image, tissue = next(drawn)
        loss = loss_of(net(image), tissue)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(f"segmenter: {step}/{steps}, loss {loss.item():.3f}", flush=True)
    return net.eval()


def dice(net: nn.Module, image: Tensor, tissue: Tensor, classes: int) -> list[float]:
    """Of each tissue between what is found in an image and what was asked for."""
    with torch.inference_mode():
        pad = [p for n in reversed(image.shape) for p in (0, max(0, CROP - n))]
        logits = sliding_window_inference(F.pad(image, pad)[None, None], CROP, 2, net, overlap=0.5, mode="gaussian")
        found = logits[0].argmax(0)[tuple(slice(n) for n in image.shape)]
    both = [((found == c) & (tissue == c)).sum() for c in range(1, classes)]
    either = [(found == c).sum() + (tissue == c).sum() for c in range(1, classes)]
    return [float(2 * b / e) if e else 1.0 for b, e in zip(both, either, strict=True)]


def drawn(model: Model, name: str, head: Head, count: int, *, by_map: bool) -> list[Tensor]:
    asked = {name: head.labels} if by_map else {}
    return [scaled(scan.array) for scan in medldm.synthesize(model=model, n=count, seed=0, conditions=asked)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--each", type=int, default=2, help="heads drawn by each map")
    parser.add_argument("--segmenter", type=Path, help="its weights (safetensors): read, or else kept there")
    parser.add_argument("--split", default="test", choices=("test", "train"))
    parser.add_argument("--quick", action="store_true", help="a hasty segmenter and two heads; nothing is written")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = medldm.load_model(options.model)
    synthesis = model.pack.synthesis
    tables = {} if synthesis is None else synthesis.conditions
    name, table = next((key, one) for key, one in tables.items() if isinstance(one, LabelMapCondition))
    classes = 1 + len(table.labels)
    if options.segmenter is not None and options.segmenter.is_file():
        net = network(classes).eval()
        load_model(net, options.segmenter)
    else:
        net = segmenter(heads("train", table), classes, QUICK if options.quick else STEPS)
        if options.segmenter is not None:
            save_model(net, options.segmenter)
    test = heads(options.split, table)[: 2 if options.quick else None]
    scores: dict[str, list[list[float]]] = {row: [] for row in ROWS}
    for index, head in enumerate(test):
        other = test[(index + 1) % len(test)].image
        by_map = drawn(model, name, head, options.each, by_map=True)
        for row, images in zip(
            ROWS, ([head.image], by_map, drawn(model, name, head, 1, by_map=False), [other]), strict=True
        ):
            each = [dice(net, image, head.tissue, classes) for image in images]
            scores[row].append(np.mean(each, axis=0).tolist())
        print({row: round(float(np.mean(values[-1])), 3) for row, values in scores.items()}, flush=True)
    rows: list[dict[str, Any]] = []
    shown = Table("tissue", *ROWS)
    for place, tissue in enumerate((*table.labels, "mean")):
        found = {row: [np.mean(v) if tissue == "mean" else v[place] for v in scores[row]] for row in ROWS}
        means = {row: interval([float(v) for v in values]) for row, values in found.items()}
        rows.append({"tissue": tissue} | {row: (m.mean, m.low, m.high) for row, m in means.items()})
        shown.add_row(tissue, *(f"{m.mean:.3f} [{m.low:.3f}, {m.high:.3f}]" for m in means.values()))
    Console().print(shown)
    lost = rows[-1]["real"][0] - rows[-1]["drawn by its map"][0]
    bars = [record.bar("mean Dice lost to real heads", lost, "<= 0.08", lost <= 0.08)]
    print(f"{'holds' if bars[0]['holds'] else 'MISSED'}: {bars[0]['name']} {lost:.3f} (<= 0.08)")
    if not options.quick:
        record.write("label_maps", rows, bars)


if __name__ == "__main__":
    main()
