"""What the names and shapes of a MONAI autoencoder's weights say of the network that they are of."""

from __future__ import annotations

import re
from typing import Any

from pydantic import Field

from medldm.errors import InputError, ModelError
from medldm.nets.imported.foreign_autoencoder import ForeignTable, checked
from medldm.nets.imported.weights import State, Weights

# arguments of MONAI's classes that do not change a result, or follow from others
_NO_MATTER = {
    "dim_split", "norm_float16", "num_splits", "print_info", "save_mem", "spatial_dims", "use_checkpoint",
    "use_checkpointing", "use_flash_attention",
}  # fmt: skip
_SYNONYMS = {"num_channels": "channels"}


class MonaiTable(ForeignTable):
    """Arguments of MONAI's `AutoencoderKL`, by its names."""

    channels: tuple[int, ...] = Field(min_length=1)
    num_res_blocks: tuple[int, ...]
    attention_levels: tuple[bool, ...]
    norm_num_groups: int = Field(ge=1)
    norm_eps: float = Field(1e-6, gt=0)
    with_encoder_nonlocal_attn: bool
    with_decoder_nonlocal_attn: bool
    use_convtranspose: bool = False
    include_fc: bool = True
    use_combined_linear: bool = False

    def common_arguments(self) -> dict[str, Any]:
        """What the networks of this layout call alike; `channels` is num_channels in MAISI's."""
        return self.model_dump(exclude={"input_range", "rows_first", "channels"}) | {"use_flash_attention": True}

    @property
    def factor(self) -> int:
        return 1 << (len(self.channels) - 1)


def modern(state: State) -> State:
    """The state of MONAI's own network for one of the older package MONAI Generative Models.

    As `monai.networks.nets.AutoencoderKL.load_old_state_dict`, for the names alone.
    """
    renamed = {}
    for name, value in state.items():
        name = re.sub(r"(blocks\.\d+)\.to_([qkv])\.", r"\1.attn.to_\2.", name)
        name = re.sub(r"(blocks\.\d+)\.proj_attn\.", r"\1.attn.out_proj.", name)
        name = re.sub(r"^(decoder\.blocks\.\d+)\.conv\.conv\.", r"\1.postconv.conv.", name)
        renamed[name] = value
    return renamed


def read_layout(weights: Weights, conv: str, family: str, defaults: dict[str, Any]) -> tuple[int, MonaiTable]:
    """Dimensions and arguments of the network, from its weights; the rest from what is said beside them or by the user.

    conv : what the names of a plain convolution of the network end in, after the number of its block
    defaults : for what the weights cannot say
    Raises ModelError where both contradict each other or something is missing, InputError for an unknown argument.
    """
    first = weights.shape(f"encoder.blocks.0.{conv}.weight")
    found = {
        "in_channels": first[1],
        "latent_channels": weights.shape("quant_conv_mu.conv.weight")[0],
        **_encoder(weights, conv),
    }
    found |= _decoder(weights, conv, found)
    if any(".attn." in name for name in weights.state):
        found["include_fc"] = any(".attn.out_proj." in name for name in weights.state)
        found["use_combined_linear"] = any(".attn.qkv." in name for name in weights.state)
    said = defaults | {k: v for k, v in _arguments(weights.beside).items() if k in MonaiTable.model_fields}
    own = _arguments(weights.config)
    unknown = sorted(set(own) - set(MonaiTable.model_fields))
    if unknown:
        raise InputError("--config", unknown[0], ", ".join(sorted(MonaiTable.model_fields)))
    said |= own
    for key, value in found.items():
        wanted = said.get(key, value)
        if isinstance(wanted, int) and isinstance(value, list):
            wanted = [wanted] * len(value)
        if wanted != value:
            raise ModelError(f"{weights.where}: {key}", str(wanted)[:60], f"{value}, as the weights have it")
    if "norm_num_groups" not in said:
        fitting = [n for n in (4, 8, 16, 32) if not any(width % n for width in found["channels"])]
        raise ModelError(
            weights.where,
            "nothing that says norm_num_groups",
            f"one that divides the channels (such as {', '.join(map(str, fitting)) or found['channels'][0]})",
            "give --config '{\"norm_num_groups\": N}', or the network's arguments as JSON",
        )
    return len(first) - 2, checked(MonaiTable, said | found, family)


