"""Batches for synthesis: whole images or, for the finer levels of a cascade, parts of them, with what they are."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from medldm.diffusion.generator import coarsened, padded_shape
from medldm.nets.conditioner import Conditions
from medldm.space import centred
from medldm.stage_tables import GeneratorStage as GeneratorTable
from medldm.training.batches import Batch, Batches

WAVES = 5  # half waves of a bend along an axis, less one: the shortest is half of the image


def whole_batch(batches: Batches, step: int, table: GeneratorTable) -> Batch:
    """A step's images at the level's resolution, their conditions on the model's grid, and their coarser images."""
    pack = batches.pack
    assert pack.synthesis is not None
    levels, size = pack.synthesis.cascade, padded_shape(pack, pack.synthesis.shape[: pack.dims])
    coarsen, before = levels[table.level].coarsen, levels[table.level - 1].coarsen if table.level else 1
    examples = [batches.example(step, number) for number in batches.numbers(table.batch_size)]
    block = [factor * coarsen for factor in pack.latent_factor]
    parts, asked, coarse, places, numbers = [], [], [], [], []
    for example in examples:
        rng = example.own
        position = int(rng.integers(len(batches.whole)))
        number = batches.whole[position]
        scan = batches.scans[number]
        maps = {name: value for name, value in scan.conditions.items() if isinstance(value, Tensor)}
        fields = [(scan.image, coarsen), *((value, 1) for value in maps.values())]
        if table.level:
            again = None if batches.redrawn is None else batches.redrawn.of(position, rng)
            fields.append((scan.image if again is None else _as_fine(again, before), before))
        moved, origins = _moved(fields, size, table, coarsen, batches.left_right, rng)
        box = _box(size, table, coarsen, before, rng)
        cut = [
            field[tuple(slice(part.start // ratio, part.stop // ratio) for part in box)]
            for field, (_, ratio) in zip(moved, fields, strict=True)
        ]
        said = scan.conditions | dict(zip(maps, cut[1:], strict=False))
        along = [o[part].view(-1, f).mean(1) for o, part, f in zip(origins, box, block, strict=True)]
        places.append(torch.stack(torch.meshgrid(*along, indexing="ij")))
        parts.append(cut[0][None, None])
        asked.append(Conditions.of(pack.synthesis.conditions, said, [part.stop - part.start for part in box]))
        if table.level:
            coarse.append(cut[-1][None, None])
        numbers.append(number)
    return Batch(
        torch.cat(parts),
        None,
        "",
        tuple(example.seed for example in examples),
        tuple(numbers),
        Conditions.together(asked),
        torch.cat(coarse) if coarse else None,
        torch.stack(places),
    )


def _as_fine(image: Tensor, ratio: int) -> Tensor:
    """Every voxel repeated `ratio` times along each axis: the means of blocks are the image again."""
    for axis in range(image.ndim):
        image = image.repeat_interleave(ratio, dim=axis)
    return image


def _moved(
    fields: list[tuple[Tensor, int]],
    size: list[int],
    table: GeneratorTable,
    coarsen: int,
    left_right: int,
    rng: np.random.Generator,
) -> tuple[list[Tensor], list[Tensor]]:
    """An image and what belongs to it, cut to the grid about its middle, bent, mirrored, moved and zoomed alike; and
    where its voxels lay before, along each axis: from the middle, in halves of the grid. A bend is not told: what is
    bent is to pass for somebody else's.

    fields : each with how many voxels along each axis make one of what is returned, their mean
    Whole voxels where there is no zoom, so that nothing is blurred.
    """
    mirrored = rng.random() < table.flip
    shift = [float(rng.uniform(-table.shift, table.shift)) for _ in size]
    zoom = [1.0] * len(size)
    if coarsen > 1:
        whole = rng.uniform(-1, 1) * np.log1p(table.zoom)
        zoom = np.exp(whole + rng.uniform(-1, 1, len(size)) * np.log1p(table.stretch)).tolist()
    zoomed = any(along != 1 for along in zoom)
    voxels = [s * n if zoomed else round(s * n) for s, n in zip(shift, size, strict=True)]
    origins = [_origin(*axis) for axis in zip(size, zoom, voxels, strict=True)]
    bend = _bend(size, table.bend, rng) if table.bend and coarsen > 1 else None
    out = []
    for field, ratio in fields:
        field = centred(field, size)
        field = field if bend is None else _bent(field, bend)
        field = field.flip(left_right) if mirrored else field
        if zoomed or table.shift:
            out.append(_resampled(field, origins, ratio))
        else:
            out.append(coarsened(field[None, None], ratio)[0, 0])
    halves = [origin / (n / 2) for origin, n in zip(origins, size, strict=True)]
    if mirrored:
        halves[left_right] = -halves[left_right]
    return out, halves


def _origin(n: int, zoom: float, voxels: float) -> Tensor:
    """Where the voxels of a zoomed and moved axis are taken from, from its middle."""
    return (torch.arange(n) + 0.5 - n / 2) / zoom - voxels


def _bend(size: list[int], most: float, rng: np.random.Generator) -> Tensor:
    """Where the voxels of a bent image are taken from (*S, D), in halves of the grid as `grid_sample` wants them: a
    few waves along each axis, at most `most` of the grid away."""
    moves = torch.from_numpy(rng.standard_normal((*(WAVES for _ in size), len(size)))).float()
    for axis, n in enumerate(size):
        at = (torch.arange(n) + 0.5) / n
        waves = torch.cos(torch.pi * at[:, None] * torch.arange(WAVES))
        moves = torch.tensordot(waves, moves, dims=([1], [axis])).movedim(0, axis)
    moves *= 2 * most * float(rng.uniform(0.5, 1)) / float(moves.norm(dim=-1).max())
    middles = [(torch.arange(n) + 0.5) / n * 2 - 1 for n in size]
    return torch.stack(torch.meshgrid(*middles, indexing="ij"), -1) + moves


def _bent(field: Tensor, places: Tensor) -> Tensor:
    mode = "bilinear" if field.is_floating_point() else "nearest"
    taken = F.grid_sample(
        field[None, None].float(), places.flip(-1)[None], mode=mode, padding_mode="border", align_corners=False
    )
    return taken[0, 0].to(field.dtype)


def _resampled(field: Tensor, origins: list[Tensor], ratio: int) -> Tensor:
    """By linear interpolation and means of `ratio` voxels, axis after axis; numbers of labels (ratio 1) by the nearest.
    The edge is repeated."""
    for axis, (n, origin) in enumerate(zip(field.shape, origins, strict=True)):
        at = (origin + n / 2 - 0.5).clamp(0, n - 1)
        low = at.floor().long()
        if not field.is_floating_point() or (ratio == 1 and torch.equal(at, low)):
            field = field.index_select(axis, at.round().long())
            continue
        weights, row, share = torch.zeros(n, n), torch.arange(n), at - low  # of the voxels for each that is wanted
        weights[row, low] += 1 - share
        weights[row, (low + 1).clamp_max(n - 1)] += share
        means = weights.view(n // ratio, ratio, n).mean(1)
        field = torch.tensordot(means, field, dims=([1], [axis])).movedim(0, axis)
    return field


def _box(
    size: list[int], table: GeneratorTable, coarsen: int, before: int, rng: np.random.Generator
) -> tuple[slice, ...]:
    """Where a part of the level's crop lies in the model's grid, along whole voxels of the level before."""
    if not table.crop:
        return tuple(slice(0, n) for n in size)
    wanted = [min(crop * coarsen, n) for crop, n in zip(table.crop, size, strict=True)]
    starts = [int(rng.integers((n - w) // before + 1)) * before for n, w in zip(size, wanted, strict=True)]
    return tuple(slice(a, a + w) for a, w in zip(starts, wanted, strict=True))
