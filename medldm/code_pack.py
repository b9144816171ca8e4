"""A pack that holds an autoencoder alone: `weights.safetensors`, `recipe.json` (a CodeRecipe), `card.md`.

A diffusion stage is trained on its latents. The autoencoder of a whole model is loaded by the same call.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError

from medldm.errors import MedldmError, ModelError
from medldm.nets.autoencoder import Autoencoder
from medldm.nets.build import build_autoencoder
from medldm.pack_files import damaged, read_pack, write_pack
from medldm.packs import holds_code_alone
from medldm.recipe import CodeRecipe

PREFIX = "autoencoder."  # as a whole model names these weights


@dataclass(frozen=True, eq=False)
class CodePack:
    """An autoencoder with its recipe, card and the hash of the weights' file; in eval mode, nothing to be trained."""

    name: str
    autoencoder: Autoencoder
    recipe: CodeRecipe
    card: str
    weights_sha256: str


def save_code(folder: str | Path, recipe: CodeRecipe, autoencoder: Autoencoder, card: str) -> Path:
    """Write a pack into `folder`, the weights in full precision. Raises OutputError."""
    weights = {PREFIX + name: value for name, value in autoencoder.state_dict().items()}
    return write_pack(folder, _code_recipe(recipe), weights, card)


def _code_recipe(recipe: CodeRecipe) -> CodeRecipe:
    """What of a recipe concerns the autoencoder."""
    return CodeRecipe.model_validate({key: getattr(recipe, key) for key in CodeRecipe.model_fields})


def load_code(name_or_folder: str | Path, device: str | torch.device = "cpu") -> CodePack:
    """Load the autoencoder of a pack, by name or folder; of a whole model, the autoencoder alone.

    Raises ModelError for an unknown name, a damaged folder or a family that is not installed.
    """
    files = read_pack(name_or_folder)
    table = files.table
    try:
        own = table if holds_code_alone(table) else {key: table[key] for key in CodeRecipe.model_fields if key in table}
        recipe = CodeRecipe.model_validate(own)
        code = build_autoencoder(recipe)
        code.load_state_dict({k.removeprefix(PREFIX): v for k, v in files.weights.items() if k.startswith(PREFIX)})
    except ValidationError as failure:
        first = failure.errors()[0]
        got = f"a recipe that is wrong in {'.'.join(map(str, first['loc']))} ({first['msg']})"
        raise ModelError(files.where, got, "a recipe of this version") from None
    except (MedldmError, ValueError, TypeError, RuntimeError) as failure:
        raise damaged(files.where, failure) from None
    if code.factor != recipe.latent_factor or code.channels != recipe.autoencoder.channels:
        got = f"a network of factor {code.factor} and {code.channels} channels"
        raise ModelError(files.where, got, f"the recipe's {recipe.latent_factor} and {recipe.autoencoder.channels}")
    ready = code.to(device).eval().requires_grad_(False)
    return CodePack(recipe.name, ready, recipe, files.card, files.weights_sha256)
