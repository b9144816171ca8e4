"""From a denoiser to what a sampler asks: ``predict_x0(x_t, sigma)``. Each function here wraps one into another.

A sampler knows nothing of conditions, guidance, tiles or measurements; whatever is to be true of every step is put
around the network here, once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from medldm.diffusion.process import Denoiser
from medldm.diffusion.samplers import PredictX0
from medldm.nets.tiling import tiles
from medldm.nets.unet import Condition

Box = tuple[slice, ...]
SPREAD = 0.25  # of images in the model's range: what an estimate is off by where nothing is known of them


def bind(denoiser: Denoiser, condition: Condition) -> PredictX0:
    """The denoiser under a condition, of the batch or of one for all of it."""

    def predict(x_t: Tensor, sigma: float) -> Tensor:
        x_0: Tensor = denoiser(x_t, torch.full((len(x_t),), sigma, device=x_t.device), condition)
        return x_0

    return predict


def guided(
    conditional: PredictX0,
    without: Sequence[tuple[PredictX0, float]],
    interval: tuple[float, float] = (0.0, float("inf")),
) -> PredictX0:
    """Classifier-free guidance (Ho and Salimans 2022), of all conditions or of some (Liu et al. 2022).

    without : estimates with some conditions not said, and how much further to go from each of them to the conditional
        one than that lies: scale - 1, 0 for none
    interval : levels that are guided (Kynkäänniemi et al. 2024); outside, the estimates without are not computed
    """
    low, high = interval
    pulls = [(predict, by) for predict, by in without if by != 0]

    def predict(x_t: Tensor, sigma: float) -> Tensor:
        x_0 = conditional(x_t, sigma)
        if not low <= sigma <= high:
            return x_0
        return x_0 + sum((by * (x_0 - other(x_t, sigma)) for other, by in pulls), torch.zeros_like(x_0))

    return predict


def tiled(make: Callable[[Box], PredictX0], size: Sequence[int], edge: Sequence[int], halo: Sequence[int]) -> PredictX0:
    """One estimate for a field of any `size`, of tiles that overlap by twice the `halo` and are blended in it.

    make : the estimator of a tile, given its place in the field, so that its condition can be cut
    edge, halo : of each tile, in latent cells; the halo's outer half is context alone, over the inner weights fall
    Blended within every step, so that the tiles agree in what they make.
    """
    places = [(part.outer, _weight(part.outer, size, halo)) for part in tiles(size, edge, halo)]
    estimators = [make(outer) for outer, _ in places]

    def predict(x_t: Tensor, sigma: float) -> Tensor:
        total, weights = torch.zeros_like(x_t), x_t.new_zeros(size)
        for (outer, weight), estimate in zip(places, estimators, strict=True):
            at = (slice(None), slice(None), *outer)
            total[at] += weight.to(x_t) * estimate(x_t[at], sigma)
            weights[outer] += weight.to(x_t)
        return total / weights

    return predict


def _weight(outer: Box, size: Sequence[int], halo: Sequence[int]) -> Tensor:
    """Of a tile's cells: 1 inside, falling towards those of its edges that are not the field's, and 0 at them.

    The last half of the halo counts for nothing: there a tile knows too little of what is around.
    """
    weight = torch.ones([part.stop - part.start for part in outer])
    for axis, (part, n, h) in enumerate(zip(outer, size, halo, strict=True)):
        length, blind = part.stop - part.start, h // 2
        place = torch.arange(1, length + 1, dtype=torch.float32)
        rise, ramp = 2 * (h - blind) + 1, torch.ones(length)
        if part.start > 0:
            ramp = torch.minimum(ramp, ((place - blind) / rise).clamp_min(0))
        if part.stop < n:
            ramp = torch.minimum(ramp, ((place.flip(0) - blind) / rise).clamp_min(0))
        weight = weight * ramp.view(-1, *(1,) * (weight.ndim - 1 - axis))
    return weight


def consistent(
    predict: PredictX0,
    decode: Callable[[Tensor], Tensor],
    encode: Callable[[Tensor], Tensor],
    towards: Callable[[Tensor, float], Tensor],
) -> PredictX0:
    """Each estimate is decoded, moved towards what was measured, and encoded again (DDNM: Wang et al. 2023).

    towards : image (B, 1, *S), and the level, by which `agreement` says how far -> image
    """

    def corrected(x_t: Tensor, sigma: float) -> Tensor:
        return encode(towards(decode(predict(x_t, sigma)), sigma))

    return corrected


def agreement(sigma: float, noise_std: float) -> float:
    """How far an estimate at a level is to go towards a measurement with noise (DiffPIR: Zhu et al. 2023).

    All the way where the estimate is less sure than the measurement, and less the surer it is, so that noise is not
    taken for detail. noise_std : share of the model's range
    """
    off = SPREAD * sigma / (1 + sigma**2) ** 0.5
    return off**2 / (off**2 + noise_std**2) if noise_std else 1.0
