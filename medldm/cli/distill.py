"""`medldm distill`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import medldm
from medldm.cli import options as o
from medldm.cli.output import Progress
from medldm.errors import InputError
from medldm.io.atomic import check_folder

Teacher = Annotated[str, typer.Argument(help="Model (name or folder) that synthesizes in many steps.")]
Data = Annotated[Path, typer.Option("--data", help="Folder of the data sets that the model was trained on.")]
Out = Annotated[Path, typer.Option("-o", "--out", help="Folder for trajectories, checkpoints and the distilled model.")]
Evaluations = Annotated[
    list[int] | None,
    typer.Option(
        "--evaluations", min=1, help="Steps that it is to need at each level (4); once a level: each its own."
    ),
]
Trajectories = Annotated[
    int, typer.Option("--trajectories", min=1, help="Ways of the model from noise to images, at each level.")
]
Steps = Annotated[int, typer.Option("--steps", min=1, help="Of the training on them, at each level.")]
Guidance = Annotated[float, typer.Option("--guidance", min=0, help="With which they are drawn; it stays in.")]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1)]
LearningRate = Annotated[float, typer.Option("--lr", min=0)]


def distill(
    model: Teacher,
    data: Data,
    out: Out,
    evaluations: Evaluations = None,
    trajectories: Trajectories = 4000,
    steps: Steps = 4000,
    guidance: Guidance = 1.0,
    batch_size: BatchSize = 16,
    lr: LearningRate = 3e-4,
    device: o.Device = None,
    quiet: o.Quiet = False,
) -> None:
    """Teach a model that synthesizes to do so in a few steps. Started again, it goes on from its last checkpoint."""
    if not data.is_dir():
        raise InputError(str(data), "no such folder", "the folder of the data sets")
    check_folder(out)

    with Progress(quiet=quiet) as progress:
        found = medldm.distill(
            model,
            data=data,
            out=out,
            evaluations=evaluations[0] if evaluations and len(evaluations) == 1 else evaluations or 4,
            trajectories=trajectories,
            steps=steps,
            guidance=guidance,
            batch_size=batch_size,
            lr=lr,
            device=device,
            progress=progress,
        )
    if not quiet:
        print(f"distilled {found.name}: {out}")
