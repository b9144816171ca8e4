"""The conditions of synthesis as networks take them: embedded, each with a learned answer for "not said".

A class and a number are added to the embedding of the noise level, words are attended to, an image is concatenated, and
a label map is added to what the U-Net's levels hand to each other by a network of its own, which is zero at the start
(Zhang et al. 2023, ControlNet) and, as it does not see x_t, is asked once a sample (Mou et al. 2023, T2I-Adapter).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from medldm.conditions import (
    ClassCondition,
    ImageCondition,
    NumberCondition,
    Tables,
    TokensCondition,
)
from medldm.nets.blocks import CONVOLUTION, ResidualBlock
from medldm.nets.patches import space_to_depth
from medldm.nets.unet import Condition

FREQUENCIES = 6
PARTS = 4  # of a latent cell along an axis, at most: in those of f = 4 a label map is told voxel by voxel


class Conditions(NamedTuple):
    """What is asked for, by the conditions' names; whatever is not `present` is not said.

    values : class (B,) int64; number (B,) float32; tokens (B, length) int64, 0 where there is none; image (B, 1, *S) in
        the model's range; label map (B, 1, *S) int16, numbers of the pack's labels from 1. *S: the model's grid
    present : (B,) bool each
    """

    values: dict[str, Tensor]
    present: dict[str, Tensor]

    @classmethod
    def of(cls, tables: Tables, checked: Mapping[str, object], size: Sequence[int]) -> Conditions:
        """Of one sample: what `medldm.conditions.check_conditions` gives; maps as tensors (*S) of that `size`."""
        values, present = {}, {}
        for name, table in tables.items():
            given = checked.get(name)
            present[name] = torch.tensor([given is not None])
            if isinstance(table, ClassCondition):
                values[name] = torch.tensor([0 if given is None else cast(int, given)])
            elif isinstance(table, NumberCondition):
                values[name] = torch.tensor([table.low if given is None else cast(float, given)])
            elif isinstance(table, TokensCondition):
                words = cast("list[int]", given or [])
                values[name] = torch.tensor([words + [0] * (table.length - len(words))])
            else:
                kind = torch.float32 if isinstance(table, ImageCondition) else torch.int16  # not 8 bytes a voxel
                scan = torch.zeros(tuple(size)) if given is None else cast(Tensor, given)
                values[name] = scan.to(kind)[None, None]
        return cls(values, present)

    @staticmethod
    def together(parts: Sequence[Conditions]) -> Conditions:
        """One batch of several."""
        values, present = ({key: torch.cat([p[i][key] for p in parts]) for key in parts[0][i]} for i in (0, 1))
        return Conditions(values, present)

    def map(self, change: Callable[[Tensor], Tensor]) -> Conditions:
        """The same with every tensor changed."""
        values, present = ({key: change(part) for key, part in field.items()} for field in self)
        return Conditions(values, present)

    def dropped(self, keep: Mapping[str, Tensor]) -> Conditions:
        """The same, with what is not kept not said: (B,) bool by name; names that are missing are kept."""
        return self._replace(present={key: here & keep.get(key, here) for key, here in self.present.items()})

    def without(self, *names: str) -> Conditions:
        """The same with the named conditions not said; without names: with none said."""
        gone = names or tuple(self.present)
        return self.dropped({name: torch.zeros_like(self.present[name]) for name in gone})


class NumberEmbedding(nn.Module):
    """Sines and cosines of a number brought to 0 to 1, through two layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2 * FREQUENCIES + 1, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, share: Tensor) -> Tensor:
        """(B,) -> (B, width)."""
        powers = 2.0 ** torch.arange(FREQUENCIES, device=share.device)
        angle = math.pi * share[:, None] * powers
        waves = torch.cat([share[:, None], torch.sin(angle), torch.cos(angle)], dim=1)
        out: Tensor = self.layers(waves)
        return out


