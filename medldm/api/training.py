"""Find out what scans there are, plan a training, train, distill."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from medldm.errors import InputError, OutputError
from medldm.model import Model, load_model
from medldm.recipe import Recipe, Source

if TYPE_CHECKING:
    from medldm.calibration import Calibration
    from medldm.training.cost import StageCost
    from medldm.training.fingerprint import Kind
    from medldm.training.plan_page import Plan

Progress = Callable[[str, int, int], None]


def find_kinds(
    data: str | Path,
    *,
    manifest: str | Path | None = None,
    modality: str | None = None,
    progress: Progress | None = None,
) -> list[Kind]:
    """The kinds of scans below a folder, each of which wants a model of its own: modality, 2D or 3D; largest first.

    data : folder of the scans
    manifest : table of `medldm check`; default None: a manifest.csv in the working folder or in `data` whose scans are
        there, else everything below `data` is read
    modality : DICOM's code, of scans that do not say theirs; default None: by their values
    progress : called with (file, scans done, scans in all); whatever it raises ends the work; default None
    Sizes are looked at of all scans, values of some hundred. Raises InputError, EmptyInput.

    >>> [kind.name for kind in medldm.find_kinds("pictures", modality="DX")]
    ['dx-2d']
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

    kind : one of those that `find_kinds` finds
    data : folder of the scans
    purpose : what the model is to learn: "both" (default), "restore" or "synthesize"
    minutes : how long the training may take, default 120
    conditions : columns of the manifest that synthesis can be asked for; default None: all that fit
    device : "cpu", "cuda", "cuda:1"; default None: a GPU where there is one
    `Plan.write` writes it with its reasons. Raises InputError.

    >>> (kind,) = medldm.find_kinds("pictures", modality="DX")
    >>> medldm.plan(kind, data="pictures", purpose="restore", minutes=1).name
    'dx-2d'
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

    recipe : TOML file, the name of one that comes with medldm ("quick-3d"), a table like it, or a checked Recipe
    data : folder of the data sets that the recipe names
    out : folder for checkpoints and the finished model, made if need be
    start : name or folder of a model of the same networks, to go on from its weights (fine-tuning); or of a pack of an
        autoencoder (`medldm import`), whose weights and latent statistics are taken over. With the recipe's
        ``[autoencoder] kind = "start"``, that of any model, and nothing else of it. Default None: random weights
    resume : go on from the last checkpoint in `out` (default), or begin anew
    despite_gate : train on an autoencoder that the reconstruction gate calls a no-go; the card says so. Default False
    device : "cpu", "cuda", "cuda:1"; default None: a GPU where there is one
    strategy : of several processes (torchrun, SLURM): all weights in each ("ddp", default), or divided among them
        ("fsdp")
    workers : processes that draw the batches, default 0: this one; the result does not depend on their number
    cache : folder that keeps the scans as they are trained on, named by hashes of their content and of the recipe's
        treatment: later starts do not read them again, and they may be larger than the memory. Default None: all scans
        are read at each start and held in memory, and no copy of them is written.
    progress : called with (stage, steps done, steps in all); whatever it raises ends the work; default None
    An interrupted training goes on from its last checkpoint. Before the denoiser the autoencoder is measured on
    held-out scans, and `out` holds a report, gate.html. Raises RecipeError, InputError, ModelError, OutputError, and
    RunError for a training that fails or an autoencoder that is a no-go.

    >>> medldm.train("recipe.toml", data="pictures", out="runs/new", despite_gate=True)
    Model(tiny-2d: denoise, super_resolve, synthesize; 2D DX; cpu)
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


