"""diffusers' `UNet2DModel` and `UNet2DConditionModel` as the same network of MONAI: arguments and names of weights."""

from __future__ import annotations

import re
from typing import Any

from medldm.errors import ModelError
from medldm.nets.imported.weights import State

TRANSFORMER_EPS = 1e-6  # of the norm before attention in UNet2DConditionModel, whatever norm_eps says
_CLASSES = {"UNet2DModel": "AttnDownBlock2D", "UNet2DConditionModel": "CrossAttnDownBlock2D"}
_USED = {
    "in_channels", "out_channels", "block_out_channels", "layers_per_block", "norm_num_groups", "norm_eps",
    "attention_head_dim", "num_attention_heads", "cross_attention_dim", "transformer_layers_per_block",
    "num_class_embeds", "down_block_types", "up_block_types", "mid_block_type", "sample_size", "dropout",
    "use_linear_projection", "upcast_attention", "addition_embed_type_num_heads", "num_train_timesteps",
}  # fmt: skip
# the only value of each that is this network; of all others, nothing
_FIXED = {
    "act_fn": "silu", "time_embedding_type": "positional", "flip_sin_to_cos": True, "downsample_padding": 1,
    "mid_block_scale_factor": 1, "resnet_time_scale_shift": "default", "downsample_type": "conv", "add_attention": True,
    "upsample_type": "conv", "conv_in_kernel": 3, "conv_out_kernel": 3, "resnet_out_scale_factor": 1.0,
    "attention_type": "default",
}  # fmt: skip
_NAMES = [
    (r"^time_embedding\.linear_1\.", "time_embed.0."),
    (r"^time_embedding\.linear_2\.", "time_embed.2."),
    (r"^conv_in\.", "conv_in.conv."),
    (r"^conv_norm_out\.", "out.0."),
    (r"^conv_out\.", "out.2.conv."),
    (r"^mid_block\.resnets\.0\.", "middle_block.resnet_1."),
    (r"^mid_block\.resnets\.1\.", "middle_block.resnet_2."),
    (r"^mid_block\.attentions\.0\.", "middle_block.attention."),
    (r"\.downsamplers\.0\.conv\.", ".downsampler.op.conv."),
    (r"\.upsamplers\.0\.conv\.", ".upsampler.postconv.conv."),
    (r"\.conv_shortcut\.", ".skip_connection.conv."),
    (r"(resnets\.\d+|resnet_\d)\.conv([12])\.", r"\1.conv\2.conv."),
    (r"\.group_norm\.", ".norm."),
    (r"(attentions\.\d+|attention)\.to_([qkv])\.", r"\1.attn.to_\2."),
    (r"(attentions\.\d+|attention)\.to_out\.0\.", r"\1.attn.out_proj."),
    (r"\.(attn[12])\.to_out\.0\.", r".\1.out_proj."),
    (r"\.ff\.net\.0\.proj\.", ".ff.linear1."),
    (r"\.ff\.net\.2\.", ".ff.linear2."),
    (r"\.(proj_in|proj_out)\.", r".\1.conv."),
]


def read(table: dict[str, Any], state: State) -> tuple[dict[str, Any], State]:
    """Arguments of MONAI's `DiffusionModelUNet`, weights by its names. Raises ModelError for another network."""
    where, made = "unet/config.json", table.get("_class_name")
    if made not in _CLASSES:
        raise ModelError(f"{where}: _class_name", str(made), " or ".join(_CLASSES))
    for key, value in table.items():
        if key.startswith("_") or key in _USED or value == _FIXED.get(key) or (key not in _FIXED and not value):
            continue
        expected = str(_FIXED.get(key, "none"))
        raise ModelError(f"{where}: {key}", str(value)[:60], expected, "this network cannot be imported")
    attends = [kind == _CLASSES[made] for kind in table["down_block_types"]]
    wanted = [_block(_CLASSES[made] if one else "DownBlock2D") for one in reversed(attends)]
    odd = [k for one, k in zip(attends, table["down_block_types"], strict=True) if not one and k != "DownBlock2D"]
    if odd or list(table["up_block_types"]) != wanted:
        got = ", ".join(odd or table["up_block_types"])
        raise ModelError(f"{where}: block types", got[:100], f"DownBlock2D and {_CLASSES[made]}, mirrored")
    widths, conditional = table["block_out_channels"], made == "UNet2DConditionModel"
    config = {
        "in_channels": table["in_channels"],
        "out_channels": table["out_channels"],
        "channels": list(widths),
        "attention_levels": attends,
        "num_res_blocks": table["layers_per_block"],
        "norm_num_groups": table["norm_num_groups"],
        "norm_eps": table["norm_eps"],
        "num_head_channels": _head_channels(table, widths, conditional),
        "num_class_embeds": table.get("num_class_embeds"),
        "with_conditioning": conditional,
    }
    if conditional:
        config |= {
            "cross_attention_dim": table["cross_attention_dim"],
            "transformer_num_layers": table.get("transformer_layers_per_block", 1),
            "transformer_norm_eps": TRANSFORMER_EPS,
        }
    return config, {name: _shaped(name, value) for name, value in ((_renamed(n), v) for n, v in state.items())}


def _block(down: str) -> str:
    return down.replace("Down", "Up")


def _head_channels(table: dict[str, Any], widths: list[int], conditional: bool) -> list[int]:
    """Of each level. What UNet2DConditionModel calls attention_head_dim is the number of heads, by an old mistake."""
    said = table.get("num_attention_heads") or table.get("attention_head_dim")
    each = said if isinstance(said, list | tuple) else [said] * len(widths)
    if conditional:
        return [width // heads for width, heads in zip(widths, each, strict=True)]
    return [channels or width for width, channels in zip(widths, each, strict=True)]


def _renamed(name: str) -> str:
    for pattern, new in _NAMES:
        name = re.sub(pattern, new, name)
    return name


def _shaped(name: str, value: Any) -> Any:
    """A linear projection as the convolution that it is."""
    return value[..., None, None] if re.search(r"\.proj_(in|out)\.conv\.weight$", name) and value.ndim == 2 else value
