"""Whole latent diffusion models as other libraries leave them on the disk: which weights, networks and schedule there
are. Two layouts: a pipeline's folder of diffusers, and a bundle of MONAI. Configurations are read as data; what would
have to be evaluated is passed over."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from medldm.errors import EmptyInput, InputError, ModelError
from medldm.nets.imported import diffusers_unet
from medldm.nets.imported.weights import (
    CONFIG,
    SUFFIXES,
    State,
    Weights,
    load_file_of_weights,
    open_weights,
    read_json,
    tables_of_tensors,
)

# arguments of MONAI's networks that do not change a result
_NO_MATTER = {"use_flash_attention", "use_checkpointing", "dropout_cattn", "upcast_attention"}
_SYNONYMS = {"num_channels": "channels"}
_BETAS = {
    "linear": "linear", "linear_beta": "linear",
    "scaled_linear": "scaled_linear", "scaled_linear_beta": "scaled_linear",
    "sigmoid": "sigmoid", "sigmoid_beta": "sigmoid", "cosine": "cosine", "squaredcos_cap_v2": "cosine",
}  # fmt: skip
_SAYS = {"epsilon": "noise", "sample": "clean", "v_prediction": "velocity"}
# MONAI's and diffusers' defaults are the same
_DEFAULTS = {"beta_start": 1e-4, "beta_end": 2e-2, "num_train_timesteps": 1000, "prediction_type": "epsilon"}
_UNET_DEFAULTS: dict[str, Any] = {
    "num_res_blocks": 2, "norm_num_groups": 32, "num_head_channels": 8, "with_conditioning": False,
}  # fmt: skip


@dataclass(frozen=True)
class Whole:
    """A latent diffusion model as it was found.

    family : of the diffusion network, as in `medldm.net_tables.ImportedNetTable`
    autoencoder : its weights; unet : the diffusion network's by the names of MONAI's, and `config`, its arguments
    control, control_config : the same of a ControlNet, None without one
    schedule : a `medldm.net_tables.ScheduleTable`
    scale, shift : what the library multiplies (z - shift) by before diffusion
    size : of the latents, where the configuration says it
    flow_base : of a flow whose times hang on the size of the latents: the number of cells where they do not
    """

    autoencoder: Weights
    unet: State
    config: dict[str, Any]
    schedule: dict[str, Any]
    scale: float
    shift: float = 0.0
    size: int | None = None
    rows_first: bool = False
    family: str = "monai"
    control: State | None = None
    control_config: dict[str, Any] | None = None
    flow_base: int | None = None


def open_whole(folder: Path, config: dict[str, Any]) -> Whole:
    """The model in a folder.

    config : tables `autoencoder`, `unet`, `control`, `schedule`, and `scale_factor`, which come before the folder's
    Raises InputError, ModelError, UnsafeInput.
    """
    unknown = sorted(set(config) - {*_CLASSES, "scale_factor"})
    if unknown:
        raise InputError("--config", unknown[0], f"one of {', '.join(_CLASSES)}, scale_factor")
    if not folder.is_dir():
        got = "a file" if folder.exists() else "no such folder"
        raise InputError(str(folder), got, "the folder of a whole model, or --data with an autoencoder alone")
    return _pipeline(folder, config) if (folder / "unet" / CONFIG).is_file() else _bundle(folder, config)


def _pipeline(folder: Path, config: dict[str, Any]) -> Whole:
    """As diffusers' `save_pretrained` leaves it: unet, scheduler, vae (or vqvae)."""
    own = next((folder / name for name in ("vae", "vqvae") if (folder / name / CONFIG).is_file()), None)
    if own is None:
        raise EmptyInput(str(folder), "no vae beside unet", "a latent diffusion model")
    autoencoder = open_weights(own, config.get("autoencoder"))
    table = read_json(folder / "unet" / CONFIG) | config.get("unet", {})
    state = _load_unet(next(iter(_files(folder / "unet")), None), folder)
    scheduler = folder / "scheduler" / "scheduler_config.json"
    said = (read_json(scheduler) if scheduler.is_file() else {}) | config.get("schedule", {})
    arguments, renamed = diffusers_unet.read(table, state)
    size = table.get("sample_size")
    found = autoencoder.beside | autoencoder.config
    return Whole(
        autoencoder,
        renamed,
        arguments,
        schedule_of(said, "scheduler_config.json"),
        float(config.get("scale_factor", found.get("scaling_factor") or 0.18215)),
        float(found.get("shift_factor") or 0.0),
        size if isinstance(size, int) else None,
        rows_first=True,
    )


