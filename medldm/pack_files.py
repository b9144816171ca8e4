"""The files of a pack, in one place: `weights.safetensors`, `recipe.json`, `card.md`. Nothing in them is executed.

A whole model and an autoencoder alone are kept in the same files; what is in them is theirs.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from medldm.errors import MedldmError, ModelError
from medldm.io.atomic import write_whole
from medldm.packs import PARTS, folder_of, table_of

WEIGHTS, RECIPE = PARTS
CARD = "card.md"


@dataclass(frozen=True)
class PackFiles:
    """What the files of a pack hold: float32 weights by name, the card, the hash of the weights' file.

    where : the pack's name, for messages
    table : its recipe, not checked yet
    """

    where: str
    table: dict[str, Any]
    weights: dict[str, Tensor]
    card: str
    weights_sha256: str


def write_pack(
    folder: str | Path, recipe: BaseModel, weights: dict[str, Tensor], card: str, *, full: set[str] | None = None
) -> Path:
    """Write a pack into `folder`, each file whole or not at all.

    full : names of the weights that are kept in full precision, the others in half; None: all are
    Raises OutputError.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        name: value.detach().cpu().contiguous().to(torch.float32 if full is None or name in full else torch.float16)
        for name, value in weights.items()
    }
    content = save(state)  # safetensors' own save_file makes files that others cannot read
    write_whole(folder / WEIGHTS, lambda path: path.write_bytes(content))
    text = json.dumps(recipe.model_dump(mode="json"), indent=2)
    write_whole(folder / RECIPE, lambda path: path.write_text(text + "\n", encoding="utf-8"))
    write_whole(folder / CARD, lambda path: path.write_text(card, encoding="utf-8"))
    return folder


def place_of(name_or_folder: str | Path) -> str:
    """What messages call a pack: never where it lies."""
    path = Path(name_or_folder)
    return f"model {path.resolve().name if path.is_dir() else name_or_folder}"


def read_pack(name_or_folder: str | Path) -> PackFiles:
    """The files of a pack, by its name or folder. Raises ModelError for an unknown name or a damaged folder."""
    where, folder = place_of(name_or_folder), folder_of(str(name_or_folder))
    table = table_of(str(name_or_folder))
    try:
        weights = {name: value.float() for name, value in load_file(folder / WEIGHTS).items()}
        with (folder / WEIGHTS).open("rb") as handle:
            digest = hashlib.file_digest(handle, "sha256").hexdigest()
        card = (folder / CARD).read_text(encoding="utf-8") if (folder / CARD).is_file() else ""
    except (OSError, ValueError, SafetensorError) as failure:
        raise damaged(where, failure) from None
    return PackFiles(where, table, weights, card, digest)


def damaged(where: str, failure: Exception) -> ModelError:
    """What is raised where weights and recipe do not go together, or cannot be read or built."""
    if isinstance(failure, MedldmError):
        return ModelError(where, str(failure), "a recipe of this version, whose networks can be built")
    reason = (str(failure).splitlines() or [type(failure).__name__])[0][:120]
    return ModelError(where, f"damaged pack ({reason})", "weights that match recipe.json", "reinstall it")
