"""The public API: each function takes the scan, calls one room and returns."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from medldm.errors import InputError
from medldm.geometry import Geometry
from medldm.io import read, write
from medldm.model import Model, load_model
from medldm.recipe import Recipe
from medldm.restore.gaps import fill_gap
from medldm.restore.restoration import Restoration
from medldm.restore.restore import Preview, Settings, restore
from medldm.synthesis.synthesize import synthesize as _synthesize
from medldm.volume import Volume, refused_map

if TYPE_CHECKING:
    from medldm.training.cost import StageCost

__all__ = [
    "denoise",
    "estimate_noise",
    "estimate_training",
    "inpaint",
    "load_model",
    "read",
    "super_resolve",
    "synthesize",
    "train",
    "write",
    "write_report",
]

Scan = str | Path | Volume | NDArray[Any]
Progress = Callable[[str, int, int], None]


def as_volume(
    scan: Scan,
    *,
    spacing: Sequence[float] | None = None,
    affine: NDArray[Any] | None = None,
    series: str | None = None,
) -> Volume:
    """A scan in any of its forms as a Volume; a 2D array is rows x columns as displayed.

    Raises InputError for an array of the wrong shape, with values that are not finite, or, in 3D, without
    spacing and affine; and for a map that was saved beside a result.
    """
    if isinstance(scan, str | Path):
        scan = read(scan, series)
    if isinstance(scan, Volume):
        if scan.quantity:
            raise refused_map("scan", scan.quantity)
        return scan
    array = np.asarray(scan)
    if array.ndim not in (2, 3) or array.dtype.kind not in "uifb" or not array.size:
        raise InputError("array", f"shape {array.shape}, {array.dtype}", "a 2D or 3D array of real numbers")
    if not np.isfinite(array).all():
        raise InputError(
            "array",
            f"{int((~np.isfinite(array)).sum())} values that are not finite",
            "finite values",
            "fill them",
        )
    step: dict[str, Any] = {"step": "array", "shape": list(array.shape)}
    if array.ndim == 2:
        row, column = _lengths(spacing, 2) if spacing is not None else (1.0, 1.0)
        step["spacing_assumed"] = spacing is None and affine is None
        array = array.T[..., None]
        geometry = Geometry(np.diag([-column, -row, 1.0, 1.0]) if affine is None else affine, array.shape)
    elif affine is not None:
        geometry = Geometry(affine, array.shape)
    elif spacing is not None:
        geometry = Geometry.from_spacing(array.shape, _lengths(spacing, 3))
    else:
        raise InputError(
            "array",
            "neither spacing nor affine",
            "one of them for a 3D array",
            "give spacing=(i, j, k) in mm",
        )
    unit = "grey8" if array.dtype == np.uint8 else "arbitrary"
    return Volume(array.astype(np.float32), geometry, unit, "", (step,))


def _lengths(spacing: Sequence[float], count: int) -> tuple[float, ...]:
    values = tuple(float(s) for s in np.broadcast_to(spacing, (count,)))
    if not all(np.isfinite(v) and v > 0 for v in values):
        raise InputError("spacing", str(spacing), f"{count} lengths > 0 in mm")
    return values


def _with_shape_of(scan: Scan, restoration: Restoration) -> Restoration:
    """Let `.array` have the axis order of an array that was given."""
    if isinstance(scan, np.ndarray) and scan.ndim == 2:
        return dataclasses.replace(restoration, array=restoration.array[..., 0].T)
    return restoration


def _model(model: Model | str | Path, device: str | None) -> Model:
    return model if isinstance(model, Model) else load_model(model, device)


def estimate_noise(scan: Scan, *, model: Model | str | Path, series: str | None = None) -> float:
    """Standard deviation of the scan's noise, in its own unit, by the noise model of `model`: what `denoise` takes.

    Raises InputError, ModelError.
    """
    from medldm.restore.noise_level import estimate_noise_std

    volume = as_volume(scan, series=series)
    return estimate_noise_std(volume.array, noise=_model(model, None).recipe.degradation.noise)


def denoise(
    scan: Scan,
    *,
    model: Model | str | Path,
    noise_std: float | None = None,
    mode: str | float = "fidelity",
    samples: int = 1,
    steps: int = 20,
    sampler: str = "dpmpp_2m",
    seed: int = 0,
    spacing: Sequence[float] | None = None,
    affine: NDArray[Any] | None = None,
    value_range: tuple[float, float] | None = None,
    series: str | None = None,
    device: str | None = None,
    progress: Progress | None = None,
    preview: Preview | None = None,
) -> Restoration:
    """Remove the noise of a scan, on its own grid.

    scan : path, Volume, or array with `spacing` (mm an axis) or `affine` (voxel -> RAS+ mm); a 2D array is
        rows x columns
    model : name of a pack, its folder, or a loaded Model
    noise_std : of the scan, in its own unit; estimated if None
    mode : "fidelity" (posterior mean, one step), "perceptual" (posterior sample), or a number between, 0..1
    samples : posterior samples drawn; more than one puts their spread into the uncertainty
    value_range : values of the scan that are the model's 0 and 1; estimated if None
    progress : called with (task, steps done, steps in all); whatever it raises ends the work
    preview : called with the decoded estimate after each step, on the result's grid
    Raises InputError, ModelError, RunError (`medldm.errors`).
    """
    volume = as_volume(scan, spacing=spacing, affine=affine, series=series)
    settings = Settings(noise_std, mode, samples, steps, sampler, seed, value_range, progress, preview)
    settings.check()
    return _with_shape_of(scan, restore(volume, _model(model, device), (1, 1, 1), settings))


def super_resolve(
    scan: Scan,
    *,
    model: Model | str | Path,
    scale: int | Sequence[int] | None = None,
    spacing: Sequence[float] | float | None = None,
    noise_std: float | None = None,
    mode: str | float = "fidelity",
    samples: int = 1,
    steps: int = 20,
    sampler: str = "dpmpp_2m",
    seed: int = 0,
    affine: NDArray[Any] | None = None,
    value_range: tuple[float, float] | None = None,
    series: str | None = None,
    device: str | None = None,
    progress: Progress | None = None,
    preview: Preview | None = None,
) -> Restoration:
    """Refine a scan's grid by whole factors; the outer edges of the field of view stay.

    scale : a factor an axis of the scan; one number means every axis of an image, and the thickest axis of a
        volume (through plane)
    spacing : with a path or Volume: the spacing to reach (mm), instead of `scale`; with an array: its spacing
    noise_std : of the scan, in its unit; None: taken as free of noise, and the result's block means equal it
    Other arguments as in `denoise`. Raises InputError, ModelError, RunError.
    """
    of_array = isinstance(scan, np.ndarray)
    own = np.atleast_1d(np.asarray(spacing, dtype=float)).tolist() if of_array and spacing is not None else None
    volume = as_volume(scan, spacing=own, affine=affine, series=series)
    loaded = _model(model, device)
    factor = _factor(volume, loaded, scale, None if of_array else spacing)
    settings = Settings(noise_std, mode, samples, steps, sampler, seed, value_range, progress, preview)
    return _with_shape_of(scan, restore(volume, loaded, factor, settings))


def inpaint(
    scan: Scan,
    mask: Scan,
    *,
    model: Model | str | Path,
    mode: str | float = "fidelity",
    samples: int = 1,
    steps: int = 20,
    sampler: str = "dpmpp_2m",
    seed: int = 0,
    spacing: Sequence[float] | None = None,
    affine: NDArray[Any] | None = None,
    value_range: tuple[float, float] | None = None,
    series: str | None = None,
    device: str | None = None,
    progress: Progress | None = None,
    preview: Preview | None = None,
) -> Restoration:
    """Fill a region that was not measured, or not well: an implant, an artefact, lost slices.

    mask : path, Volume or array on the scan's grid; what is > 0 is filled, without a look at its values
    Outside the mask the scan comes back bit for bit, and the uncertainty is 0. What is filled in is what the model
    holds likely, not what was there: the posterior mean; samples are refused. Other arguments as in `denoise`.
    Raises InputError, ModelError, RunError.
    """
    volume = as_volume(scan, spacing=spacing, affine=affine, series=series)
    gap = _gap(scan, mask, volume)
    settings = Settings(None, mode, samples, steps, sampler, seed, value_range, progress, preview)
    settings.check()
    return _with_shape_of(scan, fill_gap(volume, gap, _model(model, device), settings))


def _gap(scan: Scan, mask: Scan, volume: Volume) -> NDArray[np.bool_]:
    """The mask on the scan's voxels, (I, J, K). Raises InputError where it is of another grid, empty, or everything."""
    if isinstance(mask, np.ndarray):
        flat = isinstance(scan, np.ndarray) and scan.ndim == 2
        values = mask.T[..., None] if flat and mask.ndim == 2 else mask
    else:
        drawn = mask if isinstance(mask, Volume) else read(mask)
        values = drawn.array
        if values.shape == volume.array.shape and not np.allclose(
            drawn.geometry.affine, volume.geometry.affine, atol=1e-3 * min(volume.geometry.spacing)
        ):
            raise InputError("mask", "another affine than the scan's", "the same grid", "resample it to the scan")
    if values.shape != volume.array.shape:
        raise InputError("mask", f"shape {values.shape}", f"the scan's {volume.array.shape}", "draw it on the scan")
    gap = np.asarray(values > 0)
    if not gap.any() or gap.all():
        got = "an empty mask" if not gap.any() else "a mask that covers the whole scan"
        raise InputError("mask", got, "a part of the scan to be filled")
    return gap


