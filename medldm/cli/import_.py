"""`medldm import`."""

from __future__ import annotations

import json as json_
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medldm.cli import options as o
from medldm.cli.output import Progress, print_table
from medldm.errors import InputError, OutputError

if TYPE_CHECKING:
    from medldm.conditions import ConditionTable
    from medldm.model import Model
    from medldm.net_tables import IntensityTable

REPORT = "report.html"
Source = Annotated[
    Path,
    typer.Argument(
        metavar="FOLDER_OR_WEIGHTS",
        help="Weights of an autoencoder, or the folder that holds them; without --data the folder of a whole latent "
        "diffusion model: a pipeline of diffusers, or a bundle of MONAI.",
    ),
]
Name = Annotated[str, typer.Option("--as", help="Name of the pack.")]
Data = Annotated[
    Path | None,
    typer.Option("--data", help="Folder of your scans: an autoencoder's latents are measured on them."),
]
Out = Annotated[Path, typer.Option("--out", help="Folder to write the pack and its report to.")]
Index = Annotated[
    str | None, typer.Option("--index", help="Table in --data (medldm check); without it, every scan that is there.")
]
Family = Annotated[
    str | None, typer.Option("--family", help="diffusers-kl, compvis-kl, monai-kl, maisi, or a plugin's.")
]
Config = Annotated[
    str | None,
    typer.Option("--config", help="Arguments of the network that its weights do not say: a JSON file, or JSON."),
]
InputRange = Annotated[
    tuple[float, float] | None,
    typer.Option("--input-range", help="Darkest and brightest value that the network was trained with, e.g. -1 1."),
]
Intensity = Annotated[
    str | None,
    typer.Option(
        "--intensity", metavar="KIND:LOW:HIGH", help="What of a scan they are: window:-1000:1000, percentile:0.1:99.9."
    ),
]
Modality = Annotated[list[str] | None, typer.Option("--modality", help="DICOM code; repeatable. Else, the scans'.")]
Spacing = Annotated[str | None, typer.Option("--spacing", help="Voxels in mm, e.g. 1x1x2; else, the scans' median.")]
Axcodes = Annotated[
    str | None, typer.Option("--axcodes", help="Orientation that a 3D network sees, e.g. RAS (the default).")
]
Shape = Annotated[str | None, typer.Option("--shape", help="Of a whole model: voxels of its scans, e.g. 160x224x160.")]
Condition = Annotated[
    list[str] | None,
    typer.Option(
        "--condition",
        metavar="NAME=LOW:HIGH",
        help="Of a whole model: a number, a class (NAME=WORD,WORD) or a label map (NAME=map:FIRST-LAST, its values) "
        "that it is told, in the network's order; repeatable.",
    ),
]
Null = Annotated[
    float | None,
    typer.Option("--null", help="Of a whole model: what it takes for a condition that is not said, such as -1."),
]
Prompts = Annotated[
    Path | None,
    typer.Option("--prompts", help="Of a whole model: safetensors of embedded words, (length, width) each by name."),
]
Crop = Annotated[
    str | None, typer.Option("--crop", help="Take the middle of each scan, e.g. 96x96x64, if the whole is too large.")
]


def import_(
    weights: Source,
    name: Name,
    out: Out,
    data: Data = None,
    index: Index = None,
    family: Family = None,
    config: Config = None,
    input_range: InputRange = None,
    intensity: Intensity = None,
    modality: Modality = None,
    spacing: Spacing = None,
    axcodes: Axcodes = None,
    crop: Crop = None,
    shape: Shape = None,
    condition: Condition = None,
    null: Null = None,
    prompts: Prompts = None,
    device: o.Device = None,
    overwrite: o.Overwrite = False,
    quiet: o.Quiet = False,
    json: o.Json = False,
) -> None:
    """Make a pack of another library's autoencoder (with --data), or of its whole latent diffusion model.

    With --data an autoencoder's latents are measured on your scans, with a report on both. Without it a whole model is
    taken, which `medldm synthesize` then runs. Nothing is downloaded, and nothing in the weights is executed.
    """
    _check(weights, data, out, overwrite=overwrite)
    only: dict[str, object] = {"--index": index, "--input-range": input_range, "--crop": crop} if data is None else {}
    only |= {} if data is None else {"--shape": shape, "--condition": condition, "--null": null, "--prompts": prompts}
    for option, value in only.items():
        if value is not None:
            of = "an autoencoder, with --data" if data is None else "a whole model, without --data"
            raise InputError(option, "an option", f"the import of {of}")
    if data is None:
        from medldm.io.atomic import write_folder_whole

        about = (intensity, modality, spacing, axcodes, shape)
        model = _whole(weights, name, family, config, *about, condition, null, prompts)
        write_folder_whole(out, model.save)
        if json:
            print(json_.dumps({"name": name, "pack": model.pack.model_dump(mode="json")}, indent=2))
        elif not quiet:
            print(f"wrote {out} (see card.md)")
        return
    arguments = _config(config) | ({} if input_range is None else {"input_range": list(input_range)})
    table, size = _intensity(intensity), _crop(crop)
    steps = o.parse_spacing(spacing)
    from medldm.evaluate.autoencoder import measure_autoencoder
    from medldm.io.atomic import write_folder_whole
    from medldm.model import default_device, save_autoencoder
    from medldm.training.importing import Wishes, adopt, fitting_scans, import_card, import_report, warnings_of
    from medldm.training.verdict import judge

    wishes = Wishes(
        modality=tuple(modality) if modality else None,
        spacing=(steps[0], steps[1], steps[2]) if steps else None,
        axcodes=axcodes,
        intensity=table,
        crop=size,
    )
    with Progress(quiet=quiet) as progress:
        adopted = adopt(
            weights,
            name=name,
            data=data,
            index=index,
            family=family,
            config=arguments,
            wishes=wishes,
            device=default_device(device),
            progress=progress,
        )
        images, names = [scan.image for scan in adopted.scans], [scan.name for scan in adopted.scans]
        with fitting_scans(name):
            quality = measure_autoencoder(adopted.autoencoder, images, names, progress)

    def fill(folder: Path) -> None:
        save_autoencoder(folder, adopted.pack, adopted.autoencoder, import_card(adopted, quality))
        (folder / REPORT).write_text(import_report(adopted, quality), encoding="utf-8")

    write_folder_whole(out, fill)
    warnings = warnings_of(judge(quality))
    if json:
        facts = {"name": name, "pack": adopted.pack.model_dump(mode="json")}
        print(json_.dumps({**facts, **quality.to_dict(), "warnings": warnings}, indent=2))
    elif not quiet:
        rows = [(f"{len(quality.scans)} scans", f"{quality.psnr:.2f}", f"{quality.ssim:.4f}")]
        print_table(("reconstruction", "PSNR (dB)", "SSIM"), rows, title=name)
        for warning in warnings:
            print(f"warning: {warning}")
        print(f"wrote {out} (see {REPORT})")


