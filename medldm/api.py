"""The public API: each function takes the scan, calls one room and returns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack

import numpy as np

from medldm.conditions import MAPS
from medldm.errors import InputError, OutputError
from medldm.inputs import Scan, as_volume, mask_of, with_shape_of
from medldm.io import read, write
from medldm.model import Model, load_model
from medldm.recipe import Recipe
from medldm.restoration.region import fill_region
from medldm.restoration.restore import restore as _restore
from medldm.restoration.result import Restoration
from medldm.restoration.settings import RestoreOptions, Settings
from medldm.synthesis.synthesize import Request
from medldm.synthesis.synthesize import synthesize as _synthesize
from medldm.volume import Volume

if TYPE_CHECKING:
    from medldm.evaluate.synthetic import Evaluation
    from medldm.training.cost import StageCost
    from medldm.training.fingerprint import Kind
    from medldm.training.plan_page import Plan

__all__ = [
    "denoise",
    "distill",
    "estimate_noise",
    "estimate_training",
    "evaluate_synthetic",
    "find_kinds",
    "inpaint",
    "load_model",
    "plan",
    "read",
    "restore",
    "super_resolve",
    "synthesize",
    "train",
    "write",
    "write_report",
]

Progress = Callable[[str, int, int], None]


def _model(model: Model | str | Path, device: str | None) -> Model:
    return model.on(device) if isinstance(model, Model) else load_model(model, device)


def _parts(scan: Scan, model: Model | str | Path, options: RestoreOptions) -> tuple[Volume, Model, Settings]:
    """The scan, the model and the settings that a restoring function was called with. Raises MedldmError, TypeError."""
    known = RestoreOptions.__annotations__
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise TypeError(f"unexpected keyword argument {unknown[0]!r}; there are {', '.join(known)}")
    place = {"spacing", "affine", "series", "device"}
    settings = Settings(**{key: value for key, value in options.items() if key not in place})  # type: ignore[arg-type]
    affine, series = options.get("affine"), options.get("series")
    volume = as_volume(scan, spacing=options.get("spacing"), affine=affine, series=series)
    return volume, _model(model, options.get("device")), settings


def estimate_noise(scan: Scan, *, model: Model | str | Path, series: str | None = None) -> float:
    """Standard deviation of the scan's noise, in its own unit, by the noise model of `model`: what `denoise` takes.

    Raises InputError, ModelError.
    """
    from medldm.restoration.noise_level import estimate_noise_std

    volume = as_volume(scan, series=series)
    return estimate_noise_std(volume.array, noise=_model(model, None).pack.noise)


def restore(
    scan: Scan,
    task: str,
    *,
    model: Model | str | Path,
    problem: Mapping[str, Any] | None = None,
    **options: Unpack[RestoreOptions],
) -> Restoration:
    """Solve a problem that the model was trained for: one of medldm's, or that of a plugin.

    scan : path, Volume, or array with `spacing` (mm an axis) or `affine` (voxel -> RAS+ mm)
    task : name of the problem, as `model.pack.problems` lists them
    model : name of a pack, its folder, or a loaded Model
    problem : the problem's own options, e.g. ``{"scale": 2}``
    options : `medldm.restoration.settings.RestoreOptions`
    Raises InputError, ModelError, RunError (`medldm.errors`).
    """
    volume, loaded, settings = _parts(scan, model, options)
    return with_shape_of(scan, _restore(volume, loaded, task, problem or {}, settings))


def denoise(scan: Scan, *, model: Model | str | Path, **options: Unpack[RestoreOptions]) -> Restoration:
    """Remove the noise of a scan, on its own grid. Arguments, options and errors as in `restore`."""
    return restore(scan, "denoise", model=model, **options)


def super_resolve(
    scan: Scan,
    *,
    model: Model | str | Path,
    scale: int | Sequence[int] | None = None,
    **options: Unpack[RestoreOptions],
) -> Restoration:
    """Refine a scan's grid by whole factors; the outer edges of the field of view stay.

    scale : a factor an axis of the scan; one number means every axis of an image, and the thickest axis of a
        volume (through plane)
    spacing : with a path or Volume: the spacing to reach (mm), instead of `scale`; with an array: its spacing
    noise_std : of the scan, in its unit; None: estimated, and 0 where it may be anatomy. 0: the result's block means
        equal the scan
    Other arguments, options and errors as in `restore`.
    """
    wanted = None
    if not isinstance(scan, np.ndarray):
        wanted = options.pop("spacing", None)
    return restore(scan, "super_resolve", model=model, problem={"scale": scale, "spacing": wanted}, **options)


def inpaint(
    scan: Scan, mask: Scan, *, model: Model | str | Path, **options: Unpack[RestoreOptions]
) -> Restoration:
    """Fill a region that was not measured, or not well: an implant, an artefact, lost slices.

    mask : path, Volume or array on the scan's grid; what is > 0 is filled, without a look at its values
    Outside the mask the scan comes back bit for bit, and the uncertainty is 0. What is filled in is what the model
    holds likely, not what was there: the posterior mean; samples are refused. Other arguments, options and errors as in
    `restore`.
    """
    volume, loaded, settings = _parts(scan, model, options)
    return with_shape_of(scan, fill_region(volume, mask_of(scan, mask, volume), loaded, settings))


def synthesize(
    *,
    model: Model | str | Path,
    n: int,
    seed: int = 0,
    first: int = 0,
    batch: int = 1,
    steps: int | None = None,
    sampler: str = "dpmpp_2m",
    conditions: Mapping[str, object] | Sequence[Mapping[str, object]] = (),
    guidance: float | Mapping[str, float] = 1.0,
    guidance_interval: tuple[float, float] = (0.0, float("inf")),
    like: Scan | None = None,
    strength: float = 0.4,
    device: str | None = None,
    progress: Progress | None = None,
) -> Iterator[Volume]:
    """Yield `n` new scans; the one at index i, from `first` on, depends on (seed, i) and its conditions alone.

    batch : how many are drawn together; the scans are the same
    steps : of the sampler at each level; None: as many as the model was distilled for, else 20
    conditions : what they are to be, by the names of ``model.pack.synthesis.conditions``: a word of a class, a number,
        words, a Volume or path of a label map or scan on the model's grid; one mapping for all scans, or one a scan.
        "*" stands for every value in turn, of a number for all of its range
    guidance : how strictly conditions are followed: 1 as in the training set, more at the cost of diversity; one scale
        for all conditions together, or scales by their names. guidance_interval : noise levels that are guided
    like : a scan on the model's grid (path or Volume) that is varied: at every level of the cascade it is hidden in
        noise, of which `strength` is the share (0.4: details; 0.7: anatomy, too), and sampled from there (SDEdit: Meng
        et al. 2022). What comes back lies where the scan lies, in its unit. It resembles a patient: not anonymous.
    Raises InputError (naming the values that are known), ModelError.
    """
    loaded = _model(model, device)
    asked = conditions if isinstance(conditions, Mapping) else list(conditions)
    request = Request(
        n=n,
        seed=seed,
        first=first,
        batch=batch,
        steps=steps,
        sampler=sampler,
        conditions=_with_maps(asked, loaded) if isinstance(asked, Mapping) else [_with_maps(a, loaded) for a in asked],
        guidance=guidance,
        guidance_interval=guidance_interval,
        like=None if like is None else as_volume(like),
        strength=strength,
    )
    return _synthesize(loaded, request, progress)


def _with_maps(conditions: Mapping[str, object], model: Model) -> dict[str, object]:
    """The same with the conditions that are scans read."""
    tables = {} if model.pack.synthesis is None else model.pack.synthesis.conditions
    maps = {name for name, table in tables.items() if isinstance(table, MAPS)}
    return {
        name: as_volume(value) if name in maps and isinstance(value, str | Path | Volume) else value
        for name, value in conditions.items()
    }


def find_kinds(
    data: str | Path,
    *,
    manifest: str | Path | None = None,
    modality: str | None = None,
    progress: Progress | None = None,
) -> list[Kind]:
    """The kinds of scans below a folder, each of which wants a model of its own: modality, 2D or 3D; largest first.

    manifest : table of `medldm check`; None: a manifest.csv in the working folder or in `data` whose scans are there,
        else everything below `data` is read
    modality : of scans that do not say theirs
    Sizes are looked at of all scans, values of some hundred. Raises InputError, EmptyInput.
    """
    from medldm.training.fingerprint import kinds_of, records_of

    root = Path(data)
    if not root.is_dir():
        raise InputError(str(data), "no such folder", "the folder of a data set", "check the path")
    records = records_of(root, None if manifest is None else Path(manifest), progress)
    return kinds_of(records, root, modality=modality, progress=progress)


def plan(
    kind: Kind,
    *,
    data: str | Path,
    purpose: Literal["both", "restore", "synthesize"] = "both",
    minutes: float = 120.0,
    conditions: Sequence[str] | None = None,
    device: str | None = None,
) -> Plan:
    """A recipe for scans of a kind (`find_kinds`) that trains in about so many minutes on this machine.

    conditions : columns of the manifest that synthesis can be asked for; None: all that fit
    `Plan.write` writes it with its reasons. Raises InputError.
    """
    from medldm.training.plan import make_plan

    return make_plan(kind, Path(data), purpose=purpose, minutes=minutes, conditions=conditions, device=device)


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
    from medldm.training.start import resolve
    from medldm.training.train import train as run

    checked, autoencoder_alone = resolve(recipe, start)
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
        autoencoder_alone=autoencoder_alone,
        resume=resume,
        despite_gate=despite_gate,
        device=device,
        workers=workers,
        strategy=strategy,
        cache=None if cache is None else Path(cache),
        progress=progress,
        command=command,
    )


def distill(
    model: str | Path,
    *,
    data: str | Path,
    out: str | Path,
    evaluations: int = 4,
    pairs: int = 4000,
    steps: int = 4000,
    guidance: float = 1.0,
    batch_size: int = 16,
    lr: float = 3e-4,
    device: str | None = None,
    progress: Progress | None = None,
) -> Model:
    """Teach a model that synthesizes to do so in `evaluations` steps a level (reflow); the pack is left in `out`.

    data : folder of the data sets that the model was trained on; their conditions are those of the pairs
    pairs, guidance : of noise and what the model makes of it, which are kept in `out`; its guidance stays in
    steps, batch_size, lr : of the training on them
    An interrupted distillation goes on from where it was. Raises ModelError for a model that does not synthesize or was
    distilled, and as `train`.
    """
    from medldm.training.distill import distillation

    recipe = distillation(
        model,
        evaluations=evaluations,
        pairs=pairs,
        steps=steps,
        guidance=guidance,
        batch_size=batch_size,
        lr=lr,
    )
    if Path(model).resolve() == Path(out).resolve():
        raise OutputError(str(out), "the model's own folder", "another one")
    return train(recipe, data=data, out=out, start=model, device=device, despite_gate=True, progress=progress)


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
    from medldm.training.start import resolve

    checked, _ = resolve(recipe, start)
    return estimate(checked, data=Path(data), device=device, cache=None if cache is None else Path(cache))


def evaluate_synthetic(
    synthetic: str | Path,
    real: str | Path,
    *,
    held_out: str | Path | None = None,
    index: str | Path | None = None,
    file: str | None = None,
    patient: str = "patient",
    labels: str | None = None,
    window: tuple[float, float] | None = None,
    max_similarity: float | None = None,
    model: Model | str | Path | None = None,
    seed: int = 0,
    device: str | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Measure synthetic scans against real ones: quality, diversity, size of regions, privacy (docs/evaluation.md).

    synthetic : folder of NIfTI, DICOM or pictures, or a CSV table beside its files
    real : the same. Scans of the split "train", or of none, are taken for those that were trained on; others, and
        those of `held_out`, for real scans that were not
    index : CSV table of `real` with a row a scan: its file, patient and split; manifest.csv or index.csv of the folder,
        if None and there is one
    file, patient, labels : patterns and column of that table, as in a recipe's source: "images/{file}", "patient",
        "labels/{file}"
    window : values in the scans' unit that become 0 and 1
    max_similarity : to a training scan; above it a scan is not kept. None: where it counts as a copy
    model : what made the scans; its loss is looked at, too
    Nothing is written before `Evaluation.write`. Raises InputError, ModelError.
    """
    import functools

    from medldm.evaluate.listing import Table
    from medldm.evaluate.synthetic import evaluate_synthetic as run
    from medldm.model import default_device
    from medldm.synthesis.membership import denoising_losses

    return run(
        Path(synthetic),
        Path(real),
        held_out=None if held_out is None else Path(held_out),
        table=Table(None if index is None else Path(index), file, patient, labels),
        window=window,
        max_similarity=max_similarity,
        losses=None if model is None else functools.partial(denoising_losses, _model(model, device)),
        seed=seed,
        device=str(default_device(device)),
        progress=progress,
    )


def write_report(path: str | Path, scan: Volume, restoration: Restoration) -> Path:
    """Write one HTML file: scan, result, residual, uncertainty, figures, provenance; no name of a patient.

    Raises OutputError where it cannot be written.
    """
    from medldm.report.page import Section, title_of
    from medldm.report.page import write_report as write_sections

    title = title_of(restoration.report["task"])
    write_sections(Path(path), [Section.of_restoration(title, scan, restoration)])
    return Path(path)