def _factor(
    volume: Volume, model: Model, scale: int | Sequence[int] | None, spacing: Sequence[float] | float | None
) -> tuple[int, int, int]:
    """Factor an axis of the scan; raises InputError for what the model was not trained on."""
    dims, now = model.recipe.dims, np.array(volume.geometry.spacing)
    if (scale is None) == (spacing is None):
        raise InputError("super_resolve", "both or neither of scale and spacing", "one of them")
    if spacing is not None:
        wanted = (
            np.broadcast_to(np.asarray(spacing, dtype=float), (3,)) if np.size(spacing) in (1, 3) else None
        )
        if wanted is None or not (np.isfinite(wanted).all() and (wanted > 0).all()):
            raise InputError("spacing", str(spacing), "one or three lengths > 0 in mm")
        exact = np.where(np.arange(3) < dims, now / wanted, 1.0)
        factor = np.rint(exact)
        if np.any(np.abs(exact - factor) > 0.02 * factor) or np.any(factor < 1):
            text = " x ".join(f"{s:.4g}" for s in now)
            raise InputError(
                "spacing", str(spacing), f"whole fractions of the scan's {text} mm", "or give scale"
            )
    elif np.size(np.asarray(scale)) == 1:
        one = int(np.asarray(scale).reshape(-1)[0])
        factor = np.array([one, one, 1]) if dims == 2 else np.ones(3)
        if dims == 3:
            factor[len(now) - 1 - int(np.argmax(now[::-1]))] = one
    else:
        factor = np.ones(3)
        given = np.asarray(scale)
        factor[: len(given)] = given[:3]
    result = (int(factor[0]), int(factor[1]), int(factor[2]))
    table = model.recipe.degradation
    refined = [f for f in result if f != 1]
    bad = [f for f in refined if f not in table.factors]
    if bad or not refined:
        known = ", ".join(map(str, table.factors))
        raise InputError(
            "scale", " x ".join(map(str, result)), f"factors out of {known}", "take another scale"
        )
    if table.through_plane and len(refined) > 1:
        raise InputError(
            "scale",
            " x ".join(map(str, result)),
            f"one axis: {model.name} refines through plane",
            "e.g. 1x1x2",
        )
    if not table.through_plane and (result[0] != result[1] or result[2] != 1):
        raise InputError("scale", " x ".join(map(str, result)), "the same factor on both axes of the image")
    return result


