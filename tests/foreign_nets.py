"""Small random autoencoders of other libraries, and ours built of their weights."""

import json

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL as DiffusersKL
from monai.networks.nets import AutoencoderKL as MonaiKL

from medldm import registry
from medldm.nets.imported.weights import open_weights
from medldm.training.importing import recognised

BAR = 1e-5
GROUPS = {"norm_num_groups": 4}


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def rand(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def random_weights(network, seed=0):
    """Every parameter its own: norms and biases as well, which begin as ones and zeros."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in network.named_parameters():
        drawn = torch.randn(parameter.shape, generator=generator)
        one = parameter.ndim == 1 and name.endswith("weight")
        parameter.data = one + 0.2 * drawn if parameter.ndim == 1 else 0.7 * drawn / parameter[0].numel() ** 0.5
    return network.eval()


def ours(path, config=None):
    """The autoencoder as it will be built of a pack."""
    weights = open_weights(path, config)
    family = registry.find("autoencoders", recognised(weights))
    reading = family.read(weights)
    autoencoder = family.build(reading.dims, json.loads(json.dumps(reading.config))).eval()
    missing, unexpected = autoencoder.load_state_dict(reading.state, strict=False)
    assert (set(missing), unexpected) == ({"latent_mean", "latent_std"}, [])
    return autoencoder


def diffusers_net(folder, *, safe=True, **arguments):
    count = len(arguments.setdefault("block_out_channels", (8, 16, 16)))
    wanted = {
        "in_channels": 1,
        "out_channels": 1,
        "down_block_types": ("DownEncoderBlock2D",) * count,
        "up_block_types": ("UpDecoderBlock2D",) * count,
        "norm_num_groups": 4,
        "latent_channels": 3,
    }
    network = random_weights(DiffusersKL(**(wanted | arguments)))
    network.save_pretrained(folder, safe_serialization=safe)
    return network


def largest(a, b):
    return (a - b).abs().max().item()


@torch.no_grad()
def assert_equals_diffusers(network, autoencoder, grey=1, size=(24, 32)):
    """Ours is columns x rows in [0, 1], theirs rows x columns in [-1, 1]."""
    x = rand(2, 1, *size)
    theirs = network.encode((2 * x - 1).mT.expand(-1, grey, -1, -1)).latent_dist
    mean, std = autoencoder.raw_encode(x)
    assert theirs.mean.std() > 0.05
    assert largest(mean.mT, theirs.mean) <= BAR
    assert largest(std.mT, theirs.std) <= BAR * max(theirs.std.max().item(), 1)
    z = randn(2, *mean.shape[1:], seed=1)
    decoded = network.decode(z.mT).sample.mean(1, keepdim=True)
    assert largest(autoencoder.raw_decode(z).mT * 2 - 1, decoded) <= BAR


def monai_net(dims, **arguments):
    wanted = {
        "spatial_dims": dims,
        "channels": (8, 16, 16),
        "attention_levels": (False, True, True),
        "num_res_blocks": (1, 1, 2),
        **GROUPS,
    }
    return random_weights(MonaiKL(**(wanted | arguments)))
