"""`medldm denoise`."""

from __future__ import annotations

from medldm.cli import options as o
from medldm.cli.progress import Progress
from medldm.cli.restoring import Outputs, finish, prepare
from medldm.io.limits import MAX_BYTES


def denoise(
    input: o.Input,
    output: o.Output,
    model: o.ModelName,
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
    """Remove the noise of a scan; grid, unit and metadata are kept."""
    dial = o.parse_mode(mode)
    outputs = Outputs(output, format, residual, uncertainty, report, overwrite)
    choice = o.choice_of(series, select, resample_nonuniform, xform, assume_affine, nan, max_bytes)
    scan = prepare(input, choice, model, sampler, outputs)
    from medldm import api

    with Progress(quiet=quiet) as progress:
        result = api.denoise(
            scan,
            model=model,
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
