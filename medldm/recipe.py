"""Recipes: a TOML file is the arguments of one training, checked; unknown keys are errors.

``[pack]`` says what the model is (`medldm.pack`), the rest how it is trained: data, and a list of ``[[stage]]``.
"""

from __future__ import annotations

import difflib
import math
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from medldm.errors import RecipeError
from medldm.pack import ImportedNetTable, ModelPack, Table


class Source(Table):
    """One set of scans, below the folder given as `data`.

    index : CSV table, such as the manifest.csv of `medldm check`; None: every scan in `folder` that a reader takes,
        each a patient of its own
    file, mask : file patterns over the table's columns, e.g. "t1/{participant}.nii.gz"; the mask's voxels > 0
        are the organ, and copies with everything else set to 0 are trained on as well
    weight : share of the batches in restoration
    synthesis : whether whole images of this set teach synthesis
    conditions : what its scans are, by the names of the pack's conditions: a pattern over the table's columns, e.g.
        "{finding}", or a word that is true of all; for images and label maps the pattern gives a file. What is not
        named, or empty, is not said.
    coarsen : block averages by one of these factors are trained on as well (2D, images finer than `spacing`)
    """

    folder: str = "."
    index: str | None = None
    file: str = "{file}"
    patient: str = "patient"
    mask: str | None = None
    weight: float = Field(1.0, gt=0)
    synthesis: bool = True
    conditions: dict[str, str] = {}
    coarsen: tuple[int, ...] = (1,)


class AdversaryTable(Table):
    """A patch discriminator beside the autoencoder, `medldm.nets.discriminator.PatchScores`.

    weight : of its gradient at the decoder's last layer, as a share of the other terms' (0: off)
    start, ramp : when it sets in and how long its weight rises, as shares of the stage's steps
    width : channels of its first layer
    lr : its learning rate, as a share of the stage's
    """

    weight: Annotated[float, Field(ge=0)]
    start: Annotated[float, Field(ge=0, le=1)] = 0.3
    ramp: Annotated[float, Field(ge=0, le=1)] = 0.1
    width: Annotated[int, Field(ge=1)] = 32
    lr: Annotated[float, Field(gt=0)] = 1.0


class ReconstructionTable(Table):
    """What the autoencoder minimises: the weight of each term (0: not computed), a mean over examples.

    l2, l1 : squared and absolute error; the squared error of a good autoencoder is about 1e-4, hence the weight
    perceptual : distance of EfficientNet-Lite0's features (needs the extra `perceptual`)
    gradient, spectral : lost gradient, distance of the spectra; both punish blur
    kl : of the latents' Gaussians to the standard normal one
    drift : of the latents' mean square beyond 1, so that their size is held
    slices : a volume is cut so many times across each axis for the perceptual distance
    adversary : none unless there is a table of it
    """

    l2: Annotated[float, Field(ge=0)] = 1000.0
    l1: Annotated[float, Field(ge=0)] = 0.0
    perceptual: Annotated[float, Field(ge=0)] = 0.0
    gradient: Annotated[float, Field(ge=0)] = 0.0
    spectral: Annotated[float, Field(ge=0)] = 0.0
    kl: Annotated[float, Field(ge=0)] = 0.0
    drift: Annotated[float, Field(ge=0)] = 0.1
    slices: Annotated[int, Field(ge=1)] = 2
    adversary: AdversaryTable | None = None


class _Stage(Table):
    """What every stage says; 0 steps leave its network as the training started.

    clip : largest norm of a gradient; small enough to bind, it lets tasks with small gradients count alike
    """

    steps: int = Field(ge=0)
    batch_size: int = Field(ge=1)
    crop: tuple[Annotated[int, Field(ge=1)], ...]
    lr: float = Field(gt=0)
    ema: float = Field(0.999, ge=0, lt=1)
    clip: float = Field(5.0, gt=0)


class AutoencoderStage(_Stage):
    """The autoencoder, by the terms of `reconstruction`."""

    train: Literal["autoencoder"]
    reconstruction: ReconstructionTable = ReconstructionTable()

    @property
    def name(self) -> str:
        return "autoencoder"


class DenoiserStage(_Stage):
    """The denoiser, on the latents of crops with what was measured of them.

    problems : the share of each problem among the batches of crops
    mean_share : of the examples that ask for the posterior mean, with nothing of the image in x_t
    """

    train: Literal["denoiser"]
    problems: dict[str, Annotated[float, Field(gt=0)]] = Field(min_length=1)
    mean_share: float = Field(0.4, ge=0, le=1)

    @property
    def name(self) -> str:
        return "denoiser"


class HeadStage(_Stage):
    """A head, on crops with what was measured of them.

    mean_share : of the examples whose latent estimate is the posterior mean
    likelihood : weight of the likelihood of the deviation that the head says its error has
    """

    train: Literal["head"]
    head: str
    problems: dict[str, Annotated[float, Field(gt=0)]] = Field(min_length=1)
    mean_share: float = Field(0.8, ge=0, le=1)
    likelihood: float = Field(0.02, ge=0)

    @property
    def name(self) -> str:
        return f"head-{self.head}"


class GeneratorStage(_Stage):
    """A level of the pack's cascade, on the latents of whole images or, finer levels, of parts of them.

    level : its number in pack.synthesis.cascade, from 0
    crop : of the level's images, in their voxels; none: whole images
    shift, zoom : images are moved by so large a share of their size, and made larger or smaller, at most; only coarse
        levels zoom, since it blurs
    flip : share of the images that is mirrored, left to right
    drop : how often each condition, and how often all of them, are not said
    """

    train: Literal["generator"]
    level: int = Field(0, ge=0)
    crop: tuple[Annotated[int, Field(ge=1)], ...] = ()
    shift: float = Field(0.0, ge=0, lt=0.5)
    zoom: float = Field(0.0, ge=0, lt=0.5)
    flip: float = Field(0.0, ge=0, le=1)
    drop: float = Field(0.1, ge=0, lt=1)

    @property
    def name(self) -> str:
        return f"generator-{self.level}"


