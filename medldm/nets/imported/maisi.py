"""Family `maisi`: the autoencoder of MONAI's MAISI (Guo et al. 2024), 3D.

Its own splitting of convolutions and its half precision save memory and change rounding alone; they are off. Images
are taken to be in [0, 1]: for CT -1000 to 1000 HU, as the published network was trained.
"""

from __future__ import annotations

from typing import Any

from medldm.errors import ModelError
from medldm.nets import monai_files
from medldm.nets.imported.foreign_autoencoder import ForeignAutoencoder, checked
from medldm.nets.imported.monai_layout import MonaiTable, read_layout
from medldm.nets.imported.weights import Reading, Weights

FAMILY = "maisi"
MAISI = "monai.apps.generation.maisi.networks.autoencoderkl_maisi"
AutoencoderKlMaisi = monai_files.load(f"{MAISI}.AutoencoderKlMaisi")
# of the published network; the weights do not say either
PUBLISHED = {"norm_num_groups": 32, "use_convtranspose": False}


def recognise(weights: Weights) -> bool:
    return {"encoder.blocks.0.conv.conv.weight", "quant_conv_mu.conv.weight"} <= set(weights.state)


def read(weights: Weights) -> Reading:
    """Raises ModelError for weights of another layout."""
    dims, table = read_layout(weights, "conv.conv", FAMILY, PUBLISHED)
    state = {f"network.{name}": value for name, value in weights.state.items()}
    return Reading(dims, table.model_dump(mode="json"), state)


def build(dims: int, config: dict[str, Any]) -> ForeignAutoencoder:
    """Raises ModelError for a configuration that is not this family's."""
    table = checked(MonaiTable, config, FAMILY)
    if dims != 3:
        raise ModelError(FAMILY, f"{dims} dimensions", "3")
    try:
        network = AutoencoderKlMaisi(
            spatial_dims=dims,
            num_channels=table.channels,
            num_splits=1,
            save_mem=False,
            **table.common_arguments(),
        )
    except ValueError as failure:
        raise ModelError(FAMILY, str(failure)[:80], "arguments that go together") from None
    return ForeignAutoencoder(dims, network, table, (table.factor,) * dims)