def _whole(
    folder: Path,
    name: str,
    family: str | None,
    config: str | None,
    intensity: str | None,
    modality: list[str] | None,
    spacing: str | None,
    axcodes: str | None,
    shape: str | None,
    condition: list[str] | None,
    null: float | None,
    prompts: Path | None,
) -> Model:
    arguments, table, size = _config(config), _intensity(intensity), _crop(shape, "--shape")
    steps, conditions = o.parse_spacing(spacing), dict(_condition(text) for text in condition or ())
    from medldm.nets.imported.weights import tensors_of
    from medldm.training.importing_whole import WholeWishes, adopt_whole

    wishes = WholeWishes(
        shape=size,
        modality=tuple(modality) if modality else ("OT",),
        spacing=(steps[0], steps[1], steps[2]) if steps else (1.0, 1.0, 1.0),
        axcodes=axcodes,
        intensity=table,
        conditions=conditions,
        null=null,
        prompts={} if prompts is None else tensors_of(prompts),
    )
    return adopt_whole(folder, name=name, family=family, config=arguments, wishes=wishes)


def _condition(text: str) -> tuple[str, ConditionTable]:
    """NAME=LOW:HIGH, NAME=WORD,WORD or NAME=map:FIRST-LAST."""
    from medldm.conditions import ClassCondition, LabelMapCondition, NumberCondition

    name, _, said = text.partition("=")
    try:
        if said.startswith("map:"):
            first, _, last = said.removeprefix("map:").partition("-")
            values = range(int(first), int(last or first) + 1)
            return name, LabelMapCondition(kind="label_map", labels={str(value): (value,) for value in values})
        if ":" in said:
            low, high = (float(part) for part in said.split(":"))
            return name, NumberCondition(kind="number", low=low, high=high)
        return name, ClassCondition(kind="class", values=tuple(said.split(",")))
    except ValueError:  # of pydantic, too
        raise InputError(
            "--condition", repr(text), "NAME=LOW:HIGH, NAME=WORD,WORD,... or NAME=map:FIRST-LAST"
        ) from None


def _check(weights: Path, data: Path | None, out: Path, *, overwrite: bool) -> None:
    """What can be refused before torch is there. Raises InputError, OutputError."""
    if not weights.exists():
        expected = "weights, or a folder that holds them"
        raise InputError(str(weights), "no such file or folder", expected, "check the path")
    if data is not None and not data.is_dir():
        raise InputError(str(data), "no such folder", "the folder of your scans", "check the path")
    if out.exists() and not (overwrite and out.is_dir()):
        raise OutputError(str(out), "an existing file or folder", "a new name", "choose another, or --overwrite")
    if not out.absolute().parent.is_dir():
        raise OutputError(str(out), "no folder to create it in", "an existing parent folder", "create it first")


def _config(text: str | None) -> dict[str, Any]:
    if text is None:
        return {}
    if not text.lstrip().startswith("{"):
        path = Path(text)
        if not path.is_file():
            raise InputError("--config", repr(text), "a JSON file, or JSON itself")
        text = path.read_text(encoding="utf-8", errors="replace")
    try:
        table = json_.loads(text)
    except (ValueError, RecursionError):
        table = None
    if not isinstance(table, dict):
        raise InputError("--config", "no JSON table", 'a table such as {"norm_num_groups": 32}')
    return table


def _intensity(text: str | None) -> IntensityTable | None:
    from medldm.intensity import Intensity
    from medldm.net_tables import IntensityTable

    if text is None:
        return None
    kind, *values = text.split(":")
    try:
        low, high = (float(value) for value in values)
    except ValueError:
        raise InputError("--intensity", repr(text), "KIND:LOW:HIGH, e.g. window:-1000:1000") from None
    checked = Intensity.from_dict({"kind": kind, "low": low, "high": high})
    return IntensityTable.model_validate(checked.to_dict())


def _crop(text: str | None, option: str = "--crop") -> tuple[int, ...] | None:
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) not in (2, 3) or not all(part.isdecimal() and int(part) >= 1 for part in parts):
        raise InputError(option, repr(text), "voxels an axis, e.g. 96x96x64")
    return tuple(int(part) for part in parts)