def calibrate(
    model: str | Path,
    *,
    data: str | Path,
    sources: str | Path | Sequence[Source] | None = None,
    intervals: bool = False,
    device: str | None = None,
    progress: Progress | None = None,
) -> Calibration:
    """Find out what scans of a model's kind look like, so that it warns of others; kept in the model's folder.

    A training ends with it; this is for models that were trained before, or when scans have been added. With
    `intervals` how far a model's results are off is found instead, for `Restoration.interval`: by restoring scans of
    patients that it was not trained on. That takes the time of some hundred restorations, and no training does it.

    model : name or folder of a model
    data : folder of the data sets that the model was trained on
    sources : of scans, in the place of the model's own: a TOML file with tables
        ``[[source]]``, or a recipe; default None
    intervals : default False; True: of the patients that the training kept aside, or of `sources`, which then are to
        be of patients that it never saw
    device : "cpu", "cuda", "cuda:1"; default None: a GPU where there is one
    progress : called with (what is done, scans done, scans in all); whatever it raises ends the work; default None
    Raises ModelError, RecipeError, OutputError, InputError for data that cannot be read or fewer than 20 (intervals:
    8) patients.

    >>> medldm.calibrate("runs/painter", data="pictures")
    Traceback (most recent call last):
    medldm.errors.InputError: pictures: got whole images of 8 patients; expected at least 20
    """
    from medldm.installed import folder_of
    from medldm.recipe import load_sources
    from medldm.restoration.calibrate import calibrate_intervals_of
    from medldm.training.calibrate import calibrate_model

    if not Path(data).is_dir():
        raise InputError(str(data), "no such folder", "the folder of the data sets")
    known = load_sources(sources) if isinstance(sources, str | Path) else sources
    loaded = load_model(model, device)
    do = calibrate_intervals_of if intervals else calibrate_model
    return do(loaded, folder_of(str(model)), Path(data), known, progress)


def distill(
    model: str | Path,
    *,
    data: str | Path,
    out: str | Path,
    evaluations: int | Sequence[int] = 4,
    trajectories: int = 4000,
    steps: int = 4000,
    guidance: float = 1.0,
    batch_size: int = 16,
    lr: float = 3e-4,
    device: str | None = None,
    progress: Progress | None = None,
) -> Model:
    """Teach a model that synthesizes to do so in `evaluations` steps a level; the pack is left in `out`.

    model : name or folder of a model that synthesizes
    data : folder of the data sets that the model was trained on; their conditions are those of the trajectories
    out : folder for the trajectories, checkpoints and the finished model
    evaluations : of the network that the model will need, at each level (default 4), or one number a level
    trajectories, guidance : ways of the model from noise to images that it learns from (default 4000, at guidance 1),
        which are kept in `out`; the guidance, and the model's guides, stay in
    steps, batch_size, lr : of the training on them: how many (default 4000), of how many ways (16), learning rate
        (3e-4)
    device : "cpu", "cuda", "cuda:1"; default None: a GPU where there is one
    progress : called with (stage, steps done, steps in all); whatever it raises ends the work; default None
    An interrupted distillation goes on from where it was. Raises ModelError for a model that does not synthesize or was
    distilled, and as `train`.

    >>> fast = medldm.distill("runs/painter", data="pictures", out="runs/fast", trajectories=4, steps=2, batch_size=2)
    >>> len(list(medldm.synthesize(model=fast, n=1)))
    1
    """
    from medldm.training.distill import distillation

    recipe = distillation(
        model,
        evaluations=evaluations,
        trajectories=trajectories,
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

    recipe, data, device, cache : as in `train`; nothing is written, but for the scans into `cache`
    start : as in `train`; it matters where the recipe takes its autoencoder
    Raises RecipeError, InputError, ModelError.

    >>> [cost.name for cost in medldm.estimate_training("recipe.toml", data="pictures")]
    ['autoencoder', 'denoiser', 'head-main', 'generator-0']
    """
    from medldm.training.cost import estimate
    from medldm.training.start import resolve

    checked, _ = resolve(recipe, start)
    return estimate(checked, data=Path(data), device=device, cache=None if cache is None else Path(cache))
