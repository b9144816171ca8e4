"""Which autoencoder keeps how much? Factors and kinds side by side, for the same CPU seconds of training.

    python -m benchmarks.sweep [--question table-8|equal-time|brain] [--quick] [--rows FOLDER]

table-8 : radiographs, f = 2 to 16, KL, codebook and finite levels beside the block PCA (after Table 8 of Rombach et al.
    2022), with a plot, docs/images/autoencoders.svg
equal-time : radiographs, f = 4, c = 4: medldm's default against MONAI's network, three seeds; the learning rate of
    each is chosen on the patients that the recipe holds out of training
brain : T1 heads, f = 2 and 4: how far training lifts an autoencoder above its block PCA
    (configs/brain-t1-2mm-autoencoder-*.toml)

Test patients by the protocol of benchmarks/protocol.py, means with 95 % bootstrap intervals over patients. A budget is
CPU seconds of the process that trains (benchmarks/autoencoder_training.py). Every finished training is kept in FOLDER
(runs/sweep) and not done again.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import autoencoders, plot, protocol, record
from benchmarks.sweep_rows import (
    DEFAULT,
    FACTORS,
    Rows,
    Spec,
    contestants,
    difference,
    mean_over_seeds,
    of_rate,
    of_seed,
    table_8,
)
from medldm.installed import TRAINING
from medldm.model import Model, load_model
from medldm.recipe import Recipe, load_recipe
from medldm.training.data import load_scans
from medldm.training.train import train

RECIPES = Path(__file__).resolve().parents[1] / "configs"
CHEST_RECIPE = "chest-xray-autoencoder-f4-short"
BRAIN_RECIPES = ("brain-t1-2mm-autoencoder-f2", "brain-t1-2mm-autoencoder-f4")
RATES = {"default": (3e-4, 1e-3, 3e-3), "MONAI": (1e-4, 3e-4, 1e-3, 3e-3)}
CURVES = {  # of each kind: name, colour, style
    "PCA": ("block PCA, 4 pixels a number", "0.45", "--"),
    "KL": ("KL, 4 pixels a number", "tab:blue", "-"),
    "VQ": ("codebook", "tab:orange", "-"),
    "FSQ": ("finite levels", "tab:green", "-"),
}
MOST_CODES_IDLE, LEAD = 0.2, 3.0
QUICK_STEPS = 4


@dataclass(frozen=True)
class Size:
    """How much is trained and measured: CPU seconds, factors, seeds, test patients (None: all)."""

    table_8: float = 40
    equal_time: float = 150
    choice: float = 60
    factors: tuple[int, ...] = FACTORS
    seeds: tuple[int, ...] = (1, 2, 3)
    cases: int | None = None


QUICK = Size(2, 4, 2, (4, 8), (1,), autoencoders.QUICK_CASES)


def chest_rows(folder: Path, size: Size, *, choose: bool = False) -> Rows:
    """Rows of radiographs: of the test patients or, to choose on, of those that the recipe holds out."""
    base = load_recipe(RECIPES / f"{CHEST_RECIPE}.toml")
    cases = autoencoders.held_out(base)[: size.cases] if choose else protocol.chest_cases(size.cases)
    return Rows(folder, base, load_scans(base, protocol.data_folder()), cases)


def show(title: str, rows: list[dict[str, Any]]) -> None:
    table = Table(title=title)
    headings = ("autoencoder", "kind", "f", "c", "pixels a number", "codes (used)", "parameters", "CPU s", "steps")
    for heading in (*headings, "PSNR dB [95 %]", "SSIM"):
        table.add_column(heading)
    for one in rows:
        psnr, used = one["psnr"], one["codebook_share"]
        table.add_row(
            one["autoencoder"],
            one["kind"],
            str(one["factor"][0]),
            str(one["channels"]),
            f"{one['compression']:.3g}",
            "" if used is None else f"{one['codes']} ({used:.0%})",
            f"{one['parameters'] / 1e6:.2f} M",
            f"{one['cpu_seconds']:.1f}",
            str(one["steps"]),
            f"{psnr['mean']:.2f} [{psnr['low']:.2f}, {psnr['high']:.2f}]",
            f"{one['ssim']['mean']:.4f}",
        )
    Console(width=160).print(table)


def finish(name: str, rows: list[dict[str, Any]], bars: list[dict[str, Any]]) -> None:
    """Say which bars hold, and record all but the single patients' figures."""
    for one in bars:
        print(f"{'holds ' if one['holds'] else 'MISSED'} {one['name']}: {one['value']:g} ({one['target']})")
    record.write(name, [{k: v for k, v in one.items() if k != "each"} for one in rows], bars)


def ask_table_8(folder: Path, size: Size, suffix: str) -> None:
    keeper = chest_rows(folder, size)
    rows = [keeper.of(spec) for spec in table_8(size.factors, size.table_8)]
    pca = {one["factor"][0]: one for one in rows if one["kind"] == "PCA"}
    for one in rows:
        if one["kind"] != "PCA":
            one["above_pca"] = difference(one, pca[one["factor"][0]]).to_dict()
    show(f"{len(keeper.cases)} test patients, {size.table_8:g} CPU seconds of training a row", rows)
    least = 1 - MOST_CODES_IDLE
    bars = [
        record.bar(f"{one['autoencoder']}: share of {one['codes']} codes in use", used, f"> {least:g}", used > least)
        for one in rows
        if (used := one["codebook_share"]) is not None and one["kind"] == "VQ"
    ]
    finish(f"sweep-table-8{suffix}", rows, bars)
    if not suffix:
        plot.draw("autoencoders", [panel(rows)])


