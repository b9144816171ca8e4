"""The scans of a training: read, turned, scaled to the model's range."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from medldm.errors import EmptyInput, InputError
from medldm.intensity import Intensity
from medldm.io import read
from medldm.manifest import Row, load_manifest, rows_of_folder, split_rows
from medldm.recipe import CodeRecipe, Recipe, Source
from medldm.volume import Volume


@dataclass(frozen=True)
class Scan:
    """One scan in the model's range.

    image : (*S) float32; organ: the copy with all else set to 0, or None
    name : where it stands in the data, without a word about the patient
    """

    image: Tensor
    organ: Tensor | None
    source: Source
    name: str


def scaled(volume: Volume, recipe: CodeRecipe) -> Tensor:
    """(*S) float32 in the model's range; the volume already has the model's orientation."""
    scaling = Intensity.from_dict(recipe.intensity.model_dump()).fit(volume)
    array = torch.from_numpy(np.ascontiguousarray(scaling.forward(volume.array), dtype=np.float32))
    return array[..., 0] if recipe.dims == 2 else array


def _rows(recipe: Recipe, source: Source, data: Path, part: str) -> list[Row]:
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
    return train if part == "train" else validation


def _load(row: Row, recipe: Recipe, source: Source, name: str) -> Scan:
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
        organ = scaled(volume.with_array(volume.array * (mask.array > 0)), recipe)
    return Scan(scaled(volume, recipe), organ, source, name)


def load_scans(recipe: Recipe, data: Path, *, part: str = "train") -> list[Scan]:
    """Read the scans of every source to train on, or (`part`) "validation".

    A table with the split "validation" says which those are; else they are drawn from the split "train", by patient.
    Raises InputError where a table or file is missing, or nothing is left.
    """
    scans: list[Scan] = []
    for source in recipe.sources:
        for number, row in enumerate(_rows(recipe, source, data, part), start=1):
            name = f"scan {number} of {source.folder} (patient {row.patient_hash})"
            scans.append(_load(row, recipe, source, name))
    if not scans and part == "train":
        raise EmptyInput(data.name, "no training scans", "scans of the split 'train'", "check the recipe's sources")
    return scans
