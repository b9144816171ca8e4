"""Recipes: a TOML file is the arguments of one training, checked; unknown keys are errors.

``[pack]`` says what the model is (`medldm.pack`), the rest how it is trained: data, and a list of ``[[stage]]``.
"""

from __future__ import annotations

import difflib
import math
import string
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from medldm.errors import RecipeError
from medldm.net_tables import ImportedNetTable
from medldm.pack import ModelPack
from medldm.stage_tables import AutoencoderStage, DenoiserStage, GeneratorStage, HeadStage, StageTable, TrajectoryStage
from medldm.tables import Size, Table, first_wrong, wrong

_EXAMPLES = "medldm plan writes one for your scans; configs/ has those of the models"


def _pattern(text: str) -> str:
    """Of a file's name, filled from a table's columns."""
    try:
        names = [name for _, name, _, _ in string.Formatter().parse(text) if name is not None]
    except ValueError:
        names = [""]
    if not text or "" in names:
        raise ValueError("a pattern with columns in braces, such as {file}")
    return text


Pattern = Annotated[str, AfterValidator(_pattern)]


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
    slices : every so many-th slice of a volume is an image of its own (2D), across the last of the pack's axcodes (LPS
        unless it says others), to which these scans are turned; none: volumes are refused
    resample : scans of another voxel size are brought to `pack.spacing`; else they are trained on as they are. Either
        way what is coarser than `pack.spacing_range` is refused, as interpolation makes no detail; what is finer is
        refused without
    """

    folder: str = "."
    index: str | None = None
    file: Pattern = "{file}"
    patient: str = "patient"
    mask: Pattern | None = None
    weight: float = Field(1.0, gt=0)
    synthesis: bool = True
    conditions: dict[str, Pattern] = {}
    coarsen: Annotated[tuple[Size, ...], Field(min_length=1)] = (1,)
    slices: Annotated[int, Field(ge=1)] | None = None
    resample: bool = False


class _Sources(Table):
    source: tuple[Source, ...] = Field(min_length=1)


class Recipe(Table):
    """Everything that a training needs but the data's place.

    stages : in their order, the autoencoder first; each of a name of its own
    checkpoint_seconds : how often a checkpoint is written
    validation_fraction : of the patients, held out where a table does not say which
    augment_gain, augment_zoom : crops are made brighter or darker, and larger, by so much at most
    """

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True)
    pack: ModelPack
    seed: int = Field(0, ge=0)
    checkpoint_seconds: float = Field(120.0, gt=0)
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    validation_fraction: float = Field(0.04, ge=0, lt=1)
    augment_gain: float = Field(0.0, ge=0)
    augment_zoom: float = Field(1.0, ge=1)
    sources: tuple[Source, ...] = Field(min_length=1, alias="source")
    stages: tuple[StageTable, ...] = Field(min_length=1, alias="stage")

    @model_validator(mode="after")
    def _stages_fit_the_pack(self) -> Self:
        names = [stage.name for stage in self.stages]
        for number, stage in enumerate(self.stages):
            if (number == 0) != isinstance(stage, AutoencoderStage):
                raise wrong(("stage", number, "train"), stage.train, "the autoencoder first, and once")
            if stage.name in names[:number]:
                raise wrong(("stage", number), stage.name, f"another stage than stage.{names.index(stage.name)}")
            if isinstance(stage, GeneratorStage | TrajectoryStage):
                self._check_level(number, stage)
                continue
            if not isinstance(stage, AutoencoderStage):
                self._check_problems(number, stage)
            self._check_crop(number, stage)
        return self

    def _check_level(self, number: int, stage: GeneratorStage | TrajectoryStage) -> None:
        """There is such a level, its crop is one that its networks take, and there is something to learn from."""
        synthesis, dims = self.pack.synthesis, self.pack.dims
        levels = () if synthesis is None else synthesis.cascade
        if stage.level >= len(levels):
            expected = f"a level of pack.synthesis.cascade, which has {len(levels)}"
            raise wrong(("stage", number, "level"), stage.level, expected)
        if not any(source.synthesis for source in self.sources):
            raise wrong(("stage", number, "train"), stage.train, "a source that teaches synthesis")
        if len(stage.crop) not in (0, dims):
            raise wrong(("stage", number, "crop"), list(stage.crop), f"{dims} sizes, or none for whole images")
        if stage.redraws and not stage.level:
            raise wrong(("stage", number, "redraws"), stage.redraws, "0: nothing is drawn before the first level")
        ratio = levels[stage.level - 1].coarsen // levels[stage.level].coarsen if stage.level else 1
        if isinstance(levels[stage.level].unet, ImportedNetTable):
            raise wrong(("stage", number, "level"), stage.level, "a level of medldm's, not an imported network")
        if isinstance(stage, GeneratorStage) and stage.guide and levels[stage.level].guide is None:
            raise wrong(("stage", number, "guide"), True, f"a level with a guide: pack.synthesis.cascade.{stage.level}")
        halvings = levels[stage.level].unet.multiple
        for size, factor in zip(stage.crop, self.pack.latent_factor, strict=False):
            multiple = math.lcm(factor * halvings, ratio)
            if size % multiple:
                raise wrong(("stage", number, "crop"), list(stage.crop), f"multiples of {multiple}, for the networks")

    def _check_crop(self, number: int, stage: AutoencoderStage | DenoiserStage | HeadStage) -> None:
        """Its sizes are those that the networks of the stage take: whole latents, halved so often."""
        pack, place = self.pack, ("stage", number, "crop")
        if len(stage.crop) != pack.dims:
            raise wrong(place, list(stage.crop), f"{pack.dims} sizes, as dims says")
        alone = isinstance(stage, AutoencoderStage) or pack.unet is None
        halvings = 1 if alone or pack.unet is None else 2 ** (len(pack.unet.channels) - 1)
        head = 2 ** len(pack.heads[stage.head].channels) if isinstance(stage, HeadStage) else 1
        for size, factor in zip(stage.crop, pack.latent_factor, strict=True):
            multiple = math.lcm(factor * halvings, head)
            if size % multiple:
                raise wrong(place, list(stage.crop), f"multiples of {multiple}, for the networks")

    def _check_problems(self, number: int, stage: DenoiserStage | HeadStage) -> None:
        pack = self.pack
        for name in stage.problems:
            if name not in pack.problems:
                expected = f"problems of the pack: {', '.join(pack.problems) or 'none'}"
                raise wrong(("stage", number, "problems"), name, expected)
        if isinstance(stage, HeadStage):
            if stage.head not in pack.heads:
                raise wrong(("stage", number, "head"), stage.head, f"one of pack.heads: {', '.join(pack.heads)}")
            for name in stage.problems:
                answers = pack.problems[name].head
                if stage.head not in (answers, pack.heads[answers].after):
                    expected = f"problems of the head {stage.head}, not of another head ({answers})"
                    raise wrong(("stage", number, "problems"), name, expected)
            return

    @model_validator(mode="after")
    def _sources_fit_the_pack(self) -> Self:
        (low, high), spacing = self.pack.spacing_range, self.pack.spacing
        if self.pack.seen is not None:
            raise wrong(("pack", "seen"), "a table", "none: it is what the training finds")
        if any(s.resample for s in self.sources) and not all(low <= s <= high for s in spacing[: self.pack.dims]):
            expected = f"within spacing_range, {low:g} to {high:g}, to resample to"
            raise wrong(("pack", "spacing"), list(spacing), expected)
        known = {} if self.pack.synthesis is None else self.pack.synthesis.conditions
        for number, source in enumerate(self.sources):
            for name in source.conditions:
                if name not in known:
                    expected = f"a condition of pack.synthesis: {', '.join(known) or 'none'}"
                    raise wrong(("source", number, "conditions", name), source.conditions[name], expected)
            if source in self.sources[:number]:
                place = ("source", number, "folder")
                raise wrong(place, source.folder, f"another than source.{self.sources.index(source)} in any key")
            if self.pack.dims == 3 and source.coarsen != (1,):
                raise wrong(("source", number, "coarsen"), list(source.coarsen), "[1]: volumes are not coarsened")
            if self.pack.dims == 3 and source.slices is not None:
                raise wrong(("source", number, "slices"), source.slices, "none: a model of volumes takes them whole")
        return self

    def training_table(self) -> dict[str, Any]:
        """All but the pack, as it is kept beside the weights."""
        return self.model_dump(mode="json", by_alias=True, exclude={"pack"})


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
        first = first_wrong(failure, table)
        if first.kind == "missing":
            raise RecipeError(where, f"no key {first.path!r}", "one", _EXAMPLES) from None
        if first.kind == "extra_forbidden":
            near = difflib.get_close_matches(str(first.key[-1]), sorted(_known_keys(Recipe)), n=1)
            do = f"did you mean {near[0]!r}?" if near else "remove it"
            do = "it belongs into another table" if near == [first.key[-1]] else do
            raise RecipeError(where, f"unknown key {first.path!r}", "a key of a recipe", do) from None
        raise RecipeError(where, f"{first.path}: {first.got}", first.expected) from None


def named_recipes() -> dict[str, Path]:
    """The recipes that come with medldm, by their names: in a wheel beside this file, in a checkout in configs/."""
    here = Path(__file__)
    folders = (here.with_name("recipes"), here.parents[1] / "configs")
    folder = next((each for each in folders if each.is_dir()), folders[0])
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def load_recipe(path: str | Path) -> Recipe:
    """Read a TOML recipe; raises RecipeError."""
    return parse_recipe(read_table(path), where=str(path))


def load_sources(path: str | Path) -> tuple[Source, ...]:
    """The sources of a TOML file with tables ``[[source]]``, such as a recipe. Raises RecipeError."""
    table = {"source": read_table(path).get("source", [])}
    try:
        return _Sources.model_validate(table).source
    except ValidationError as failure:
        first = first_wrong(failure, table)
        raise RecipeError(str(path), f"{first.path}: {first.got}", first.expected) from None


def read_table(path: str | Path) -> dict[str, Any]:
    """A TOML recipe as it is written, not checked yet; one of those that come with medldm by its name alone.

    Raises RecipeError.
    """
    path, named = Path(path), named_recipes()
    if path.name == str(path) and not path.suffix and not path.exists():
        if path.name not in named:
            near = difflib.get_close_matches(str(path), named, n=1)
            do = f"did you mean {near[0]!r}?" if near else "a file of yours ends in .toml"
            raise RecipeError(f"recipe {path}", "no such name or file", f"a TOML file, or {', '.join(named)}", do)
        path = named[path.name]
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as failure:
        raise RecipeError(str(path), failure.strerror or "unreadable", "a TOML recipe", _EXAMPLES) from None
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as failure:
        raise RecipeError(str(path), f"not TOML ({failure})", "a TOML recipe", _EXAMPLES) from None
