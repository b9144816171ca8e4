"""Family `diffusers-kl`: a folder that diffusers' `AutoencoderKL` was saved to. 2D.

The folder holds `config.json` and `diffusion_pytorch_model.safetensors` (or `.bin`). Images are rows x columns in
[-1, 1]. The library's factor and shift of the latents are kept for the record: a pack's own statistics, measured on
the user's scans, make the latents white.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from medldm.errors import ModelError
from medldm.nets.imported.foreign_autoencoder import ForeignAutoencoder, ForeignTable, checked
from medldm.nets.imported.kl_network import KLNetwork
from medldm.nets.imported.weights import Reading, State, Weights

FAMILY = "diffusers-kl"
INPUT_RANGE = (-1.0, 1.0)
# what config.json says beside the table below and does not change a result
_NO_MATTER = {"sample_size", "force_upcast"}
_FIXED = {
    "_class_name": "AutoencoderKL",
    "act_fn": "silu",
    "down_block_types": "DownEncoderBlock2D",
    "up_block_types": "UpDecoderBlock2D",
}
# names of the attention's layers before diffusers 0.17, which the files of many older models still have
_OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


class DiffusersTable(ForeignTable):
    """Arguments of diffusers' `AutoencoderKL`, by its names and with its defaults."""

    input_range: tuple[float, float] = INPUT_RANGE
    rows_first: bool = True
    in_channels: int = 3
    out_channels: int = 3
    latent_channels: int = 4
    block_out_channels: tuple[int, ...] = Field((64,), min_length=1)
    layers_per_block: int = Field(1, ge=1)
    norm_num_groups: int = Field(32, ge=1)
    scaling_factor: float = 0.18215
    shift_factor: float | None = None
    latents_mean: tuple[float, ...] | None = None
    latents_std: tuple[float, ...] | None = None
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    mid_block_add_attention: bool = True


def recognise(weights: Weights) -> bool:
    return "encoder.down_blocks.0.resnets.0.conv1.weight" in weights.state


def read(weights: Weights) -> Reading:
    """Raises ModelError for a network that is not of this family, or without its config.json."""
    table = weights.beside | weights.config
    if not table:
        raise ModelError(weights.where, "no config.json beside it", "the folder as diffusers saved it", "or --config")
    for key, only in _FIXED.items():
        value = table.get(key, only)
        if not all(one == only for one in (value if isinstance(value, list) else [value])):
            raise ModelError(f"{weights.where}: {key}", str(value)[:60], only, "this network is not of the family")
    own = {k: v for k, v in table.items() if not k.startswith("_") and k not in _NO_MATTER and k not in _FIXED}
    config = checked(DiffusersTable, own, FAMILY).model_dump(mode="json", exclude_none=True)
    return Reading(2, config, {f"network.{_renamed(name)}": value for name, value in _squared(weights.state).items()})


def _renamed(name: str) -> str:
    parts = name.split(".")
    if "attentions" in parts and parts[-2] in _OLD_NAMES:
        parts[-2] = _OLD_NAMES[parts[-2]]
    return ".".join(parts)


def _squared(state: State) -> State:
    """Attention layers that were saved as 1 x 1 convolutions, as the matrices that they are."""
    return {
        name: value.flatten(1) if ".attentions." in name and value.ndim > 2 else value for name, value in state.items()
    }


def build(dims: int, config: dict[str, Any]) -> ForeignAutoencoder:
    """Raises ModelError for a configuration that is not this family's."""
    table = checked(DiffusersTable, config, FAMILY)
    if dims != 2:
        raise ModelError(FAMILY, f"{dims} dimensions", "2")
    wrong = [width for width in table.block_out_channels if width % table.norm_num_groups]
    if wrong:
        raise ModelError(f"{FAMILY} norm_num_groups", str(table.norm_num_groups), f"a divisor of {wrong[0]}")
    network = KLNetwork(
        dims,
        in_channels=table.in_channels,
        out_channels=table.out_channels,
        latent_channels=table.latent_channels,
        bottom_channels=table.latent_channels,
        widths=table.block_out_channels,
        blocks=table.layers_per_block,
        groups=table.norm_num_groups,
        attention=table.mid_block_add_attention,
        quant_conv=table.use_quant_conv,
        post_quant_conv=table.use_post_quant_conv,
    )
    return ForeignAutoencoder(dims, network, table, (2 ** (len(table.block_out_channels) - 1),) * dims)
