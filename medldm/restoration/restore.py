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
from medldm.model import Model
from medldm.nets.patches import pad_to_multiple
from medldm.operators.measurement import Measurement
from medldm.operators.operator import Operator
from medldm.restoration.checks import residual_checks
from medldm.restoration.estimate import OnStep, estimate
from medldm.restoration.noise_level import estimate_noise_std
from medldm.restoration.result import Restoration
from medldm.restoration.settings import Settings
from medldm.space import ModelSpace
from medldm.volume import AI_PROCESSED, RESEARCH_USE, Volume


@torch.inference_mode()
def restore(volume: Volume, model: Model, task: str, options: Mapping[str, Any], settings: Settings) -> Restoration:
    """Solve the problem `task` for a scan; `options` are the problem's own (a scale, a mask).

    Everything happens on the scan's own grid, or on the one that the problem asks for: no detail is lost to
    resampling. Raises ModelError where the model cannot take the scan, InputError for options or values out
    of range, RunError for a result that is not finite.
    """
    started, pack = time.perf_counter(), model.pack
    problem, space = model.problem(task), ModelSpace.of(pack, volume)
    operator = problem.operator(options, space)
    measured = space.turned(volume)
    target = operator.input_geometry(measured.geometry)
    factor = space.to_scan(np.divide(measured.geometry.spacing, target.spacing).tolist())
    warnings = model.fits(volume, factor)

    seen = _seen(measured, operator)
    estimated = settings.noise_std is None and problem.estimates_noise
    noise_std = estimate_noise_std(seen.array, noise=pack.noise) if estimated else settings.noise_std or 0.0
    space = space.fitted(seen, settings.value_range)
    scaled_noise = space.range.std_forward(noise_std)
    if scaled_noise > 1.1 * problem.noise_std[1]:
        share, most = 100 * scaled_noise, 100 * problem.noise_std[1]
        warnings.append(f"noise of {share:.0f} % of the range; the model was trained up to {most:.3g} %")

    y = space.tensor(measured.array)
    first = operator.first_guess(y) if seen is measured else space.tensor(seen.array)
    measurement = Measurement.of(operator, first.to(model.device), scaled_noise, pack.dims)
    crop = (slice(None), slice(None), *(slice(0, n) for n in measurement.image.shape[2:]))
    measurement = measurement.on_image(lambda field: pad_to_multiple(field, pack.multiple)[0])
    notify = _notifier(task, settings, space, target, volume, crop)
    prepared = time.perf_counter()
    image, std = estimate(model.networks, model.networks.head(problem.head), measurement, settings, notify)
    image, std = problem.finish(image, measurement)[crop], std[crop]
    finished = time.perf_counter()

    if problem.exact(noise_std):  # what was measured stays
        deep = image.cpu() if pack.dims == 3 else image.cpu()[..., None]
        deep = operator.project(deep, y)
        image = deep if pack.dims == 3 else deep[..., 0]
    result = space.array(image)
    if pack.intensity.zero_floor:
        result = np.maximum(result, 0, dtype=np.float32)
    if not np.isfinite(result).all():
        raise RunError(f"model {model.name}", "a result that is not finite", "finite values", "report its range")
    result = problem.settle(result, measured.array, operator)
    degraded = operator.forward(torch.from_numpy(result)[None, None])[0, 0].numpy()
    residual = measured.array - degraded
    report = {
        **_facts(model, volume, task, settings, warnings, factor),
        "noise_std": noise_std,
        "noise_std_estimated": estimated,
        "intensity": {"offset": space.range.offset, "scale": space.range.scale},
        "checks": problem.checks(operator) or residual_checks(residual, degraded, noise_std),
        "timings_s": _timings(started, prepared, finished, time.perf_counter()),
    }
    place = functools.partial(_placed, volume=volume, space=space, step=_step(report))
    restored, uncertainty = place(result, target), place(space.std_array(std), target)
    return Restoration(restored, restored.array, place(residual, measured.geometry), uncertainty, report)


def _seen(measured: Volume, operator: Operator) -> Volume:
    """The scan with what was not measured interpolated: what its noise and its range are found in."""
    if operator.missing() is None:
        return measured
    y = torch.tensor(measured.array, dtype=torch.float32)[None, None]
    return measured.with_array(operator.first_guess(y)[0, 0].numpy())


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
        "mode": settings.depth(),
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
    kept = ("model", "weights_sha256", "mode", "seed", "steps", "factor", "noise_std")
    step = {"step": report["task"], **{key: report[key] for key in kept}}
    return step | {"version": versions()["medldm"], AI_PROCESSED: RESEARCH_USE}


def _timings(started: float, prepared: float, finished: float, ended: float) -> dict[str, float]:
    parts = {"prepare": prepared - started, "estimate": finished - prepared, "finish": ended - finished}
    return {name: round(seconds, 3) for name, seconds in parts.items()}
