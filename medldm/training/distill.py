"""The recipe of a distillation: the model's own, each level learning from its ways in place of from scans."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from medldm.errors import ModelError
from medldm.installed import TRAINING, folder_of, read_tables
from medldm.networks import Networks
from medldm.pack import ModelPack
from medldm.recipe import Recipe, parse_recipe


def distillation(
    name_or_folder: str | Path,
    *,
    evaluations: int,
    trajectories: int,
    steps: int,
    guidance: float,
    batch_size: int,
    lr: float,
) -> Recipe:
    """What `medldm.train` does with the model as its start; the data are those that the model was trained on.

    Raises ModelError for a model that does not synthesize, is distilled already, or does not say how it was trained.
    """
    name = str(name_or_folder)
    pack, where = read_tables(name), f"model {Path(name).name}"
    if not isinstance(pack, ModelPack) or pack.synthesis is None:
        raise ModelError(where, "no training for synthesis", "a model that synthesizes", "see medldm models")
    if any(level.distilled for level in pack.synthesis.cascade):
        raise ModelError(where, "a distilled model", "the model that it was distilled from")
    told = _training(name, where)
    drawn = {stage["level"]: stage for stage in told["stage"] if stage["train"] == "generator" and not stage["guide"]}
    levels = []
    for level in pack.synthesis.cascade:
        guide_scale = 1.0 if level.guide is None else level.guide.scale
        few = {"steps": evaluations, "guidance": guidance, "guide_scale": guide_scale}
        levels.append(level.model_dump(mode="json") | {"distilled": few})
    synthesis = pack.synthesis.model_dump(mode="json") | {"cascade": levels}
    idle = next(stage for stage in told["stage"] if stage["train"] == "autoencoder") | {"steps": 0}
    learned = {"steps": steps, "batch_size": batch_size, "lr": lr, "ema": 0.999}
    learned |= {"trajectories": trajectories, "guidance": guidance}
    few_steps = [
        {"train": "trajectory", "level": number, **{key: stage[key] for key in ("crop", "flip", "drop")}, **learned}
        for number, stage in sorted(drawn.items())
    ]
    changed = pack.model_dump(mode="json", exclude={"seen"}) | {"synthesis": synthesis}
    return parse_recipe(told | {"pack": changed, "stage": [idle, *few_steps]}, where=where)


def forget_guides(pack: ModelPack, networks: Networks) -> ModelPack:
    """The pack without the guides of distilled levels, and the networks, too: what they did is in the weights."""
    if pack.synthesis is None or not any(level.distilled for level in pack.synthesis.cascade):
        return pack
    networks.guides.clear()
    levels = tuple(level.model_copy(update={"guide": None}) for level in pack.synthesis.cascade)
    return pack.model_copy(update={"synthesis": pack.synthesis.model_copy(update={"cascade": levels})})


def _training(name: str, where: str) -> dict[str, Any]:
    try:
        told: dict[str, Any] = json.loads((folder_of(name) / TRAINING).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise ModelError(where, f"no {TRAINING} that can be read", "a model trained by medldm") from None
    return told
