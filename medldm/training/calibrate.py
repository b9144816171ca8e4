"""The end of a training: what its scans look like, so that the model can tell what is none of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medldm.appearance import DEEP_CELLS, Appearance, appearance_of
from medldm.calibration import Calibration
from medldm.errors import InputError, ModelError
from medldm.familiarity import LEAST_PATIENTS, Reference, fit_reference
from medldm.installed import TRAINING
from medldm.model import Model
from medldm.pack import ModelPack
from medldm.recipe import Recipe, Source, parse_recipe
from medldm.training.alteration import fit_alteration
from medldm.training.data import load_scans
from medldm.training.scan import Scan

Array = NDArray[np.float32]
Progress = Callable[[str, int, int], None]

MOST_SCANS = 600
LARGE = 95  # percentile of the scans' lengths that the pictures of volumes have room for
PARTS, CUT_AXES = (0.7, 0.95), 0.6  # share of an axis that a part has; how often an axis is cut, one of them always
FACTORS = (2, 4)  # of coarse copies
SEED = 7


def calibrate(
    parts: Sequence[Sequence[Scan]], pack: ModelPack, progress: Progress | None = None, *, thorough: bool = True
) -> Calibration | None:
    """Of whole scans, each as it is and spoiled as a scan to be restored may be: noisy, coarse, cut off.

    parts : scans that were trained on, scans held out
    thorough : also learns what altered images look like, of a model of single images; a minute or two
    No weights are looked at, so that scans which were trained on serve as well. None for fewer than 20 patients.
    Sources that hold parts of images (`synthesis = false`) do not count.
    """
    chosen = _chosen(parts)
    numbers = {
        patient: number for number, patient in enumerate(dict.fromkeys(_patient(parts[p][n]) for p, n in chosen))
    }
    if len(numbers) < LEAST_PATIENTS:
        return None
    extents = [_extent(parts[part][number], pack) for part, number in chosen]
    cell = float(np.round(np.percentile(extents, LARGE) / DEEP_CELLS, 3))
    absolute = pack.intensity.kind == "window"
    levels = (0.0, 1.0) if absolute else None  # scans are in the model's range here
    looks: dict[str, list[tuple[Appearance, int]]] = {"whole": [], "part": []}
    for done, (part, number) in enumerate(chosen):
        scan = parts[part][number]
        if progress is not None:
            progress("calibration", done, len(chosen))
        for image in (scan.image, scan.organ):
            if image is None:
                continue
            spacing = np.array(_spacing(scan, pack))
            array = image.numpy() if pack.dims == 3 else image.numpy()[..., None]
            rng = np.random.default_rng((SEED, done))
            for kind, copy, size in _copies(array, spacing, pack, rng):
                look = appearance_of(copy, size.tolist(), pack.dims, cell, levels)
                looks[kind].append((look, numbers[_patient(scan)]))
    alteration, odds = None, dict.fromkeys(looks)
    if thorough and pack.dims == 2:
        every = [look for found in looks.values() for look in found]
        pictures, whose = np.stack([look.picture for look, _ in every]), np.array([n for _, n in every])

        def told(done: int, rounds: int) -> None:
            if progress is not None:
                progress("calibration, altered images", done, rounds)

        alteration, every_odds = fit_alteration(pictures, whose, told, parts=not absolute)
        count = len(looks["whole"])
        odds = {"whole": every_odds[:count], "part": every_odds[count:]}
    references = {kind: _reference(found, odds[kind]) for kind, found in looks.items()}
    return Calibration(references, cell, len(numbers), absolute=absolute, alteration=alteration)


def calibrate_model(
    model: Model, folder: Path, data: Path, sources: Sequence[Source] | None, progress: Progress | None
) -> Calibration:
    """Calibrate a model that is there, and keep it in its folder.

    sources : of the scans; None: those that the model was trained on
    Raises ModelError for a model that does not say what those were, InputError for data that cannot be read or too few
    patients, OutputError.
    """
    recipe = recipe_of(model, folder, sources)
    parts = [load_scans(recipe, data), load_scans(recipe, data, part="validation")]
    found = calibrate(parts, model.pack, progress)
    if found is None:
        patients = len({_patient(scan) for scans in parts for scan in scans if scan.source.synthesis})
        raise InputError(data.name, f"whole images of {patients} patients", f"at least {LEAST_PATIENTS}")
    if model.calibration is not None:
        found = replace(found, intervals=model.calibration.intervals)
    found.save(folder)
    return found


def recipe_of(model: Model, folder: Path, sources: Sequence[Source] | None) -> Recipe:
    """What of a training says which scans there are, and who is held out."""
    pack, where = model.pack, f"model {model.name}"
    try:
        told = json.loads((folder / TRAINING).read_text(encoding="utf-8"))
        found = told["source"] if sources is None else [source.model_dump(mode="json") for source in sources]
        kept = {key: told[key] for key in ("seed", "validation_fraction")}
    except (OSError, ValueError, KeyError):
        if sources is None:
            raise ModelError(where, f"no {TRAINING} that can be read", "one", "say which scans: --sources") from None
        found, kept = [source.model_dump(mode="json") for source in sources], {}
    crop = [pack.multiple[axis] * 8 for axis in range(pack.dims)]
    idle = {"train": "autoencoder", "steps": 0, "batch_size": 1, "crop": crop, "lr": 1e-3}
    plain = [source | {"conditions": {}} for source in found]
    table = pack.model_dump(mode="json", exclude={"seen"})
    return parse_recipe({**kept, "pack": table, "source": plain, "stage": [idle]}, where=where)


def _reference(found: Sequence[tuple[Appearance, int]], odds: NDArray[np.float64] | None) -> Reference:
    pictures = np.stack([look.picture for look, _ in found])
    textures, whose = np.stack([look.texture for look, _ in found]), np.array([n for _, n in found])
    return fit_reference(pictures, textures, whose, odds)


def _extent(scan: Scan, pack: ModelPack) -> float:
    """Of a scan along its longest axis, in mm."""
    return max(n * mm for n, mm in zip(scan.image.shape, _spacing(scan, pack), strict=False))


def _chosen(parts: Sequence[Sequence[Scan]]) -> list[tuple[int, int]]:
    """(part, number) of those of whole images: at most so many, the first of each patient before the second of any."""
    turn: dict[str, int] = {}
    ranked = []
    for part, scans in enumerate(parts):
        for number in range(len(scans)):
            scan = scans[number]
            if scan.source.synthesis:
                rank = turn[_patient(scan)] = turn.get(_patient(scan), -1) + 1
                ranked.append((rank, part, number))
    return [(part, number) for _, part, number in sorted(ranked)[:MOST_SCANS]]


def _patient(scan: Scan) -> str:
    return f"{scan.source.folder}/{scan.patient}"


def _spacing(scan: Scan, pack: ModelPack) -> tuple[float, float, float]:
    return scan.facts.spacing or pack.spacing


def _copies(
    array: Array, spacing: NDArray[np.float64], pack: ModelPack, rng: np.random.Generator
) -> Iterator[tuple[str, Array, NDArray[np.float64]]]:
    """(kind, voxels, mm an axis): as it is, noisy, coarse, a part, a noisy part."""
    yield "whole", array, spacing
    yield "whole", _noisy(array, pack, rng), spacing
    yield "whole", *_coarse(array, spacing, pack, rng)
    part = _part(array, pack.dims, rng)
    yield "part", part, spacing
    yield "part", _noisy(part, pack, rng), spacing


def _noisy(array: Array, pack: ModelPack, rng: np.random.Generator) -> Array:
    """With noise as strong as any that the pack was trained on, every order of magnitude alike."""
    levels = [table.noise_std for table in pack.problems.values()] or [(0.005, 0.25)]
    low, high = min(least for least, _ in levels), max(most for _, most in levels)
    std = np.float32(np.exp(rng.uniform(np.log(low), np.log(high))))
    real = array + std * rng.standard_normal(array.shape, dtype=np.float32)
    if pack.noise == "gaussian":
        return np.asarray(real)
    return np.asarray(np.hypot(real, std * rng.standard_normal(array.shape, dtype=np.float32)))


def _coarse(
    array: Array, spacing: NDArray[np.float64], pack: ModelPack, rng: np.random.Generator
) -> tuple[Array, NDArray[np.float64]]:
    """Means over blocks: of a single image both ways, of a volume along one axis."""
    factor, axis = int(rng.choice(FACTORS)), int(rng.integers(3))
    block = [factor, factor, 1] if pack.dims == 2 else [factor if a == axis else 1 for a in range(3)]
    block = [min(b, n) for b, n in zip(block, array.shape, strict=True)]
    i, j, k = (n // b for n, b in zip(array.shape, block, strict=True))
    a, b, c = block
    within = array[: i * a, : j * b, : k * c].reshape(i, a, j, b, k, c)
    return within.mean(axis=(1, 3, 5)), spacing * block


def _part(array: Array, dims: int, rng: np.random.Generator) -> Array:
    cut = rng.random(dims) < CUT_AXES
    cut[rng.integers(dims)] = True
    shares = [*np.where(cut, rng.uniform(*PARTS, dims), 1.0), 1.0][:3]
    sizes = [max(1, int(n * share)) for n, share in zip(array.shape, shares, strict=True)]
    starts = [int(rng.integers(n - size + 1)) for n, size in zip(array.shape, sizes, strict=True)]
    return array[tuple(slice(start, start + size) for start, size in zip(starts, sizes, strict=True))]
