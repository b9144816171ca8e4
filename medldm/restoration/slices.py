"""A model of single images on a volume: slice by slice, with one range and one noise level for all of them.

Each slice comes out as it would alone, given that range and that level. What was found anew in each slice would jump
from one to the next, and be seen as stripes in the other planes (docs/decisions/0018-slices.md).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medldm.calibration import CUT
from medldm.errors import InputError
from medldm.geometry import Geometry
from medldm.model import Model
from medldm.operators.problem import Problem, untrained
from medldm.pack import ModelPack
from medldm.restoration.checks import doubts, is_forced, residual_checks
from medldm.restoration.intake import (
    believed,
    far_voxels,
    fill_near,
    noise_in,
    said_of_far,
    said_of_noise,
    said_of_range,
)
from medldm.restoration.memory import bytes_of
from medldm.restoration.noise_level import NoiseEstimate, estimate_over_slices
from medldm.restoration.result import Restoration
from medldm.restoration.settings import PLANES, Settings
from medldm.space import ModelSpace, side_by_side, spread_evenly
from medldm.volume import Volume

Array = NDArray[np.float32]
Report = dict[str, Any]
MANY = 8  # slices; that of fewer is soon done
# one slice, the problem's options for it, settings -> its restoration
OfOne = Callable[[Volume, Mapping[str, Any], Settings], Restoration]


def is_stack(volume: Volume, model: Model, settings: Settings) -> bool:
    """Whether the model takes the volume slice by slice. Raises InputError for a plane that it has no use for."""
    if settings.plane is not None and model.pack.dims == 3:
        got, do = f"{settings.plane} for a model of volumes", "leave it out"
        raise InputError("plane", got, "none: it sees all planes at once", do)
    return model.pack.dims == 2 and volume.geometry.shape[2] != 1


def restore_slices(
    volume: Volume, model: Model, task: str, options: Mapping[str, Any], settings: Settings, one: OfOne
) -> Restoration:
    """Solve `task` in every slice of a volume by a model of single images; `one` does so in one slice.

    Beside scan, result, residual and uncertainty the memory holds the work of a single slice. Progress runs through all
    slices, and may raise between any two steps. Raises what `one` raises.
    """
    forced = is_forced(model, volume, settings)
    stack, order = _stacked(volume, model.pack, settings.plane)
    problem = untrained(task, 2) if settings.method == "posterior" else model.problem(task)
    asked = {k: problem.of_slice(options, stack.geometry, order, k) for k in range(stack.geometry.shape[2])}
    todo = {k: own for k, own in asked.items() if own is not None}
    shared = _Shared.of(stack, model, problem, todo, settings)

    back = tuple(int(axis) for axis in np.argsort(order))
    made, far, reports = None, 0, list[Report]()
    started = time.perf_counter()
    for done, (k, own) in enumerate(todo.items()):
        here = _slice(stack, k)
        told = shared.settings  # the grain of slices differs, lest it stands still while one scrolls through them
        told = told if told.method == "posterior" else replace(told, seed=told.seed + k)
        told = replace(told, noise_std=shared.levels.get(k, told.noise_std))
        part = one(here, own, _in_one(told, done, len(todo), back))
        if made is None:
            made = _Made(stack, k, part)
            if settings.forecast is not None and len(todo) >= MANY:
                left = (len(todo) - 1) * (time.perf_counter() - started)
                settings.forecast(left, bytes_of(made.grid.shape, 2, across=2))
        made.put(k, part)
        found = far_voxels(here.array, shared.space, shared.settings.noise_std)
        far += 0 if found is None else int(found.sum())
        reports.append(part.report)
    assert made is not None  # a volume has slices, a mask is not empty

    first, numbers = reports[0], list(todo)
    if "residual_has_structure" in first["checks"]:
        looked_at = [numbers[n] for n in spread_evenly(len(numbers))]
        checks, doubted = made.checks(looked_at, shared)
    else:  # a problem's own, which count something
        checks, doubted = {key: sum(report["checks"][key] for report in reports) for key in first["checks"]}, []
    i, j, k = (first["factor"][axis] for axis in back)
    across = stack.geometry.axcodes[2]
    facts = {
        "factor": [i, j, k],
        "slices": stack.geometry.shape[2],
        "seed": settings.seed,
        "noise_std": shared.settings.noise_std,
        "plane": next(name for name, ends in PLANES.items() if across in ends),
    }
    report = {
        **first,
        **facts,
        **({"forced": True} if forced else {}),
        "warnings": [
            *model.fits(volume, (i, j, k)),
            *shared.warnings,
            *said_of_far(far, shared.space),
            *doubted,
        ],
        **({"noise_std_of_slices": [*shared.levels.values()]} if shared.levels else {}),
        "noise_std_estimated": shared.estimated,
        "checks": checks,
        "timings_s": {name: round(sum(each["timings_s"][name] for each in reports), 3) for name in first["timings_s"]},
    }
    return made.restoration(volume, back, facts, report)


def noise_of_stack(volume: Volume, pack: ModelPack) -> NoiseEstimate:
    """The one level of a volume that is restored slice by slice."""
    stack, _ = _stacked(volume, pack, None)
    slices = [_slice(stack, k) for k in spread_evenly(stack.geometry.shape[2])]
    picture = side_by_side([each.array for each in slices], stack)
    space = ModelSpace.of(pack, picture).fitted(picture)
    found = [noise_in(each, space, pack, _unseen(each.array, None, space)) for each in slices]
    return estimate_over_slices(found, followed=pack.in_hu)


def _stacked(volume: Volume, pack: ModelPack, plane: str | None) -> tuple[Volume, tuple[int, int, int]]:
    """The volume with its slices across the last axis, and which axes of the scan its axes were; a view."""
    codes = volume.geometry.axcodes
    axis = pack.slice_axis(volume) if plane is None else next(a for a in range(3) if codes[a] in PLANES[plane])
    i, j = (a for a in range(3) if a != axis)
    order = volume.geometry.orientation_to(pack.axcodes)[0] if pack.axcodes is not None else (i, j, axis)
    order = order if order[2] == axis else (i, j, axis)
    return volume.permute(order), order


def _slice(stack: Volume, k: int) -> Volume:
    """One that is not judged by its looks, which its scan is."""
    return stack.crop((0, 0, k), (*stack.geometry.shape[:2], k + 1)).with_step({"step": CUT})


@dataclass(frozen=True, eq=False)
class _Shared:
    """What all slices have in common.

    settings : with the range and the level that hold for all; estimated : whether the level was not given
    levels : of CT, whose noise is stronger at the shoulders than in the lung: each slice's own, where it was estimated
    """

    space: ModelSpace
    settings: Settings
    estimated: bool
    levels: dict[int, float]
    warnings: list[str]

    @classmethod
    def of(
        cls, stack: Volume, model: Model, problem: Problem, todo: Mapping[int, Mapping[str, Any]], settings: Settings
    ) -> _Shared:
        """Range and noise, from slices spread evenly over those that there is something to do in."""
        pack, numbers = model.pack, list(todo)
        looked_at = [numbers[n] for n in spread_evenly(len(numbers))]
        masks = [todo[k].get("mask") for k in looked_at]
        seen = [stack.array[..., k : k + 1] for k in looked_at]
        filled = [x if mask is None else fill_near(x, mask) for x, mask in zip(seen, masks, strict=True)]
        picture = side_by_side(filled, stack)
        space = ModelSpace.of(pack, picture).fitted(picture, settings.value_range)
        warnings = said_of_range(space, picture, settings)
        low, high = space.range.offset, space.range.offset + space.range.scale
        estimated, noise_std = settings.noise_std is None and problem.estimates_noise, settings.noise_std or 0.0
        levels: dict[int, float] = {}
        if estimated:
            found = [
                noise_in(_slice(stack, k).with_array(x), space, pack, _unseen(x, mask, space))
                for k, x, mask in zip(looked_at, filled, masks, strict=True)
            ]
            of_all = estimate_over_slices(found, followed=pack.in_hu)
            noise_std, said = believed(of_all, space, problem)
            warnings += said
            if pack.in_hu and of_all.sure:
                levels = _levels(dict(zip(looked_at, found, strict=True)), numbers)
        warnings += said_of_noise(noise_std, space, problem)
        told = replace(settings, value_range=(low, high), noise_std=noise_std, plane=None)
        return cls(space, told, estimated, levels, warnings)


def _levels(found: Mapping[int, NoiseEstimate], numbers: Sequence[int]) -> dict[int, float]:
    """A level for each slice, between those of the slices that were looked at; one that stands out is not believed."""
    at = [k for k, one in found.items() if one.sure]
    if not at:
        return {}
    even = ndimage.median_filter([found[k].value for k in at], 3, mode="nearest")
    return {k: float(level) for k, level in zip(numbers, np.interp(numbers, at, even), strict=True)}


def _unseen(x: Array, mask: NDArray[np.bool_] | None, space: ModelSpace) -> NDArray[np.bool_] | None:
    """Voxels of a slice that say nothing of its noise."""
    far = far_voxels(x, space, None)
    if mask is None or far is None:
        return far if mask is None else mask
    return far | mask


def _in_one(settings: Settings, done: int, count: int, back: tuple[int, ...]) -> Settings:
    """Settings for one slice of `count`, whose progress is that of all, and whose preview lies in the scan's axes."""
    progress, preview = settings.progress, settings.preview

    def told(task: str, step: int, total: int) -> None:
        assert progress is not None
        progress(task, done * total + step, count * total)

    def shown(part: Volume) -> None:
        assert preview is not None
        preview(part.permute(back))

    return replace(
        settings,
        progress=None if progress is None else told,
        preview=None if preview is None else shown,
        forecast=None,
    )


