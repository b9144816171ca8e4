"""Pictures of held-out scans while a training runs: what is restored, what is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from medldm.diffusion.cascade import Guidance, sample_cascade
from medldm.diffusion.noise import FieldNoise
from medldm.diffusion.samplers import dpmpp_2m
from medldm.io.atomic import write_whole
from medldm.networks import Networks
from medldm.pack import ModelPack
from medldm.report.pictures import planes
from medldm.space import centred_geometry
from medldm.stage_tables import GeneratorStage
from medldm.training.batches import Batch, Batches
from medldm.volume import Volume

SHOWN, SAMPLE_STEPS = 8, 20  # of what a generator draws
LEAST_HEIGHT = 128  # of a picture in pixels: smaller ones are enlarged, as coarse levels of heads are 30 voxels high


@torch.no_grad()
def restored(networks: Networks, validation: Batches) -> Tensor:
    """(1, H, W * 3) one validation crop: measurement, posterior mean, truth."""
    batch = validation.restoration(0)
    assert batch.measurement is not None
    device = networks.autoencoder.latent_mean.device
    moved = batch.measurement.map(lambda part: part.to(device))
    z = networks.denoiser.posterior_mean(networks.condition(moved), networks.autoencoder.channels)
    head = networks.head(validation.problems[batch.problem].head)
    level = torch.ones(len(z), device=device)
    decoded = networks.autoencoder.decode(z)
    given, moved = networks.before(head.after, decoded, moved, lambda first, image, told: first(image, told, level)[0])
    image, _ = head(given, moved, level)
    row = [t[0, 0].float().cpu() for t in (batch.measurement.image, image, batch.x)]
    return upright(row, validation.pack)


@torch.inference_mode()
def drawn(networks: Networks, pack: ModelPack, table: GeneratorStage, batch: Batch, seed: int) -> Tensor:
    """(1, H, W * n) what a stage's network draws as held-out images are conditioned, and from their coarser ones."""
    device = networks.autoencoder.latent_mean.device
    shown = batch.split(SHOWN)[0]
    assert shown.conditions is not None
    level = networks.generator(table.level)
    generator = level.guide if table.guide and level.guide is not None else level
    training = generator.training
    images = sample_cascade(
        networks.autoencoder,
        [generator.eval()],
        shown.conditions.map(lambda part: part.to(device)),
        FieldNoise([(seed, number) for number in range(len(shown.x))], device),
        [n * generator.table.coarsen for n in shown.x.shape[2:]],
        steps=SAMPLE_STEPS,
        sampler=dpmpp_2m,
        guidance=Guidance(),
        on_step=lambda done, total, preview: None,
        coarser=None if shown.coarse is None else shown.coarse.to(device),
        where=None if shown.where is None else shown.where.to(device),
    )
    generator.train(training)
    return upright(list(images[:, 0].float().cpu()), pack)


def upright(images: Sequence[Tensor], pack: ModelPack) -> Tensor:
    """(1, H, W * n) of images (*S) in [0, 1], upright; of volumes the three middle planes, one below the other."""
    columns = []
    for x in images:
        array = x.clamp(0, 1).numpy().reshape(*x.shape, *(1,) * (3 - x.ndim))
        cuts = [torch.from_numpy(cut.copy()) for _, cut, *_ in planes(Volume(array, centred_geometry(pack, x.shape)))]
        width = max(cut.shape[1] for cut in cuts)
        columns.append(torch.cat([F.pad(cut, (0, width - cut.shape[1])) for cut in cuts]))
    return torch.cat(columns, dim=1)[None]


def write_picture(path: Path, image: Tensor) -> None:
    """A PNG file of (1, H, W) in [0, 1], enlarged by whole pixels if it is small; its folder is made. Raises
    OutputError."""
    path.parent.mkdir(exist_ok=True)
    pixels = (255 * image[0]).round().byte()
    times = -(-LEAST_HEIGHT // len(pixels))
    shown = Image.fromarray(pixels.repeat_interleave(times, 0).repeat_interleave(times, 1).numpy())
    write_whole(path, shown.save)
