"""A pack that holds an autoencoder alone: `weights.safetensors`, `recipe.json` (a CodeRecipe), `card.md`.

A diffusion stage is trained on its latents. The autoencoder of a whole model is loaded by the same call.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from medldm.errors import MedldmError, ModelError
from medldm.io.atomic import write_whole
from medldm.nets.autoencoder import Autoencoder
from medldm.nets.build import build_autoencoder
from medldm.packs import folder_of, holds_code_alone
from medldm.recipe import CodeRecipe

WEIGHTS, RECIPE, CARD = "weights.safetensors", "recipe.json", "card.md"
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
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        PREFIX + name: value.detach().cpu().contiguous().to(torch.float32)
        for name, value in autoencoder.state_dict().items()
    }
    content = save(state)
    write_whole(folder / WEIGHTS, lambda path: path.write_bytes(content))
    text = json.dumps(_code_recipe(recipe).model_dump(mode="json"), indent=2)
    write_whole(folder / RECIPE, lambda path: path.write_text(text + "\n", encoding="utf-8"))
    write_whole(folder / CARD, lambda path: path.write_text(card, encoding="utf-8"))
    return folder


def _code_recipe(recipe: CodeRecipe) -> CodeRecipe:
    """What of a recipe concerns the autoencoder."""
    return CodeRecipe.model_validate({key: getattr(recipe, key) for key in CodeRecipe.model_fields})


def load_code(name_or_folder: str | Path, device: str | torch.device = "cpu") -> CodePack:
    """Load the autoencoder of a pack, by name or folder; of a whole model, the autoencoder alone.

    Raises ModelError for an unknown name, a damaged folder or a family that is not installed.
    """
    folder = folder_of(str(name_or_folder))
    where = f"model {folder.name if Path(name_or_folder).is_dir() else name_or_folder}"
    try:
        table = json.loads((folder / RECIPE).read_text(encoding="utf-8"))
        own = table if holds_code_alone(table) else {key: table[key] for key in CodeRecipe.model_fields if key in table}
        recipe = CodeRecipe.model_validate(own)
        code = build_autoencoder(recipe)
        state = load_file(folder / WEIGHTS)
        code.load_state_dict({k.removeprefix(PREFIX): v.float() for k, v in state.items() if k.startswith(PREFIX)})
        with (folder / WEIGHTS).open("rb") as handle:
            digest = hashlib.file_digest(handle, "sha256").hexdigest()
    except ValidationError as failure:
        first = failure.errors()[0]
        got = f"a recipe that is wrong in {'.'.join(map(str, first['loc']))} ({first['msg']})"
        raise ModelError(where, got, "a recipe of this version") from None
    except MedldmError as failure:
        raise ModelError(where, str(failure), "an autoencoder that can be built") from None
    except (OSError, ValueError, TypeError, SafetensorError, RuntimeError) as failure:
        reason = (str(failure).splitlines() or [type(failure).__name__])[0][:120]
        raise ModelError(where, f"damaged pack ({reason})", "weights that match recipe.json") from None
    if code.factor != recipe.latent_factor or code.channels != recipe.autoencoder.channels:
        got = f"a network of factor {code.factor} and {code.channels} channels"
        raise ModelError(where, got, f"the recipe's {recipe.latent_factor} and {recipe.autoencoder.channels}")
    card = (folder / CARD).read_text(encoding="utf-8") if (folder / CARD).is_file() else ""
    return CodePack(recipe.name, code.to(device).eval().requires_grad_(False), recipe, card, digest)
