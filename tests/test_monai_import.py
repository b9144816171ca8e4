"""MONAI's networks without the rest of MONAI: the same networks, and a MONAI that knows nothing of it."""

import subprocess
import sys

import pytest
import torch

from medldm.nets import monai_files
from medldm.nets.discriminator import PatchDiscriminator
from medldm.nets.imported.maisi import MAISI, AutoencoderKlMaisi
from medldm.nets.monai_autoencoder import AutoencoderKL
from medldm.nets.unet import Condition, DiffusionModelUNet, LatentUNet
from tests.test_nets import fresh, randn

UNET = {
    "in_channels": 2,
    "out_channels": 1,
    "channels": (16, 32),
    "attention_levels": (False, True),
    "num_res_blocks": 1,
    "norm_num_groups": 16,
    "num_head_channels": 16,
    "use_flash_attention": True,
}
CODE = {
    "in_channels": 1,
    "out_channels": 1,
    "num_res_blocks": (1, 1),
    "channels": (8, 16),
    "attention_levels": (False, True),
    "latent_channels": 3,
    "norm_num_groups": 4,
}
COMPLETE = """
import monai
net = monai.networks.nets.DiffusionModelUNet
assert net.__module__ == "monai.networks.nets.diffusion_model_unet"
assert monai.__version__ and monai.__file__.endswith("__init__.py")
assert monai.transforms.Compose and monai.data.MetaTensor and monai.networks.nets.SwinUNETR
assert monai.utils.optional_import and monai.networks.blocks.Warp and monai.apps.DecathlonDataset
"""
LONE = """
import sys
from medldm.nets import unet, build
assert not [name for name in sys.modules if name.split(".")[0] in ("monai", "matplotlib", "sklearn", "pandas")]
"""


def run(code: str) -> None:
    done = subprocess.run([sys.executable, "-W", "error::RuntimeWarning", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_our_networks_leave_monai_out_and_it_is_whole_after_them():
    run(LONE + COMPLETE)


def test_monai_is_whole_before_them_and_a_network_goes_to_that_process(tmp_path):
    """As a pickle, to one where MONAI came first."""
    net = fresh(LatentUNet(2, latent_channels=1, concat_channels=1, channels=(32,), attention_levels=(False,)))
    x, level = randn(1, 1, 8, 8), torch.full((1,), 0.5)
    torch.save((net, x, level, net(x, level, Condition(x))), tmp_path / "net.pt")
    run(
        COMPLETE
        + f"""
import torch
net, x, level, wanted = torch.load({str(tmp_path / "net.pt")!r}, weights_only=False)
from medldm.nets.unet import Condition
torch.testing.assert_close(net(x, level, Condition(x)), wanted)
import medldm.nets.build
"""
        + COMPLETE
    )


@pytest.mark.parametrize("dims", [2, 3])
def test_unet_is_monais(dims):
    from monai.networks.nets import DiffusionModelUNet as Whole

    ours, theirs = (fresh(kind(spatial_dims=dims, **UNET)) for kind in (DiffusionModelUNet, Whole))
    assert type(ours) is not type(theirs)
    theirs.load_state_dict(ours.state_dict())
    x, steps = randn(2, 2, *[8] * dims), torch.tensor([3.0, 500.0])
    assert torch.equal(ours(x, timesteps=steps), theirs(x, timesteps=steps))


@pytest.mark.parametrize("dims", [2, 3])
def test_autoencoder_is_monais(dims):
    from monai.networks.nets import AutoencoderKL as Whole

    ours, theirs = (fresh(kind(spatial_dims=dims, **CODE)) for kind in (AutoencoderKL, Whole))
    theirs.load_state_dict(ours.state_dict())
    x = randn(1, 1, *[8] * dims)
    assert torch.equal(ours.decode(ours.encode(x)[0]), theirs.decode(theirs.encode(x)[0]))


def test_every_class_comes_from_files_alone():
    for kind in (DiffusionModelUNet, AutoencoderKL, AutoencoderKlMaisi, PatchDiscriminator):
        assert kind.__module__.startswith(f"{monai_files.__name__}.")
    assert AutoencoderKlMaisi.__module__.endswith(MAISI.removeprefix("monai"))


def test_a_class_that_cannot_be_loaded_alone_comes_with_monai(monkeypatch):
    monkeypatch.setattr(monai_files, "_here", lambda name: f"medldm.nowhere.{name}")
    whole = monai_files.load("monai.networks.nets.autoencoderkl.AutoencoderKL")
    assert whole.__module__ == "monai.networks.nets.autoencoderkl"


def test_unknown_class_is_refused():
    with pytest.raises(AttributeError):
        monai_files.load("monai.networks.nets.autoencoderkl.Nothing")
