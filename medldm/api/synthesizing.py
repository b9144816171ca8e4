"""Draw new scans, and measure them against real ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from medldm.conditions import MAPS
from medldm.deform import deformed
from medldm.errors import InputError
from medldm.inputs import Scan, as_model, as_volume
from medldm.model import Model
from medldm.synthesis.synthesize import Request
from medldm.synthesis.synthesize import synthesize as _synthesize
from medldm.volume import Volume

if TYPE_CHECKING:
    from medldm.evaluate.synthetic import Evaluation

Progress = Callable[[str, int, int], None]


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

    model : name of a pack, its folder, or a loaded Model that was trained to synthesize
    n : how many, at least 1
    seed : default 0; the same seed gives the same scans
    first : index of the first one, default 0: a run of many can be divided
    batch : how many are drawn together, default 1; the scans are the same
    steps : of the sampler at each level; default None: as many as it was distilled for, else as the pack says (20)
    sampler : "dpmpp_2m" (default), "heun", "ddim", or that of a plugin
    conditions : what they are to be, by the names of ``model.pack.synthesis.conditions``: a word of a class, a number,
        words, a Volume or path of a label map or scan on the model's grid; one mapping for all scans, or one a scan.
        "*" stands for every value in turn, of a number for all of its range. Default (): as they come
    guidance : how strictly conditions are followed: 1 (default) as in the training set, more at the cost of diversity;
        one scale for all conditions together, or scales by their names
    guidance_interval : noise levels (least, most) that are guided, in units of the latents; default: all
    like : a scan on the model's grid (path, Volume or image) that is varied: at every level of the cascade it is hidden
        in noise and sampled from there (SDEdit: Meng et al. 2022). What comes back lies where the scan lies, in its
        unit. It resembles a patient: not anonymous. Default None: scans that never were
    strength : the share of noise that hides `like`, above 0 to 1 (0.4, the default: details; 0.7: anatomy, too)
    device : "cpu", "cuda", "cuda:1"; default None: a GPU where there is one, or where a loaded model is
    progress : called with (what is done, steps done, steps in all); whatever it raises ends the work; default None
    Raises InputError (naming the values that are known), ModelError.

    >>> [new.array.shape for new in medldm.synthesize(model=model, n=2, steps=2, seed=1)]
    [(20, 16, 12), (20, 16, 12)]
    """
    for name, value in (("n", n), ("seed", seed), ("first", first), ("batch", batch), ("steps", steps)):
        whole: object = value
        if not (isinstance(whole, int) or (name == "steps" and whole is None)):
            raise InputError(name, repr(whole)[:60], "a whole number")
    loaded = as_model(model, device)
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


def deform_labels(label_map: Scan, most_mm: float = 6.0, seed: int | Sequence[int] = 0) -> Volume:
    """A label map bent smoothly at random: another anatomy to draw a scan by, with labels that fit.

    label_map : path, Volume or image
    most_mm : how far a voxel is moved at most, in mm; default 6
    seed : one number or several; default 0. The same gives the same
    Returns the map on its own grid, with its own values. Raises InputError.

    >>> import numpy as np
    >>> ball = np.zeros((32, 32, 32)); ball[8:24, 8:24, 8:24] = 4
    >>> bent = medldm.deform_labels(medldm.Volume(ball, medldm.Geometry.from_spacing((32, 32, 32), (2, 2, 2))), seed=1)
    >>> np.unique(bent.array).tolist(), bool((bent.array != ball).any())
    ([0.0, 4.0], True)
    """
    return deformed(as_volume(label_map), most_mm, seed)


def _with_maps(conditions: Mapping[str, object], model: Model) -> dict[str, object]:
    """The same with the conditions that are scans read."""
    tables = {} if model.pack.synthesis is None else model.pack.synthesis.conditions
    maps = {name for name, table in tables.items() if isinstance(table, MAPS)}
    return {
        name: as_volume(value) if name in maps and isinstance(value, str | Path | Volume) else value
        for name, value in conditions.items()
    }


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
    held_out : a further folder or table of real scans that were not trained on; default None: those of `real`
    index : CSV table of `real` with a row a scan: its file, patient and split; default None: manifest.csv or index.csv
        of the folder, if there is one
    file, patient, labels : patterns and column of that table, as in a recipe's source: "images/{file}", "patient",
        "labels/{file}"; default None: the table's own column, "patient", no labels
    window : (low, high) in the scans' unit that become 0 and 1; default None: each scan's own range, or its unit's
    max_similarity : to a training scan, above 0 to 1; above it a scan is not kept. Default None: where it counts as a
        copy
    model : what made the scans; its loss is looked at, too; default None
    seed : of the halves that real scans are divided into; default 0
    device : "cpu", "cuda", "cuda:1"; default None: a GPU where there is one
    progress : called with (what is done, scans done, scans in all); whatever it raises ends the work; default None
    Nothing is written before `Evaluation.write`. Raises InputError, ModelError.

    >>> found = medldm.evaluate_synthetic("new", "pictures")
    >>> len(found.synthetic)
    4
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
        losses=None if model is None else functools.partial(denoising_losses, as_model(model, device)),
        seed=seed,
        device=str(default_device(device)),
        progress=progress,
    )
