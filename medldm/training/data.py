"""The scans of a training, in memory or mapped from a cache on disk; who of them is held out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import cast, overload

import numpy as np
import torch
from torch import Tensor

from medldm.errors import EmptyInput, InputError, RunError
from medldm.io.array_cache import ArrayCache, cache_key
from medldm.io.manifest import Row, load_manifest, rows_of_folder, split_rows
from medldm.pack import SeenTable
from medldm.recipe import Recipe, Source
from medldm.stage_tables import GeneratorStage, TrajectoryStage
from medldm.training.scan import Facts, Scan, load_scan, maps_of, table_of, words_of

TREATMENT = {"dims", "axcodes", "intensity", "modality", "spacing_range"}  # what of a pack decides on its scans
READING = 3  # to be raised when readers or scaling give other voxels from the same file


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


def seen_of(scans: Sequence[Scan], recipe: Recipe) -> SeenTable:
    """What scans say of themselves, all together; block averages of them (`Source.coarsen`) and crops that are made
    larger (`Recipe.augment_zoom`) are seen, too."""
    modalities, sizes, whole = Counter[str](), list[float](), list[tuple[float, ...]]()
    for scan in scans:
        modalities.update([scan.facts.modality] if scan.facts.modality else [])
        if scan.facts.spacing is not None:
            along = scan.facts.spacing[: recipe.pack.dims]
            finest = min(along) * min(scan.source.coarsen) / recipe.augment_zoom
            sizes += [finest, max(along) * max(scan.source.coarsen)]
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
                    scans += load_scan(row, recipe.pack, source, name, data / source.folder)
                else:
                    entries += _entries(row, recipe, source, name, cache, data / source.folder)
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
    do += "`medldm check` lists what cannot be used, a recipe of `medldm plan` is without it"
    return type(failure)(failure.where, failure.got, failure.expected, do)


def check_whole_images(recipe: Recipe, scans: Sequence[Scan]) -> None:
    """Raises InputError for a scan to learn synthesis from that is far smaller than what is to be synthesized.

    What is a little smaller is set in the middle of nothing.
    """
    table = recipe.pack.synthesis
    stages = [stage for stage in recipe.stages if isinstance(stage, GeneratorStage | TrajectoryStage) and stage.steps]
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


def _entries(row: Row, recipe: Recipe, source: Source, name: str, cache: ArrayCache, root: Path) -> list[Entry]:
    """Where a row's scan, or each of its slices, lies in the cache; put there if need be. Raises InputError,
    OutputError."""
    files = maps_of(row, recipe.pack, root)
    content = _content(row, cache, list(files.values()))
    made = {
        "content": content,
        "reading": [READING, version("medldm"), row.series, row.select],
        "pack": recipe.pack.model_dump(mode="json", include=TREATMENT),
        "resample": recipe.pack.spacing if source.resample else None,
        "slices": source.slices,
    }
    tables = {key: table_of(recipe.pack, key).model_dump(mode="json") for key in files}
    words, told = words_of(row, recipe.pack), cache_key({**made, "part": "facts"})

    def entry(number: int, own: str, facts: Facts) -> Entry:
        """Of the row's so many-th scan."""
        image, organ = (cache_key({**made, "part": part, "number": number}) for part in ("image", "organ"))
        maps = {k: cache_key({**made, "part": k, "table": table, "number": number}) for k, table in tables.items()}
        kept = organ if row.mask is not None else None
        return Entry(image, kept, source, own, row.patient_hash, facts, words, maps)

    if (known := cache.open(told)) is not None:
        modality, spacing, names = json.loads(known.tobytes())
        facts = Facts(modality, spacing and (spacing[0], spacing[1], spacing[2]))
        found = [entry(number, name + more, facts) for number, more in enumerate(names)]
        keys = [key for one in found for key in (one.image, one.organ, *one.maps.values()) if key is not None]
        if all(cache.holds(key) for key in keys):
            return found
    scans = load_scan(row, recipe.pack, source, name, root)
    if _content(row, cache, list(files.values())) != content:
        raise InputError(row.path.name, "a scan that was changed while it was read", "a data set left alone")
    found = [entry(number, scan.name, scan.facts) for number, scan in enumerate(scans)]
    for scan, one in zip(scans, found, strict=True):
        cache.put(one.image, scan.image.numpy())
        if one.organ is not None and scan.organ is not None:
            cache.put(one.organ, scan.organ.numpy())
        for key, place in one.maps.items():
            cache.put(place, cast(Tensor, scan.conditions[key]).numpy())
    names = [scan.name.removeprefix(name) for scan in scans]
    facts = scans[0].facts if scans else Facts()
    cache.put(told, np.frombuffer(json.dumps([*facts, names]).encode(), np.uint8))
    return found


def _content(row: Row, cache: ArrayCache, maps: Sequence[Path]) -> list[str]:
    """Hashes of the files that a scan is made of. Raises InputError."""
    try:
        return [cache.contents.of(path) for path in (row.path, row.mask, *maps) if path is not None]
    except OSError as failure:
        raise InputError(row.path.name, failure.strerror or "unreadable", "a file that can be read") from None
