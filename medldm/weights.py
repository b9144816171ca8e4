"""Weights as a pack's files hold them: in full or half precision, or in 8 bits with a scale for each output channel."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

SCALE = ":scale"  # of weights in 8 bits, kept under their name and this
LEAST = 1024  # numbers in a tensor that is kept in 8 bits; smaller ones, such as biases, are nothing to save
LARGEST = 127


def stored(
    weights: Mapping[str, Tensor], full: Collection[str] | None = None, *, eight_bits: bool = False
) -> dict[str, Tensor]:
    """Weights by name as they are written.

    full : names of those that are kept in full precision, the others in half; None: all
    eight_bits : those of layers in 8 bits, symmetric, a scale for each output channel: half the size, 1/254 of the
        largest weight of a channel off at most
    """
    out = {}
    for name, value in weights.items():
        value = value.detach().cpu().contiguous()
        if full is None or name in full:
            out[name] = value.float()
        elif eight_bits and value.ndim > 1 and value.numel() >= LEAST:
            scale = value.float().abs().amax(dim=tuple(range(1, value.ndim)), keepdim=True).clamp_min(1e-12) / LARGEST
            out[name] = (value.float() / scale).round().to(torch.int8)
            out[name + SCALE] = scale.clone()
        else:
            out[name] = value.half()
    return out


def load_weights(path: Path) -> dict[str, Tensor]:
    """All of a file, in float32. Raises OSError, ValueError or SafetensorError."""
    found = load_file(path)
    scales = {name.removesuffix(SCALE): found.pop(name) for name in list(found) if name.endswith(SCALE)}
    if missing := [name for name, value in found.items() if value.dtype == torch.int8 and name not in scales]:
        raise ValueError(f"no scale for {missing[0]}")
    return {name: value.float() * scales[name] if name in scales else value.float() for name, value in found.items()}
