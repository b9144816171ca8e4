"""The way of a scan through a model, top to bottom: axes, problem, noise, range, estimate, agreement, back."""

from __future__ import annotations

import functools
import importlib.metadata
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medldm.errors import RunError
from medldm.geometry import Geometry
from medldm.marks import AI_PROCESSED, RESEARCH_USE
from medldm.model import Model
from medldm.nets.patches import pad_to_multiple
from medldm.operators.measurement import Measurement
from medldm.operators.operator import Operator
from medldm.operators.problem import Denoise, untrained
from medldm.restoration.checks import doubts, is_forced, residual_checks
from medldm.restoration.cost import seconds_of
from medldm.restoration.estimate import OnStep, estimate
from medldm.restoration.intake import take_in
from medldm.restoration.memory import bytes_of
from medldm.restoration.prior import estimate_with_prior
from medldm.restoration.result import Restoration
from medldm.restoration.settings import Settings
from medldm.restoration.slices import is_stack, restore_slices
from medldm.restoration.tissue_mean import with_tissue_means
from medldm.space import ModelSpace
from medldm.volume import Volume


@torch.inference_mode()
def restore(volume: Volume, model: Model, task: str, options: Mapping[str, Any], settings: Settings) -> Restoration:
    """Solve the problem `task` for a scan; `options` are the problem's own (a scale, a mask).

    Everything happens on the scan's own grid, or on the one that the problem asks for: no detail is lost to
    resampling. Raises ModelError where the model cannot take the scan or holds it for noise, InputError for options
    or values out of range, RunError for a result that is not finite.
    """
    if is_stack(volume, model, settings):

        def one(part: Volume, own: Mapping[str, Any], told: Settings) -> Restoration:
            return restore(part, model, task, own, told)

        return restore_slices(volume, model, task, options, settings, one)
    started, pack = time.perf_counter(), model.pack
    by_prior, space = settings.method == "posterior", ModelSpace.of(pack, volume)
    problem = untrained(task, pack.dims) if by_prior else model.problem(task)
    operator = problem.operator(options, space)
    measured = space.turned(volume)
    target = operator.input_geometry(measured.geometry)
    factor = space.to_scan(np.divide(measured.geometry.spacing, target.spacing).tolist())
    warnings, forced = model.fits(volume, factor), is_forced(model, volume, settings)
    taken = take_in(measured, operator, problem, space, settings, pack)
    space, noise_std, floor = taken.space, taken.noise_std, 0.0 if pack.intensity.zero_floor else None
    warnings += taken.warnings
    scaled_noise, exact = space.range.std_forward(noise_std), problem.exact(noise_std)
    measurement = Measurement.of(operator, taken.first.to(model.device), scaled_noise, pack.dims)
    crop = (slice(None), slice(None), *(slice(0, n) for n in measurement.image.shape[2:]))
    notify = _notifier(task, settings, space, target, volume, crop)
    prepared = time.perf_counter()
    if by_prior:
        image, std = estimate_with_prior(model, operator, taken.y, measurement.image, scaled_noise, settings, notify)
    else:
        measurement = measurement.on_image(lambda field: pad_to_multiple(field, pack.multiple)[0])
        head = model.networks.head(problem.head)
        if settings.forecast is not None:
            seconds = seconds_of(model.networks, head, measurement, settings, pack.multiple)
            if seconds is not None:
                settings.forecast(seconds, bytes_of(target.shape, pack.dims))
        image, std = estimate(model.networks, head, measurement, settings, notify)
        image, std = problem.finish(image, measurement)[crop], std[crop]
    finished = time.perf_counter()

    if exact:  # what was measured stays
        image = _agreeing(image, operator, taken.y, floor)
    result = space.array(image)
    if floor is not None and not exact:
        result = np.maximum(result, space.range.offset, dtype=np.float32)
    if not np.isfinite(result).all():
        raise RunError(f"model {model.name}", "a result that is not finite", "finite values", "report its range")
    if pack.in_hu and pack.dims == 2 and isinstance(problem, Denoise) and not by_prior:
        plane = with_tissue_means(result[..., 0], taken.filled[..., 0], max(measured.geometry.spacing[:2]))
        result = plane[..., None]
    result = problem.settle(taken.given_back(result, operator), measured.array, operator)
    degraded = operator.forward(torch.from_numpy(result)[None, None])[0, 0].numpy()
    residual = measured.array - degraded
    signal = degraded if floor is None else degraded - np.float32(space.range.offset)
    checks = problem.checks(operator) or residual_checks(residual, signal, noise_std)
    warnings += doubts(checks, residual, space.range.scale, same_grid=target is measured.geometry)
    report = {
        **_facts(model, volume, task, settings, warnings, factor),
        "noise_std": noise_std,
        "noise_std_estimated": taken.estimated,
        **({"forced": True} if forced else {}),
        "intensity": {"offset": space.range.offset, "scale": space.range.scale},
        "checks": checks,
        "timings_s": _timings(started, prepared, finished, time.perf_counter()),
    }
    place = functools.partial(_placed, volume=volume, space=space, step=_step(report))
    restored, uncertainty = place(result, target), place(space.std_array(std), target)
    return Restoration(
        restored, restored.array, place(residual, measured.geometry), uncertainty, report, model.intervals
    )


