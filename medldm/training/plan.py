"""The stages of a training: their order, their batches, what each one trains."""

from __future__ import annotations

from collections.abc import Sequence

from medldm.errors import RecipeError
from medldm.io.array_cache import ArrayCache
from medldm.model import Networks
from medldm.recipe import Recipe, StageTable
from medldm.training.batches import Batches
from medldm.training.layout import channels_last
from medldm.training.scans import Scan
from medldm.training.stages import AutoencoderStage, DenoiserStage, GapHeadStage, HeadStage, Stage

STAGES = ("autoencoder", "denoiser", "head", "super_head", "gap_head")


def stage_batches(
    recipe: Recipe, scans: Sequence[Scan], name: str, table: StageTable, *, rank: int = 0, world: int = 1
) -> Batches:
    """The batches of a stage, or this process's share of them. Raises RecipeError where they cannot be shared."""
    if table.batch_size % world:
        raise RecipeError(f"stage_{name}.batch_size", str(table.batch_size), f"a multiple of {world} processes")
    return Batches(
        scans,
        recipe,
        table,
        salt=100 * STAGES.index(name),
        all_flips=name != "denoiser",
        super_resolution_share=recipe.super_resolution_share(name),
        rank=rank,
        world=world,
    )


def build_stage(name: str, networks: Networks, recipe: Recipe, cache: ArrayCache | None = None) -> Stage:
    """The stage with everything else frozen, laid out in memory for a fast training; `cache` keeps latents."""
    networks.requires_grad_(True)
    for part in (networks.autoencoder, networks.head, networks.super_head, networks.gap_head):
        if part is not None:
            channels_last(part, recipe.dims)
    if name == "autoencoder":
        return AutoencoderStage(networks, recipe.reconstruction, recipe.stage_autoencoder.steps)
    if name == "denoiser":
        return DenoiserStage(networks, cache)
    if name == "gap_head":
        return GapHeadStage(networks)
    head = networks.head if name == "head" else networks.super_head
    assert head is not None
    return HeadStage(networks, head)