StageTable = Annotated[AutoencoderStage | DenoiserStage | HeadStage | GeneratorStage, Field(discriminator="train")]


class Recipe(Table):
    """Everything that a training needs but the data's place.

    stages : in their order, the autoencoder first; each of a name of its own
    checkpoint_seconds : how often a checkpoint is written
    validation_fraction : of the patients, held out where a table does not say which
    augment_gain, augment_zoom : crops are made brighter or darker, and larger, by so much at most
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_by_name=True, validate_by_alias=True)
    pack: ModelPack
    seed: int = 0
    checkpoint_seconds: float = Field(120.0, gt=0)
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    validation_fraction: float = Field(0.04, ge=0, lt=1)
    augment_gain: float = Field(0.0, ge=0)
    augment_zoom: float = Field(1.0, ge=1)
    sources: tuple[Source, ...] = Field(min_length=1, alias="source")
    stages: tuple[StageTable, ...] = Field(min_length=1, alias="stage")

    @model_validator(mode="after")
    def _stages_fit_the_pack(self) -> Self:
        pack, names = self.pack, [stage.name for stage in self.stages]
        if names[0] != "autoencoder" or len(set(names)) < len(names):
            raise ValueError("the autoencoder's stage comes first, and each stage once")
        for stage in self.stages:
            whole = isinstance(stage, GeneratorStage) and not stage.crop
            if len(stage.crop) != pack.dims and not whole:
                raise ValueError(f"the crop of stage {stage.name} must be {pack.dims} numbers")
            unknown = sorted(set(getattr(stage, "problems", ())) - set(pack.problems))
            if unknown:
                raise ValueError(f"stage {stage.name} is to learn {unknown[0]}, which is no problem of the pack")
            if isinstance(stage, HeadStage) and any(pack.problems[p].head != stage.head for p in stage.problems):
                raise ValueError(f"stage {stage.name} is to learn a problem of another head")
            if isinstance(stage, GeneratorStage):
                _check_level(stage, pack)
        known = {} if pack.synthesis is None else pack.synthesis.conditions
        for source in self.sources:
            foreign = sorted(set(source.conditions) - set(known))
            if foreign:
                raise ValueError(f"source {source.folder} has {foreign[0]}, which is no condition of the pack")
        return self

    def training_table(self) -> dict[str, Any]:
        """All but the pack, as it is kept beside the weights."""
        return self.model_dump(mode="json", by_alias=True, exclude={"pack"})


def _check_level(stage: GeneratorStage, pack: ModelPack) -> None:
    """Raises ValueError for a level that the pack has not, or a crop that its networks do not take."""
    if pack.synthesis is None or stage.level >= len(pack.synthesis.cascade):
        raise ValueError(f"stage {stage.name} needs that many levels of pack.synthesis.cascade")
    levels = pack.synthesis.cascade
    ratio = levels[stage.level - 1].coarsen // levels[stage.level].coarsen if stage.level else 1
    if isinstance(levels[stage.level].unet, ImportedNetTable):
        raise ValueError(f"stage {stage.name} is to train an imported network, which draws scans as it is")
    halvings = levels[stage.level].unet.multiple
    for size, factor in zip(stage.crop, pack.latent_factor, strict=False):
        multiple = math.lcm(factor * halvings, ratio)
        if size % multiple:
            raise ValueError(f"the crop of stage {stage.name} must be multiples of {multiple}")


def _known_keys(model: type[BaseModel]) -> set[str]:
    keys = {field.alias or name for name, field in model.model_fields.items()}
    for field in model.model_fields.values():
        parts = [field.annotation]
        while parts:
            part = parts.pop()
            parts += getattr(part, "__args__", ())
            if isinstance(part, type) and issubclass(part, BaseModel):
                keys |= _known_keys(part)
    return keys


def parse_recipe(table: dict[str, Any], *, where: str = "recipe") -> Recipe:
    """Check a table; raises RecipeError naming the first wrong key, the nearest name for an unknown one."""
    try:
        return Recipe.model_validate(table)
    except ValidationError as failure:
        errors = failure.errors()
        first = next((error for error in errors if error["type"] == "extra_forbidden"), errors[0])
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "missing":
            raise RecipeError(where, f"no key {key!r}", "one, as in configs/") from None
        if first["type"] == "extra_forbidden":
            near = difflib.get_close_matches(str(first["loc"][-1]), sorted(_known_keys(Recipe)), n=1)
            do = f"did you mean {near[0]!r}?" if near else "remove it"
            raise RecipeError(where, f"unknown key {key!r}", "a key of a recipe", do) from None
        raise RecipeError(where, f"{key}: {str(first.get('input'))[:60]}", first["msg"]) from None


def load_recipe(path: str | Path) -> Recipe:
    """Read a TOML recipe; raises RecipeError."""
    return parse_recipe(read_table(path), where=str(path))


def read_table(path: str | Path) -> dict[str, Any]:
    """A TOML recipe as it is written, not checked yet; raises RecipeError."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as failure:
        raise RecipeError(str(path), failure.strerror or "unreadable", "a TOML recipe", "see configs/") from None
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as failure:
        raise RecipeError(str(path), f"not TOML ({failure})", "a TOML recipe", "see configs/") from None