def _bundle(folder: Path, config: dict[str, Any]) -> Whole:
    """As MONAI's bundles are: JSON in `configs`, weights in `models`; or all in the folder itself."""
    tables = [read_json(p) for p in sorted(_either(folder, "configs").glob("*.json")) if p.name != "metadata.json"]
    tables = [{k: v for k, v in table.items() if not k.startswith(_OTHERS)} for table in tables]
    weights = _weights(folder)
    beside = _defined(tables, _CLASSES["autoencoder"])
    autoencoder = open_weights(weights["autoencoder"][0], config.get("autoencoder"))
    found = {key: _defined(tables, name) | config.get(key, {}) for key, name in _CLASSES.items()}
    path, content = weights["unet"]
    control = control_config = None
    if "control" in weights:
        control = _state(weights["control"][1], "controlnet_cond_embedding.", weights["control"][0])
        control_config = arguments_of({"out_channels": None, **found["control"]}, "control")
        del control_config["out_channels"]  # it has none
    return Whole(
        replace(autoencoder, beside=beside | autoencoder.beside),
        modern(_state(content, "time_embed.", path)),
        arguments_of(found["unet"]),
        schedule_of(found["schedule"], "the scheduler"),
        _scale(config, tables, content, folder),
        family="maisi" if "Maisi" in str(found["unet"].get("_target_")) else "monai",
        control=control,
        control_config=control_config,
        flow_base=_flow_base(found["schedule"]),
    )


_CLASSES = {
    "autoencoder": "Autoencoder",
    "unet": "DiffusionModelUNet",
    "control": "ControlNet",
    "schedule": "Scheduler",
}
_OTHERS = "mask_generation"  # a second model in MAISI's bundle, which draws label maps
_MARKS = {
    "autoencoder": "encoder.blocks.0.",
    "control": "controlnet_cond_embedding.",
    "unet": "time_embed.",  # a ControlNet has it, too
}


def _weights(folder: Path) -> dict[str, tuple[Path, Any]]:
    """Files and their content, by what they are of. Raises InputError, ModelError, UnsafeInput."""
    weights: dict[str, tuple[Path, Any]] = {}
    for path in _files(_either(folder, "models")):
        if path.name.startswith(_OTHERS):
            continue
        content = load_file_of_weights(path)
        names = [name for state in tables_of_tensors(content) for name in state]
        kind = next((kind for kind, mark in _MARKS.items() if any(mark in name for name in names)), None)
        if kind in weights:
            both = f"{weights[kind][0].name} and {path.name}"
            raise InputError(str(folder), f"two files of weights, {both}, for {kind}", "one", "take the other away")
        if kind is not None:
            weights[kind] = (path, content)
    missing = [kind for kind in ("autoencoder", "unet") if kind not in weights]
    if missing:
        expected = "a folder of diffusers with unet/, or a bundle of MONAI with configs/ and models/"
        raise EmptyInput(str(folder), f"no weights of an {missing[0]}", expected)
    return weights


def _flow_base(said: dict[str, Any]) -> int | None:
    return int(said.get("base_img_size_numel", 32**3)) if said.get("use_timestep_transform") else None


def _either(folder: Path, name: str) -> Path:
    return folder / name if (folder / name).is_dir() else folder


def _files(folder: Path) -> list[Path]:
    """Files of weights; where there are safetensors, those alone: the others are copies."""
    found = sorted(p for p in folder.iterdir() if p.is_file() and p.name.lower().endswith(SUFFIXES))
    safe = [p for p in found if p.suffix == ".safetensors"]
    return [p for p in safe or found if p.stem.count(".") == 0] or found


def _load_unet(file: Path | None, folder: Path) -> State:
    if file is None:
        raise EmptyInput(str(folder / "unet"), "no weights", f"a file ending in {', '.join(SUFFIXES)}")
    return _state(load_file_of_weights(file), "time_embedding.", file)


def _state(content: Any, mark: str, file: Path) -> State:
    """The first table with a name that begins with `mark` after a prefix, by the names after that prefix."""
    for table in tables_of_tensors(content):
        prefix = next((name[: name.index(mark)] for name in sorted(table, key=len) if mark in name), None)
        if prefix is not None:
            return {k.removeprefix(prefix): v.float() for k, v in table.items() if k.startswith(prefix)}
    raise ModelError(f"weights {file.name}", "no tensors of a diffusion network", "the weights of one")


