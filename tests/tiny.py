"""Tiny models for tests: the real code with few channels, random weights or a few training steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from medldm.model import Model, Networks, load_model
from medldm.recipe import parse_recipe


def tiny_table(dims: int) -> dict[str, Any]:
    """A recipe of seconds: 2D radiographs or 3D magnitude images."""
    stage = {"steps": 6, "batch_size": 2, "crop": [24] * dims, "lr": 1e-3, "ema": 0.5}
    return {
        "name": f"tiny-{dims}d",
        "dims": dims,
        "modality": ["DX"] if dims == 2 else ["MR"],
        "spacing": [1.0, 1.0, 1.0],
        "spacing_range": [0.5, 3.0],
        "axcodes": None if dims == 2 else "PSR",
        "synthesis_shape": [24, 16, 1] if dims == 2 else [20, 16, 12],
        "synthesis_unit": "grey8" if dims == 2 else "arbitrary",
        "synthesis_scale": 255.0 if dims == 2 else 1000.0,
        "validation_fraction": 0.3,
        "augment_gain": 0.1,
        "augment_zoom": 1.5,
        "intensity": {"kind": "percentile", "low": 0.1, "high": 99.9, "zero_floor": dims == 3},
        "sources": [{"folder": "."}],
        "degradation": {
            "noise": "gaussian" if dims == 2 else "rician",
            "factors": [2, 4],
            "through_plane": dims == 3,
        },
        "autoencoder": {"factor": 4, "channels": 4, "width": 8, "encoder_depth": 1, "decoder_depth": 1},
        "unet": {"channels": [16, 32], "attention_levels": [False, True]},
        "head": {"channels": [8, 8], "depth": 1},
        "stage_autoencoder": stage,
        "stage_denoiser": stage,
        "stage_head": stage,
    }


def tiny_model(folder: Path, dims: int, *, seed: int = 0, scale: float = 0.02) -> Model:
    """A pack of random weights, saved and loaded again."""
    return _pack(folder, tiny_table(dims), seed=seed, scale=scale)


def gap_model(folder: Path, dims: int) -> Model:
    """The same with a head for gaps: `gaps-2d` or `gaps-3d`."""
    table = tiny_table(dims)
    further = {"gap_head": {"channels": [8, 8], "depth": 1}, "stage_gap_head": table["stage_head"]}
    return _pack(folder, {**table, **further, "name": f"gaps-{dims}d"}, seed=0, scale=0.05)


def _pack(folder: Path, table: dict[str, Any], *, seed: int, scale: float) -> Model:
    recipe = parse_recipe(table)
    torch.manual_seed(seed)
    networks = Networks(recipe)
    generator = torch.Generator().manual_seed(seed)
    for parameter in networks.parameters():
        parameter.data = scale * torch.randn(parameter.shape, generator=generator)
    networks.autoencoder.begin(
        torch.rand(2000, 4**recipe.dims, generator=generator) + torch.rand(2000, 1, generator=generator)
    )
    return load_model(Model(recipe.name, networks, recipe, "# tiny\n", "").save(folder / recipe.name))