def panel(rows: Sequence[dict[str, Any]]) -> plot.Panel:
    """PSNR over the factor, a curve a kind."""
    curves = []
    for kind, (label, colour, style) in CURVES.items():
        mine = sorted((row for row in rows if row["kind"] == kind), key=lambda row: row["factor"][0])
        factors, psnr = [row["factor"][0] for row in mine], [row["psnr"] for row in mine]
        curves.append(plot.Curve(label, factors, psnr, colour, style))
    marks = sorted({row["factor"][0] for row in rows})
    return plot.Panel("", curves, "downsampling factor f", "PSNR of test patients (dB)", log_x=True, marks=marks)


def ask_equal_time(folder: Path, size: Size, suffix: str) -> None:
    kinds = tuple(contestants())
    choosing = chest_rows(folder / "choice", size, choose=True)
    tried = {kind: {lr: choosing.of(of_rate(kind, lr, size.choice)) for lr in RATES[kind]} for kind in kinds}
    rates = {kind: max(found, key=lambda lr: found[lr]["psnr"]["mean"]) for kind, found in tried.items()}
    choice = [one for kind in kinds for one in tried[kind].values()]
    show(f"{len(choosing.cases)} held-out scans of train, {size.choice:g} CPU seconds of training", choice)
    keeper = chest_rows(folder, size)
    pca = keeper.of(Spec("pca", "PCA", DEFAULT, 0))
    trained: dict[str, list[dict[str, Any]]] = {kind: [] for kind in kinds}
    for seed in size.seeds:  # in turn, so that a busier machine slows both
        for kind in kinds:
            trained[kind].append(keeper.of(of_seed(kind, rates[kind], size.equal_time, seed)))
    rows = [pca, *(one for kind in kinds for one in trained[kind])]
    show(f"{len(keeper.cases)} test patients, {size.equal_time:g} CPU seconds of training", rows)
    default, theirs = (mean_over_seeds(trained[kind]) for kind in kinds)
    pairs = {
        "default - MONAI": difference(default, theirs),
        "default - PCA": difference(default, pca),
        "MONAI - PCA": difference(theirs, pca),
    }
    for name, found in pairs.items():
        seeds = zip(*trained.values(), strict=True) if name == "default - MONAI" else ()
        each = ", ".join(f"{difference(a, b).mean:+.2f}" for a, b in seeds)
        print(f"{name}: {found.mean:+.2f} [{found.low:+.2f}, {found.high:+.2f}] dB {each and f'(seeds: {each})'}")
    lead = pairs["default - MONAI"].mean
    choice = [{"measured_on": "held-out scans of train", **one} for one in choice]
    differences = [{"difference": name, "psnr": found.to_dict()} for name, found in pairs.items()]
    bars = [record.bar("default over MONAI's network (dB)", lead, f">= {LEAD:g}", lead >= LEAD)]
    finish(f"sweep-equal-time{suffix}", [*choice, *rows, *differences], bars)


def trained_pack(recipe: Recipe, folder: Path) -> Model:
    """The recipe's model, trained as `medldm train` does unless the folder has it."""
    if (folder / TRAINING).is_file() and autoencoders.trained_by(str(folder)) == recipe:
        return load_model(folder)
    return train(recipe, data=protocol.data_folder(), out=folder, device="cpu")


def ask_brain(folder: Path, size: Size, suffix: str) -> None:
    cases, rows, bars = protocol.brain_cases(), [], []
    for name in BRAIN_RECIPES:
        recipe = load_recipe(RECIPES / f"{name}.toml")
        if suffix:
            first, *others = recipe.stages
            few = first.model_copy(update={"steps": QUICK_STEPS})
            recipe = recipe.model_copy(update={"stages": (few, *others)})
        found, held = autoencoders.measured(trained_pack(recipe, folder / name), recipe, cases)
        autoencoders.show(f"{name}: {len(cases)} test heads", found, [])
        rows, bars = [*rows, *found], [*bars, *held]
    finish(f"sweep-brain{suffix}", rows, bars)


QUESTIONS: dict[str, Callable[[Path, Size, str], None]] = {
    "table-8": ask_table_8,
    "equal-time": ask_equal_time,
    "brain": ask_brain,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--question", choices=list(QUESTIONS), action="append", help="(all)")
    parser.add_argument("--quick", action="store_true", help="seconds of training, to see that it works")
    parser.add_argument("--rows", type=Path, default=Path("runs/sweep"), help="folder of finished rows")
    arguments = parser.parse_args()
    suffix, size = ("-quick", QUICK) if arguments.quick else ("", Size())
    for question in arguments.question or QUESTIONS:
        QUESTIONS[question](arguments.rows / f"{question}{suffix}", size, suffix)


if __name__ == "__main__":
    main()