def synthesize(
    *,
    model: Model | str | Path,
    n: int,
    seed: int = 0,
    steps: int = 30,
    sampler: str = "dpmpp_2m",
    conditions: dict[str, object] | None = None,
    device: str | None = None,
    progress: Progress | None = None,
) -> Iterator[Volume]:
    """Yield `n` new scans; the i-th depends on (seed, i) alone.

    Raises InputError, ModelError.
    """
    loaded = _model(model, device)
    return _synthesize(
        loaded, n=n, seed=seed, steps=steps, sampler=sampler, conditions=conditions, progress=progress
    )


def train(
    recipe: str | Path | dict[str, Any] | Recipe,
    *,
    data: str | Path,
    out: str | Path,
    start: str | Path | None = None,
    resume: bool = True,
    despite_gate: bool = False,
    device: str | None = None,
    workers: int = 0,
    strategy: Literal["ddp", "fsdp"] = "ddp",
    cache: str | Path | None = None,
    progress: Progress | None = None,
) -> Model:
    """Train a model by a recipe (TOML file or table) on the scans below `data`; the pack is left in `out`.

    start : name or folder of a model of the same networks, to go on from its weights (fine-tuning); or of a pack of an
        autoencoder (`medldm import`), whose weights and latent statistics are taken over. With the recipe's
        ``[autoencoder] kind = "start"``, that of any model, and nothing else of it.
    despite_gate : train on an autoencoder that the reconstruction gate calls a no-go; the card says so
    strategy : of several processes (torchrun, SLURM): all weights in each, or divided among them
    workers : processes that draw the batches; the result does not depend on their number
    cache : folder that keeps the scans as they are trained on, named by hashes of their content and of the recipe's
        treatment: later starts do not read them again, and they may be larger than the memory. None: all scans are
        read at each start and held in memory, and no copy of them is written.
    An interrupted training goes on from its last checkpoint. Before the denoiser the autoencoder is measured on
    held-out scans, and `out` holds a report, gate.html. Raises RecipeError, InputError, ModelError, OutputError, and
    RunError for a training that fails or an autoencoder that is a no-go.
    """
    from medldm.training.resolve import resolve
    from medldm.training.train import train as run

    checked, code_alone = resolve(recipe, start)
    command = ""
    if isinstance(recipe, str | Path):
        command = f"medldm train {Path(recipe).name} --data DATA --out OUT"
        command += f" --start {Path(start).name}" if start else ""
        command += " --despite-gate" if despite_gate else ""
    if not Path(data).is_dir():
        raise InputError(str(data), "no such folder", "the folder of the data set")
    return run(
        checked,
        data=Path(data),
        out=Path(out),
        start=start,
        code_alone=code_alone,
        resume=resume,
        despite_gate=despite_gate,
        device=device,
        workers=workers,
        strategy=strategy,
        cache=None if cache is None else Path(cache),
        progress=progress,
        command=command,
    )


def estimate_training(
    recipe: str | Path | Recipe,
    *,
    data: str | Path,
    start: str | Path | None = None,
    device: str | None = None,
    cache: str | Path | None = None,
) -> list[StageCost]:
    """Time and memory that each stage of a training will take, by one batch of each.

    Nothing is written, but for the scans into `cache` (see `train`). `start` matters where the recipe takes its
    autoencoder.

    Raises RecipeError, InputError, ModelError.
    """
    from medldm.training.cost import estimate
    from medldm.training.resolve import resolve

    checked, _ = resolve(recipe, start)
    return estimate(checked, data=Path(data), device=device, cache=None if cache is None else Path(cache))


def write_report(path: str | Path, scan: Volume, restoration: Restoration) -> Path:
    """Write one HTML file: scan, result, residual, uncertainty, figures, provenance; no name of a patient.

    Raises OutputError where it cannot be written.
    """
    from medldm.report.page import TASKS, Section
    from medldm.report.page import write_report as write_sections

    title = TASKS[restoration.report["task"]]
    write_sections(Path(path), [Section.of_restoration(title, scan, restoration)])
    return Path(path)
