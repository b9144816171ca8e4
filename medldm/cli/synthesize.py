"""`medldm synthesize`."""

from __future__ import annotations

import json as json_
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import medldm
from medldm.cli import options as o
from medldm.cli.output import Progress
from medldm.conditions import MAPS, LabelMapCondition, check_conditions, in_turn
from medldm.errors import InputError, ModelError, OutputError
from medldm.installed import describe, folder_of, read_tables
from medldm.io.atomic import check_folder, remove_parts
from medldm.pack import ModelPack

if TYPE_CHECKING:
    from medldm.synthesis.bids import BidsFolder

Count = Annotated[int, typer.Option("-n", "--count", min=1, help="How many scans.")]
Folder = Annotated[Path, typer.Option("-o", "--output", help="Folder for the scans; created if its parent exists.")]
Condition = Annotated[
    list[str] | None,
    typer.Option(
        "--condition",
        metavar="NAME=VALUE",
        help="What the scans are to be, e.g. sex=F; NAME=* takes all values in turn.",
    ),
]
LabelMap = Annotated[
    list[str] | None,
    typer.Option(
        "--label-map",
        metavar="[NAME=]FILE",
        help="A label map, or another scan on the model's grid, that the scans are to follow.",
    ),
]
Deform = Annotated[
    float | None,
    typer.Option(
        "--deform",
        metavar="MM",
        help="Bend the label map for each scan, smoothly, by so many mm at most; --format bids keeps the maps.",
    ),
]
Scale = Annotated[
    list[str] | None,
    typer.Option(
        "--guidance",
        metavar="[NAME=]SCALE",
        help="How strictly conditions are followed, all or one: 1 as in training, more costs diversity.",
    ),
]
Steps = Annotated[
    int | None,
    typer.Option(
        "--steps", min=2, help="Of the sampler; left out: what the model was distilled for, or its pack says."
    ),
]
First = Annotated[int, typer.Option("--first", min=0, help="Number of the first scan.")]
Batch = Annotated[int, typer.Option("--batch", min=1, help="How many are drawn together; the scans are the same.")]
Resume = Annotated[bool, typer.Option("--resume", help="Leave out the scans that are there already.")]
PROCESSES = (("RANK", "SLURM_PROCID"), ("WORLD_SIZE", "SLURM_NTASKS"))
Like = Annotated[
    Path | None,
    typer.Option("--like", help="A scan on the model's grid to draw variations of. They are not anonymous."),
]
Strength = Annotated[
    float | None, typer.Option("--strength", help="How much of it is drawn anew: 0.4 details, 0.7 anatomy, 1 all.")
]
Form = Annotated[
    str | None, typer.Option("--format", help="nifti, dicom, picture (grey values), or bids: NIfTI with a table.")
]
Contrast = Annotated[
    str | None, typer.Option("--suffix", help="Of BIDS: the contrast, e.g. T1w, where the model does not say it.")
]
SUFFIX = {"nifti": ".nii.gz", "picture": ".png", "dicom": "", "bids": ".nii.gz"}
_GREY_UNITS = ("grey8", "grey16")  # what a picture can hold


def _format(model: str, wanted: str | None) -> str:
    pack = describe(model)
    if pack.problem:
        raise ModelError(f"model {model}", pack.problem)
    tables = read_tables(model)
    unit = tables.synthesis.unit if isinstance(tables, ModelPack) and tables.synthesis is not None else ""
    grey = pack.dims == 2 and unit in _GREY_UNITS
    form = wanted or ("picture" if grey else "nifti")
    if form not in SUFFIX:
        raise OutputError("--format", form, ", ".join(SUFFIX))
    if form == "picture" and not grey:
        got = f"picture, of a model that draws {'volumes' if pack.dims == 3 else f'values in {unit}'}"
        raise OutputError("--format", got, "nifti, dicom or bids")
    return form


def synthesize(
    output: Folder,
    model: o.ModelName,
    count: Count = 1,
    condition: Condition = None,
    label_map: LabelMap = None,
    deform: Deform = None,
    guidance: Scale = None,
    first: First = 0,
    batch: Batch = 1,
    resume: Resume = False,
    steps: Steps = None,
    like: Like = None,
    strength: Strength = None,
    seed: o.Seed = 0,
    sampler: o.Sampler = "dpmpp_2m",
    device: o.Device = None,
    format: Form = None,
    suffix: Contrast = None,
    overwrite: o.Overwrite = False,
    quiet: o.Quiet = False,
    json: o.Json = False,
) -> None:
    """Draw new scans of nobody; the i-th depends on (seed, i) and its conditions alone.

    Started by torchrun or SLURM in several processes, each draws its share.
    """
    from medldm import registry

    folder_of(model)
    form = _format(model, format)
    if sampler not in registry.names("samplers"):
        registry.find("samplers", sampler)
    asked = _conditions(model, condition or [], label_map or [])
    bent = _bent(model, asked, deform, form)
    scale = _scales(guidance or [])
    _check_like(like, strength)
    bids = _bids(model, output, suffix) if form == "bids" else None
    stem = Path(model).resolve().name
    paths = [
        output / f"{stem}-seed{seed}-{first + n:04d}{SUFFIX[form]}" if bids is None else bids.path(seed, first + n)
        for n in range(count)
    ]
    rank, world = _processes()
    mine = [n for n in range(rank, count, world) if not (resume and paths[n].exists())]
    check_folder(output, [paths[n] for n in mine], overwrite=overwrite)
    from medldm.io import write
    from medldm.io.nifti import sidecar_of

    remove_parts(part for n in mine for part in (paths[n], sidecar_of(paths[n])))

    loaded = medldm.load_model(model, device)
    if bids is not None:
        bids.begin(loaded)
    with Progress(quiet=quiet) as progress:
        for run in _runs(mine, batch if world == 1 else 1):
            told = None if quiet else _within(progress, run, mine)
            each = [bent(seed, first + number) for number in run]
            scans = medldm.synthesize(
                model=loaded,
                n=len(run),
                first=first + run[0],
                batch=batch,
                seed=seed,
                steps=steps,
                sampler=sampler,
                conditions=each,
                guidance=scale,
                like=like,
                strength=0.4 if strength is None else strength,
                progress=told,
            )
            for number, said, scan in zip(run, each, scans, strict=True):
                if bids is not None:
                    bids.write(scan, said, overwrite=overwrite)
                else:
                    output.mkdir(exist_ok=True)
                    write(scan, paths[number], form, overwrite=overwrite)
    if bids is not None:
        bids.finish()
    if json:
        print(json_.dumps({"model": model, "seed": seed, "files": [str(path) for path in paths]}, indent=2))
    elif not quiet:
        print(f"wrote {len(mine)} synthetic {'scan' if len(mine) == 1 else 'scans'} to {output}")