class LabelControl(nn.Module):
    """Shares of the labels in each latent cell's parts -> what the U-Net is told in each cell, and what is added to its
    skips and to its middle."""

    def __init__(self, dims: int, labels: int, channels: Sequence[int], blocks: int, parts: Sequence[int]) -> None:
        super().__init__()
        conv, width = CONVOLUTION[dims], control_width(channels)
        self.stem = conv(labels, width, tuple(n + 2 for n in parts), stride=tuple(parts), padding=1)
        self.levels = nn.ModuleList([ResidualBlock(dims, width) for _ in channels])
        self.downs = nn.ModuleList([conv(width, width, 3, stride=2, padding=1) for _ in channels[1:]])
        places = [(0, channels[0])]  # level, channels of each skip: the first convolution's, the blocks', the halved
        for level, wide in enumerate(channels):
            places += [(level, wide)] * blocks + [(level + 1, wide)] * (level + 1 < len(channels))
        self.places = [level for level, _ in places] + [len(channels) - 1]
        outs = [conv(width, wide, 1) for _, wide in [*places, (0, channels[-1])]]
        for out in outs:
            nn.init.zeros_(out.weight)
            nn.init.zeros_(out.bias)
        self.outs = nn.ModuleList(outs)

    def forward(self, shares: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """(B, labels, *parts * latent grid) -> (B, width, *latent grid); one a skip, the last for the middle."""
        x, features = self.stem(shares), []
        for level, block in enumerate(self.levels):
            x = block(x if level == 0 else self.downs[level - 1](x))
            features.append(x)
        return features[0], tuple(out(features[level]) for level, out in zip(self.places, self.outs, strict=True))


def control_width(channels: Sequence[int]) -> int:
    return max(32, channels[0] // 2)


class Conditioner(nn.Module):
    """`Conditions` to the `Condition` of a U-Net of `channels`, whose latent cells are `block` voxels of the model's
    grid."""

    def __init__(self, tables: Tables, dims: int, channels: Sequence[int], blocks: int, block: Sequence[int]) -> None:
        super().__init__()
        self.tables, self.block = dict(tables), tuple(block)
        width = 4 * channels[0]
        self.embeddings, self.nulls, self.controls = nn.ModuleDict(), nn.ParameterDict(), nn.ModuleDict()
        self.positions = nn.ParameterDict()
        self.concat_channels = 0
        self.parts = [math.gcd(PARTS, length) for length in block]
        for name, table in self.tables.items():
            if isinstance(table, ClassCondition):
                self.embeddings[_key(name)] = nn.Embedding(len(table.values) + 1, width)  # the last: not said
            elif isinstance(table, NumberCondition):
                self.embeddings[_key(name)] = NumberEmbedding(width)
                self.nulls[_key(name)] = nn.Parameter(torch.zeros(width))
            elif isinstance(table, TokensCondition):
                self.embeddings[_key(name)] = nn.Embedding(len(table.vocabulary) + 1, channels[-1])  # 0: nothing there
                self.positions[_key(name)] = nn.Parameter(0.02 * torch.randn(table.length, channels[-1]))
            elif isinstance(table, ImageCondition):
                self.concat_channels += 1 + math.prod(block)
            else:
                self.concat_channels += control_width(channels)
                self.controls[_key(name)] = LabelControl(dims, len(table.labels) + 1, channels, blocks, self.parts)

    @property
    def has_vector(self) -> bool:
        return any(isinstance(table, (ClassCondition, NumberCondition)) for table in self.tables.values())

    @property
    def has_tokens(self) -> bool:
        return any(isinstance(table, TokensCondition) for table in self.tables.values())

    def forward(self, asked: Conditions) -> Condition:
        """Parts that no condition fills are None."""
        vector, tokens, concat, control = [], [], [], []
        for name, table in self.tables.items():
            value, here = asked.values[name], asked.present[name]
            if isinstance(table, ClassCondition):
                vector.append(self.embeddings[_key(name)](torch.where(here, value, len(table.values))))
            elif isinstance(table, NumberCondition):
                said = self.embeddings[_key(name)]((value.float() - table.low) / (table.high - table.low))
                vector.append(torch.where(here[:, None], said, self.nulls[_key(name)]))
            elif isinstance(table, TokensCondition):
                words = self.embeddings[_key(name)](torch.where(here[:, None], value, 0))
                tokens.append(words + self.positions[_key(name)])
            elif isinstance(table, ImageCondition):
                cells = space_to_depth((value - 0.5) * 2, self.block)
                flag = _along(here, cells)
                concat.append(torch.cat([flag * cells, flag.expand_as(cells[:, :1])], dim=1))
            else:
                cells, added = self.controls[_key(name)](self._shares(value, here, len(table.labels)))
                concat.append(cells)
                control.append(added)
        return Condition(
            concat=torch.cat(concat, dim=1) if concat else None,
            vector=torch.stack(vector).sum(0) if vector else None,
            tokens=torch.cat(tokens, dim=1) if tokens else None,
            control=tuple(map(_total, zip(*control, strict=True))) if control else None,
        )

    def _shares(self, labels: Tensor, here: Tensor, count: int) -> Tensor:
        """How much of each part of a latent cell is of each label, and whether a map was given: a channel each."""
        part = [length // parts for length, parts in zip(self.block, self.parts, strict=True)]
        size = [n // length for n, length in zip(labels.shape[2:], part, strict=True)]
        if all(length == 1 for length in part):
            number = torch.arange(1, count + 1, device=labels.device).to(labels.dtype)
            shares = (labels == number.view(1, -1, *(1,) * len(size))).float()
        else:
            numbers = functools.partial(torch.arange, device=labels.device, dtype=torch.int32)  # half the time of int64
            cell = numbers(len(labels))  # which part a voxel lies in, of which sample
            for n, length, cells in zip(labels.shape[2:], part, size, strict=True):
                cell = cell[..., None] * cells + numbers(n) // length
            place = (cell * (count + 1) + labels[:, 0]).flatten()
            found = torch.bincount(place, minlength=len(labels) * math.prod(size) * (count + 1))
            found = found.view(len(labels), *size, count + 1)[..., 1:].movedim(-1, 1)
            shares = found / math.prod(part)
        flag = _along(here, labels).float()
        return torch.cat([flag * shares, flag.expand_as(shares[:, :1])], dim=1)


def _key(name: str) -> str:
    """A condition's name as that of a module, which may not be called `type` or `values`."""
    return f"of_{name}"


def _along(flag: Tensor, like: Tensor) -> Tensor:
    return flag.view(-1, *(1,) * (like.ndim - 1)).to(like.dtype if like.is_floating_point() else torch.float32)


def _total(parts: Sequence[Tensor]) -> Tensor:
    return torch.stack(tuple(parts)).sum(0)
