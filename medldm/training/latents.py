"""What is measured of the training set for the latents: the linear start, and the statistics that make them white."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from medldm.nets.autoencoder import Autoencoder
from medldm.nets.patches import pad_to_multiple, space_to_depth
from medldm.training.batches import Batches
from medldm.training.scans import Scan

LINEAR_START = 10**9  # steps of the patches of the linear code, far from those of training
PATCH_STEPS = 60


def begin_from_data(code: Autoencoder, batches: Batches) -> float | None:
    """Let the autoencoder take what it can from blocks of the training images; returns the variance kept."""
    patches = []
    for step in range(PATCH_STEPS):
        cells = space_to_depth(batches.images(LINEAR_START + step).x, code.factor)
        patches.append(cells.movedim(1, -1).flatten(0, -2))
    return code.begin(torch.cat(patches))


@torch.no_grad()
def measure_latents(code: Autoencoder, scans: Sequence[Scan]) -> None:
    """Latent mean and deviation a channel over the whole training set, not over one batch."""
    training = code.training
    code.eval()
    code.set_latent_statistics(torch.zeros(code.channels), torch.ones(code.channels))
    count, total, squares = 0, torch.zeros(code.channels).double(), torch.zeros(code.channels).double()
    for scan in scans:
        image, _ = pad_to_multiple(scan.image[None, None].to(code.latent_mean), code.multiple)
        z = code.encode(image)[0].double().cpu().movedim(1, 0).flatten(1)
        count += z.shape[1]
        total, squares = total + z.sum(1), squares + z.square().sum(1)
    mean = total / count
    code.set_latent_statistics(mean.float(), (squares / count - mean.square()).clamp_min(1e-8).sqrt().float())
    code.train(training)
