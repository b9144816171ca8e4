"""Weights of other libraries as tensors by name, with what stands beside them. Nothing in a file is executed."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from medldm.errors import AmbiguousInput, EmptyInput, InputError, ModelError, UnsafeInput

State = dict[str, Tensor]
SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
CONFIG = "config.json"
_DEPTH = 3  # a training's checkpoint keeps the network's weights so deep inside its table at most
_MOST_JSON = 4 * 2**20


@dataclass(frozen=True)
class Weights:
    """An autoencoder's weights as they were found.

    file : where they were read
    state : float32 tensors by the names of the library, from "encoder." and "decoder." on
    beside : the JSON table beside the file (`config.json`, or the file's own name), {} without one
    config : what the user says of the network; it comes before `beside`
    """

    file: Path
    state: State
    beside: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def where(self) -> str:
        return f"weights {self.file.name}"

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one tensor. Raises ModelError where there is none."""
        if name not in self.state:
            raise ModelError(self.where, f"no {name}", "the weights of a whole autoencoder")
        return tuple(self.state[name].shape)


@dataclass(frozen=True)
class Reading:
    """What a family makes of weights: 2 or 3 axes, its configuration, the weights by the names of our module."""

    dims: int
    config: dict[str, Any]
    state: State


def open_weights(path: Path, config: dict[str, Any] | None = None) -> Weights:
    """Weights and what stands beside them, from a file or a folder that holds one set of weights.

    Files are safetensors, or what torch.load reads with weights_only=True. Raises UnsafeInput for a file that would
    need code, ModelError for a damaged one or one without an autoencoder, InputError for a path that is none.
    """
    file = _find(path)
    return Weights(file, _autoencoder(load_file_of_weights(file), f"weights {file.name}"), _beside(file), config or {})


def _find(path: Path) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise InputError(str(path), "no such file or folder", "weights, or a folder that holds them", "check the path")
    folder = path / "vae" if (path / "vae" / CONFIG).is_file() else path  # a whole pipeline of diffusers
    found = sorted(p for p in folder.iterdir() if p.is_file() and p.name.lower().endswith(SUFFIXES))
    whole = [p for p in found if p.name.startswith("diffusion_pytorch_model.")]
    found = sorted(whole or found, key=lambda p: (p.stem.count("."), SUFFIXES.index(p.suffix.lower())))
    if not found:
        raise EmptyInput(str(path), "no weights", f"a file ending in {', '.join(SUFFIXES)}")
    if len(found) > 1 and not whole:
        names = ", ".join(p.name for p in found[:5])
        raise AmbiguousInput(str(path), f"{len(found)} files of weights ({names})", "one", "give the file itself")
    return found[0]


def load_file_of_weights(file: Path) -> Any:
    """What a file holds, tensors in tables. Raises UnsafeInput for one that would need code, ModelError."""
    where = f"weights {file.name}"
    try:
        if file.suffix.lower() == ".safetensors":
            return load_file(file)
        return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        got = "a pickle that needs code to be read"
        raise UnsafeInput(where, got, "tensors alone", "save its state_dict, best as safetensors") from None
    except (OSError, EOFError, ValueError, KeyError, RuntimeError, SafetensorError) as failure:
        reason = (str(failure).splitlines() or [type(failure).__name__])[0][:100]
        if "TorchScript" in reason:
            raise UnsafeInput(where, "TorchScript, which is code", "tensors alone", "save its state_dict") from None
        raise ModelError(where, f"a file that cannot be read ({reason})", "safetensors, or a state dict") from None


def tensors_of(file: Path) -> State:
    """Float32 tensors by their names. Raises InputError, UnsafeInput, ModelError."""
    if not file.is_file():
        raise InputError(str(file), "no such file", "safetensors", "check the path")
    state = next(tables_of_tensors(load_file_of_weights(file)), {})
    return {name: value.float() for name, value in state.items()}


def tables_of_tensors(content: Any, depth: int = 0) -> Iterator[State]:
    """Every table of tensors in a checkpoint, the outermost first."""
    if not isinstance(content, dict) or depth > _DEPTH:
        return
    tensors = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}
    if tensors:
        yield tensors
    for value in content.values():
        yield from tables_of_tensors(value, depth + 1)


def _autoencoder(content: Any, where: str) -> State:
    """The first table with an encoder and a decoder, by the names after their common prefix ("module.", "vae.")."""
    for table in tables_of_tensors(content):
        prefixes = {key[: key.index("encoder.")] for key in table if "encoder." in key}
        whole = [p for p in prefixes if p in ("",) or p.endswith(".")]
        for prefix in sorted(whole, key=len):
            if any(key.startswith(f"{prefix}decoder.") for key in table):
                return {
                    key.removeprefix(prefix): value.float()
                    for key, value in table.items()
                    if key.startswith(prefix) and not key.startswith((f"{prefix}loss.", f"{prefix}discriminator."))
                }
    raise ModelError(where, "no tensors named encoder and decoder", "the weights of an autoencoder")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON table. Raises InputError."""
    try:
        if path.stat().st_size > _MOST_JSON:
            raise InputError(path.name, "megabytes of JSON", "a small table")
        table = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        raise InputError(path.name, "no JSON that can be read", "a JSON table") from None
    if not isinstance(table, dict):
        raise InputError(path.name, "JSON that is no table", "a JSON table")
    return table


def _beside(file: Path) -> dict[str, Any]:
    for path in (file.with_suffix(".json"), file.with_name(CONFIG)):
        if path.is_file():
            return read_json(path)
    return {}
