"""Family `compvis-kl`: the same network by the names of Rombach et al.'s own implementation, 2D and 3D.

So are the files of MedVAE and the original ones of Stable Diffusion. Everything but the number of groups of the
norms, always 32 there, follows from the weights. Images are in [-1, 1], in 2D rows x columns.
"""

from __future__ import annotations

import re
from typing import Any

from pydantic import Field

from medldm.errors import ModelError
from medldm.nets.imported.diffusers_kl import INPUT_RANGE
from medldm.nets.imported.foreign_autoencoder import ForeignAutoencoder, ForeignTable, checked
from medldm.nets.imported.kl_network import KLNetwork
from medldm.nets.imported.weights import Reading, Weights

FAMILY = "compvis-kl"
_PARTS = {
    "norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0",
    "nin_shortcut": "conv_shortcut", "norm_out": "conv_norm_out",
}  # fmt: skip


class CompvisTable(ForeignTable):
    """widths : channels of each level; blocks : of a level; bottom_channels : `z_channels` of the original."""

    input_range: tuple[float, float] = INPUT_RANGE
    bottom_channels: int = Field(ge=1)
    widths: tuple[int, ...] = Field(min_length=1)
    blocks: int = Field(ge=1)
    groups: int = Field(32, ge=1)
    attention: bool


def recognise(weights: Weights) -> bool:
    return "encoder.down.0.block.0.conv1.weight" in weights.state


def read(weights: Weights) -> Reading:
    """Raises ModelError for weights of another layout, such as attention on upper levels."""
    names, shape = weights.state, weights.shape
    levels = 1 + max(int(name.split(".")[2]) for name in names if re.match(r"encoder\.down\.\d+\.block", name))
    blocks = 1 + max(int(name.split(".")[4]) for name in names if re.match(r"encoder\.down\.0\.block\.\d+", name))
    first = shape("encoder.conv_in.weight")
    found = {
        "rows_first": len(first) == 4,
        "in_channels": first[1],
        "out_channels": shape("decoder.conv_out.weight")[0],
        "latent_channels": shape("post_quant_conv.weight")[1],
        "bottom_channels": shape("decoder.conv_in.weight")[1],
        "widths": [shape(f"encoder.down.{level}.block.0.conv1.weight")[0] for level in range(levels)],
        "blocks": blocks,
        "attention": "encoder.mid.attn_1.q.weight" in names,
    }
    config = checked(CompvisTable, found | weights.config, FAMILY).model_dump(mode="json")
    state = {}
    for name, value in names.items():
        renamed = f"network.{_renamed(name, levels)}"
        state[renamed] = value.flatten(1) if ".attentions." in renamed and value.ndim > 2 else value
    return Reading(len(first) - 2, config, state)


def _renamed(name: str, levels: int) -> str:
    """The name that `kl_network` has for a tensor; its decoder counts levels from the bottom."""
    name = re.sub(r"\.down\.(\d+)\.block\.", r".down_blocks.\1.resnets.", name)
    name = re.sub(r"\.down\.(\d+)\.downsample\.", r".down_blocks.\1.downsamplers.0.", name)
    name = re.sub(r"\.up\.(\d+)\.block\.", lambda m: f".up_blocks.{levels - 1 - int(m[1])}.resnets.", name)
    name = re.sub(r"\.up\.(\d+)\.upsample\.", lambda m: f".up_blocks.{levels - 1 - int(m[1])}.upsamplers.0.", name)
    name = name.replace(".mid.block_1.", ".mid_block.resnets.0.").replace(".mid.block_2.", ".mid_block.resnets.1.")
    name = name.replace(".mid.attn_1.", ".mid_block.attentions.0.")
    return ".".join(_PARTS.get(part, part) for part in name.split("."))


def build(dims: int, config: dict[str, Any]) -> ForeignAutoencoder:
    """Raises ModelError for a configuration that is not this family's."""
    table = checked(CompvisTable, config, FAMILY)
    wrong = [width for width in table.widths if width % table.groups]
    if wrong:
        raise ModelError(f"{FAMILY} groups", str(table.groups), f"a divisor of {wrong[0]}")
    network = KLNetwork(
        dims,
        in_channels=table.in_channels,
        out_channels=table.out_channels,
        latent_channels=table.latent_channels,
        bottom_channels=table.bottom_channels,
        widths=table.widths,
        blocks=table.blocks,
        groups=table.groups,
        attention=table.attention,
        quant_conv=True,
        post_quant_conv=True,
    )
    return ForeignAutoencoder(dims, network, table, (2 ** (len(table.widths) - 1),) * dims)
