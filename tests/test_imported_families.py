"""Imported autoencoders encode and decode as the libraries they come from: 2D and 3D, to 1e-5."""

import json
import re

import numpy as np
import pytest
import torch
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint
from monai.apps.generation.maisi.networks.autoencoderkl_maisi import AutoencoderKlMaisi
from safetensors.torch import save_file

from tests.foreign_nets import (
    BAR,
    GROUPS,
    assert_equals_diffusers,
    diffusers_net,
    largest,
    monai_net,
    ours,
    rand,
    random_weights,
)


@pytest.mark.parametrize(
    ("arguments", "grey"),
    [
        ({}, 1),
        ({"in_channels": 3, "out_channels": 3, "layers_per_block": 2}, 3),
        ({"use_quant_conv": False, "use_post_quant_conv": False}, 1),
        ({"mid_block_add_attention": False, "block_out_channels": (8, 8), "safe": False}, 1),
        ({"block_out_channels": (4,), "shift_factor": 0.1, "scaling_factor": 0.3}, 1),
    ],
)
def test_a_folder_of_diffusers_encodes_and_decodes_as_diffusers_does(tmp_path, arguments, grey):
    network = diffusers_net(tmp_path, **arguments)
    autoencoder = ours(tmp_path)
    assert_equals_diffusers(network, autoencoder, grey)
    assert autoencoder.factor == (2 ** (len(network.config.block_out_channels) - 1),) * 2
    assert autoencoder.table.scaling_factor == network.config.scaling_factor


def test_older_names_of_the_attention_are_known(tmp_path):
    network = diffusers_net(tmp_path)
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = {}
    for name, value in network.state_dict().items():
        for new, was in old.items():
            name = name.replace(f"attentions.0.{new}.", f"attentions.0.{was}.")
        state[name] = value
    assert state.keys() != network.state_dict().keys()
    save_file(state, tmp_path / "diffusion_pytorch_model.safetensors")
    assert_equals_diffusers(network, ours(tmp_path))


