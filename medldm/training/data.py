"""Training data: scans scaled and held in memory, batches that depend on (seed, step) alone.

A batch is a pure function of its step, so a resumed training sees the batches that the interrupted one
would have seen, without any state of loaders to save.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from medldm.errors import EmptyInput, InputError
from medldm.intensity import Intensity
from medldm.io import read
from medldm.manifest import load_manifest, rows_of_folder, split_rows
from medldm.nets.conditioning import Measurement
from medldm.nets.patches import pad_to_multiple
from medldm.operators.block_average import BlockAverage
from medldm.operators.noise import noise_model
from medldm.recipe import Recipe, Source, StageTable
from medldm.volume import Volume

ZOOM_SHARE = 0.25
MASK_AFTER_NOISE_SHARE = 0.3


@dataclass(frozen=True)
class Scan:
    """One scan, scaled to the model's range: image (*S) float32; organ: the copy with all else set to 0."""

    image: Tensor
    organ: Tensor | None
    source: Source


def _scaled(volume: Volume, recipe: Recipe) -> Tensor:
    scaling = Intensity.from_dict(recipe.intensity.model_dump()).fit(volume)
    array = torch.from_numpy(np.ascontiguousarray(scaling.forward(volume.array), dtype=np.float32))
    return array[..., 0] if recipe.dims == 2 else array


def load_scans(recipe: Recipe, data: Path, *, part: str = "train") -> list[Scan]:
    """Read the scans of every source to train on, or (`part`) "validation".

    A table with the split "validation" says which those are; else they are drawn from the split "train", by patient.
    Raises InputError where a table or file is missing, or nothing is left.
    """
    scans: list[Scan] = []
    for source in recipe.sources:
        folder = data / source.folder
        if source.index is None:
            rows = rows_of_folder(folder, dataset=recipe.name)
        else:
            rows = load_manifest(
                folder / source.index,
                root=folder,
                file_pattern=source.file,
                mask_pattern=source.mask,
                patient=source.patient,
                dataset=recipe.name,
            )
        train, validation = ([row for row in rows if row.split in names] for names in (("train", ""), ("validation",)))
        if not validation:
            train, validation = split_rows(train, recipe.validation_fraction, seed=recipe.seed)
        for row in train if part == "train" else validation:
            volume = read(row.path, row.series or None, select=row.select)
            if recipe.dims == 3 and recipe.axcodes:
                volume = volume.reorient(recipe.axcodes)
            if recipe.dims == 2 and volume.array.shape[2] != 1:
                raise InputError(row.path.name, f"{volume.array.shape[2]} slices", "a single image for a 2D model")
            organ = None
            if row.mask is not None:
                mask = read(row.mask)
                mask = mask.reorient(recipe.axcodes) if recipe.axcodes else mask
                if not mask.geometry.isclose(volume.geometry):
                    raise InputError(row.mask.name, "another grid than its scan's", "the same affine and shape")
                organ = _scaled(volume.with_array(volume.array * (mask.array > 0)), recipe)
            scans.append(Scan(_scaled(volume, recipe), organ, source))
    if not scans and part == "train":
        raise EmptyInput(data.name, "no training scans", "scans of the split 'train'", "check the recipe's sources")
    return scans