def _processes() -> tuple[int, int]:
    """Number of this process, and how many there are (torchrun, SLURM)."""
    number, count = (os.environ.get(a, os.environ.get(b)) for a, b in PROCESSES)
    return int(number or 0), int(count or 1)


def _runs(numbers: list[int], most: int) -> list[list[int]]:
    """Neighbours together, `most` at most: what can be drawn in one call."""
    found: list[list[int]] = []
    for number in numbers:
        if found and number == found[-1][-1] + 1 and len(found[-1]) < most:
            found[-1].append(number)
        else:
            found.append([number])
    return found


def _within(progress: Progress, run: list[int], numbers: list[int]) -> Callable[[str, int, int], None]:
    """The progress of all of this process's scans."""
    before = numbers.index(run[0])

    def told(name: str, done: int, total: int) -> None:
        each = total // len(run)
        progress(name, before * each + done, len(numbers) * each)

    return told


def _conditions(model: str, words: list[str], maps: list[str]) -> dict[str, object]:
    """By their names, checked as far as they can be without torch. Raises InputError."""
    pack = read_tables(model)
    tables = pack.synthesis.conditions if isinstance(pack, ModelPack) and pack.synthesis is not None else {}
    said: dict[str, object] = {}
    for text in words:
        name, mark, value = text.partition("=")
        if not mark:
            raise InputError("--condition", repr(text), "NAME=VALUE")
        said[name] = value
    scans = [name for name, table in tables.items() if isinstance(table, MAPS)]
    for text in maps:
        name, mark, file = text.partition("=")
        if not mark and len(scans) != 1:
            raise InputError("--label-map", repr(text), f"NAME=FILE, with one of: {', '.join(scans) or 'none'}")
        path = Path(file if mark else text)
        if not path.exists():
            raise InputError(f"--label-map {path.name}", "no such file", "a file or folder")
        said[name if mark else scans[0]] = path
    check_conditions(tables, in_turn(tables, said, 0), f"model {Path(model).name}")
    return said


def _bent(
    model: str, asked: Mapping[str, object], deform: float | None, form: str
) -> Callable[[int, int], Mapping[str, object]]:
    """The conditions of scan (seed, index), with label maps of its own if they are to be bent. Raises InputError."""
    pack = read_tables(model)
    tables = pack.synthesis.conditions if isinstance(pack, ModelPack) and pack.synthesis is not None else {}
    maps = {
        name: medldm.as_volume(value)  # read once
        for name, value in asked.items()
        if isinstance(tables.get(name), MAPS) and isinstance(value, Path)
    }
    labels = [name for name in maps if isinstance(tables[name], LabelMapCondition)]
    if deform is None:
        said = {**asked, **maps}
        return lambda seed, index: said
    if not labels:
        raise InputError("--deform", f"{deform:g}", "--label-map, too: the map that is bent")
    if not 0 <= deform < float("inf"):
        raise InputError("--deform", f"{deform:g}", "0 mm or more")
    if form != "bids":
        raise InputError(
            "--deform", f"--format {form}", "--format bids", "it keeps the maps, which are the scans' labels"
        )
    return lambda seed, index: {
        **asked,
        **maps,
        **{name: medldm.deform_labels(maps[name], deform, (seed, index)) for name in labels},
    }


def _check_like(like: Path | None, strength: float | None) -> None:
    if like is None and strength is not None:
        raise InputError("--strength", f"{strength:g}", "--like, too: the scan that is varied")
    if like is not None and not like.exists():
        raise InputError(f"--like {like.name}", "no such file", "a scan")
    if strength is not None and not 0 < strength <= 1:
        raise InputError("--strength", f"{strength:g}", "above 0, where nothing changes, to 1, where nothing stays")


def _bids(model: str, output: Path, suffix: str | None) -> BidsFolder:
    """Raises ModelError, InputError."""
    pack = read_tables(model)
    if not isinstance(pack, ModelPack) or pack.synthesis is None:
        raise ModelError(f"model {model}", "no training for synthesis", "a model that synthesizes", "see medldm models")
    from medldm.synthesis.bids import BidsFolder

    return BidsFolder(output, pack, suffix)


def _scales(texts: list[str]) -> float | dict[str, float]:
    """One scale, or scales by name. Raises InputError."""
    try:
        if len(texts) == 1 and "=" not in texts[0]:
            return float(texts[0])
        return {name: float(value) for name, _, value in (text.partition("=") for text in texts)} or 1.0
    except ValueError:
        raise InputError("--guidance", " ".join(texts), "a number, or NAME=NUMBER") from None
