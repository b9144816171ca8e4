"""What is known of the installed models without loading one (and without torch)."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medldm import registry
from medldm.errors import MedldmError, ModelError

PARTS = ("weights.safetensors", "recipe.json")


@dataclass(frozen=True)
class Pack:
    """One model: what it is for, how large it is, or why it cannot be used."""

    name: str
    modality: str = ""
    spacing: str = ""
    megabytes: float = 0.0
    tasks: str = ""
    dims: int = 0
    inpaints: bool = False
    problem: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def folder_of(name: str) -> Path:
    """Folder of a model by its name or itself, whole. Raises ModelError."""
    path = Path(name)
    if not path.is_dir():
        if path.parent != Path(".") or name in ("", ".."):
            raise ModelError(
                f"model {name}", "no such folder", "a model folder, or a name", "see medldm models"
            )
        path = Path(registry.find("models", name).folder())
    missing = [part for part in PARTS if not (path / part).is_file()]
    if missing:
        raise ModelError(
            f"model {name}", f"no {' and no '.join(missing)}", "a whole model folder", "install or train it"
        )
    return path


def table_of(name: str) -> dict[str, Any]:
    """The recipe of a model, by its name or folder, as a table that is not checked yet. Raises ModelError."""
    try:
        table = json.loads((folder_of(name) / PARTS[1]).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as failure:
        if isinstance(failure, MedldmError):
            raise
        got = f"a recipe.json that cannot be read ({type(failure).__name__})"
        raise ModelError(f"model {name}", got, "a table") from None
    if not isinstance(table, dict):
        raise ModelError(f"model {name}", "a recipe.json that is no table", "a table")
    return table


def holds_code_alone(table: dict[str, Any]) -> bool:
    """Whether a pack's recipe is that of an autoencoder without a denoiser."""
    return "autoencoder" in table and "unet" not in table


def describe(name: str) -> Pack:
    """Read a model's recipe; what is wrong with it goes into `problem`."""
    try:
        folder = folder_of(name)
        recipe = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))
        dims = int(recipe["dims"])
        spacing = " x ".join(f"{s:g}" for s in recipe["spacing"][:dims])
        size = round((folder / PARTS[0]).stat().st_size / 1e6, 1)
        if holds_code_alone(recipe):
            tasks = "none: an autoencoder alone, to train a model on"
            return Pack(name, ", ".join(recipe["modality"]), spacing, size, tasks, dims)
        factors = ", ".join(f"x{factor}" for factor in recipe["degradation"]["factors"])
        where = " through plane" if recipe["degradation"].get("through_plane") else ""
        inpaints = bool(recipe.get("gap_head"))
        kinds = ["denoise", f"superres ({factors}{where})", *(["inpaint"] if inpaints else []), "synthesize"]
        tasks = ", ".join(kinds)
        return Pack(name, ", ".join(recipe["modality"]), spacing, size, tasks, dims, inpaints)
    except MedldmError as failure:
        return Pack(name, problem=str(failure))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as failure:
        return Pack(name, problem=f"a recipe.json that cannot be read ({type(failure).__name__})")


def installed_models() -> list[Pack]:
    """Every model on offer, usable or not."""
    return [describe(name) for name in registry.names("models")]