class Batches:
    """Batches of a stage, `restoration(step)` of degraded crops and `whole(step)` of whole images."""

    def __init__(
        self,
        scans: list[Scan],
        recipe: Recipe,
        stage: StageTable,
        *,
        salt: int,
        all_flips: bool,
        super_resolution_share: float,
    ) -> None:
        """`salt` tells stages and ranks apart; `all_flips`: any flip and transposition, else left-right alone."""
        self.scans, self.recipe, self.stage = scans, recipe, stage
        self.salt, self.all_flips = salt, all_flips
        self.super_resolution_share = super_resolution_share
        self.noise = noise_model(recipe.degradation.noise)
        sources = [scan.source for scan in scans]
        self.weights = [s.weight / sources.count(s) for s in sources]
        self.synthesis = [scan for scan in scans if scan.source.synthesis]
        axis = 0 if recipe.dims == 2 else next(a for a, c in enumerate(recipe.axcodes or "RAS") if c in "LR")
        self.flip_axes = tuple(range(recipe.dims)) if all_flips else (axis,)

    def _rngs(self, step: int) -> tuple[np.random.Generator, torch.Generator]:
        seed = np.random.SeedSequence([self.recipe.seed, self.salt, step])
        return np.random.default_rng(seed), torch.Generator().manual_seed(int(seed.generate_state(1)[0]))

    def _crop(self, rng: np.random.Generator) -> tuple[Tensor, bool]:
        """A crop (*crop) and whether it is of an organ copy."""
        scan = self.scans[rng.choice(len(self.scans), p=np.array(self.weights) / sum(self.weights))]
        stripped = scan.organ is not None and rng.random() < 0.5
        image = scan.organ if stripped and scan.organ is not None else scan.image
        size = self.stage.crop
        coarse = int(rng.choice(scan.source.coarsen))
        if coarse > 1:
            image = F.avg_pool2d(image[None, None], coarse)[0, 0]
        zoom = float(rng.uniform(1, self.recipe.augment_zoom)) if rng.random() < ZOOM_SHARE else 1.0
        window = [math.ceil(s / zoom) for s in size]
        for _ in range(4):  # mostly tissue: empty crops teach little
            start = [int(rng.integers(0, max(n - w, 0) + 1)) for n, w in zip(image.shape, window, strict=True)]
            crop = image[tuple(slice(a, a + w) for a, w in zip(start, window, strict=True))]
            if float((crop > 0.1).float().mean()) > 0.2:
                break
        short = [max(w - n, 0) for n, w in zip(crop.shape, window, strict=True)]
        crop = F.pad(crop, [n for s in reversed(short) for n in (0, s)])
        if zoom > 1:
            mode = "bicubic" if self.recipe.dims == 2 else "trilinear"
            crop = F.interpolate(crop[None, None], size=tuple(size), mode=mode, align_corners=False)[0, 0]
        crop = crop.flip([a for a in self.flip_axes if rng.random() < 0.5])
        if self.all_flips and len(set(size)) == 1:
            crop = crop.permute(*rng.permutation(self.recipe.dims).tolist())
        gain = self.recipe.augment_gain
        scale = float(np.exp(rng.uniform(-1, 1) * np.log1p(gain)))
        return crop.clamp_min(0) * scale if self.recipe.degradation.noise == "rician" else crop * scale, stripped

    def images(self, step: int) -> Tensor:
        """Clean crops (B, 1, *crop)."""
        rng, _ = self._rngs(step)
        return torch.stack([self._crop(rng)[0] for _ in range(self.stage.batch_size)])[:, None]

    def whole(self, step: int, count: int) -> Tensor:
        """Whole images (count, 1, *S), padded to the networks' multiple, flipped left-right at random."""
        rng, _ = self._rngs(step)
        size = self.recipe.synthesis_shape[: self.recipe.dims]
        axis = 0 if self.recipe.dims == 2 else self.flip_axes[0]
        images = []
        for _ in range(count):
            scan = self.synthesis[int(rng.integers(len(self.synthesis)))]
            image = scan.image[tuple(slice(0, s) for s in size)]
            images.append(image.flip([axis]) if rng.random() < 0.5 else image)
        return pad_to_multiple(torch.stack(images)[:, None], self.recipe.multiple)[0]

    def restoration(self, step: int) -> tuple[Tensor, Measurement]:
        """Clean crops (B, 1, *crop) and what was measured of them; one operator a batch, a noise level a crop."""
        rng, generator = self._rngs(step)
        crops = [self._crop(rng) for _ in range(self.stage.batch_size)]
        x = torch.stack([crop for crop, _ in crops])[:, None]
        table, dims = self.recipe.degradation, self.recipe.dims
        low, high = np.log(table.noise_std)
        noise_std = np.exp(rng.uniform(low, high, len(crops)))
        factor = [1] * dims
        if rng.random() < self.super_resolution_share:
            weights = table.factor_weights
            f = int(rng.choice(table.factors, p=None if weights is None else np.array(weights) / sum(weights)))
            factor = [f] * dims
            if table.through_plane:
                factor = [1] * dims
                factor[int(rng.integers(dims))] = f
            noise_std = np.where(rng.random(len(crops)) < 1 - table.noisy_share, 0.0, noise_std / 2)
        operator = BlockAverage((factor + [1])[:3] if dims == 2 else factor)  # type: ignore[arg-type]
        volume = x[..., None] if dims == 2 else x
        level = torch.from_numpy(noise_std).float()
        y = operator.forward(volume)
        y = self.noise.sample(y, level.view(-1, 1, 1, 1, 1), generator)
        image = operator.upsample(y)
        image = image[..., 0] if dims == 2 else image
        if max(factor) == 1:
            for index, (_, stripped) in enumerate(crops):
                if stripped and rng.random() < MASK_AFTER_NOISE_SHARE:
                    image[index] *= x[index] > 0
        return x, Measurement(image, level, torch.tensor([factor] * len(crops), dtype=torch.float32))