def compvis_state(network):
    """The weights of diffusers' network by the names of the original program, which diffusers itself reads back."""
    levels = len(network.config.block_out_channels)
    state = {}
    for name, value in network.state_dict().items():
        name = re.sub(r"down_blocks\.(\d)\.resnets\.", r"down.\1.block.", name)
        name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0\.", r"down.\1.downsample.", name)
        name = re.sub(r"up_blocks\.(\d)\.resnets\.", lambda m: f"up.{levels - 1 - int(m[1])}.block.", name)
        name = re.sub(r"up_blocks\.(\d)\.upsamplers\.0\.", lambda m: f"up.{levels - 1 - int(m[1])}.upsample.", name)
        name = name.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
        name = name.replace("mid_block.resnets.0", "mid.block_1").replace("mid_block.resnets.1", "mid.block_2")
        name = name.replace("mid_block.attentions.0", "mid.attn_1").replace("group_norm", "norm")
        for new, was in {"to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}.items():
            name = name.replace(f"attn_1.{new}.", f"attn_1.{was}.")
        state[name] = value[..., None, None] if "attn_1" in name and value.ndim == 2 else value
    back = convert_ldm_vae_checkpoint(dict(state), dict(network.config))
    assert back.keys() == network.state_dict().keys()
    return state


def test_the_original_names_are_read_as_diffusers_reads_them(tmp_path):
    network = diffusers_net(tmp_path / "d", layers_per_block=2)
    state = compvis_state(network) | {"loss.logvar": torch.zeros(())}
    content = {"epoch": 3, "state_dict": {f"first_stage_model.{k}": v for k, v in state.items()}}
    torch.save(content, tmp_path / "model.ckpt")
    assert_equals_diffusers(network, ours(tmp_path / "model.ckpt", {"groups": 4}))


@torch.no_grad()
def test_the_original_network_in_3d_is_the_2d_one_on_a_stack_of_equal_slices(tmp_path):
    """Kernels that look at one slice only: the stack's latents are the slice's, again and again."""
    state = compvis_state(diffusers_net(tmp_path / "d"))
    deep = {}
    for name, value in state.items():
        if value.ndim == 4:
            lifted = torch.zeros(*value.shape, value.shape[-1])
            lifted[..., 0 if "downsample" in name else value.shape[-1] // 2] = value
            value = lifted
        deep[name] = value
    for name, table in (("flat", state), ("deep", deep)):
        save_file({k: v.contiguous() for k, v in table.items()}, tmp_path / f"{name}.safetensors")
    config = {"groups": 4, "rows_first": False}
    flat, stack = (ours(tmp_path / f"{name}.safetensors", config) for name in ("flat", "deep"))
    assert (flat.dims, stack.dims) == (2, 3)
    x = rand(1, 1, 16, 24)
    mean, std = flat.raw_encode(x)
    means, stds = stack.raw_encode(x[..., None].expand(-1, -1, -1, -1, 8))
    assert largest(means, mean[..., None].expand_as(means)) <= BAR
    assert largest(stds, std[..., None].expand_as(stds)) <= BAR
    image, images = flat.raw_decode(mean), stack.raw_decode(means)
    assert largest(images, image[..., None].expand_as(images)) <= BAR


MONAI = {
    "attention everywhere": {},
    "no attention": {
        "attention_levels": (False, False, False),
        "with_encoder_nonlocal_attn": False,
        "with_decoder_nonlocal_attn": False,
        "use_convtranspose": True,
    },
    "one linear layer": {"use_combined_linear": True, "include_fc": False, "num_res_blocks": (1, 2, 1)},
    "attention in the decoder alone": {"with_encoder_nonlocal_attn": False, "in_channels": 3},
}


@torch.no_grad()
def assert_equals_monai(network, autoencoder, size, grey=1):
    x = rand(1, 1, *size)
    mean, std = network.encode(x.expand(-1, grey, *size))
    assert mean.std() > 0.05
    got_mean, got_std = autoencoder.raw_encode(x)
    assert largest(got_mean, mean) <= BAR
    assert largest(got_std, std) <= BAR * max(std.max().item(), 1)
    assert largest(autoencoder.raw_decode(mean), network.decode(mean)) <= BAR


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("kind", MONAI)
def test_weights_of_monai_encode_and_decode_as_monai_does(tmp_path, kind, dims):
    network = monai_net(dims, **MONAI[kind])
    torch.save(network.state_dict(), tmp_path / "autoencoder.pt")
    (tmp_path / "autoencoder.json").write_text(json.dumps(GROUPS))
    autoencoder = ours(tmp_path / "autoencoder.pt")
    assert_equals_monai(network, autoencoder, (8, 12, 8)[:dims], MONAI[kind].get("in_channels", 1))
    for key, value in MONAI[kind].items():
        assert getattr(autoencoder.table, key) == value


def test_weights_of_monai_generative_models_are_read_as_monai_reads_them(tmp_path):
    new = monai_net(2)
    old = {}
    for name, value in new.state_dict().items():
        name = name.replace(".attn.to_", ".to_").replace(".attn.out_proj.", ".proj_attn.")
        old[name.replace(".postconv.", ".conv.")] = value
    torch.save({"autoencoder_state_dict": old}, tmp_path / "old.pth")
    network = monai_net(2, use_convtranspose=False)
    for parameter in network.parameters():
        parameter.data.zero_()
    network.load_old_state_dict(dict(old))
    assert_equals_monai(network, ours(tmp_path / "old.pth", GROUPS), (8, 16))


@pytest.mark.parametrize("transposed", [False, True])
def test_weights_of_maisi_encode_and_decode_as_maisi_does(tmp_path, transposed):
    arguments = {
        "num_channels": (8, 16),
        "attention_levels": (False, False),
        "num_res_blocks": (1, 2),
        "latent_channels": 4,
        "with_encoder_nonlocal_attn": transposed,
        "use_convtranspose": transposed,
        **GROUPS,
    }
    network = random_weights(
        AutoencoderKlMaisi(
            spatial_dims=3, in_channels=1, out_channels=1, num_splits=2, dim_split=1, save_mem=False, **arguments
        )
    )
    torch.save({"unet_state_dict": network.state_dict()}, tmp_path / "maisi.pt")
    bundle = {"latent_channels": 4, "autoencoder_def": {"_target_": "no.such.Class", "spatial_dims": "@dims"}}
    bundle["autoencoder_def"] |= arguments | {"latent_channels": "@latent_channels", "num_splits": 2}
    if not transposed:
        del bundle["autoencoder_def"]["use_convtranspose"]  # as the published network, nobody says it
    (tmp_path / "config.json").write_text(json.dumps(bundle))
    assert_equals_monai(network, ours(tmp_path / "maisi.pt"), (16, 16, 8))


@torch.no_grad()
@pytest.mark.parametrize("size", [(17, 30), (5, 7), (1, 40)])
def test_sizes_that_do_not_divide_are_mirrored_inside_and_cropped_back(tmp_path, size):
    network = diffusers_net(tmp_path)
    autoencoder = ours(tmp_path)
    x = rand(1, 1, *size)
    to = [-(-s // 4) * 4 for s in size]
    whole = x[0, 0].numpy()
    while list(whole.shape) != to:  # an axis can be doubled at most by one mirror
        whole = np.pad(whole, [(0, min(t - s, s)) for t, s in zip(to, whole.shape, strict=True)], mode="symmetric")
    padded = torch.from_numpy(whole)[None, None]
    theirs = network.decode(network.encode((2 * padded - 1).mT).latent_dist.mean).sample.mT
    expected = (theirs[..., : size[0], : size[1]] + 1) / 2
    assert autoencoder.reconstruct(x).shape == x.shape
    assert largest(autoencoder.reconstruct(x), expected) <= BAR


@torch.no_grad()
def test_a_group_of_one_channel_gets_two_cells(tmp_path):
    torch.save(monai_net(2, norm_num_groups=8, channels=(8, 8, 8)).state_dict(), tmp_path / "w.pt")
    autoencoder = ours(tmp_path / "w.pt", {"norm_num_groups": 8})
    assert autoencoder.multiple == (8, 8)
    assert autoencoder.reconstruct(rand(1, 1, 3, 2)).isfinite().all()
