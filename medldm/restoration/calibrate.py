"""What a model's errors are multiples of: scans that it was not trained on, spoiled, restored, and held against."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from medldm.calibration import Calibration
from medldm.conformal import LEAST_PATIENTS, Case, Intervals, Seen, fit_row
from medldm.errors import InputError
from medldm.model import Model
from medldm.operators.block_average import SuperResolve
from medldm.operators.measurement import noise_model
from medldm.operators.operator import Identity
from medldm.operators.problem import problem_of
from medldm.pack import ModelPack
from medldm.recipe import Source
from medldm.restoration.restore import restore
from medldm.restoration.settings import Progress, Settings
from medldm.space import centred_geometry
from medldm.training.calibrate import recipe_of
from medldm.training.data import load_scans
from medldm.training.scan import Scan
from medldm.volume import Volume

Array = NDArray[np.float32]

NOISE = (0.02, 0.05, 0.10, 0.20)  # shares of the range
MOST_PATIENTS = 64  # more say no more
MOST_VOXELS = 650_000  # of a scan that are restored: a slab of it does
MARGIN = 6  # voxels along a cut that are not scored: there the model saw less
SCORED = 100_000  # voxels of a patient: what counts is patients
SEED = 11


def calibrate_intervals(model: Model, scans: Sequence[Scan], progress: Progress | None = None) -> Intervals:
    """The multiples of the predicted deviation that hold the truth, for every case that the model restores.

    scans : that the model was not trained on; the first of each patient is taken
    Raises InputError for fewer than 8 patients.
    """
    first: dict[tuple[str, str], Array] = {}
    for number in range(len(scans)):
        scan = scans[number]
        if scan.source.synthesis:
            first.setdefault((scan.source.folder, scan.patient), scan.image.numpy())
    images = list(first.values())[:MOST_PATIENTS]
    if len(images) < LEAST_PATIENTS:
        got = f"whole images of {len(images)} patients that were kept aside"
        raise InputError("intervals", got, f"at least {LEAST_PATIENTS}", "name others: --sources")
    cases, rows = cases_of(model.pack), []
    for kind, case in enumerate(cases):
        seen = []
        for number, image in enumerate(images):
            if progress is not None:
                progress("intervals", kind * len(images) + number, len(cases) * len(images))
            rng = np.random.default_rng((SEED, kind, number))
            seen.append(observe(model, image, case, rng).some(SCORED, rng))
        rows.append(fit_row(case, seen))
    return Intervals(tuple(rows), model.weights_sha256, model.pack.intensity.zero_floor)


def calibrate_intervals_of(
    model: Model, folder: Path, data: Path, sources: Sequence[Source] | None, progress: Progress | None
) -> Calibration:
    """Find the intervals of a model that is there, and keep them in its folder beside what is there already.

    sources : of scans that the model was not trained on; None: the patients that its training kept aside
    Raises ModelError for a model that does not say who those were, InputError for data that cannot be read or too few
    patients, OutputError.
    """
    recipe = recipe_of(model, folder, sources)
    parts = ("validation",) if sources is None else ("train", "validation")
    scans = [scan for part in parts for scan in load_scans(recipe, data, part=part)]
    before = model.calibration or Calibration({}, 1.0, 0)
    found = dataclasses.replace(before, intervals=calibrate_intervals(model, scans, progress))
    found.save(folder)
    return found


def cases_of(pack: ModelPack) -> list[Case]:
    """What is tried of the problems of a pack: denoising at several levels, every factor without noise."""
    cases = []
    for name, table in pack.problems.items():
        problem = problem_of(name, table, f"model {pack.name}")
        low, high = problem.noise_std
        if isinstance(problem, SuperResolve):
            cases += [Case(name, float(factor), 0.0) for factor in sorted(problem.factors)]
        elif problem.operator_type is Identity:
            levels = [level for level in NOISE if low <= level <= high] or [float(np.sqrt(low * high))]
            cases += [Case(name, 1.0, level) for level in levels]
    return cases


def observe(model: Model, image: Array, case: Case, rng: np.random.Generator) -> Seen:
    """One scan in one case: spoiled, restored by `model`, and held against what it was.

    image : (*S) in the model's range
    """
    pack = model.pack
    deep = image[..., None] if pack.dims == 2 else image
    part, inside = _box(deep.shape, rng)
    truth = deep[tuple(part)]
    block = _block(pack, round(case.factor))
    truth = truth[tuple(slice(0, n // f * f) for n, f in zip(truth.shape, block, strict=True))]
    i, j, k = (n // f for n, f in zip(truth.shape, block, strict=True))
    a, b, c = block
    measured = torch.from_numpy(truth.reshape(i, a, j, b, k, c).mean(axis=(1, 3, 5), dtype=np.float32))
    if case.noise_std:
        generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
        measured = noise_model(pack.noise).sample(measured, torch.tensor(case.noise_std), generator)
    grid = centred_geometry(pack, truth.shape).zoom((1 / a, 1 / b, 1 / c))
    scan = Volume(measured.numpy(), grid, modality=pack.modality[0])
    settings = Settings(noise_std=case.noise_std, value_range=(0.0, 1.0), force=True)
    options = {} if case.factor == 1 else {"scale": block}
    result = restore(scan, model, case.task, options, settings)
    at = tuple(inside)
    return Seen.of(truth[at], result.volume.array[at], result.uncertainty.array[at])


def _block(pack: ModelPack, factor: int) -> tuple[int, int, int]:
    """Voxels a block: of an image in its plane; of a volume along superior-inferior, or else its last axis."""
    if pack.dims == 2:
        return (factor, factor, 1)
    axis = next((a for a, code in enumerate(pack.axcodes or "RAS") if code in "SI"), 2)
    i, j, k = (factor if a == axis else 1 for a in range(3))
    return (i, j, k)


def _box(shape: Sequence[int], rng: np.random.Generator) -> tuple[list[slice], list[slice]]:
    """A slab of a scan that is not too large, somewhere; and of that what is not next to a side where it was cut.

    Across the longest axis, so that it has as much air about the patient as the whole.
    """
    part, longest = [slice(0, n) for n in shape], int(np.argmax(shape))
    inside = list(part)
    n = shape[longest]
    size = min(n, max(MOST_VOXELS * n // int(np.prod(shape)), 4 * MARGIN))
    start = int(rng.integers(n - size + 1))
    part[longest] = slice(start, start + size)
    inside[longest] = slice(MARGIN if start else 0, size - (MARGIN if start + size < n else 0))
    return part, inside