def _arguments(table: dict[str, Any]) -> dict[str, Any]:
    """The autoencoder's arguments in a JSON table: itself, or what a bundle's configuration has inside.

    A bundle's references and expressions ("@...", "$...") are passed over and never evaluated.
    """
    inside = table.values() if "norm_num_groups" not in table else ()
    own = next((v for v in inside if isinstance(v, dict) and {"norm_num_groups", "latent_channels"} <= set(v)), None)
    outer = table if own is None else {k: v for k, v in table.items() if k in MonaiTable.model_fields}
    return {
        _SYNONYMS.get(key, key): value
        for key, value in (outer | (own or {})).items()
        if not key.startswith("_") and key not in _NO_MATTER and not isinstance(value, str)
    }


def _blocks(state: State, part: str, conv: str) -> str:
    """One letter a block: R residual, A attention, U up or down, C convolution, N norm."""
    names: dict[int, set[str]] = {}
    for name in state:
        match = re.match(rf"{part}\.blocks\.(\d+)\.(.+)", name)
        if match:
            names.setdefault(int(match[1]), set()).add(match[2])
    letters = ""
    for number in sorted(names):
        own = names[number]
        if "conv1.conv.weight" in own or "conv1.conv.conv.weight" in own:
            letters += "R"
        elif any(name.startswith("attn.") for name in own):
            letters += "A"
        elif f"{conv}.weight" in own:
            letters += "C"
        else:
            letters += "N" if "weight" in own else "U"
    return letters


def _encoder(weights: Weights, conv: str) -> dict[str, Any]:
    letters = _blocks(weights.state, "encoder", conv)
    match = re.fullmatch(r"C((?:(?:RA?)+U)*(?:RA?)+?)(RAR)?NC", letters)
    levels = match[1].split("U") if match else []
    if not match or not all(set(level) == {"R"} or level == "RA" * (len(level) // 2) for level in levels):
        raise ModelError(weights.where, f"an encoder of blocks {letters[:60]}", "MONAI's order of blocks")
    residual = [number for number, letter in enumerate(letters) if letter == "R"]
    counts = [level.count("R") for level in levels]
    last = [residual[sum(counts[: n + 1]) - 1] for n in range(len(levels))]
    return {
        "channels": [_width(weights, number) for number in last],
        "num_res_blocks": counts,
        "attention_levels": ["A" in level for level in levels],
        "with_encoder_nonlocal_attn": match[2] is not None,
    }


def _width(weights: Weights, number: int) -> int:
    return weights.shape(f"encoder.blocks.{number}.norm2.weight")[0]


def _decoder(weights: Weights, conv: str, encoder: dict[str, Any]) -> dict[str, Any]:
    """The decoder mirrors the encoder, but for attention at the bottom and how it comes up."""
    letters = _blocks(weights.state, "decoder", conv)
    pairs = zip(reversed(encoder["num_res_blocks"]), reversed(encoder["attention_levels"]), strict=True)
    mirrored = "U".join(("RA" if attention else "R") * count for count, attention in pairs) + "NC"
    if letters not in ("C" + mirrored, "CRAR" + mirrored):
        raise ModelError(weights.where, f"a decoder of blocks {letters[:60]}", "the encoder's, in reverse")
    out = weights.shape(f"decoder.blocks.{len(letters) - 1}.{conv}.weight")[0]
    found = {"out_channels": out, "with_decoder_nonlocal_attn": letters != "C" + mirrored}
    if conv == "conv":  # MAISI's weights are named alike, transposed or not
        found["use_convtranspose"] = any(".deconv." in name for name in weights.state)
    return found
