"""Family `monai-kl`: weights of MONAI's `AutoencoderKL`, 2D and 3D, and of the older MONAI Generative Models.

The configuration follows from the weights, but for the number of groups of the norms, which JSON beside them or the
user has to say. Images are taken to be in [0, 1], as in MONAI's tutorials.
"""

from __future__ import annotations

from typing import Any

from medldm.errors import ModelError
from medldm.nets import monai_files
from medldm.nets.imported.foreign_autoencoder import ForeignAutoencoder, checked
from medldm.nets.imported.monai_layout import MonaiTable, modern, read_layout
from medldm.nets.imported.weights import Reading, Weights

FAMILY = "monai-kl"
AutoencoderKL = monai_files.load("monai.networks.nets.autoencoderkl.AutoencoderKL")


def recognise(weights: Weights) -> bool:
    return {"encoder.blocks.0.conv.weight", "quant_conv_mu.conv.weight"} <= set(weights.state)


def read(weights: Weights) -> Reading:
    """Raises ModelError for weights of another layout, or where nothing says the number of groups."""
    state = modern(weights.state)
    now = Weights(weights.file, state, weights.beside, weights.config)
    dims, table = read_layout(now, "conv", FAMILY, {})
    return Reading(dims, table.model_dump(mode="json"), {f"network.{name}": value for name, value in state.items()})


def build(dims: int, config: dict[str, Any]) -> ForeignAutoencoder:
    """Raises ModelError for a configuration that is not this family's."""
    table = checked(MonaiTable, config, FAMILY)
    try:
        network = AutoencoderKL(spatial_dims=dims, channels=table.channels, **table.common_arguments())
    except ValueError as failure:
        raise ModelError(FAMILY, str(failure)[:80], "arguments that go together") from None
    return ForeignAutoencoder(dims, network, table, (table.factor,) * dims)
