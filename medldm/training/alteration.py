"""What teaches a network to tell a training's pictures from those that were turned, mirrored, cut, put together."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from medldm.alteration import (
    BY_AN_ANGLE,
    CELLS,
    CLASSES,
    IN_PIECES,
    MIDDLE,
    NOTHING,
    SCALE,
    STRIDES,
    WIDTHS,
    Alteration,
)
from medldm.appearance import turns
from medldm.training.parallel import fastest_precision

Array = NDArray[np.float64]

FOLDS, STEPS, BATCH, LR = 5, 1000, 64, 3e-3
MOVED, ZOOMED, STRETCHED, TILTED = 0.12, (0.85, 1.15), 0.08, 0.14  # shares of half the image; radians
BRIGHTER, NOISE = 0.08, 0.05
SEED = 11


def fit_alteration(
    pictures: Array, patients: NDArray[np.integer], progress: Callable[[int, int], None], *, parts: bool
) -> tuple[Alteration, Array]:
    """The network of pictures (N, 32, 32) as they should be, and the log odds of each by one that knows none of its
    patient's (N,). Every patient counts alike.

    parts : small parts of a picture, and blank ones in it, are altered; not of CT, where a field of view cuts bodies,
        and air is blank (docs/decisions/0032)
    """
    odds, rounds = np.zeros(len(pictures)), FOLDS + 1
    for fold in range(FOLDS):
        progress(fold, rounds)
        out = patients % FOLDS == fold
        if out.any() and not out.all():
            odds[out] = _learned(pictures[~out], patients[~out], parts).odds(pictures[out])
    progress(FOLDS, rounds)
    return _learned(pictures, patients, parts), odds


def _learned(pictures: Array, patients: NDArray[np.integer], parts: bool) -> Alteration:
    with torch.random.fork_rng():  # of the weights and of dropout: the same network, whatever was drawn before
        torch.manual_seed(SEED)
        return _without_norms(_taught(_network(), pictures, patients, parts).eval())


def _taught(network: nn.Sequential, pictures: Array, patients: NDArray[np.integer], parts: bool) -> nn.Sequential:
    rng = np.random.default_rng(SEED)
    half = fastest_precision(torch.device("cpu"), 2) == "bf16-mixed"
    x = torch.from_numpy(pictures).float()[:, None]
    own = [torch.from_numpy(np.flatnonzero(patients == number)) for number in np.unique(patients)]
    optimizer = torch.optim.AdamW(network.parameters(), lr=LR, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=STEPS)
    for _ in range(STEPS):
        rows = [mine[rng.integers(len(mine))] for mine in (own[n] for n in rng.integers(len(own), size=BATCH))]
        batch, asked = _altered(_mild(x[torch.stack(rows)], rng), rng, parts)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            logits = network((batch - MIDDLE) * SCALE)
        loss = F.cross_entropy(logits.float(), asked, label_smoothing=0.02)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    return network


def _network() -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, width, stride in zip((1, *WIDTHS), WIDTHS, STRIDES, strict=False):
        layers += [nn.Conv2d(before, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    cells = CELLS // int(np.prod(STRIDES))
    return nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.3), nn.Linear(WIDTHS[-1] * cells**2, CLASSES))


def _without_norms(network: nn.Sequential) -> Alteration:
    weights: list[Tensor] = []
    layers = list(network)[:-3]
    for conv, norm in zip(layers[::3], layers[1::3], strict=True):
        assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
        assert norm.running_mean is not None and norm.running_var is not None
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        weights += [conv.weight * scale[:, None, None, None], norm.bias - norm.running_mean * scale]
    last = network[-1]
    assert isinstance(last, nn.Linear)
    return Alteration([w.detach().double().numpy() for w in (*weights, last.weight, last.bias)])


def _mild(x: Tensor, rng: np.random.Generator) -> Tensor:
    """Moved, zoomed, tilted, brightened a little, and some noisy: (B, 1, 32, 32), which are as they should be."""
    count = len(x)

    def drawn(low: float, high: float) -> Tensor:
        return torch.from_numpy(rng.uniform(low, high, count)).float()

    zoom = drawn(*ZOOMED)
    angle, right, down = drawn(-TILTED, TILTED), drawn(-MOVED, MOVED), drawn(-MOVED, MOVED)
    x = _turned(
        x, angle, zoom * (1 + drawn(-STRETCHED, STRETCHED)), zoom * (1 + drawn(-STRETCHED, STRETCHED)), right, down
    )
    gain, lift = (drawn(-BRIGHTER, BRIGHTER).view(-1, 1, 1, 1) for _ in range(2))
    std = (drawn(0, NOISE) * (drawn(0, 1) < 0.5)).view(-1, 1, 1, 1)
    return x * (1 + gain) + lift / 2 + std * torch.from_numpy(rng.standard_normal(x.shape)).float()


def _turned(x: Tensor, angle: Tensor, wide: Tensor, high: Tensor, right: Tensor, down: Tensor) -> Tensor:
    cos, sin = torch.cos(angle), torch.sin(angle)
    rows = [torch.stack([cos * wide, -sin * wide, right], 1), torch.stack([sin * high, cos * high, down], 1)]
    grid = F.affine_grid(torch.stack(rows, 1), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def _altered(x: Tensor, rng: np.random.Generator, parts: bool) -> tuple[Tensor, Tensor]:
    """The first half as it is, the others altered; and the class of each."""
    asked = torch.zeros(len(x), dtype=torch.long)
    out, ways = x.clone(), turns(2)
    for n in range(len(x) // 2, len(x)):
        draw = rng.random()
        if draw < 0.35:
            way = int(rng.integers(len(ways)))
            order, signs = ways[way]
            image = x[n, 0].permute(order)
            out[n, 0], asked[n] = image.flip([axis for axis in range(2) if signs[axis] < 0]), 1 + way
        elif draw < 0.5:
            angle = torch.tensor([rng.uniform(0.5, 2.6) * rng.choice([-1, 1])]).float()
            one, none = torch.ones(1), torch.zeros(1)
            out[n], asked[n] = _turned(x[n : n + 1], angle, one, one, none, none)[0], BY_AN_ANGLE
        elif draw < 0.8:
            other = x[int(rng.integers(len(x)))]
            out[n], asked[n] = _in_pieces(x[n], other, rng, parts), IN_PIECES
        else:
            out[n], asked[n] = _nothing(x[n], rng), NOTHING
    return out, asked


def _in_pieces(x: Tensor, other: Tensor, rng: np.random.Generator, parts: bool) -> Tensor:
    """(1, 32, 32): rolled, twice or four times in one, blocks in another order, half of it empty, small in a frame,
    half of it another's that lies otherwise; and of `parts` a small one alone, or all but one that is blank."""
    axis, part = int(rng.integers(1, 3)), int(rng.integers(CELLS // 3, 2 * CELLS // 3))
    match int(rng.integers(9 if parts else 7)):
        case 0:
            return x.roll(part, axis)
        case 1:
            half = F.avg_pool2d(x[None], (2, 1) if axis == 1 else (1, 2))[0]
            return torch.cat([half, half], axis)
        case 2:
            return F.avg_pool2d(x[None], 2)[0].repeat(1, 2, 2)
        case 3:
            blocks = int(rng.choice([2, 4, 8]))
            size = CELLS // blocks
            pieces = x.view(blocks, size, blocks, size).permute(0, 2, 1, 3).reshape(-1, size, size)
            pieces = pieces[torch.from_numpy(rng.permutation(len(pieces)))]
            return pieces.view(blocks, blocks, size, size).permute(0, 2, 1, 3).reshape(1, CELLS, CELLS)
        case 4:
            return _beside(x, torch.full_like(x, float(x.min())), axis, part)
        case 5:
            size = int(rng.integers(CELLS // 3, 3 * CELLS // 4))
            small = F.interpolate(x[None], (size, size), mode="area")[0]
            start = [int(n) for n in rng.integers(CELLS - size + 1, size=2)]
            frame = torch.full_like(x, float(x.min()))
            frame[:, start[0] : start[0] + size, start[1] : start[1] + size] = small
            return frame
        case 6:
            return _beside(x, other.flip(int(rng.integers(1, 3))), axis, part)
        case 7:
            size = int(rng.integers(CELLS // 4, CELLS // 2))
            top, left = rng.integers(CELLS - size + 1, size=2)
            return F.interpolate(x[None, :, top : top + size, left : left + size], (CELLS, CELLS), mode="bilinear")[0]
        case _:
            high, wide = (int(n) for n in rng.integers(CELLS // 4, CELLS // 2, size=2))
            top, left = int(rng.integers(CELLS - high)), int(rng.integers(CELLS - wide))
            blank = x.clone()
            blank[:, top : top + high, left : left + wide] = float(x.min() if rng.random() < 0.7 else x.max())
            return blank


def _beside(x: Tensor, other: Tensor, axis: int, part: int) -> Tensor:
    pair = (x, other) if part % 2 else (other, x)
    return torch.cat([pair[0].narrow(axis, 0, part), pair[1].narrow(axis, part, CELLS - part)], axis)


def _nothing(x: Tensor, rng: np.random.Generator) -> Tensor:
    """(1, 32, 32): ellipses, clouds, clouds in an ellipse (some of a few values), the image's own frequencies at other
    places, its negative."""
    low, high = float(x.min()), float(x.max())
    match int(rng.integers(5)):
        case 0:
            found = np.zeros((CELLS, CELLS))
            for _ in range(int(rng.integers(1, 7))):
                found[_ellipse(rng, 0.0, 1.0, 0.05, 0.5)] = rng.random()
        case 1:
            found = _cloud(rng)
        case 2:
            cloud = _cloud(rng)
            cloud = (cloud - cloud.min()) / float(np.ptp(cloud))
            if rng.random() < 0.3:
                values = int(rng.integers(3, 12))
                cloud = np.floor(cloud * values) / values
            found = np.where(_ellipse(rng, 0.4, 0.6, 0.25, 0.55), rng.uniform(0, 0.6) + cloud * rng.uniform(0.3, 1), 0)
        case 3:
            turned = np.exp(2j * np.pi * rng.random((CELLS, CELLS)) * rng.choice([0.4, 1]))
            found = np.fft.ifft2(np.fft.fft2(x[0].numpy()) * turned).real
        case _:
            return low + high - x
    found = (found - found.min()) / max(float(np.ptp(found)), 1e-6)
    return torch.from_numpy(low + (high - low) * found).float()[None]


def _ellipse(rng: np.random.Generator, low: float, high: float, least: float, most: float) -> NDArray[np.bool_]:
    """Its middle and its half axes as shares of the picture."""
    y, x = np.mgrid[:CELLS, :CELLS] / CELLS
    (a, b), (c, d) = rng.uniform(low, high, 2), rng.uniform(least, most, 2)
    return np.asarray(((y - a) / c) ** 2 + ((x - b) / d) ** 2 < 1)


def _cloud(rng: np.random.Generator) -> Array:
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(CELLS), np.fft.fftfreq(CELLS)))
    frequency[0, 0] = 1
    white = np.fft.fft2(rng.standard_normal((CELLS, CELLS)))
    return np.asarray(np.fft.ifft2(white / frequency ** rng.uniform(0.6, 2)).real)
