"""Small random latent diffusion models of other libraries, in folders as those libraries leave them."""

import json

import torch
from diffusers import DDIMScheduler, UNet2DModel
from monai.apps.generation.maisi.networks.autoencoderkl_maisi import AutoencoderKlMaisi
from monai.apps.generation.maisi.networks.controlnet_maisi import ControlNetMaisi
from monai.apps.generation.maisi.networks.diffusion_model_unet_maisi import DiffusionModelUNetMaisi
from monai.networks.nets import DiffusionModelUNet

from tests.foreign_nets import diffusers_net, monai_net, random_weights

STEPS, SCALE = 8, 1.7
BETAS = {"num_train_timesteps": STEPS, "beta_start": 0.01, "beta_end": 0.5}


def monai_unet(dims, **arguments):
    wanted = {
        "spatial_dims": dims,
        "in_channels": 3,
        "out_channels": 3,
        "channels": (8, 16),
        "attention_levels": (False, True),
        "num_res_blocks": 1,
        "norm_num_groups": 4,
        "num_head_channels": 8,
    }
    return random_weights(DiffusionModelUNet(**(wanted | arguments))), wanted | arguments


def bundle(folder, dims, scheduler, scale=SCALE, old=False, **arguments):
    """A folder as MONAI's bundles are, with what has to be evaluated in its configuration."""
    autoencoder = monai_net(dims)
    unet, said = monai_unet(dims, **arguments)
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    state = unet.state_dict()
    if old:
        said["num_channels"] = said.pop("channels")
        state = {old_name(name): value for name, value in state.items()}
    torch.save(autoencoder.state_dict(), folder / "models" / "autoencoder.pt")
    torch.save({"unet_state_dict": state, "scale_factor": torch.tensor(scale)}, folder / "models" / "model.pt")
    table = {
        "imports": ["$import torch"],
        "channels": 3,
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "autoencoder_def": {
            "_target_": "monai.networks.nets.AutoencoderKL",
            "norm_num_groups": 4,
            "latent_channels": 3,
        },
        "network_def": {"_target_": "generative.networks.nets.DiffusionModelUNet", **said, "in_channels": "@channels"},
        "diffusion": "$@network_def.to(@device)",
        "noise_scheduler": {"_target_": f"monai.networks.schedulers.{scheduler}", **BETAS, "clip_sample": False},
    }
    table["network_def"]["in_channels"] = said["in_channels"] if said["in_channels"] != 3 else "@channels"
    (folder / "configs" / "inference.json").write_text(json.dumps(table))
    (folder / "configs" / "metadata.json").write_text("{}")
    return autoencoder, unet


def old_name(name):
    """Of the older package MONAI Generative Models, as DiffusionModelUNet.load_old_state_dict reads it."""
    name = name.replace(".attn.to_", ".to_").replace(".attn.out_proj", ".proj_attn").replace("postconv", "conv")
    return name.replace("attn1.out_proj", "attn1.to_out.0").replace("attn2.out_proj", "attn2.to_out.0")


MAISI_NET = {
    "spatial_dims": 3,
    "in_channels": 4,
    "num_channels": (8, 16),
    "attention_levels": (False, True),
    "num_res_blocks": 1,
    "norm_num_groups": 4,
    "num_head_channels": 8,
    "num_class_embeds": 3,
}
TOLD = {
    "include_spacing_input": True,
    "include_top_region_index_input": True,
    "include_bottom_region_index_input": True,
}


def maisi(folder):
    """As MAISI's bundle: its three networks, a rectified flow, the label map's bits."""
    kl = {"channels": (8, 16, 16), "attention_levels": (False,) * 3, "num_res_blocks": (1, 1, 1), "latent_channels": 4}
    kl |= {"with_encoder_nonlocal_attn": False, "with_decoder_nonlocal_attn": False, "norm_num_groups": 4}
    kl = {"num_channels": kl.pop("channels"), **kl, "spatial_dims": 3, "in_channels": 1, "out_channels": 1}
    autoencoder = random_weights(AutoencoderKlMaisi(num_splits=1, dim_split=1, save_mem=False, **kl))
    unet = random_weights(DiffusionModelUNetMaisi(**MAISI_NET, out_channels=4, **TOLD))
    bits = {"conditioning_embedding_in_channels": 8, "conditioning_embedding_num_channels": (8, 8, 8)}
    control = random_weights(ControlNetMaisi(**MAISI_NET, **bits, use_checkpointing=False))
    (folder / "configs").mkdir()
    (folder / "models").mkdir()
    parts = {"autoencoder": autoencoder, "diff_unet": unet, "controlnet": control}
    for name, network in parts.items():
        more = {"scale_factor": torch.tensor(SCALE)} if name == "diff_unet" else {}
        torch.save({f"{name}_state_dict": network.state_dict()} | more, folder / "models" / f"{name}.pt")
    torch.save(autoencoder.state_dict(), folder / "models" / "mask_generation_autoencoder.pt")
    made = "monai.apps.generation.maisi.networks"
    table = {
        "include_body_region": True,
        "mask_generation_autoencoder_def": {"_target_": "x.AutoencoderKL"},
        "autoencoder_def": {"_target_": f"{made}.autoencoderkl_maisi.AutoencoderKlMaisi", **kl},
        "diffusion_unet_def": {
            "_target_": f"{made}.diffusion_model_unet_maisi.DiffusionModelUNetMaisi",
            **MAISI_NET,
            "out_channels": 4,
            **TOLD,
            "include_top_region_index_input": "@include_body_region",
        },
        "controlnet_def": {"_target_": f"{made}.controlnet_maisi.ControlNetMaisi", **MAISI_NET, **bits},
        "noise_scheduler": {"_target_": "monai.networks.schedulers.RFlowScheduler", "num_train_timesteps": STEPS},
    }
    (folder / "configs" / "config_network.json").write_text(json.dumps(table))
    return autoencoder, unet, control


def pipeline(folder, made, scheduler=None, **arguments):
    """A folder as a latent diffusion pipeline of diffusers is saved."""
    attends = "AttnDownBlock2D" if made is UNet2DModel else "CrossAttnDownBlock2D"
    wanted = {
        "sample_size": 6,
        "in_channels": 3,
        "out_channels": 3,
        "layers_per_block": 1,
        "block_out_channels": (8, 16),
        "norm_num_groups": 4,
        "attention_head_dim": 4 if made is UNet2DModel else 2,
        "down_block_types": ("DownBlock2D", attends),
        "up_block_types": (attends.replace("Down", "Up"), "UpBlock2D"),
    }
    unet = random_weights(made(**(wanted | arguments)))
    unet.save_pretrained(folder / "unet")
    vae = diffusers_net(folder / "vae", scaling_factor=SCALE, shift_factor=0.2)
    scheduler = scheduler or DDIMScheduler(**BETAS, clip_sample=False)
    scheduler.save_pretrained(folder / "scheduler")
    return unet, vae, scheduler
