"""The recipe of a distillation: the model's own, each level learning from its ways in place of from scans."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medldm.errors import InputError, ModelError
from medldm.installed import TRAINING, folder_of, read_tables
from medldm.networks import Networks
from medldm.pack import ModelPack
from medldm.recipe import Recipe, parse_recipe

TOLD = ("crop", "flip", "drop", "redraws")  # of a level's training


def distillation(
    name_or_folder: str | Path,
    *,
    evaluations: int | Sequence[int],
    trajectories: int,
    steps: int,
    guidance: float,
    batch_size: int,
    lr: float,
) -> Recipe:
    """What `medldm.train` does with the model as its start; the data are those that the model was trained on.

    evaluations : of all levels, or one number a level
    Raises ModelError for a model that does not synthesize, is distilled already, or does not say how it was trained;
    InputError for another number of levels.
    """
    name = str(name_or_folder)
    pack, where = read_tables(name), f"model {Path(name).name}"
    if not isinstance(pack, ModelPack) or pack.synthesis is None:
        raise ModelError(where, "no training for synthesis", "a model that synthesizes", "see medldm models")
    if any(level.distilled for level in pack.synthesis.cascade):
        raise ModelError(where, "a distilled model", "the model that it was distilled from")
    told = _training(name, where)
    levels_own = [stage for stage in told["stage"] if stage["train"] == "generator" and not stage.get("guide")]
    drawn = {stage["level"]: stage for stage in levels_own}
    cascade, levels = pack.synthesis.cascade, []
    each = [evaluations] * len(cascade) if isinstance(evaluations, int) else list(evaluations)
    if len(each) != len(cascade) or min(each) < 1:
        expected = f"one number >= 1, or {len(cascade)}, one a level from coarse to fine"
        raise InputError("evaluations", " ".join(map(str, each)), expected)
    for level, count in zip(cascade, each, strict=True):
        guide_scale = 1.0 if level.guide is None else level.guide.scale
        few = {"steps": count, "guidance": guidance, "guide_scale": guide_scale}
        levels.append(level.model_dump(mode="json") | {"distilled": few})
    synthesis = pack.synthesis.model_dump(mode="json") | {"cascade": levels}
    idle = next(stage for stage in told["stage"] if stage["train"] == "autoencoder") | {"steps": 0}
    learned = {"steps": steps, "batch_size": batch_size, "lr": lr, "ema": 0.999}
    learned |= {"trajectories": trajectories, "guidance": guidance}
    few_steps = [
        {"train": "trajectory", "level": number, **{key: stage[key] for key in TOLD if key in stage}, **learned}
        for number, stage in sorted(drawn.items(), reverse=True)  # what is redrawn wants the level before as it was
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
