"""The scans of a training: read, turned, scaled to the model's range; in memory, or mapped from a cache on disk."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple, cast, overload

import numpy as np
import torch
from torch import Tensor

from medldm.conditions import MAPS, ConditionTable, LabelMapCondition, check_conditions
from medldm.errors import EmptyInput, InputError, RunError
from medldm.io import read
from medldm.io.array_cache import ArrayCache, cache_key
from medldm.io.manifest import Row, load_manifest, rows_of_folder, split_rows
from medldm.pack import AutoencoderPack, ModelPack, SeenTable
from medldm.recipe import Recipe, Source
from medldm.space import ModelSpace, map_condition
from medldm.stage_tables import GeneratorStage, ReflowStage
from medldm.volume import Volume, refused_map

TREATMENT = {"dims", "axcodes", "intensity", "modality", "spacing_range"}  # what of a pack decides on its scans
SAME_SPACING = 0.01  # sizes that differ by less are the same grid
READING = 1  # to be raised when readers or scaling give other voxels from the same file


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


def _rows(recipe: Recipe, source: Source, data: Path, part: str) -> list[Row]:
    """Patients are drawn by the source, not by the recipe: what goes on from a training holds out the same ones."""
    folder = data / source.folder
    if source.index is None:
        rows = rows_of_folder(folder, dataset=source.folder)
        said = {name: word for name, word in source.conditions.items() if "{" not in word}
        rows = [replace(row, conditions=said) for row in rows]
    else:
        rows = load_manifest(
            folder / source.index,
            root=folder,
            file_pattern=source.file,
            mask_pattern=source.mask,
            patient=source.patient,
            dataset=source.folder,
            conditions=source.conditions,
        )
    train, validation = ([row for row in rows if row.split in names] for names in (("train", ""), ("validation",)))
    if not validation:
        train, validation = split_rows(train, recipe.validation_fraction, seed=recipe.seed)
    return train if part == "train" else validation


def _load(row: Row, pack: ModelPack, source: Source, name: str, root: Path) -> Scan:
    volume = read(row.path, row.series or None, select=row.select)
    if volume.quantity:
        raise refused_map(row.path.name, volume.quantity)
    if pack.dims == 2 and volume.array.shape[2] != 1:
        raise InputError(row.path.name, f"{volume.array.shape[2]} slices", "a single image for a 2D model")
    _check_is_as_told(volume, pack, row.path.name, finer=source.resample)
    space, organ = ModelSpace.of(pack, volume), None
    turned, mask = space.turned(volume), None
    if row.mask is not None:
        mask = _on_grid(row.mask, pack, turned)
    maps = {key: (file.name, _on_grid(file, pack, turned)) for key, file in _maps(row, pack, root).items()}
    told = not _assumed(volume)
    if source.resample and told:
        grid = (*pack.spacing[: pack.dims], *turned.geometry.spacing[pack.dims :])
        if not np.allclose(turned.geometry.spacing, grid, rtol=SAME_SPACING, atol=0):
            turned, mask = turned.resample(grid), mask and mask.resample(grid, nearest=True)
            maps = {
                key: (file, other.resample(grid, nearest=isinstance(_table_of(pack, key), LabelMapCondition)))
                for key, (file, other) in maps.items()
            }
    if mask is not None:
        alone = turned.with_array(turned.array * (mask.array > 0))
        organ = space.fitted(alone).image(alone)
    facts = Facts(volume.modality, turned.geometry.spacing if told else None)
    said = {key: map_condition(_table_of(pack, key), other, pack, file) for key, (file, other) in maps.items()}
    image = space.fitted(turned).image(turned)
    return Scan(image, organ, source, name, row.patient_hash, facts, said | _words(row, pack))


def _on_grid(file: Path, pack: ModelPack, turned: Volume) -> Volume:
    """A mask or map of a scan, in the model's axes. Raises InputError for another grid than its scan's."""
    other = read(file)
    other = ModelSpace.of(pack, other).turned(other)
    if not other.geometry.isclose(turned.geometry):
        raise InputError(file.name, "another grid than its scan's", "the same affine and shape")
    return other


def _table_of(pack: ModelPack, name: str) -> ConditionTable:
    assert pack.synthesis is not None
    return pack.synthesis.conditions[name]


def _maps(row: Row, pack: ModelPack, root: Path) -> dict[str, Path]:
    """Files of the conditions that are scans."""
    found = {k: root / v for k, v in row.conditions.items() if v and isinstance(_table_of(pack, k), MAPS)}
    absent = [path.name for path in found.values() if not path.exists()]
    if absent:
        raise InputError(absent[0], "no such file", "the map that the recipe's source names")
    return found


def _words(row: Row, pack: ModelPack) -> dict[str, object]:
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


def seen_of(scans: Sequence[Scan], pack: AutoencoderPack) -> SeenTable:
    """What scans say of themselves, all together; block averages of them (`Source.coarsen`) are seen, too."""
    modalities, sizes, whole = Counter[str](), list[float](), list[tuple[float, ...]]()
    for scan in scans:
        modalities.update([scan.facts.modality] if scan.facts.modality else [])
        if scan.facts.spacing is not None:
            along = scan.facts.spacing[: pack.dims]
            sizes += [min(along) * min(scan.source.coarsen), max(along) * max(scan.source.coarsen)]
            whole += [scan.facts.spacing] * scan.source.synthesis
    patients = {(scan.source.folder, scan.patient) for scan in scans}
    table: dict[str, object] = {"scans": len(scans), "patients": len(patients)}
    table["modality"] = [modality for modality, _ in modalities.most_common()]
    if sizes:
        table["spacing_range"] = (min(sizes), max(sizes))
    if whole:
        table["spacing"] = np.median(whole, axis=0).round(4).tolist()
    return SeenTable.model_validate(table)


def load_scans(recipe: Recipe, data: Path, *, part: str = "train", cache: ArrayCache | None = None) -> Sequence[Scan]:
    """Read the scans of every source to train on, or (`part`) "validation".

    A table with the split "validation" says which those are; else they are drawn from the split "train", by patient.
    With a cache they stay on disk, and those that it holds already are not read again; the voxels are the same.
    Raises InputError where a table or file is missing, or nothing is left; OutputError where the cache cannot grow.
    """
    scans: list[Scan] = []
    entries: list[Entry] = []
    for source in recipe.sources:
        for number, row in enumerate(_rows(recipe, source, data, part), start=1):
            name = f"scan {number} of {source.folder} (patient {row.patient_hash})"
            try:
                if cache is None:
                    scans.append(_load(row, recipe.pack, source, name, data / source.folder))
                else:
                    entries.append(_entry(row, recipe, source, name, cache, data / source.folder))
            except InputError as failure:
                if source.index is None:
                    raise _pointing_to_check(failure) from None
                raise
    if not (scans or entries) and part == "train":
        raise EmptyInput(data.name, "no training scans", "scans of the split 'train'", "check the recipe's sources")
    if cache is not None:
        cache.contents.save()
    return scans if cache is None else CachedScans(cache, entries)


def _pointing_to_check(failure: InputError) -> InputError:
    """What is wrong with a scan of a folder that was never gone over."""
    do = f"{failure.do}; " if failure.do else ""
    do += "`medldm check` lists what cannot be used and writes a table (index) without it"
    return type(failure)(failure.where, failure.got, failure.expected, do)


def check_whole_images(recipe: Recipe, scans: Sequence[Scan]) -> None:
    """Raises InputError for a scan to learn synthesis from that is far smaller than what is to be synthesized.

    What is a little smaller is set in the middle of nothing.
    """
    table = recipe.pack.synthesis
    stages = [stage for stage in recipe.stages if isinstance(stage, GeneratorStage | ReflowStage) and stage.steps]
    if table is None or not stages:
        return
    wanted = table.shape[: recipe.pack.dims]
    for scan in scans:
        if scan.source.synthesis and any(2 * n < w for n, w in zip(scan.image.shape, wanted, strict=True)):
            got, expected = (" x ".join(map(str, size)) + " voxels" for size in (scan.image.shape, wanted))
            do = "make pack.synthesis.shape smaller, or write synthesis = false in its source"
            raise InputError(scan.name, got, f"about pack.synthesis.shape, {expected}", do)


@dataclass(frozen=True)
class Entry:
    """Where a scan lies in a cache: the keys of its arrays; and what is kept of it here.

    maps : keys of its conditions that are scans
    """

    image: str
    organ: str | None
    source: Source
    name: str
    patient: str
    facts: Facts
    conditions: dict[str, object]
    maps: dict[str, str]


class CachedScans(Sequence[Scan]):
    """Scans as memory maps, each opened when it is asked for: of all of them, memory holds what is in use.

    No file stays open, so there may be more scans than a process may open files. Raises RunError where an entry has
    gone or was cut short meanwhile.
    """

    def __init__(self, cache: ArrayCache, entries: Sequence[Entry]) -> None:
        self.cache, self.entries = cache, entries

    def __len__(self) -> int:
        return len(self.entries)

    @overload
    def __getitem__(self, index: int) -> Scan: ...
    @overload
    def __getitem__(self, index: slice) -> CachedScans: ...
    def __getitem__(self, index: int | slice) -> Scan | CachedScans:
        if isinstance(index, slice):
            return CachedScans(self.cache, self.entries[index])
        entry = self.entries[index]
        organ = None if entry.organ is None else self._map(entry.organ)
        maps = {name: self._map(key) for name, key in entry.maps.items()}
        said = entry.conditions | maps
        return Scan(self._map(entry.image), organ, entry.source, entry.name, entry.patient, entry.facts, said)

    def _map(self, key: str) -> Tensor:
        array = self.cache.open(key)
        if array is None:
            raise _gone(self.cache)
        return torch.from_numpy(array)


def _gone(cache: ArrayCache) -> RunError:
    do = "start again: it will be written anew"
    return RunError(str(cache.folder), "an entry that has gone, or is damaged", "a cache left alone", do)


def _entry(row: Row, recipe: Recipe, source: Source, name: str, cache: ArrayCache, root: Path) -> Entry:
    """A scan's place in the cache, where it is put if need be. Raises InputError, OutputError."""
    files = _maps(row, recipe.pack, root)
    content = _content(row, cache, list(files.values()))
    made = {
        "content": content,
        "reading": [READING, version("medldm"), row.series, row.select],
        "pack": recipe.pack.model_dump(mode="json", include=TREATMENT),
        "resample": recipe.pack.spacing if source.resample else None,
    }
    image, told = (cache_key({**made, "part": part}) for part in ("image", "facts"))
    organ = cache_key({**made, "part": "organ"}) if row.mask is not None else None
    tables = {key: _table_of(recipe.pack, key).model_dump(mode="json") for key in files}
    maps = {key: cache_key({**made, "part": key, "table": table}) for key, table in tables.items()}
    if not all(cache.holds(key) for key in (image, told, organ, *maps.values()) if key is not None):
        scan = _load(row, recipe.pack, source, name, root)
        if _content(row, cache, list(files.values())) != content:
            raise InputError(row.path.name, "a scan that was changed while it was read", "a data set left alone")
        cache.put(image, scan.image.numpy())
        cache.put(told, np.frombuffer(json.dumps(scan.facts).encode(), np.uint8))
        if organ is not None and scan.organ is not None:
            cache.put(organ, scan.organ.numpy())
        for key, place in maps.items():
            cache.put(place, cast(Tensor, scan.conditions[key]).numpy())
    kept = cache.open(told)
    if kept is None:
        raise _gone(cache)
    modality, spacing = json.loads(kept.tobytes())
    facts = Facts(modality, spacing and (spacing[0], spacing[1], spacing[2]))
    return Entry(image, organ, source, name, row.patient_hash, facts, _words(row, recipe.pack), maps)


def _content(row: Row, cache: ArrayCache, maps: Sequence[Path]) -> list[str]:
    """Hashes of the files that a scan is made of. Raises InputError."""
    try:
        return [cache.contents.of(path) for path in (row.path, row.mask, *maps) if path is not None]
    except OSError as failure:
        raise InputError(row.path.name, failure.strerror or "unreadable", "a file that can be read") from None
