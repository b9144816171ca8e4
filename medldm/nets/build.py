"""From a pack's table to an autoencoder."""

from __future__ import annotations

from medldm import registry
from medldm.net_tables import CodebookTable, ImportedTable, LevelsTable, PCATable
from medldm.nets.autoencoder import Autoencoder
from medldm.nets.pca_autoencoder import PCAAutoencoder
from medldm.nets.quantizers import Codebook, FiniteLevels, Quantizer
from medldm.pack import AutoencoderPack


def build_autoencoder(pack: AutoencoderPack) -> Autoencoder:
    """The autoencoder of a pack, with fresh weights. Raises InputError for a family that is not installed."""
    table, dims = pack.autoencoder, pack.dims
    if isinstance(table, ImportedTable):
        imported: Autoencoder = registry.find("autoencoders", table.family).build(dims, table.config)
        return imported
    quantizer = _quantizer(table.quantizer, table.channels)
    if isinstance(table, PCATable):
        return PCAAutoencoder(
            dims,
            factor=table.factors(dims),
            channels=table.channels,
            width=table.width,
            encoder_depth=table.encoder_depth,
            decoder_depth=table.decoder_depth,
            noise_std=table.noise_std,
            learned_std=table.learned_std,
            white_branches=table.white_branches,
            quantizer=quantizer,
        )
    from medldm.nets.monai_autoencoder import MonaiAutoencoder  # most packs do without MONAI's

    return MonaiAutoencoder(
        dims,
        channels=table.channels,
        widths=table.widths,
        num_res_blocks=table.num_res_blocks,
        norm_groups=table.norm_groups,
        middle_attention=table.middle_attention,
        quantizer=quantizer,
    )


def _quantizer(table: LevelsTable | CodebookTable | None, channels: int) -> Quantizer | None:
    if table is None:
        return None
    if isinstance(table, LevelsTable):
        return FiniteLevels(table.levels)
    return Codebook(
        channels,
        table.size,
        decay=table.decay,
        commitment=table.commitment,
        restart_below=table.restart_below,
    )
