"""Tiny models for tests: the real code with few channels, random weights or a few training steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from medldm.conformal import DECILES, LEVELS, REGIONS, Case, Intervals, Row
from medldm.model import Model, load_model
from medldm.networks import Networks
from medldm.recipe import parse_recipe


def tiny_table(dims: int) -> dict[str, Any]:
    """A recipe of seconds: 2D radiographs or 3D magnitude images."""
    stage = {"steps": 6, "batch_size": 2, "crop": [24] * dims, "lr": 1e-3, "ema": 0.5}
    both = {"denoise": 0.65, "super_resolve": 0.35}
    return {
        "pack": tiny_pack(dims),
        "validation_fraction": 0.3,
        "augment_gain": 0.1,
        "augment_zoom": 1.5,
        "source": [{"folder": "."}],
        "stage": [
            {"train": "autoencoder", **stage},
            {"train": "denoiser", "problems": both, **stage},
            {"train": "head", "head": "main", "problems": both, **stage},
        ],
    }


def tiny_pack(dims: int) -> dict[str, Any]:
    """What the model of `tiny_table` is."""
    coarse = {"factors": [2, 4], "through_plane": dims == 3}
    return {
        "name": f"tiny-{dims}d",
        "dims": dims,
        "modality": ["DX"] if dims == 2 else ["MR"],
        "spacing": [1.0, 1.0, 1.0],
        "spacing_range": [0.5, 3.0],
        "axcodes": None if dims == 2 else "PSR",
        "synthesis": {
            "shape": [24, 16, 1] if dims == 2 else [20, 16, 12],
            "unit": "grey8" if dims == 2 else "arbitrary",
            "scale": 255.0 if dims == 2 else 1000.0,
            "cascade": [{"unet": {"channels": [16, 32], "attention_levels": [False, True]}}],
        },
        "intensity": {"kind": "percentile", "low": 0.1, "high": 99.9, "zero_floor": dims == 3},
        "noise": "gaussian" if dims == 2 else "rician",
        "autoencoder": {"factor": 4, "channels": 4, "width": 8, "encoder_depth": 1, "decoder_depth": 1},
        "unet": {"channels": [16, 32], "attention_levels": [False, True]},
        "heads": {"main": {"channels": [8, 8], "depth": 1}},
        "problems": {
            "denoise": {"head": "main", "noise_std": [0.005, 0.25]},
            "super_resolve": {"head": "main", "noise_std": [0.0025, 0.125], **coarse},
        },
    }


def with_pack(table: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The same recipe of another model."""
    return table | {"pack": table["pack"] | changes}


def with_stages(table: dict[str, Any], **changes: dict[str, Any]) -> dict[str, Any]:
    """The same with other keys of stages: with_stages(table, denoiser={"steps": 0})."""
    return table | {"stage": [stage | changes.get(stage["train"], {}) for stage in table["stage"]]}


def idle_but(table: dict[str, Any], *names: str) -> dict[str, Any]:
    """The same without the steps of the other stages."""
    idle = {name: {"steps": 0} for name in ("autoencoder", "denoiser", "head") if name not in names}
    return with_stages(table, **idle)


def with_coarse_head(table: dict[str, Any]) -> dict[str, Any]:
    """A recipe with a head of its own for super-resolution."""
    pack, stage = table["pack"], table["stage"][-1]
    coarse = pack["problems"]["super_resolve"] | {"head": "coarse"}
    heads, problems = pack["heads"] | {"coarse": pack["heads"]["main"]}, pack["problems"] | {"super_resolve": coarse}
    alone = with_stages(with_pack(table, heads=heads, problems=problems), head={"problems": {"denoise": 1.0}})
    further = stage | {"head": "coarse", "problems": {"super_resolve": 1.0}}
    return alone | {"stage": [*alone["stage"], further]}


def with_alike_head(table: dict[str, Any]) -> dict[str, Any]:
    """A recipe with a second head for denoising, told what patches that look alike make of the first one's answer."""
    pack, stage = table["pack"], table["stage"][-1]
    heads = pack["heads"] | {"alike": {"channels": [8], "depth": 1, "after": "main"}}
    problems = pack["problems"] | {"denoise": pack["problems"]["denoise"] | {"head": "alike"}}
    first = with_stages(with_pack(table, heads=heads, problems=problems), head={"problems": {"super_resolve": 1.0}})
    further = stage | {"head": "alike", "problems": {"denoise": 1.0}}
    return first | {"stage": [*first["stage"], further]}


