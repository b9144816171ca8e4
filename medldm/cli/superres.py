"""`medldm superres`."""

from __future__ import annotations

from typing import Annotated

import typer

from medldm.cli import options as o
from medldm.cli.progress import Progress
from medldm.cli.restoring import Outputs, finish, prepare
from medldm.errors import InputError
from medldm.io.limits import MAX_BYTES

Scale = Annotated[
    str | None, typer.Option("--scale", help="Factor, e.g. 2, or one an axis of the file: 1x1x2.")
]
Spacing = Annotated[
    str | None, typer.Option("--spacing", help="Voxel size to reach in mm instead, e.g. 1 or 0.8x0.8x1.")
]


def superres(
    input: o.Input,
    output: o.Output,
    model: o.ModelName,
    scale: Scale = None,
    spacing: Spacing = None,
    noise_std: o.NoiseStd = None,
    mode: o.Mode = "fidelity",
    samples: o.Samples = 1,
    steps: o.Steps = 20,
    seed: o.Seed = 0,
    sampler: o.Sampler = "dpmpp_2m",
    series: o.Series = None,
    select: o.Select = None,
    resample_nonuniform: o.ResampleNonuniform = False,
    xform: o.Xform = None,
    assume_affine: o.AssumeAffine = False,
    nan: o.Nan = "refuse",
    max_bytes: o.MaxBytes = MAX_BYTES,
    device: o.Device = None,
    format: o.Format = None,
    residual: o.Residual = None,
    uncertainty: o.Uncertainty = None,
    report: o.Report = None,
    overwrite: o.Overwrite = False,
    quiet: o.Quiet = False,
    json: o.Json = False,
) -> None:
    """Refine a scan's grid by whole factors; the field of view stays where it is."""
    dial, factor, target = o.parse_mode(mode), o.parse_scale(scale), o.parse_spacing(spacing)
    if (factor is None) == (target is None):
        raise InputError("superres", "both or neither of --scale and --spacing", "one of them")
    outputs = Outputs(output, format, residual, uncertainty, report, overwrite)
    choice = o.choice_of(series, select, resample_nonuniform, xform, assume_affine, nan, max_bytes)
    scan = prepare(input, choice, model, sampler, outputs)
    from medldm import api

    with Progress(quiet=quiet) as progress:
        result = api.super_resolve(
            scan,
            model=model,
            scale=factor,
            spacing=target,
            noise_std=noise_std,
            mode=dial,
            samples=samples,
            steps=steps,
            sampler=sampler,
            seed=seed,
            device=device,
            progress=progress,
        )
    finish(scan, result, outputs, quiet=quiet, as_json=json)
