"""The model folder ("pack"): `weights.safetensors`, `recipe.json`, `card.md`. Loading executes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from medldm.diffusion.denoiser import Denoiser
from medldm.errors import MedldmError, ModelError
from medldm.intensity import Intensity
from medldm.nets.build import build_autoencoder
from medldm.nets.conditioning import Measurement, condition_channels
from medldm.nets.head import MeasurementHead
from medldm.nets.unet import LatentUNet
from medldm.pack_files import damaged, read_pack, write_pack
from medldm.packs import holds_code_alone
from medldm.recipe import HeadTable, Recipe, parse_recipe
from medldm.volume import Volume


def _head(dims: int, table: HeadTable, *, gaps: bool = False) -> MeasurementHead:
    return MeasurementHead(
        dims, channels=table.channels, depth=table.depth, separable=table.separable, gaps=gaps
    )


class Networks(nn.Module):
    """The networks of a model: autoencoder, denoiser, head, and heads for coarse scans and for gaps."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        unet = recipe.unet
        self.autoencoder = build_autoencoder(recipe)
        self.denoiser = Denoiser(
            LatentUNet(
                recipe.dims,
                latent_channels=self.autoencoder.channels,
                condition_channels=condition_channels(self.autoencoder),
                channels=unet.channels,
                attention_levels=unet.attention_levels,
                num_res_blocks=unet.num_res_blocks,
            )
        )
        self.head = _head(recipe.dims, recipe.head)
        self.super_head = None if recipe.super_head is None else _head(recipe.dims, recipe.super_head)
        self.gap_head = None if recipe.gap_head is None else _head(recipe.dims, recipe.gap_head, gaps=True)

    def head_for(self, measurement: Measurement) -> MeasurementHead:
        """The head that was trained on such measurements."""
        if measurement.gap is not None and self.gap_head is not None:
            return self.gap_head
        if self.super_head is not None and bool((measurement.factor > 1).any()):
            return self.super_head
        return self.head


@dataclass(frozen=True, eq=False)
class Model:
    """Networks and everything that belongs to them: recipe (a validated table), card, hash of the weights."""

    name: str
    networks: Networks
    recipe: Recipe
    card: str
    weights_sha256: str

    @property
    def device(self) -> torch.device:
        return self.networks.autoencoder.latent_mean.device

    @property
    def intensity(self) -> Intensity:
        return Intensity.from_dict(self.recipe.intensity.model_dump())

    def fits(self, volume: Volume, factor: tuple[int, int, int] = (1, 1, 1)) -> list[str]:
        """Reasons for doubt about using the model on `volume`, refined by `factor` (none: an empty list).

        Raises ModelError where it cannot be used at all: a scan of several slices for a 2D model.
        """
        recipe, warnings = self.recipe, []
        if recipe.dims == 2 and volume.array.shape[2] != 1:
            raise ModelError(
                f"model {self.name}",
                f"a scan of {volume.array.shape[2]} slices",
                "a single image (this model is 2D)",
                "give one slice, or take a 3D model",
            )
        if volume.ai_processed:
            warnings.append("made or changed by a model already; the model was trained on scans as they were measured")
        if volume.modality and volume.modality not in recipe.modality:
            warnings.append(
                f"modality {volume.modality}; the model was trained on {', '.join(recipe.modality)}"
            )
        if recipe.intensity.kind == "window" and volume.unit != "HU":
            warnings.append(f"values in {volume.unit}; the model's window is in HU")
        low, high = recipe.spacing_range
        assumed = any(step.get("spacing_assumed") for step in volume.history)
        spacing = [s / f for s, f in zip(volume.geometry.spacing, factor, strict=True)][: recipe.dims]
        if not assumed and not all(low <= s <= high for s in spacing):
            text = " x ".join(f"{s:.3g}" for s in spacing)
            warnings.append(f"voxels of {text} mm; the model was trained on {low:g} to {high:g} mm")
        return warnings

    def save(self, folder: str | Path) -> Path:
        """Write the pack; networks are stored in half precision, buffers and an imported autoencoder in full."""
        full = {name for name, _ in self.networks.named_buffers()}
        if self.recipe.autoencoder.kind == "imported":
            full |= {name for name, _ in self.networks.named_parameters() if name.startswith("autoencoder.")}
        return write_pack(folder, self.recipe, self.networks.state_dict(), self.card, full=full)


def default_device(device: str | None = None) -> torch.device:
    """The device named, else a GPU where there is one, else the CPU. Raises ModelError."""
    try:
        chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as failure:
        reason = str(failure).splitlines()[0][:80]
        raise ModelError(f"device {device}", reason, "cpu, cuda or cuda:N", "see medldm doctor") from None
    return chosen


def load_model(name_or_folder: str | Path, device: str | None = None) -> Model:
    """Load a pack by name or folder.

    Raises ModelError for an unknown name (the nearest ones are named), a damaged folder or a bad device.
    """
    target, files = default_device(device), read_pack(name_or_folder)
    if holds_code_alone(files.table):
        do = "train one on it (docs/importing.md)"
        raise ModelError(files.where, "an autoencoder alone", "a model with a denoiser", do)
    try:
        recipe = parse_recipe(files.table, where=files.where)
        networks = Networks(recipe)
        networks.load_state_dict(files.weights)
    except (MedldmError, ValueError, RuntimeError) as failure:
        raise damaged(files.where, failure) from None
    return Model(
        recipe.name, networks.to(target).eval().requires_grad_(False), recipe, files.card, files.weights_sha256
    )
