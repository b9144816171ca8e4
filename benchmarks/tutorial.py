"""A folder of radiographs and so many CPU minutes: what does medldm draw then, and what MONAI's tutorial?

    python -m benchmarks.tutorial [--minutes 15] [--seeds 3] [--quick] [--rows FOLDER]

Both get the same images: radiographs of adults and children, train split less a fifth of the patients, at 64 x 64.
medldm goes the user's way, as processes: `check`, `plan --for synthesize --minutes`, `train`; what that took of one
core, reading and planning included, is what MONAI gets, a third of it for the autoencoder. MONAI's side is written
after its tutorial (Project-MONAI/tutorials, generation/2d_ldm/2d_ldm_tutorial.ipynb, with 64 x 64 pixels, too):
networks, losses, weights, rates and mixed precision as there; batches of 16 in place of 64, which would leave it a
handful of steps, and its perceptual and adversarial terms left out, as in its first epochs. It samples in 50 steps of
DDIM, ours in 20. KID (times 1000), recall and precision of the samples to the patients that were held out.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.inferers import LatentDiffusionInferer
from monai.networks.nets import AutoencoderKL, DiffusionModelUNet
from monai.networks.schedulers import DDIMScheduler, DDPMScheduler
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks import protocol, record
from benchmarks.monai_loop import kl_loss
from medldm.evaluate.features import image_features
from medldm.evaluate.kid import kid
from medldm.evaluate.quality import manifolds
from medldm.io.manifest import draw_splits
from medldm.nets.efficientnet import EfficientNetLite0
from medldm.training.parallel import fastest_precision

SETS = {"chest-xray-256": "adult", "chest-xray-children-256": "child"}
SIZE, HELD_OUT, COUNT, BATCH, DDIM_STEPS = 64, 0.2, 128, 16, 50
RATE, KL_WEIGHT, SHARE = 1e-4, 1e-6, 1 / 3
RATIO = 0.5


def prepare(folder: Path) -> tuple[Tensor, Tensor, list[str]]:
    """Pictures and labels for medldm in `folder`; the same as a tensor; held-out ones, and whose those are."""
    inside, outside, names, labels = [], [], [], []
    for source, population in SETS.items():
        root = protocol.data_folder() / source
        with (root / "index.csv").open(newline="") as handle:
            rows = [row for row in csv.DictReader(handle) if row["split"] == "train"]
        splits = draw_splits([row["patient"] for row in rows], test=0, validation=HELD_OUT, seed=0)
        for row in rows:
            array = np.asarray(Image.open(root / "images" / row["file"]).convert("L"), np.float32)
            factor = array.shape[0] // SIZE
            array = array.reshape(SIZE, factor, SIZE, factor).mean((1, 3)).round()
            if splits[row["patient"]] == "validation":
                outside.append(array / 255)
                names.append(row["patient"])
                continue
            name = f"{population}-{Path(row['file']).stem}.png"
            Image.fromarray(array.astype(np.uint8)).save(folder / name)
            inside.append(array / 255)
            labels.append(
                {"file": name, "patient": row["patient"], "population": population, "finding": row["finding"]}
            )
    with (folder / "labels.csv").open("w", newline="") as handle:
        writer = csv.DictWriter(handle, list(labels[0]))
        writer.writeheader()
        writer.writerows(labels)
    return torch.from_numpy(np.stack(inside))[:, None], torch.from_numpy(np.stack(outside)), names


def by_medldm(folder: Path, work: Path, minutes: float, seed: int) -> tuple[Tensor, float]:
    """Samples (COUNT, SIZE, SIZE), and the CPU seconds of all until the model is there."""

    def call(*arguments: str) -> None:
        done = subprocess.run(
            [str(Path(sys.executable).with_name("medldm")), *arguments],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            cwd=work,
        )
        if done.returncode:
            raise RuntimeError(f"medldm {arguments[0]}: {done.stderr or done.stdout}")

    start = _cpu_of_children()
    recipe, model = work / "recipe.toml", work / "model"
    call("check", str(folder), "--labels", str(folder / "labels.csv"), "--out", str(work / "manifest.csv"))
    plan = ("--for", "synthesize", "--minutes", str(minutes), "--modality", "DX")
    call("plan", str(folder), "-o", str(recipe), "--manifest", str(work / "manifest.csv"), *plan)
    recipe.write_text(recipe.read_text().replace("seed = 1\n", f"seed = {seed + 1}\n", 1))
    call("train", str(recipe), "--data", str(folder), "--out", str(model), "--despite-gate")
    spent = _cpu_of_children() - start
    call("synthesize", "-o", str(work / "new"), "--model", str(model), "-n", str(COUNT), "--seed", str(seed))
    files = sorted((work / "new").glob("*.png"))
    arrays = [np.asarray(Image.open(file).convert("L"), np.float32) / 255 for file in files]
    return torch.from_numpy(np.stack(arrays)), spent


def _cpu_of_children() -> float:
    used = os.times()
    return used.children_user + used.children_system


def by_monai(images: Tensor, seconds: float, seed: int) -> tuple[Tensor, dict[str, int]]:
    """The same after so many CPU seconds of the tutorial's networks, and how many steps each made."""
    torch.manual_seed(seed)
    autoencoder = AutoencoderKL(
        spatial_dims=2,
        in_channels=1,
        out_channels=1,
        channels=(128, 128, 256),
        latent_channels=3,
        num_res_blocks=2,
        attention_levels=(False, False, False),
        with_encoder_nonlocal_attn=False,
        with_decoder_nonlocal_attn=False,
    )
    unet = DiffusionModelUNet(
        spatial_dims=2,
        in_channels=3,
        out_channels=3,
        num_res_blocks=2,
        channels=(128, 256, 512),
        attention_levels=(False, True, True),
        num_head_channels=(0, 256, 512),
    )
    schedule = {"num_train_timesteps": 1000, "schedule": "linear_beta", "beta_start": 0.0015, "beta_end": 0.0195}
    noising, steps = DDPMScheduler(**schedule), {}
    half = fastest_precision(torch.device("cpu"), 2) == "bf16-mixed"  # as the tutorial's on a GPU, and as medldm's

    def reconstruct(batch: Tensor) -> Tensor:
        again, mean, std = autoencoder(batch)
        return F.l1_loss(again, batch) + KL_WEIGHT * kl_loss(mean, std)

    def denoise(batch: Tensor) -> Tensor:
        with torch.no_grad():
            z = autoencoder.encode_stage_2_inputs(batch) * scale
        noise, times = torch.randn_like(z), torch.randint(0, 1000, (len(z),))
        return F.mse_loss(unet(noising.add_noise(z, noise, times), times), noise)

    def learn(name: str, module: torch.nn.Module, loss: Callable[[Tensor], Tensor], seconds: float) -> None:
        optimizer, start = torch.optim.Adam(module.parameters(), RATE), time.process_time()
        steps[name] = 0
        while time.process_time() - start < seconds:
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                value = loss(images[torch.randint(len(images), (BATCH,))])
            value.backward()
            optimizer.step()
            steps[name] += 1

    learn("autoencoder", autoencoder.train(), reconstruct, SHARE * seconds)
    autoencoder.eval()
    with torch.no_grad():
        scale = 1 / autoencoder.encode_stage_2_inputs(images[:BATCH]).std()
    learn("unet", unet.train(), denoise, (1 - SHARE) * seconds)
    sampling = DDIMScheduler(**schedule, clip_sample=False)
    sampling.set_timesteps(DDIM_STEPS)
    inferer, made = LatentDiffusionInferer(sampling, scale_factor=float(scale)), []
    with torch.inference_mode():
        for _ in range(COUNT // BATCH):
            noise = torch.randn(BATCH, 3, SIZE // 4, SIZE // 4)
            made.append(inferer.sample(noise, autoencoder, unet.eval(), sampling, verbose=False)[:, 0].clamp(0, 1))
    return torch.cat(made), steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed, two minutes; nothing is written")
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=Path, default=Path("runs/tutorial"), help="folder of finished rows")
    options = parser.parse_args()
    torch.set_num_threads(1)
    minutes, seeds = (2.0, 1) if options.quick else (options.minutes, options.seeds)
    network = EfficientNetLite0.pretrained()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "images"
        folder.mkdir()
        images, held_out, patients = prepare(folder)
        real = image_features(list(held_out.numpy()), network)

        def judged(made: Tensor) -> dict[str, float]:
            features = image_features(list(made.numpy()), network)
            near, found = manifolds(real, features, patients=patients), kid(features, real, groups_b=patients)
            return {"kid": found.mean, "recall": near.recall.mean, "precision": near.precision.mean}

        for seed in range(seeds):
            kept = options.rows / f"{minutes:g}-{seed}.json"
            if not kept.is_file():
                work = Path(name) / f"seed-{seed}"
                work.mkdir()
                ours, seconds = by_medldm(folder, work, minutes, seed)
                theirs, steps = by_monai(images, seconds, seed)
                kept.parent.mkdir(parents=True, exist_ok=True)
                found = {"medldm": judged(ours), "MONAI's tutorial": judged(theirs) | steps, "seconds": seconds}
                kept.write_text(json.dumps(found))
            found = json.loads(kept.read_text())
            for side in ("medldm", "MONAI's tutorial"):
                rows.append({"side": side, "seed": seed, "cpu_seconds": found["seconds"], **found[side]})
                print(rows[-1], flush=True)
    mean = {side: {key: float(np.mean([row[key] for row in rows if row["side"] == side]))
                   for key in ("kid", "recall", "precision")} for side in ("medldm", "MONAI's tutorial")}  # fmt: skip
    shown = Table("", "KID by seed", "KID", "recall", "precision")
    for side, found in mean.items():
        each = ", ".join(f"{row['kid']:.0f}" for row in rows if row["side"] == side)
        shown.add_row(side, each, f"{found['kid']:.0f}", f"{found['recall']:.2f}", f"{found['precision']:.2f}")
    Console().print(shown)
    ours_mean, theirs_mean = mean.values()
    ratio, more = ours_mean["kid"] / theirs_mean["kid"], ours_mean["recall"] - theirs_mean["recall"]
    bars = [record.bar("KID to the tutorial's", ratio, f"<= {RATIO}", ratio <= RATIO)]
    bars.append(record.bar("recall above the tutorial's", more, ">= 0", more >= 0))
    for one in bars:
        print(f"{'holds' if one['holds'] else 'MISSED'}: {one['name']} {one['value']} ({one['target']})")
    if not options.quick:
        record.write("tutorial", rows, bars)


if __name__ == "__main__":
    main()
