"""Packs on disk: found by name or folder, read, described. Nothing here needs torch.

A pack is a folder: `weights.safetensors`, `pack.json` (the tables of `medldm.pack`, with the version of their format),
`card.md`, and, for whoever wants to know, `training.json`: how it was trained. Loading it executes nothing.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from medldm import registry
from medldm.errors import MedldmError, ModelError
from medldm.pack import AutoencoderPack, ModelPack, ProblemTable
from medldm.tables import first_wrong

FORMAT = 3  # of pack.json; format 1 was called recipe.json, format 2 shared one denoiser with synthesis
WEIGHTS, PACK, TRAINING, CARD = "weights.safetensors", "pack.json", "training.json", "card.md"
FURTHER = "weights-*.safetensors"


@dataclass(frozen=True)
class Pack:
    """One model on offer: what it is for, how large it is, or why it cannot be used.

    problems : names of what it restores; tasks : the same and synthesis, in words
    """

    name: str
    modality: str = ""
    spacing: str = ""
    megabytes: float = 0.0
    tasks: str = ""
    dims: int = 0
    problems: tuple[str, ...] = ()
    synthesizes: bool = False
    problem: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def folder_of(name: str) -> Path:
    """Folder of a model by its name or itself, whole. Raises ModelError.

    A folder of another kind hides no installed model: data sets are often called as the models trained on them.
    """
    path = Path(name)
    is_pack = any((path / part).is_file() for part in (WEIGHTS, PACK, "recipe.json"))
    if not path.is_dir() or (not is_pack and name in registry.names("models")):
        if path.parent != Path(".") or name in ("", ".."):
            raise ModelError(f"model {name}", "no such folder", "a model folder, or a name", "see medldm models")
        path = Path(registry.find("models", name).folder())
    missing = [part for part in (WEIGHTS, PACK) if not (path / part).is_file()]
    if PACK in missing and (path / "recipe.json").is_file():
        raise ModelError(f"model {name}", "a pack of format 1", f"format {FORMAT}", "train or install it anew")
    if missing:
        raise ModelError(f"model {name}", f"no {' and no '.join(missing)}", "a whole folder", "install or train it")
    return path


def read_tables(name: str) -> AutoencoderPack:
    """The tables of a pack, by name or folder: a `ModelPack`, or that of an autoencoder alone. Raises ModelError."""
    where = f"model {Path(name).resolve().name if Path(name).is_dir() else name}"
    try:
        table = json.loads((folder_of(name) / PACK).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as failure:
        if isinstance(failure, MedldmError):
            raise
        raise ModelError(where, f"a {PACK} that cannot be read ({type(failure).__name__})", "a table") from None
    if not isinstance(table, dict):
        raise ModelError(where, f"a {PACK} that is no table", "a table")
    found = table.pop("format", None)
    if found != FORMAT:
        raise ModelError(where, f"a pack of format {found}", f"format {FORMAT}", "another version of medldm reads it")
    kind = ModelPack if {"unet", "synthesis"} & table.keys() else AutoencoderPack
    try:
        return kind.model_validate(table)
    except ValidationError as failure:
        first = first_wrong(failure, table)
        got = f"a {PACK} that is wrong in {first.path or 'itself'} ({first.got}; expected {first.expected})"
        raise ModelError(where, got, "one of this version", "reinstall it") from None


def weights_of(folder: Path) -> list[Path]:
    """The files of a pack's weights. What was added to a model later may lie in a file of its own, so that the others
    stay as they were published."""
    return [folder / WEIGHTS, *sorted(folder.glob(FURTHER))]


def describe(name: str) -> Pack:
    """What a model is for; what is wrong with it goes into `problem`."""
    try:
        pack, folder = read_tables(name), folder_of(name)
        spacing = " x ".join(f"{s:g}" for s in pack.trained_spacing[: pack.dims])
        size = round(sum(path.stat().st_size for path in weights_of(folder)) / 1e6, 1)
    except MedldmError as failure:
        return Pack(name, problem=str(failure))
    except OSError as failure:
        return Pack(name, problem=f"weights that cannot be read ({type(failure).__name__})")
    modality = ", ".join(pack.trained_modality)
    if not isinstance(pack, ModelPack):
        return Pack(name, modality, spacing, size, "none: an autoencoder alone, to train a model on", pack.dims)
    synthesizes = pack.synthesis is not None
    tasks = [_words(problem, table) for problem, table in pack.problems.items()]
    if pack.synthesis is not None:
        asked = ", ".join(pack.synthesis.conditions)
        tasks.append(f"synthesize by {asked}" if asked else "synthesize")
    return Pack(name, modality, spacing, size, ", ".join(tasks), pack.dims, tuple(pack.problems), synthesizes)


def _words(problem: str, table: ProblemTable) -> str:
    keys = table.model_extra or {}
    factors = ", ".join(f"x{factor}" for factor in keys.get("factors", ()))
    return problem + (f" ({factors}{' through plane' if keys.get('through_plane') else ''})" if factors else "")


def installed_models() -> list[Pack]:
    """Every model on offer, usable or not.

    >>> all(model.name for model in medldm.installed_models())
    True
    """
    return [describe(name) for name in registry.names("models")]