class _Made:
    """Result, residual and uncertainty as they grow, (K, I, J) in memory: a slice lies in one piece."""

    def __init__(self, stack: Volume, first: int, part: Restoration) -> None:
        """part : of the slice `first`; slices that nothing is done in stay as they were measured."""
        self.stack, self.part, count = stack, part, stack.geometry.shape[2]
        self.grid = part.volume.geometry.pad((0, 0, first), (0, 0, count - 1 - first))
        self.result, self.residual, self.spread = (
            np.zeros((count, *made.array.shape[:2]), np.float32) for made in _parts(part)
        )
        self.same_grid = self.grid.shape == stack.geometry.shape
        if self.same_grid:
            self.result[:] = stack.array.transpose(2, 0, 1)

    def put(self, k: int, part: Restoration) -> None:
        for array, made in zip((self.result, self.residual, self.spread), _parts(part), strict=True):
            array[k] = made.array[..., 0]

    def checks(self, numbers: list[int], shared: _Shared) -> tuple[dict[str, Any], list[str]]:
        """Whether the residual of these slices looks like noise, and what a person has to hear of that."""
        space, noise_std = shared.space, shared.settings.noise_std or 0.0
        levels = np.array([shared.levels.get(k, noise_std) or 1.0 for k in numbers], np.float32)
        even = np.float32(noise_std) / levels if shared.levels else np.ones_like(levels)  # as if all had one level
        residual = self.residual[numbers].transpose(1, 2, 0)
        signal = self.stack.array[..., numbers] - residual
        if space.pack.intensity.zero_floor:
            signal = signal - np.float32(space.range.offset)
        residual = residual * even
        checks = residual_checks(residual, signal, noise_std)
        return checks, doubts(checks, residual, space.range.scale, same_grid=self.same_grid)

    def restoration(self, volume: Volume, back: tuple[int, ...], facts: Report, report: Report) -> Restoration:
        """All of it in the scan's axes."""
        step = {**self.part.volume.history[-1], **facts}

        def placed(array: Array, grid: Geometry) -> Volume:
            out = Volume(array.transpose(1, 2, 0), grid, volume.unit, volume.modality, volume.history, volume.source)
            return out.permute(back).with_step(step)

        result, spread = placed(self.result, self.grid), placed(self.spread, self.grid)
        return Restoration(
            result, result.array, placed(self.residual, self.stack.geometry), spread, report, self.part.intervals
        )


def _parts(part: Restoration) -> tuple[Volume, Volume, Volume]:
    return part.volume, part.residual, part.uncertainty