def _agreeing(image: Tensor, operator: Operator, y: Tensor, floor: float | None) -> Tensor:
    """The image (1, 1, *S), on the CPU, whose measurement is `y`."""
    flat = image.ndim == 4
    deep = operator.project_above(image.cpu()[..., None] if flat else image.cpu(), y, floor)
    return deep[..., 0] if flat else deep


def _notifier(
    task: str, settings: Settings, space: ModelSpace, target: Geometry, volume: Volume, crop: tuple[Any, ...]
) -> OnStep:
    """What tells the caller of each step, and shows the estimate on the result's grid."""

    def notify(done: int, total: int, x: Tensor | None) -> None:
        if settings.progress is not None:
            settings.progress(task, done, total)
        if settings.preview is not None and x is not None:
            shown = Volume(space.array(x[crop]), target, volume.unit, volume.modality)
            settings.preview(space.turned_back(shown))

    return notify


def _placed(array: NDArray[np.float32], grid: Geometry, *, volume: Volume, space: ModelSpace, step: Any) -> Volume:
    """An array in the model's axes as a volume in the scan's, with what was done in its history."""
    out = Volume(array, grid, volume.unit, volume.modality, volume.history, volume.source)
    return space.turned_back(out).with_step(step)


@functools.lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in ("medldm", "torch", "monai", "numpy")}


def _facts(
    model: Model,
    volume: Volume,
    task: str,
    settings: Settings,
    warnings: list[str],
    factor: tuple[float, float, float],
) -> dict[str, Any]:
    """What of the report is known before any work."""
    return {
        "task": task,
        "model": model.name,
        "weights_sha256": model.weights_sha256,
        "method": settings.method,
        "mode": settings.texture(),
        "samples": settings.samples,
        "steps": settings.steps,
        "sampler": settings.sampler,
        "seed": settings.seed,
        "factor": [int(f) if f == round(f) else round(f, 6) for f in (round(f, 9) for f in factor)],
        "unit": volume.unit,
        "warnings": warnings,
        "versions": dict(versions()),
        "device": str(model.device),
    }


def _step(report: dict[str, Any]) -> dict[str, Any]:
    """What the history of the result says."""
    kept = ("model", "weights_sha256", "mode", "seed", "steps", "factor", "noise_std", "forced")
    step = {"step": report["task"], **{key: report[key] for key in kept if key in report}}
    return step | {"version": versions()["medldm"], AI_PROCESSED: RESEARCH_USE}


def _timings(started: float, prepared: float, finished: float, ended: float) -> dict[str, float]:
    parts = {"prepare": prepared - started, "estimate": finished - prepared, "finish": ended - finished}
    return {name: round(seconds, 3) for name, seconds in parts.items()}