def with_generator(table: dict[str, Any]) -> dict[str, Any]:
    """A recipe that learns to synthesize, too."""
    stage = {key: table["stage"][0][key] for key in ("steps", "batch_size", "lr", "ema")}
    return table | {"stage": [*table["stage"], {"train": "generator", **stage}]}


def with_mask_head(table: dict[str, Any]) -> dict[str, Any]:
    """A recipe with a head that fills masks, too."""
    pack, stage = table["pack"], table["stage"][-1]
    heads = pack["heads"] | {"mask": {"channels": [8, 8], "depth": 1, "mask": True}}
    problems = pack["problems"] | {"inpaint": {"head": "mask", "noise_std": [0.005, 0.05]}}
    further = stage | {"head": "mask", "problems": {"inpaint": 1.0}}
    return table | {"pack": pack | {"heads": heads, "problems": problems}, "stage": [*table["stage"], further]}


def tiny_model(folder: Path, dims: int, *, seed: int = 0, scale: float = 0.02) -> Model:
    """A pack of random weights, saved and loaded again."""
    table = tiny_table(dims)
    return pack_of(folder / table["pack"]["name"], table, seed=seed, scale=scale)


def mask_model(folder: Path, dims: int) -> Model:
    """The same with a head for masks: `masks-2d` or `masks-3d`."""
    table = with_mask_head(tiny_table(dims))
    table["pack"] = table["pack"] | {"name": f"masks-{dims}d"}
    return pack_of(folder / table["pack"]["name"], table, scale=0.05)


def asked_model(folder: Path, dims: int) -> Model:
    """The same that can be asked for: `asked-2d` or `asked-3d`."""
    table = tiny_table(dims)
    conditions: dict[str, Any] = {
        "finding": {"kind": "class", "values": ["none", "lesion"]},
        "age": {"kind": "number", "low": 20, "high": 90},
        "anatomy": {"kind": "label_map", "labels": {"brain": [1], "lesion": [2]}},
    }
    synthesis = table["pack"]["synthesis"] | {"conditions": conditions}
    return pack_of(folder / f"asked-{dims}d", with_pack(table, name=f"asked-{dims}d", synthesis=synthesis), scale=0.05)


def pack_of(folder: Path, table: dict[str, Any], *, seed: int = 0, scale: float = 0.02) -> Model:
    """What a recipe's training would leave in `folder`, with random weights; loaded again."""
    pack = parse_recipe(table).pack
    torch.manual_seed(seed)
    networks = Networks(pack)
    generator = torch.Generator().manual_seed(seed)
    for parameter in networks.parameters():
        parameter.data = scale * torch.randn(parameter.shape, generator=generator)
    networks.autoencoder.begin(
        torch.rand(2000, 4**pack.dims, generator=generator) + torch.rand(2000, 1, generator=generator)
    )
    return load_model(Model(pack.name, networks, pack, "# tiny\n", "").save(folder))


def _flat_row(case: Case, by: float) -> Row:
    """The same multiple everywhere, but for the level."""
    shape = (len(LEVELS), DECILES, len(REGIONS))
    multiples = np.broadcast_to(by * np.array(LEVELS, np.float32)[:, None, None], shape)
    deciles, borders = np.linspace(-6, -2, DECILES - 1, dtype=np.float32), np.array([0.3, 0.6, 0.1], np.float32)
    return Row(case, deciles, borders, multiples, 9)


def tiny_intervals(sha: str = "", floor: bool = False) -> Intervals:
    """Made up: multiples 0.9 and 2.7 (denoising, noise 0.02 and 0.2), 1.8 and 3.6 (x2, x4) at a level of 0.9."""
    return Intervals(
        (
            _flat_row(Case("denoise", 1.0, 0.02), 1),
            _flat_row(Case("denoise", 1.0, 0.2), 3),
            _flat_row(Case("super_resolve", 2.0, 0.0), 2),
            _flat_row(Case("super_resolve", 4.0, 0.0), 4),
        ),
        sha,
        floor,
    )
