"""Rows of the sweep: which autoencoders are compared, and what is measured of each; a finished row is kept in a file.

All of a question train on the same crops, as many a step, with the same loss: what differs is the autoencoder's table,
and the learning rate where it was chosen.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.autoencoder_training import Trained, train_autoencoder
from benchmarks.autoencoders import model_input, reconstruct, row
from benchmarks.protocol import Case
from medldm.errors import InputError
from medldm.evaluate.intervals import Interval, paired_difference
from medldm.io.atomic import write_whole
from medldm.model import Model
from medldm.nets.patches import pad_to_multiple
from medldm.recipe import Recipe, parse_recipe
from medldm.training.scan import Scan

FACTORS = (2, 4, 8, 16)
LR = 1e-3
KL_WEIGHT = 1e-6  # Rombach et al. 2022
CODEBOOK_SIZE = 1024
VQ_CHANNELS = {2: 2, 4: 3, 8: 4, 16: 8}
# about as many codes; more levels where the block PCA, whose channels fall in variance, has more to say
LEVELS = {2: (64, 16), 4: (40, 5, 5), 8: (16, 4, 4, 4), 16: (8, 2, 2, 2, 2, 2, 2, 2)}
DEFAULT = {"factor": 4, "channels": 4}
MONAI = {"kind": "monai", "channels": 4, "widths": [32, 64, 64]}


@dataclass(frozen=True)
class Spec:
    """A training: `autoencoder` is the pack's table; 0 seconds leave it as the data set it (block PCA)."""

    name: str
    kind: str
    autoencoder: dict[str, Any]
    seconds: float
    lr: float = LR
    seed: int = 1


def table_8(factors: Sequence[int], seconds: float) -> list[Spec]:
    """The block PCA, KL, codebook and finite levels of each factor; KL at four pixels a latent number throughout."""
    specs = []
    for f in factors:
        kl = {"factor": f, "channels": f * f // 4}
        vq = {"factor": f, "channels": VQ_CHANNELS[f]}
        codebook = {"kind": "codebook", "size": CODEBOOK_SIZE}
        levels = {"kind": "levels", "levels": list(LEVELS[f])}
        specs += [
            Spec(f"pca-f{f}", "PCA", kl, 0),
            Spec(f"kl-f{f}", "KL", {**kl, "learned_std": True}, seconds),
            Spec(f"vq-f{f}", "VQ", {**vq, "quantizer": codebook}, seconds),
            Spec(f"fsq-f{f}", "FSQ", {**vq, "quantizer": levels}, seconds),
        ]
    return specs


def contestants() -> dict[str, dict[str, Any]]:
    """The tables that are compared at equal time: medldm's default and MONAI's network of its size."""
    return {"default": DEFAULT, "MONAI": MONAI}


def of_rate(kind: str, lr: float, seconds: float) -> Spec:
    """A contestant with a learning rate that may be chosen."""
    return Spec(f"{kind.lower()}-lr{lr:g}", kind, contestants()[kind], seconds, lr)


def of_seed(kind: str, lr: float, seconds: float, seed: int) -> Spec:
    """A contestant with the learning rate that was chosen."""
    return Spec(f"{kind.lower()}-seed{seed}", kind, contestants()[kind], seconds, lr, seed)


def recipe_of(base: Recipe, spec: Spec) -> Recipe:
    """The base's recipe with the autoencoder, learning rate and seed of a row; raises RecipeError."""
    table = base.model_dump(mode="json", by_alias=True) | {"seed": spec.seed}
    table["pack"] |= {"name": spec.name, "autoencoder": spec.autoencoder}
    first = table["stage"][0]
    first |= {"lr": spec.lr, "reconstruction": first["reconstruction"] | {"kl": KL_WEIGHT}}
    return parse_recipe(table, where=f"row {spec.name}")


@torch.inference_mode()
def codebook_share(model: Model, cases: Sequence[Case]) -> float | None:
    """Share of the codes (0 to 1) that the cases' latents are rounded to; None for latents that are not."""
    autoencoder = model.networks.autoencoder
    if autoencoder.quantizer is None:
        return None
    used = torch.zeros(autoencoder.quantizer.size, dtype=torch.bool)
    for case in cases:
        z, _ = autoencoder.raw_encode(padded(model, case))
        used[autoencoder.quantizer.codes(z).flatten()] = True
    return float(used.float().mean())


def padded(model: Model, case: Case) -> torch.Tensor:
    """(1, 1, *S) in the model's range, of a size that the autoencoder takes."""
    return pad_to_multiple(model_input(model, case)[0], model.networks.autoencoder.multiple)[0]


def measured(trained: Trained, cases: Sequence[Case]) -> dict[str, Any]:
    """A row: intervals over the cases and their own figures, in the cases' order, without the patients' names."""
    model, autoencoder = trained.model, trained.model.networks.autoencoder
    found = {f"{case.index}": case.score(reconstruct(autoencoder, model, case)) for case in cases}
    return row(model.name, autoencoder, found) | {
        "compression": autoencoder.compression,
        "codes": None if autoencoder.quantizer is None else autoencoder.quantizer.size,
        "codebook_share": codebook_share(model, cases),
        "steps": trained.steps,
        "cpu_seconds": round(trained.seconds, 2),
        "start_seconds": round(trained.start_seconds, 2),
        "each": found,
    }


class Rows:
    """Rows in a folder, a file each; one that is there and is of the very same training is not made again.

    base : the recipe of all; its seed divides patients into training and validation
    scans, cases : what is trained on, and what is measured
    """

    def __init__(self, folder: Path, base: Recipe, scans: Sequence[Scan], cases: Sequence[Case]) -> None:
        self.folder, self.base, self.scans, self.cases = folder, base, scans, cases

    def of(self, spec: Spec) -> dict[str, Any]:
        """The row of a training; raises OutputError where its file cannot be written."""

        def make() -> dict[str, Any]:
            trained = train_autoencoder(recipe_of(self.base, spec), self.scans, spec.seconds)
            new = {"kind": spec.kind, **measured(trained, self.cases)}
            return new if spec.seconds else new | {"parameters": 0}  # its branches are 0, and were not trained

        return kept(self.folder / f"{spec.name}.json", asdict(spec) | {"cases": len(self.cases)}, make)


def kept(path: Path, spec: dict[str, Any], make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The row in a file, unless it is another `spec`'s; else it is made, and written there. Raises OutputError."""
    wanted = json.loads(json.dumps(spec))
    if path.is_file():
        there: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if there["spec"] == wanted:
            return there
    new = {"spec": wanted, **make()}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda part: part.write_text(json.dumps(new, indent=1) + "\n", encoding="utf-8"))
    return new


def difference(a: dict[str, Any], b: dict[str, Any]) -> Interval:
    """PSNR of row a - row b over the same cases (dB)."""
    return paired_difference(*({n: s["psnr"] for n, s in one["each"].items()} for one in (a, b)))


def mean_over_seeds(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One row of several trainings: each case's figures are means over them. Raises InputError for other cases."""
    first = rows[0]
    if any(one["each"].keys() != first["each"].keys() for one in rows):
        raise InputError("rows", "other cases", "the same in each", "delete the rows and begin anew")
    each = {
        n: {key: sum(one["each"][n][key] for one in rows) / len(rows) for key in first["each"][n]}
        for n in first["each"]
    }
    return first | {"each": each}