def modern(state: State) -> State:
    """The names of MONAI's own network for weights of the older MONAI Generative Models."""
    renamed = {}
    for name, value in state.items():
        name = re.sub(r"(attentions\.\d+|attention)\.to_([qkv])\.", r"\1.attn.to_\2.", name)
        name = re.sub(r"(attentions\.\d+|attention)\.proj_attn\.", r"\1.attn.out_proj.", name)
        name = re.sub(r"(attn\d)\.to_out\.0\.", r"\1.out_proj.", name)
        name = re.sub(r"upsampler\.conv\.conv\.", r"upsampler.postconv.conv.", name)
        renamed[name] = value
    return renamed


def _walk(table: Any) -> Iterator[dict[str, Any]]:
    """Every table inside, the outer first."""
    if isinstance(table, dict):
        yield table
    for value in table.values() if isinstance(table, dict) else table if isinstance(table, list) else ():
        yield from _walk(value)


def _defined(tables: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """Arguments of the first class in the configurations whose name has `name` in it; "@" of numbers is followed."""
    for table in tables:
        for inner in _walk(table):
            made = str(inner.get("_target_", "")).rpartition(".")[2]
            if name in made and "Inferer" not in made:
                own = {key: _followed(value, table) for key, value in inner.items()}
                return {k: v for k, v in own.items() if not isinstance(v, str) or v[:1] not in ("$", "@")}
    return {}


def _followed(value: Any, table: dict[str, Any]) -> Any:
    """The number or list that "@name" stands for in the outermost table; anything else as it is."""
    if isinstance(value, str) and value.startswith("@") and not isinstance(table.get(value[1:]), str | dict):
        return table.get(value[1:], value)
    return value


def _scale(config: dict[str, Any], tables: list[dict[str, Any]], content: Any, folder: Path) -> float:
    """The factor of the latents. Raises InputError where nothing says it."""
    saved = content.get("scale_factor") if isinstance(content, dict) else None
    said = [config.get("scale_factor"), *(t.get("scale_factor") for t in tables)]
    if isinstance(saved, Tensor):
        saved = saved.item()
    for value in (said[0], saved, *said[1:]):
        if isinstance(value, int | float):
            return float(value)
    do = "give --config '{\"scale_factor\": N}': 1 / the deviation of the latents that it was trained on"
    raise InputError(str(folder), "nothing that says scale_factor", "a number", do)


def arguments_of(table: dict[str, Any], kind: str = "unet") -> dict[str, Any]:
    """Arguments of MONAI's `DiffusionModelUNet`. Raises ModelError where one is missing."""
    own = {_SYNONYMS.get(k, k): v for k, v in table.items() if not k.startswith("_") and k not in _NO_MATTER}
    own.pop("spatial_dims", None)
    missing = [key for key in ("in_channels", "out_channels", "channels", "attention_levels") if key not in own]
    if missing:
        do = f"give --config '{{\"{kind}\": {{...}}}}', the arguments of {_CLASSES[kind]}"
        raise ModelError(f"the network {kind}", f"nothing that says {missing[0]}", "its arguments", do)
    return _UNET_DEFAULTS | own


def schedule_of(said: dict[str, Any], where: str) -> dict[str, Any]:
    """A `medldm.net_tables.ScheduleTable` of MONAI's or diffusers' arguments of a scheduler. Raises ModelError."""
    made, table = str(said.get("_target_", said.get("_class_name", ""))), _DEFAULTS | said
    common = {"kind": "schedule", "times": table["num_train_timesteps"], "offset": table.get("steps_offset", 0)}
    if "RFlow" in made:
        return {**common, "betas": "flow"}
    betas = str(table.get("beta_schedule", table.get("schedule", "linear")))
    kept = [key for key in ("trained_betas", "rescale_betas_zero_snr") if table.get(key)]
    if betas not in _BETAS or table["prediction_type"] not in _SAYS or kept or "Flow" in made:
        got = kept[0] if kept else f"{made.rpartition('.')[2]} {betas}, {table['prediction_type']}"
        raise ModelError(where, got, f"betas of {', '.join(_BETAS)}; {', '.join(_SAYS)}")
    return {
        **common,
        "betas": _BETAS[betas],
        "beta_start": table["beta_start"],
        "beta_end": table["beta_end"],
        "prediction": _SAYS[table["prediction_type"]],
        "spacing": table.get("timestep_spacing", "linspace"),
    }
