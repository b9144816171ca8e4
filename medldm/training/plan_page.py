"""A plan, and the recipe that it becomes, with the reason above each key."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from medldm.io.atomic import write_whole
from medldm.io.manifest import write_manifest
from medldm.training.fingerprint import Kind
from medldm.training.plan_grid import SIZES, Grid, Size, attention_levels, cropped, guide_widths, resamples
from medldm.training.plan_scans import write_grid, write_intensity
from medldm.training.recipe_page import Page

Purpose = Literal["both", "restore", "synthesize"]
PARTS = frozenset({"autoencoder", "restoring", "drawing"})
LEAST_STEPS = 10
REDRAWS = 6  # decision 0028
WHY = {
    "redraws": "Coarse images are shown as the level before draws them, so that its faults are mended.",
    "bend": "Few patients: images are bent smoothly, as if of others.",
}
FEW_PATIENTS = 100  # of 31 moving far and telling helped, of 1053 it did not (decision 0025)
LAST_SIGMA, LAST_SIGMA_GUIDED = 0.4, 0.15  # on radiographs (decision 0017)
SHORT, FAR = 6000, 2.5  # steps below which a guide is better moved away from farther, and how far (the same)


@dataclass(frozen=True)
class Plan:
    """A recipe for one kind of scans.

    conditions : tables of `medldm.conditions`, by name; said : why, or why a column is none
    levels : number of the size of each of `PARTS`
    steps, seconds : of each stage, planned and measured a step; capped : stages that have time for more
    free_bytes : of memory, None where nobody says
    """

    kind: Kind
    purpose: Purpose
    minutes: float
    conditions: Mapping[str, dict[str, Any]]
    said: Mapping[str, str]
    levels: Mapping[str, int]
    batches: Mapping[str, int] = field(default_factory=dict)
    steps: Mapping[str, int] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    capped: frozenset[str] = frozenset()
    free_bytes: int | None = None

    @property
    def name(self) -> str:
        return self.kind.name

    @property
    def grid(self) -> Grid:
        return Grid.of(self.kind, self.size("drawing"))

    def size(self, part: str) -> Size:
        return SIZES[self.levels[part]]

    def recipe(self, name: str, index: str) -> str:
        """TOML. name : of the pack; index : where its table of scans lies."""
        return _written(self, name, index)

    def write(self, path: Path, root: Path) -> tuple[Path, Path]:
        """The recipe, and beside it the table of its scans. Raises OutputError."""
        table = path.with_suffix(".csv")
        write_manifest(table, self.kind.records)
        absolute, below = table.absolute(), root.absolute()
        index = absolute.relative_to(below) if absolute.is_relative_to(below) else absolute
        name = self.name if path.stem == "recipe" else path.stem  # what results say that they were made by
        text = self.recipe(name, index.as_posix())
        write_whole(path, lambda part: part.write_text(text, encoding="utf-8"))
        return path, table


def part_of(stage: str) -> str:
    """Which of `PARTS` a stage trains."""
    return {"autoencoder": "autoencoder", "generator": "drawing", "guide": "drawing"}.get(
        stage.split("-")[0], "restoring"
    )


def _written(plan: Plan, name: str, index: str) -> str:
    kind, grid, page = plan.kind, plan.grid, Page()
    restores, draws = plan.purpose != "synthesize", plan.purpose != "restore"
    _head(page, plan)
    page.key("seed", 1)
    page.key("validation_fraction", 0.1, "Patients held out, where the table does not say which.")
    if restores:
        page.key(
            "augment_gain", 0.2, "Crops are made brighter or darker, and larger, so that other scanners' are known."
        )
        page.key("augment_zoom", 1.5)
    page.table("pack")
    page.key("name", name)
    page.key("description", _description(plan, grid))
    page.key("dims", kind.dims)
    page.key("modality", kind.modality, f"{kind.guess[:1].upper()}{kind.guess[1:]}." if kind.guess else "")
    write_grid(page, kind, grid)
    unit, scale, offset = write_intensity(page, kind)
    page.table("pack.autoencoder")
    why = "Cells of so many voxels an axis; block PCA to start with."
    if len(set(grid.factor)) > 1:
        why = "Slices are thick: through plane, less can be left out."
    page.key("factor", grid.factor[0] if len(set(grid.factor)) == 1 else grid.factor, why)
    page.key("channels", grid.channels)
    page.key(
        "width",
        plan.size("autoencoder").width[kind.dims],
        "This and the networks below are as large as the time allows.",
    )
    if plan.size("autoencoder").depth == 1:
        page.key("encoder_depth", 1)
        page.key("decoder_depth", 1)
    if draws:
        page.key("noise_std", 0.003, "Little noise on the latents, as what is drawn in them should be sharp.")
    if restores:
        _problems(page, plan, grid)
    if draws:
        _synthesis(page, plan, grid, unit, scale, offset)
    _source(page, plan, grid, index)
    _stages(page, plan, grid)
    return page.text()


def _head(page: Page, plan: Plan) -> None:
    kind = plan.kind
    trained = f"{len(kind.training)} to train on"
    size = f"{len(kind.records)} scans of {kind.patients} patients"
    page.comment(f"{size} ({', '.join(kind.modality)}, {kind.dims}D), {trained}.")
    looked = f"{len(kind.looked)} of them were read for values and axes"
    page.comment(f"Sizes are those of the manifest; {looked}.")
    for reason, count in sorted(kind.left_out.items()):
        page.comment(f"Left out: {count}, {reason}.")
    seconds = sum(plan.steps.get(name, 0) * each for name, each in plan.seconds.items())
    if seconds:
        page.comment(f"About {seconds / 60:.3g} minutes on the machine that this was planned on, reading not counted.")
    voxels = float(np.mean([math.prod(look.shape) for look in kind.looked])) * len(kind.records)
    if 4 * voxels > 0.5 * (plan.free_bytes or math.inf):
        page.comment(f"The scans are {4 * voxels / 1e9:.0f} GB as they are trained on: give `medldm train` a --cache.")
    page.blank()


def _description(plan: Plan, grid: Grid) -> str:
    kind = plan.kind
    does = {"restore": "restores", "synthesize": "draws", "both": "restores and draws"}[plan.purpose]
    asked = f" by {', '.join(plan.conditions)}" if plan.conditions else ""
    size = " x ".join(map(str, grid.shape))
    return f"Latent diffusion model of {kind.modality[0]} ({kind.dims}D, {size}): {does}{asked}."


def _multiple(plan: Plan, grid: Grid) -> list[int]:
    """Of crops that every restoring network takes."""
    head = 2 ** len(plan.size("restoring").head)
    return [math.lcm(f * 2 ** (len(plan.size("restoring").unet) - 1), head) for f in grid.factor]


def _restoring_crop(plan: Plan, grid: Grid) -> list[int]:
    return cropped(96 if plan.kind.dims == 2 else 48, grid.shape, _multiple(plan, grid))


def _problems(page: Page, plan: Plan, grid: Grid) -> None:
    page.table("pack.unet")
    page.key("channels", plan.size("restoring").unet)
    page.key("attention_levels", attention_levels(plan.size("restoring").unet, plan.kind.dims))
    page.table("pack.heads.main")
    page.key("channels", plan.size("restoring").head)
    if plan.size("restoring").depth == 1:
        page.key("depth", 1)
    page.table("pack.heads.alike")
    page.key("channels", plan.size("restoring").head[:2])
    if plan.kind.dims == 3:
        page.key("separable", True)
    page.key("after", "main", "It is told what patches that look alike make of the first head's answer.")
    page.table("pack.problems.denoise")
    page.key("head", "alike")
    page.key("noise_std", (0.005, 0.25), "Of the noise that is learned, as a share of the range.")
    page.table("pack.problems.super_resolve")
    page.key("head", "main")
    page.key("noise_std", (0.0025, 0.125))
    crop = _restoring_crop(plan, grid)
    page.key("factors", [f for f in (2, 3, 4) if all(n % f == 0 for n in crop)])
    if plan.kind.dims == 3:
        thick = len(set(grid.factor)) > 1
        why = (
            "Slices are thick: what is fine in plane teaches what is coarse." if thick else "Thick slices to thin ones."
        )
        page.key("through_plane", True, why)


def _synthesis(page: Page, plan: Plan, grid: Grid, unit: str, scale: float, offset: float) -> None:
    dims = plan.kind.dims
    page.table("pack.synthesis")
    why = "Nine of ten scans lie within; smaller ones are filled up with 0, larger ones cut about their middle."
    page.key("shape", (*grid.shape, 1)[:3], why)
    page.key("unit", unit)
    page.key("scale", 255.0 if unit == "grey8" else 65535.0 if unit == "grey16" else scale, "What 1 is in that unit.")
    if offset and unit not in ("grey8", "grey16"):
        page.key("offset", offset)
    for column, reason in plan.said.items():
        if column not in plan.conditions:
            page.comment(f"Column {column} is no condition: {reason}.")
    for condition, table in plan.conditions.items():
        page.table(f"pack.synthesis.conditions.{condition}")
        page.comment(plan.said[condition])
        for key, value in table.items():
            if key != "labels":
                page.key(key, value)
        for label, values in table.get("labels", {}).items():
            page.key(f"labels.{label}", values)
    for number, coarsen in enumerate(grid.cascade):
        page.array("pack.synthesis.cascade")
        if number == 0 and len(grid.cascade) > 1:
            sizes = " x ".join(str(n // coarsen) for n in grid.padded(plan.size("drawing")))
            page.key("coarsen", coarsen, f"Anatomy is decided on {sizes} voxels, where a step is cheap.")
        elif coarsen > 1:
            page.key("coarsen", coarsen)
        channels = plan.size("drawing").finer if number else plan.size("drawing").generator
        levels = [False] * len(channels) if number else attention_levels(channels, dims)
        page.key("unet", {"channels": channels, "attention_levels": levels})
        weak = [] if number else guide_widths(channels)
        short = dims == 2 and bool(weak) and plan.steps.get("generator-0", LEAST_STEPS) < SHORT
        last = LAST_SIGMA_GUIDED if weak and not short else LAST_SIGMA
        if not number and plan.kind.patients < FEW_PATIENTS:
            page.key("coordinates", True, "Few patients: their images are moved far, and drawn as they lay before.")
        page.key("last_sigma", last, "Below it, networks of short trainings add errors of their own.")
        if weak:
            unet = {"channels": weak, "attention_levels": attention_levels(weak, dims)}
            far = {"scale": FAR} if short else {}
            page.key("guide", {"unet": unet} | far, "A small network that estimates are moved away from.")


def _source(page: Page, plan: Plan, grid: Grid, index: str) -> None:
    kind = plan.kind
    page.array("source")
    page.key("index", index, "The scans of this plan, by patient; its splits are kept.")
    if plan.conditions:
        page.key("conditions", {name: f"{{{name}}}" for name in plan.conditions})
    if resamples(kind):
        page.key("resample", True, "Voxels differ: all scans are brought to pack.spacing.")
    steps = [c for c in sorted(grid.cascade) if max(grid.shape) / c >= 64]
    if kind.dims == 2 and plan.purpose != "restore" and len(steps) > 1:
        page.key("coarsen", steps, "The autoencoder learns the coarser levels' images, too.")


def _stages(page: Page, plan: Plan, grid: Grid) -> None:
    dims = plan.kind.dims
    crop = _restoring_crop(plan, grid)

    def stage(name: str, train: str, *, share: float = 1.0, **keys: Any) -> None:
        size = plan.size(part_of(name))
        page.array("stage")
        page.key("train", train)
        for key, value in keys.items():
            page.key(key, value, WHY.get(key, ""))
        steps = plan.steps.get(name, LEAST_STEPS)
        page.key("steps", steps, _why_steps(plan, name))
        page.key("batch_size", plan.batches.get(name, max(1, round(share * size.batch[dims]))))
        page.key("lr", size.lr)
        ema = 0.9995 if steps >= 4000 else 0.999 if steps >= 1000 else 0.99 if steps >= 200 else 0.9
        page.key("ema", ema, "Weights are averaged over about the last " + f"{1 / (1 - ema):.0f} steps.")

    small = dims == 2 and len(grid.cascade) > 1 and plan.purpose != "restore"  # the coarsest images have 64 pixels
    first_crop = cropped(64, grid.shape, _multiple(plan, grid)) if small else crop
    stage("autoencoder", "autoencoder", crop=first_crop)
    if plan.purpose != "synthesize":
        both = {"denoise": 0.65, "super_resolve": 0.35}
        stage("denoiser", "denoiser", problems=both, crop=crop)
        stage("head-main", "head", head="main", problems=both, crop=crop, share=0.5)
        stage("head-alike", "head", head="alike", problems={"denoise": 1.0}, crop=crop, share=0.25)
    if plan.purpose == "restore":
        return
    few = plan.kind.patients < FEW_PATIENTS
    first: dict[str, Any] = {"shift": 0.15, "flip": 0.5} if few else {"shift": 0.06}
    if grid.cascade[0] > 1:  # to zoom blurs what is not coarsened
        first |= {"zoom": 0.2, "stretch": 0.15} if few else {"zoom": 0.05}
        first |= {"bend": 0.07} if few and dims == 2 else {}
    if guide_widths(plan.size("drawing").generator):
        stage("guide-0", "generator", level=0, guide=True, **first)
    stage("generator-0", "generator", level=0, **first)
    for number, (before, coarsen) in enumerate(itertools.pairwise(grid.cascade), start=1):
        whole = [n // coarsen for n in grid.padded(plan.size("drawing"))]
        multiples = [math.lcm(f * 2 ** (len(plan.size("drawing").finer) - 1), before // coarsen) for f in grid.factor]
        part = cropped(128 if dims == 2 else 48, whole, multiples)
        keys: dict[str, Any] = {"redraws": REDRAWS} | ({} if part == whole else {"crop": part})
        stage(f"generator-{number}", "generator", level=number, share=0.5, **keys)


def _why_steps(plan: Plan, name: str) -> str:
    each = plan.seconds.get(name)
    if each is None:
        return ""
    epochs = plan.steps[name] * plan.batches[name] / len(plan.kind.training)
    text = f"{each:.2g} s a step here; each scan is seen {epochs:.{0 if epochs >= 10 else 1}f} times."
    if name in plan.capped:
        return text + " More would learn them by heart."
    return text
