"""One scan of a training: read, turned, scaled to the model's range; of a volume its slices, for a 2D model."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

from medldm.conditions import MAPS, ConditionTable, LabelMapCondition, check_conditions
from medldm.errors import InputError
from medldm.intensity import Intensity, Scaling
from medldm.io import read
from medldm.io.manifest import Row
from medldm.pack import AutoencoderPack, ModelPack
from medldm.recipe import Source
from medldm.space import ModelSpace, map_condition
from medldm.volume import Volume, refused_map

SAME_SPACING = 0.01  # sizes that differ by less are the same grid


class Facts(NamedTuple):
    """What a scan says of itself.

    modality : "" where it does not say
    spacing : voxel size along the model's axes as it is trained on (mm), None where it does not say
    """

    modality: str = ""
    spacing: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class Scan:
    """One scan in the model's range.

    image : (*S) float32; organ: the copy with all else set to 0, or None
    name : where it stands in the data, without a word about the patient
    patient : hash that tells patients apart
    conditions : as `medldm.nets.conditioner.Conditions.of` takes them; maps are tensors (*S)
    """

    image: Tensor
    organ: Tensor | None
    source: Source
    name: str
    patient: str = ""
    facts: Facts = Facts()
    conditions: dict[str, object] = field(default_factory=dict)


def load_scan(row: Row, pack: ModelPack, source: Source, name: str, root: Path) -> list[Scan]:
    """The scan of a row; of a volume for a model of single images, its slices."""
    volume = read(row.path, row.series or None, select=row.select)
    if volume.quantity:
        raise refused_map(row.path.name, volume.quantity)
    cut = pack.dims == 2 and source.slices is not None
    if pack.dims == 2 and volume.array.shape[2] != 1 and not cut:
        got, do = f"{volume.array.shape[2]} slices", "write slices = 1 in its source to train on each of them"
        raise InputError(row.path.name, got, "a single image for a 2D model", do)
    turned = _turned(volume, pack, cut=cut)
    _check_is_as_told(turned if cut else volume, pack, row.path.name, finer=source.resample)
    mask = None
    if row.mask is not None:
        mask = _on_grid(row.mask, pack, turned, cut=cut)
    maps = {key: (file.name, _on_grid(file, pack, turned, cut=cut)) for key, file in maps_of(row, pack, root).items()}
    told = not _assumed(volume)
    if source.resample and told:
        grid = (*pack.spacing[: pack.dims], *turned.geometry.spacing[pack.dims :])
        if not np.allclose(turned.geometry.spacing, grid, rtol=SAME_SPACING, atol=0):
            turned, mask = turned.resample(grid), mask and mask.resample(grid, nearest=True)
            maps = {
                key: (file, other.resample(grid, nearest=isinstance(table_of(pack, key), LabelMapCondition)))
                for key, (file, other) in maps.items()
            }
    alone = None if mask is None else turned.with_array(turned.array * (mask.array > 0))
    facts = Facts(volume.modality, turned.geometry.spacing if told else None)
    words = words_of(row, pack)
    intensity = Intensity.from_dict(pack.intensity.model_dump())
    scaling = intensity.fit(turned)  # one for all slices of a volume
    of_organ = None if alone is None else intensity.fit(alone)
    found = []
    for k in _slices(turned, source) if cut else [None]:

        def image(of: Volume, scaling: Scaling | None, k: int | None = k) -> Tensor:
            here = of if k is None else _slice(of, k)
            return replace(ModelSpace.of(pack, here), scaling=scaling).image(here)

        said = {
            key: map_condition(table_of(pack, key), other if k is None else _slice(other, k), pack, file)
            for key, (file, other) in maps.items()
        }
        organ = None if alone is None else image(alone, of_organ)
        own = name if k is None else f"{name}, slice {k + 1}"
        found.append(Scan(image(turned, scaling), organ, source, own, row.patient_hash, facts, said | words))
    return found


def _turned(volume: Volume, pack: ModelPack, *, cut: bool) -> Volume:
    """In the model's axes; what is `cut` into slices, in those of its images."""
    return volume.reorient(pack.axcodes or "LPS") if cut else ModelSpace.of(pack, volume).turned(volume)


def _slices(turned: Volume, source: Source) -> list[int]:
    """Which slices are images of their own: every so many-th one that holds anything."""
    return [
        k for k in range(0, turned.geometry.shape[2], source.slices or 1) if np.ptp(turned.array[:, :, k]) > 0
    ]  # blank ones are the padding of a volume


def _slice(turned: Volume, k: int) -> Volume:
    return turned.crop((0, 0, k), (*turned.geometry.shape[:2], k + 1))


def _on_grid(file: Path, pack: ModelPack, turned: Volume, *, cut: bool) -> Volume:
    """A mask or map of a scan, in the model's axes. Raises InputError for another grid than its scan's."""
    other = _turned(read(file), pack, cut=cut)
    if not other.geometry.isclose(turned.geometry):
        raise InputError(file.name, "another grid than its scan's", "the same affine and shape")
    return other


def table_of(pack: ModelPack, name: str) -> ConditionTable:
    assert pack.synthesis is not None
    return pack.synthesis.conditions[name]


def maps_of(row: Row, pack: ModelPack, root: Path) -> dict[str, Path]:
    """Files of the conditions that are scans."""
    found = {k: root / v for k, v in row.conditions.items() if v and isinstance(table_of(pack, k), MAPS)}
    absent = [path.name for path in found.values() if not path.exists()]
    if absent:
        raise InputError(absent[0], "no such file", "the map that the recipe's source names")
    return found


def words_of(row: Row, pack: ModelPack) -> dict[str, object]:
    """The other conditions, checked. Raises InputError."""
    tables = {} if pack.synthesis is None else pack.synthesis.conditions
    words = {k: v for k, v in row.conditions.items() if not isinstance(tables[k], MAPS)}
    return check_conditions(tables, words, row.path.name)


def _assumed(volume: Volume) -> bool:
    """Whether a scan does not say its voxel size."""
    return any(step.get("spacing_assumed") for step in volume.history)


def _check_is_as_told(volume: Volume, pack: AutoencoderPack, where: str, *, finer: bool) -> None:
    """Raises InputError for a scan of another modality or voxel size than the recipe says; `finer` ones may pass.

    The model would vouch for what it never saw. What a scan does not say (the modality of a NIfTI file, the size of a
    picture's pixels) is not asked of it.
    """
    if volume.modality and volume.modality not in pack.modality:
        got, expected = f"modality {volume.modality}", f"the recipe's {', '.join(pack.modality)}"
        raise InputError(where, got, expected, "leave it out, or add it to pack.modality")
    low, high = pack.spacing_range
    spacing = np.round(volume.geometry.spacing[: pack.dims], 3)
    if not _assumed(volume) and not all((finer or low <= s) and s <= high for s in spacing):
        got = f"voxels of {' x '.join(f'{s:.4g}' for s in spacing)} mm"
        expected = f"the recipe's {low:g} to {high:g} mm"
        way = "widen pack.spacing_range" if spacing.max() > high else "write resample = true in its source"
        raise InputError(where, got, expected, f"leave it out, or {way}")
