"""The way of a scan through a model, top to bottom: fits, noise, grid, intensity, estimate, merge, back."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medldm import registry
from medldm.errors import InputError, ModelError, RunError
from medldm.geometry import Geometry
from medldm.intensity import Scaling
from medldm.model import Model
from medldm.nets.conditioning import Measurement
from medldm.nets.patches import pad_to_multiple
from medldm.operators.block_average import BlockAverage
from medldm.operators.gap import fill_smooth
from medldm.operators.noise import MOST_NOISE_AROUND_GAPS
from medldm.restore.checks import residual_checks
from medldm.restore.estimate import OnStep, posterior_mean, posterior_sample, sample_generator
from medldm.restore.noise_level import estimate_noise_std
from medldm.restore.restoration import Restoration
from medldm.volume import AI_PROCESSED, RESEARCH_USE, Volume

Progress = Callable[[str, int, int], None]
Preview = Callable[[Volume], None]
MODES = {"fidelity": 0.0, "perceptual": 1.0}


@dataclass(frozen=True)
class Settings:
    """How to restore; the fields are the keyword arguments of `medldm.denoise` and its like."""

    noise_std: float | None
    mode: str | float
    samples: int
    steps: int
    sampler: str
    seed: int
    value_range: tuple[float, float] | None
    progress: Progress | None
    preview: Preview | None = None

    def depth(self) -> float:
        """The dial as a number: 0 posterior mean, 1 posterior sample. Raises InputError."""
        try:
            depth = MODES[self.mode] if self.mode in MODES else float(self.mode)
        except (TypeError, ValueError):
            depth = float("nan")
        if not 0 <= depth <= 1:
            raise InputError("mode", repr(self.mode), "fidelity, perceptual, or a number from 0 to 1")
        return depth

    def check(self) -> None:
        """Raise InputError for a setting that makes no sense."""
        self.depth()
        for name, value, least in (("samples", self.samples, 1), ("steps", self.steps, 2)):
            if value < least:
                raise InputError(name, str(value), f"at least {least}")
        if self.noise_std is not None and not (np.isfinite(self.noise_std) and self.noise_std >= 0):
            raise InputError(
                "noise_std", str(self.noise_std), "a number >= 0 in the scan's unit, or None to estimate it"
            )
        if self.value_range is not None and not self.value_range[0] < self.value_range[1]:
            raise InputError("value_range", str(self.value_range), "(low, high) with low < high")


def _to_tensor(array: NDArray[np.floating], dims: int, device: torch.device) -> Tensor:
    tensor = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))[None, None].to(device)
    return tensor[..., 0] if dims == 2 else tensor


def _to_array(tensor: Tensor, dims: int) -> NDArray[np.float32]:
    array = tensor[0, 0].float().cpu().numpy()
    return array[..., None] if dims == 2 else array


def _measure(
    model: Model,
    array: NDArray[np.floating],
    noise_std: float,
    factor: tuple[int, int, int],
    gap: NDArray[np.bool_] | None,
) -> tuple[Measurement, tuple[slice, ...]]:
    """Interpolate to the fine grid, pad to what the networks take; returns the crop that undoes the padding."""
    dims, missing = model.recipe.dims, None
    y = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))[None, None]
    fine = BlockAverage(factor).upsample(y).to(model.device)
    image, crop = pad_to_multiple(fine[..., 0] if dims == 2 else fine, model.recipe.multiple)
    if gap is not None:
        missing, _ = pad_to_multiple(_to_tensor(gap.astype(np.float32), dims, model.device), model.recipe.multiple)
    levels = (
        torch.tensor([noise_std], device=model.device),
        torch.tensor([factor[:dims]], device=model.device),
    )
    return Measurement(image, levels[0].float(), levels[1].float(), missing), crop


def _estimate(
    model: Model, measurement: Measurement, settings: Settings, notify: OnStep
) -> tuple[Tensor, Tensor]:
    """Image and deviation of its error; the spread between samples joins the deviation within them."""
    depth, sampler = settings.depth(), registry.find("samplers", settings.sampler)
    if depth == 0 and settings.samples == 1:
        return posterior_mean(model.networks, measurement, notify)
    images, variances = [], []
    for index in range(settings.samples):
        image, std = posterior_sample(
            model.networks,
            measurement,
            depth=depth or 1.0,
            steps=settings.steps,
            sampler=sampler,
            generator=sample_generator(settings.seed, index),
            on_step=lambda done, total, estimate, index=index: notify(  # type: ignore[misc]
                index * total + done, settings.samples * total, estimate
            ),
            decode_steps=settings.preview is not None,
        )
        images.append(image)
        variances.append(std.square())
    variance = torch.stack(variances).mean(0)
    if settings.samples > 1:
        variance = variance + torch.stack(images).var(0)
    image = images[0]
    if depth == 0:
        image, _ = posterior_mean(model.networks, measurement, lambda done, total, estimate: None)
    return image, variance.sqrt()


def _soften(image: Tensor, measurement: Measurement, lowest: float) -> Tensor:
    """Fade the restoration out below the lightest noise of the training: a clean scan comes back as it was."""
    share = float((measurement.noise_std / lowest).clamp(max=1).square())
    return measurement.image + share * (image - measurement.image)


def _back(volume: Volume, order: tuple[int, ...], flips: tuple[int, ...]) -> Volume:
    """Undo ``permute(order)`` then ``flip(flips)``."""
    return volume.flip(flips).permute(tuple(int(a) for a in np.argsort(order)))


def versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in ("medldm", "torch", "monai", "numpy")}


@torch.inference_mode()
def restore(
    volume: Volume,
    model: Model,
    factor: tuple[int, int, int],
    settings: Settings,
    gap: NDArray[np.bool_] | None = None,
) -> Restoration:
    """Super-resolve a scan by `factor`, fill a `gap` (I, J, K; what is True is not looked at), or denoise.

    Everything happens on the scan's own grid, or on the one finer by `factor`: no detail is lost to
    resampling. Raises ModelError where the model cannot take the scan, InputError for settings or values out
    of range, RunError for a result that is not finite.
    """
    started = time.perf_counter()
    settings.check()
    warnings = model.fits(volume, factor)
    recipe = model.recipe
    task = "inpaint" if gap is not None else "super_resolve" if max(factor) > 1 else "denoise"
    if gap is not None and model.networks.gap_head is None:
        raise ModelError(f"model {model.name}", "no head for gaps", "a model that fills them", "see medldm models")

    order: tuple[int, int, int] = (0, 1, 2)
    flips: tuple[int, ...] = ()
    if recipe.dims == 3 and recipe.axcodes:
        order, flips = volume.geometry.orientation_to(recipe.axcodes)
    turned = volume.permute(order).flip(flips)
    measured = turned.array
    if gap is not None:
        gap = np.flip(gap.transpose(order), flips)
        turned = dataclasses.replace(turned, array=fill_smooth(measured, gap))
    turned_factor: tuple[int, int, int] = tuple(factor[a] for a in order)  # type: ignore[assignment]

    given = settings.noise_std is not None or task == "super_resolve"
    noise_std = settings.noise_std or 0.0
    if not given:
        noise_std = estimate_noise_std(turned.array, noise=recipe.degradation.noise)
    scaling: Scaling = model.intensity.fit(turned, settings.value_range)
    scaled_noise = scaling.std_forward(noise_std)
    lowest, highest = recipe.degradation.noise_std
    highest = MOST_NOISE_AROUND_GAPS if gap is not None else highest
    if scaled_noise > 1.1 * highest:
        warnings.append(
            f"noise of {100 * scaled_noise:.0f} % of the range; the model was trained up to {100 * highest:.0f} %"
        )

    measurement, crop = _measure(model, scaling.forward(turned.array), scaled_noise, turned_factor, gap)
    target = turned.geometry.zoom(tuple(float(f) for f in turned_factor))

    def notify(done: int, total: int, estimate: Tensor | None) -> None:
        if settings.progress is not None:
            settings.progress(task, done, total)
        if settings.preview is not None and estimate is not None:
            shown = scaling.inverse(_to_array(estimate[crop], recipe.dims)).astype(np.float32)
            settings.preview(_back(Volume(shown, target, volume.unit, volume.modality), order, flips))

    prepared = time.perf_counter()
    image, std = _estimate(model, measurement, settings, notify)
    if task == "denoise":
        image = _soften(image, measurement, lowest)
    image, std = image[crop], std[crop]
    estimated = time.perf_counter()

    operator = BlockAverage(turned_factor)
    fine = _to_array(image, recipe.dims).astype(np.float32)
    if task == "super_resolve" and noise_std == 0:
        x = torch.from_numpy(fine)[None, None]
        y = torch.from_numpy(np.ascontiguousarray(scaling.forward(turned.array), dtype=np.float32))[None, None]
        for _ in range(3):  # what was measured stays: the block means of the result are the measurement
            x = x + operator.upsample(y - operator.forward(x))
        fine = x[0, 0].numpy()
    result = scaling.inverse(fine).astype(np.float32)
    if recipe.intensity.zero_floor:
        result = np.maximum(result, 0, dtype=np.float32)
    if not np.isfinite(result).all():
        raise RunError(
            f"model {model.name}", "a result that is not finite", "finite values", "report this scan's range"
        )
    if gap is not None:
        result = np.where(gap, result, measured).astype(np.float32)
    degraded = operator.forward(torch.from_numpy(result)[None, None])[0, 0].numpy()
    residual = measured - degraded
    filled = {} if gap is None else {"voxels_filled": int(gap.sum())}
    report = {
        "task": task,
        "model": model.name,
        "weights_sha256": model.weights_sha256,
        "mode": settings.depth(),
        "samples": settings.samples,
        "steps": settings.steps,
        "sampler": settings.sampler,
        "seed": settings.seed,
        "factor": list(factor),
        "noise_std": noise_std,
        "noise_std_estimated": not given,
        "unit": volume.unit,
        "intensity": {"offset": scaling.offset, "scale": scaling.scale},
        "warnings": warnings,
        "checks": filled or residual_checks(residual, degraded, noise_std),
        "timings_s": {
            "prepare": round(prepared - started, 3),
            "estimate": round(estimated - prepared, 3),
            "finish": round(time.perf_counter() - estimated, 3),
        },
        "versions": versions(),
        "device": str(model.device),
    }
    step = {
        "step": task,
        **{k: report[k] for k in ("model", "weights_sha256", "mode", "seed", "steps", "factor")},
    }
    step |= {"noise_std": noise_std, "version": versions()["medldm"], AI_PROCESSED: RESEARCH_USE}

    def on_grid(array: NDArray[np.float32], grid: Geometry) -> Volume:
        out = Volume(array, grid, volume.unit, volume.modality, volume.history, volume.source)
        return _back(out, order, flips).with_step(step)

    restored = on_grid(result, target)
    uncertainty = on_grid(scaling.std_inverse(_to_array(std, recipe.dims)).astype(np.float32), target)
    return Restoration(restored, restored.array, on_grid(residual, turned.geometry), uncertainty, report)
