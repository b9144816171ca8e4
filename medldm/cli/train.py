"""`medldm train`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

import medldm
from medldm.cli import options as o
from medldm.cli.output import Progress, time_left
from medldm.errors import InputError
from medldm.installed import CARD
from medldm.io.atomic import check_folder

if TYPE_CHECKING:
    from medldm.training.cost import StageCost

LOSSES, PICTURES = "losses.jsonl", "pictures"  # as a training leaves them in its folder
LAST_BYTES, LAST_LINES = 8192, 20  # of the losses: what is looked at

RecipeFile = Annotated[Path, typer.Argument(help="TOML recipe, or the name of one that comes along: quick-3d, ...")]
Data = Annotated[Path, typer.Option("--data", help="Folder of the data sets that the recipe names.")]
Out = Annotated[Path, typer.Option("--out", help="Folder for checkpoints and the finished model.")]
Start = Annotated[
    str | None,
    typer.Option(
        "--start",
        help="Model (name or folder) to go on from: fine-tuning on your own scans. Or a pack of `medldm import`: a "
        'diffusion stage is trained on its autoencoder (autoencoder.kind = "start" in the recipe).',
    ),
]
Workers = Annotated[
    int, typer.Option("--workers", min=0, help="Processes that draw the batches; a GPU is best fed by several.")
]
Strategy = Annotated[
    Literal["ddp", "fsdp"],
    typer.Option("--strategy", help="Of several processes (torchrun, SLURM): all weights in each, or shares of them."),
]
Estimate = Annotated[
    bool, typer.Option("--estimate", help="Only say how long each stage will take and what memory it needs.")
]
Cache = Annotated[
    Path | None,
    typer.Option(
        "--cache",
        help="Folder to keep the scans in as they are trained on (hashes for names): they are read once, and may be "
        "larger than the memory. Without it they are read at each start and no copy of them is written.",
    ),
]
Resume = Annotated[bool, typer.Option("--resume/--no-resume", help="Go on from the last checkpoint.")]
DespiteGate = Annotated[
    bool,
    typer.Option(
        "--despite-gate",
        help="Train on an autoencoder that the reconstruction gate calls a no-go (OUT/gate.html says why).",
    ),
]


def _print_costs(costs: list[StageCost]) -> None:
    """A line a stage on standard error: what is coming."""
    for cost in costs:
        memory = f"{cost.memory_bytes / 1e6:.0f} MB beside the scans"
        print(f"{cost.name}: {cost.steps} steps, about {time_left(cost.seconds)}, {memory}", file=sys.stderr)
    if len(costs) > 1:
        print(f"in all about {time_left(sum(cost.seconds for cost in costs))}, reading not counted", file=sys.stderr)


def _latest(out: Path, stage: str) -> str:
    """The last losses of a stage, and where the last picture of held-out scans is; of these, what there is."""
    said, log, picture = [], out / LOSSES, out / PICTURES / f"{stage}.png"
    if log.is_file():
        with log.open("rb") as handle:
            handle.seek(max(0, log.stat().st_size - LAST_BYTES))
            lines = handle.read().decode(errors="replace").splitlines()[-LAST_LINES:]
        entries = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]
        found = {key: value for entry in entries if entry["stage"] == stage for key, value in entry.items()}
        said = [f"{key} {value:.4g}" for key, value in found.items() if key not in ("stage", "step")]
    return ", ".join([*said, *([str(picture)] if picture.is_file() else [])])


def train(
    recipe: RecipeFile,
    data: Data,
    out: Out,
    start: Start = None,
    resume: Resume = True,
    despite_gate: DespiteGate = False,
    device: o.Device = None,
    workers: Workers = 0,
    strategy: Strategy = "ddp",
    cache: Cache = None,
    estimate: Estimate = False,
    quiet: o.Quiet = False,
) -> None:
    """Train a model by a recipe. Started again after an interruption, it goes on from its last checkpoint.

    Before the denoiser the autoencoder is measured on held-out scans: on a no-go the training ends (exit code 1) with
    the reason; the report is OUT/gate.html. While it runs it tells the time left, the last losses (OUT/losses.jsonl)
    and the last picture of held-out scans (OUT/pictures).
    """
    from medldm.training.start import resolve

    resolve(recipe, start)
    if not data.is_dir():
        raise InputError(str(data), "no such folder", "the folder of the data sets")
    check_folder(out if out.exists() else out.absolute().parent)  # runs/mine, where there is no runs yet
    from medldm.training.parallel import first_process

    quiet = quiet or not first_process()
    if (estimate and first_process()) or not quiet:
        _print_costs(medldm.estimate_training(recipe, data=data, start=start, device=device, cache=cache))
    if estimate:
        return
    with Progress(quiet=quiet, more=lambda stage: _latest(out, stage)) as progress:
        model = medldm.train(
            recipe,
            data=data,
            out=out,
            start=start,
            resume=resume,
            despite_gate=despite_gate,
            device=device,
            workers=workers,
            strategy=strategy,
            cache=cache,
            progress=progress,
        )
    if not quiet:
        print(f"trained {model.name}: use it with --model {out}; what it is for says {out / CARD}")
