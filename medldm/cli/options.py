"""The options that commands share, and how their texts become values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from medldm.errors import InputError
from medldm.io.choice import MAX_BYTES, Choice

READING, COMPUTING, WRITING = "How the scan is read", "How it is computed", "What is written"  # panels of --help

Input = Annotated[
    Path, typer.Option("-i", "--input", help="NIfTI file, DICOM folder or file, zip of DICOM, or picture.")
]
Output = Annotated[Path, typer.Option("-o", "--output", help="Where to write: .nii.gz, .png, or a folder (DICOM).")]
ModelName = Annotated[str, typer.Option("--model", help="Name of a model (see `medldm models`), or its folder.")]
NoiseStd = Annotated[
    float | None,
    typer.Option("--noise-std", min=0.0, help="Noise of the scan, in its own unit; estimated if left out."),
]
Mode = Annotated[
    str,
    typer.Option(
        "--mode",
        help="fidelity (posterior mean), perceptual (with a little noise), or a number 0..1.",
        rich_help_panel=COMPUTING,
    ),
]
Samples = Annotated[
    int, typer.Option("--samples", min=1, help="Posterior samples for the uncertainty.", rich_help_panel=COMPUTING)
]
Steps = Annotated[int, typer.Option("--steps", min=2, help="Sampler steps.", rich_help_panel=COMPUTING)]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Same seed, same result.", rich_help_panel=COMPUTING)]
Sampler = Annotated[
    str, typer.Option("--sampler", help="dpmpp_2m, heun, ddim, or a plugin's.", rich_help_panel=COMPUTING)
]
Plane = Annotated[
    str | None,
    typer.Option(
        "--plane",
        help="axial, coronal or sagittal, for a 2D model on a volume; as acquired if left out.",
        rich_help_panel=COMPUTING,
    ),
]
Each = Annotated[
    bool,
    typer.Option(
        "--each", help="Restore every scan below the input folder, each with its uncertainty; goes on where it ended."
    ),
]
EachVolume = Annotated[
    bool, typer.Option("--each-volume", help="Restore every volume of a 4D NIfTI file and write them as one again.")
]
Series = Annotated[
    str | None,
    typer.Option(
        "--series", help="Where there are several: its key in `medldm inspect`, or its UID.", rich_help_panel=READING
    ),
]
Select = Annotated[
    list[str] | None,
    typer.Option(
        "--select",
        metavar="KEY=VALUE",
        help="Which part of a series, e.g. EchoTime=5.19, or of a 4D NIfTI, volume=3; repeatable.",
        rich_help_panel=READING,
    ),
]
ResampleNonuniform = Annotated[
    bool,
    typer.Option(
        "--resample-nonuniform", help="Take uneven slices, interpolated to an even step.", rich_help_panel=READING
    ),
]
Xform = Annotated[
    str | None, typer.Option("--xform", help="sform or qform, of a NIfTI file that has both.", rich_help_panel=READING)
]
AssumeAffine = Annotated[
    bool,
    typer.Option(
        "--assume-affine",
        help="Take a scan that does not say where it lies; its place is made up.",
        rich_help_panel=READING,
    ),
]
Nan = Annotated[
    str,
    typer.Option(
        "--nan",
        help="refuse voxels that are not finite, or fill them with the smallest value.",
        rich_help_panel=READING,
    ),
]
MaxBytes = Annotated[
    int, typer.Option("--max-bytes", min=1, help="Most voxels to hold, in bytes.", rich_help_panel=READING)
]
Device = Annotated[
    str | None,
    typer.Option(
        "--device", help="cpu, cuda, cuda:1; a GPU where there is one if left out.", rich_help_panel=COMPUTING
    ),
]
Format = Annotated[
    str | None,
    typer.Option("--format", help="nifti, dicom or picture, where the name does not tell.", rich_help_panel=WRITING),
]
Force = Annotated[
    bool,
    typer.Option(
        "--force",
        help="Restore although the model refuses, as of an image that is nothing but noise; the report says so.",
        rich_help_panel=COMPUTING,
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.", rich_help_panel=WRITING)]
Quiet = Annotated[bool, typer.Option("--quiet", help="Nothing but errors.", rich_help_panel=WRITING)]
Json = Annotated[bool, typer.Option("--json", help="Print the report as JSON.", rich_help_panel=WRITING)]
Uncertainty = Annotated[
    Path | None,
    typer.Option(
        "--uncertainty", help="Also write the standard deviation of the result's error.", rich_help_panel=WRITING
    ),
]
Residual = Annotated[
    Path | None, typer.Option("--residual", help="Also write measurement minus result.", rich_help_panel=WRITING)
]
Report = Annotated[
    Path | None, typer.Option("--report", help="Also write a one-file HTML report.", rich_help_panel=WRITING)
]
Bounds = Annotated[
    Path | None,
    typer.Option(
        "--interval",
        help="Also write where the true value lies: of i.nii.gz, i-lower.nii.gz and i-upper.",
        rich_help_panel=WRITING,
    ),
]
Level = Annotated[
    float,
    typer.Option("--level", help="Share of the voxels that --interval holds, 0.5 to 0.98.", rich_help_panel=WRITING),
]


def choice_of(
    series: str | None = None,
    select: Sequence[str] | None = None,
    resample_nonuniform: bool = False,
    xform: str | None = None,
    assume_affine: bool = False,
    nan: str = "refuse",
    max_bytes: int = MAX_BYTES,
) -> Choice:
    """What a reader is told, from the options of a command. Raises InputError."""
    return Choice(series, parse_select(select or ()), resample_nonuniform, xform, assume_affine, nan, max_bytes)


def parse_select(texts: Sequence[str]) -> dict[str, str]:
    """ "EchoTime=5.19", ... by their keys. Raises InputError."""
    return parse_pairs(texts, "--select", "EchoTime=5.19", "see medldm inspect")


def parse_pairs(texts: Sequence[str], where: str, example: str, do: str = "") -> dict[str, str]:
    """KEY=VALUE, ... by their keys. Raises InputError."""
    values: dict[str, str] = {}
    for text in texts:
        key, mark, value = (part.strip() for part in text.partition("="))
        if not (key and mark and value) or key in values:
            got = "the same key twice" if key in values else repr(text)
            raise InputError(where, got, f"KEY=VALUE, e.g. {example}", do)
        values[key] = value
    return values


def parse_mode(text: str) -> str | float:
    """ "fidelity", "perceptual" or a number from 0 to 1. Raises InputError."""
    if text in ("fidelity", "perceptual"):
        return text
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise InputError("--mode", repr(text), "fidelity, perceptual, or a number from 0 to 1")
    return value


def parse_scale(text: str | None) -> int | tuple[int, ...] | None:
    """ "2" or "2x2x1". Raises InputError."""
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) not in (1, 3) or not all(part.isdecimal() and int(part) >= 1 for part in parts):
        raise InputError("--scale", repr(text), "a whole factor (2), or one an axis (1x1x2)")
    return int(parts[0]) if len(parts) == 1 else tuple(int(part) for part in parts)


def parse_spacing(text: str | None) -> tuple[float, ...] | None:
    """ "1" or "0.8x0.8x3" in mm, as three numbers. Raises InputError."""
    if text is None:
        return None
    try:
        values = tuple(float(part) for part in text.lower().split("x"))
    except ValueError:
        values = ()
    if len(values) not in (1, 3) or not all(math.isfinite(value) and value > 0 for value in values):
        raise InputError("--spacing", repr(text), "a length in mm (1), or one an axis (0.8x0.8x3)")
    return values * 3 if len(values) == 1 else values
