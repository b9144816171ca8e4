"""`medldm demo`: every task once, on scans that ship with packages, into one folder with one report."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer

import medldm
from medldm.cli import options as o
from medldm.cli.output import Progress
from medldm.errors import InputError, ModelError, OutputError
from medldm.installed import describe
from medldm.io.atomic import check_folder

Scan = Annotated[Path | None, typer.Option("--scan", help="Your own scan as well (denoised; there is no truth).")]
Out = Annotated[Path, typer.Option("--out", help="Folder for the results.")]
Brain = Annotated[str, typer.Option("--brain-model", help="Model of heads.")]
Chest = Annotated[str, typer.Option("--chest-model", help="Model of radiographs.")]
Slices = Annotated[str, typer.Option("--ct-model", help="Model of slices of CT.")]


def demo(
    scan: Scan = None,
    out: Out = Path("demo-output"),
    brain_model: Brain = "brain-t1-2mm",
    chest_model: Chest = "chest-xray-256",
    ct_model: Slices = "ct-torso",
    seed: o.Seed = 0,
    device: o.Device = None,
    overwrite: o.Overwrite = False,
    quiet: o.Quiet = False,
) -> None:
    """Denoise and super-resolve scans that ship with packages; leaves report.html."""
    _check(out, scan, overwrite=overwrite)
    packs = [(describe(brain_model), 3), (describe(chest_model), 2), (describe(ct_model), 2)]
    unusable = [f"model {pack.name}: {pack.problem}" for pack, _ in packs if pack.problem]
    unusable += [
        f"model {pack.name}: {pack.dims}D where {dims}D is needed"
        for pack, dims in packs
        if not pack.problem and pack.dims != dims
    ]
    if len(unusable) == len(packs):
        raise ModelError("demo", "; ".join(unusable), "an installed model", "see medldm doctor")
    from medldm.cli.demo_parts import Head, Radiograph, Run, Torso, own_scan
    from medldm.report.page import write_report

    start = time.perf_counter()
    out.mkdir(exist_ok=True)
    with Progress(quiet=quiet) as progress:
        run = Run(out, progress, quiet, seed, overwrite, list(unusable))
        kinds: tuple[type[Head | Radiograph | Torso], ...] = (Head, Radiograph, Torso)
        models = {
            part: medldm.load_model(pack.name, device)
            for part, (pack, dims) in zip(kinds, packs, strict=True)
            if not pack.problem and pack.dims == dims
        }
        if scan is not None:
            run.part("your scan", lambda: own_scan(run, scan, list(models.values())))
        for part, model in models.items():
            part(run, model).all()
    found = {"figures": run.figures, "seconds": run.seconds, "left_out": run.failures}
    (out / "demo.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    times = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in run.seconds.items())
    left_out = "".join(f" Left out: {failure}." for failure in run.failures)
    text = f"Made in {time.perf_counter() - start:.0f} s ({times}).{left_out}"
    write_report(out / "report.html", run.sections, title="medldm demonstration", text=text)
    run.say(f"wrote {out / 'report.html'}")
    if not run.sections:
        raise typer.Exit(1)


def _check(out: Path, scan: Path | None, *, overwrite: bool) -> None:
    """Refuse what cannot end well. Raises InputError, OutputError."""
    if scan is not None and not scan.exists():
        raise InputError(str(scan), "no such file or folder", "a scan", "check the path")
    check_folder(out)
    if out.is_dir() and any(out.iterdir()) and not overwrite:
        raise OutputError(str(out), "a folder with files in it", "a new one", "choose another, or --overwrite")
