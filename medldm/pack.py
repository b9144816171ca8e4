"""What a pack is: its tables, checked, and the packs that are installed. Nothing here needs torch.

A pack is a folder: `weights.safetensors`, `pack.json` (the tables below, with the version of their format), `card.md`,
and, for whoever wants to know, `training.json`: how it was trained. Loading it executes nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, JsonValue, Tag, ValidationError, model_validator

from medldm import registry
from medldm.conditions import ConditionTable
from medldm.errors import MedldmError, ModelError

FORMAT = 3  # of pack.json; format 1 was called recipe.json, format 2 shared one denoiser with synthesis
PROMPT = "prompt"  # the condition whose values an external text encoder embedded
WEIGHTS, PACK, TRAINING, CARD = "weights.safetensors", "pack.json", "training.json", "card.md"


class Table(BaseModel):
    """A table of a pack or a recipe; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class IntensityTable(Table):
    """Arguments of `medldm.intensity.Intensity`."""

    kind: Literal["window", "percentile"]
    low: float
    high: float
    zero_floor: bool = False


class LevelsTable(Table):
    """Arguments of `medldm.nets.quantizers.FiniteLevels`: one number of levels a latent channel."""

    kind: Literal["levels"] = "levels"
    levels: tuple[Annotated[int, Field(ge=2)], ...]


class CodebookTable(Table):
    """Arguments of `medldm.nets.quantizers.Codebook`."""

    kind: Literal["codebook"] = "codebook"
    size: int = Field(ge=2)
    decay: float = Field(0.99, gt=0, lt=1)
    commitment: float = Field(0.25, ge=0)
    restart_below: float = Field(0.05, ge=0)


QuantizerTable = Annotated[LevelsTable | CodebookTable, Field(discriminator="kind")]


class PCATable(Table):
    """Arguments of `medldm.nets.pca_autoencoder`. factor : one number, or one an axis (thick slices)."""

    kind: Literal["pca"] = "pca"
    factor: Annotated[int, Field(ge=1)] | tuple[Annotated[int, Field(ge=1)], ...]
    channels: int = Field(ge=1)
    width: int = 96
    encoder_depth: int = 2
    decoder_depth: int = 4
    noise_std: float = 0.01
    learned_std: bool = False
    white_branches: bool = True
    quantizer: QuantizerTable | None = None

    def factors(self, dims: int) -> tuple[int, ...]:
        return (self.factor,) * dims if isinstance(self.factor, int) else self.factor


class MonaiTable(Table):
    """Arguments of `medldm.nets.monai_autoencoder`."""

    kind: Literal["monai"]
    channels: int = Field(ge=1)
    widths: tuple[int, ...] = (32, 64, 64)
    num_res_blocks: int = 2
    norm_groups: int = Field(16, ge=1)
    middle_attention: bool = False
    quantizer: QuantizerTable | None = None

    @model_validator(mode="after")
    def _whole_groups(self) -> Self:
        if any(width % self.norm_groups for width in self.widths):
            raise ValueError("widths must be multiples of norm_groups")
        return self

    def factors(self, dims: int) -> tuple[int, ...]:
        return (2 ** (len(self.widths) - 1),) * dims


class ImportedTable(Table):
    """An autoencoder of another library: `family` is the entry point `medldm.autoencoders`, `config` is its own."""

    kind: Literal["imported"]
    family: str
    factor: tuple[Annotated[int, Field(ge=1)], ...]
    channels: int = Field(ge=1)
    config: dict[str, JsonValue]
    quantizer: None = None

    def factors(self, dims: int) -> tuple[int, ...]:
        return self.factor


def _kind(table: Any) -> Any:
    return table.get("kind", "pca") if isinstance(table, dict) else getattr(table, "kind", "pca")


AutoencoderTable = Annotated[
    Annotated[PCATable, Tag("pca")] | Annotated[MonaiTable, Tag("monai")] | Annotated[ImportedTable, Tag("imported")],
    Discriminator(_kind),
]


class UNetTable(Table):
    """Arguments of `medldm.nets.unet.LatentUNet`."""

    channels: tuple[int, ...]
    attention_levels: tuple[bool, ...]
    num_res_blocks: int = 1

    @property
    def multiple(self) -> int:
        """Of what number of cells an axis it takes."""
        return 1 << (len(self.channels) - 1)


class ImportedNetTable(Table):
    """A diffusion network of another library: `medldm.nets.imported.unet`.

    config : its arguments, by the names of MONAI's `DiffusionModelUNet`; control: of its ControlNet, which is told the
        pack's label map
    numbers : conditions that are its context vector or constant channels beside x_t, in their order
    label : the condition that is its class; regions: those that are MAISI's body regions, uppermost and lowest
    prompts : how many tokens each value of the class condition "prompt" is, whose embeddings are kept with the weights
    null : what it takes for a condition that is not said, None: nothing
    rows_first : a 2D network sees rows x columns
    """

    kind: Literal["imported"]
    family: Literal["monai", "maisi"]
    config: dict[str, JsonValue]
    control: dict[str, JsonValue] | None = None
    multiple: int = Field(ge=1)
    numbers: tuple[str, ...] = ()
    label: str | None = None
    regions: tuple[str, ...] = ()
    prompts: int = Field(0, ge=0)
    null: float | None = None
    rows_first: bool = False


class ScheduleTable(Table):
    """The times of an imported network, and their levels: `medldm.diffusion.timed.TimedProcess`.

    betas : how the variance grows from beta_start to beta_end over so many `times`, "flow": a straight line without
    prediction : what the network says: the noise, x_0, the velocity; of a flow x_0 minus the noise
    spacing, offset : which of the times are taken where there are fewer steps (by diffusers' names)
    shift : of a flow, how its times lie: ``shift t / (1 + (shift - 1) t)`` (Esser et al. 2024)
    """

    kind: Literal["schedule"] = "schedule"
    betas: Literal["linear", "scaled_linear", "sigmoid", "cosine", "flow"]
    beta_start: Annotated[float, Field(gt=0)] = 1e-4
    beta_end: Annotated[float, Field(gt=0)] = 2e-2
    times: int = Field(1000, ge=2)
    prediction: Literal["noise", "clean", "velocity"] = "noise"
    spacing: Literal["leading", "linspace", "trailing"] = "linspace"
    offset: int = Field(0, ge=0)
    shift: float = Field(1.0, gt=0)


class ProcessTable(Table):
    """Arguments of `medldm.diffusion.process.NoiseProcess`. sigma_data : one number, or one a latent channel."""

    parameterisation: Literal["edm", "noise", "clean", "velocity", "flow"] = "edm"
    levels: Literal["log_normal", "log_uniform", "time_uniform"] = "log_normal"
    weighting: Literal["even", "min_snr", "sigmoid"] = "even"
    sigma_min: Annotated[float, Field(gt=0)] = 0.008
    sigma_max: Annotated[float, Field(gt=0)] = 40.0
    sigma_data: Annotated[float, Field(gt=0)] | tuple[Annotated[float, Field(gt=0)], ...] = 1.0
    log_mean: float = 0.0
    log_std: Annotated[float, Field(gt=0)] = 1.5


class HeadTable(Table):
    """Arguments of `medldm.nets.head.MeasurementHead`. mask : it is told where nothing was measured."""

    channels: tuple[int, ...]
    depth: int = 2
    separable: bool = False
    mask: bool = False


class MeasurementTable(Table):
    """How networks are told of a measurement (`medldm.nets.condition`), and how far off they may take it to be.

    noise_std : noise, as a share of the range, that is told as 0 and as 1
    least_error, blur_error, missing_error : the measurement's own error, as shares of the range: at least; for each
        halving of the resolution; where a part was not measured
    """

    noise_std: tuple[float, float] = (0.001, 0.3)
    least_error: Annotated[float, Field(gt=0)] = 0.003
    blur_error: Annotated[float, Field(ge=0)] = 0.03
    missing_error: Annotated[float, Field(ge=0)] = 0.1


class ProblemTable(BaseModel):
    """A task that a pack was trained for; further keys are those of its `medldm.operators.problem.Problem`.

    head : which of the pack's heads answers it
    noise_std : of the scans trained on, least and most, as shares of the range
    """

    model_config = ConfigDict(extra="allow", frozen=True)
    head: str
    noise_std: tuple[float, float]


def _own_or(other: str) -> Callable[[Any], str]:
    """The tag of a table that is of the kind `other`, or has no kind."""

    def tag(table: Any) -> str:
        kind = table.get("kind") if isinstance(table, dict) else getattr(table, "kind", None)
        return other if kind == other else "own"

    return tag


NetTable = Annotated[
    Annotated[UNetTable, Tag("own")] | Annotated[ImportedNetTable, Tag("imported")],
    Discriminator(_own_or("imported")),
]
AnyProcess = Annotated[
    Annotated[ProcessTable, Tag("own")] | Annotated[ScheduleTable, Tag("schedule")],
    Discriminator(_own_or("schedule")),
]


class GeneratorTable(Table):
    """A level of a cascade: `medldm.diffusion.generator.Generator`.

    coarsen : its images are means of so many voxels an axis; levels go from coarse to fine, the last is 1
    coarse_noise : noise, least and most, that the coarser image is taught with (shares of the range)
    sampled_noise : of the coarser image in sampling
    tile : of fields larger than this (latent cells an axis), parts are computed and blended in every step; None: whole
    """

    coarsen: int = Field(1, ge=1)
    unet: NetTable
    process: AnyProcess = ProcessTable(sigma_max=80.0, log_mean=0.3, log_std=1.2)
    coarse_noise: tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(ge=0)]] = (0.0, 0.2)
    sampled_noise: float = Field(0.05, ge=0)
    tile: tuple[Annotated[int, Field(ge=1)], ...] | None = None

    @model_validator(mode="after")
    def _both_imported_or_none(self) -> Self:
        if isinstance(self.unet, ImportedNetTable) != isinstance(self.process, ScheduleTable):
            raise ValueError("an imported unet goes with a process of kind schedule, and none else does")
        return self


class SynthesisTable(Table):
    """The grid of synthetic scans, what the model's 1 is in their unit, what can be asked for, and the networks.

    conditions : by their names (`medldm.conditions`)
    cascade : from coarse to fine; one level is no cascade
    """

    shape: tuple[int, int, int]
    unit: str = "arbitrary"
    scale: float = 1.0
    offset: float = 0.0
    conditions: dict[Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")], ConditionTable] = {}
    cascade: tuple[GeneratorTable, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _from_coarse_to_fine(self) -> Self:
        steps = [level.coarsen for level in self.cascade]
        if steps[-1] != 1 or any(a <= b or a % b for a, b in zip(steps, steps[1:], strict=False)):
            raise ValueError("cascade.coarsen must fall to 1, each a multiple of the next")
        if len(self.cascade) > 1 and any(isinstance(level.unet, ImportedNetTable) for level in self.cascade):
            raise ValueError("an imported unet is no level of a cascade")
        return self

    @property
    def required(self) -> tuple[str, ...]:
        """Conditions that have to be said: an imported network may know nothing else."""
        unet = self.cascade[0].unet
        if not isinstance(unet, ImportedNetTable) or unet.null is not None:
            return ()
        others = [name for name, told in ((unet.label, unet.label), (PROMPT, unet.prompts)) if name and told]
        return (*unet.numbers, *unet.regions, *others)


class AutoencoderPack(Table):
    """An autoencoder, and the scans that it is for. The pack of an autoencoder alone says nothing else."""

    name: str
    description: str = ""
    dims: Literal[2, 3]
    modality: tuple[str, ...]
    spacing: tuple[float, float, float]
    spacing_range: tuple[float, float]
    axcodes: str | None = None
    intensity: IntensityTable
    autoencoder: AutoencoderTable

    @model_validator(mode="after")
    def _one_factor_an_axis(self) -> Self:
        table = self.autoencoder
        if len(table.factors(self.dims)) != self.dims:
            raise ValueError(f"autoencoder.factor must be one number, or {self.dims}")
        if isinstance(table.quantizer, LevelsTable) and len(table.quantizer.levels) != table.channels:
            raise ValueError("quantizer.levels must be one number a latent channel")
        return self

    @property
    def turns(self) -> bool:
        """Whether scans are turned to the model's axes: an image of two dimensions is taken as it lies."""
        return self.dims == 3 and self.axcodes is not None

    @property
    def latent_factor(self) -> tuple[int, ...]:
        """Downsampling of the latents along each axis (dims numbers)."""
        return self.autoencoder.factors(self.dims)


class ModelPack(AutoencoderPack):
    """A whole model: which scans it is for, its networks, the problems that it solves.

    unet, process, heads : what restores; None and none for a model that only synthesizes
    problems : by the name of their entry point in `medldm.problems`
    synthesis : None for a model that was not trained to synthesize
    """

    noise: Literal["gaussian", "rician"]
    process: ProcessTable = ProcessTable()
    measurement: MeasurementTable = MeasurementTable()
    unet: UNetTable | None = None
    heads: dict[str, HeadTable] = {}
    problems: dict[str, ProblemTable] = {}
    synthesis: SynthesisTable | None = None

    @model_validator(mode="after")
    def _each_problem_has_its_head(self) -> Self:
        if self.problems and self.unet is None:
            raise ValueError("problems need the table unet")
        if not self.problems and self.synthesis is None:
            raise ValueError("a model needs problems, or the table synthesis")
        for name, problem in self.problems.items():
            if problem.head not in self.heads:
                raise ValueError(f"problems.{name}.head must be one of {', '.join(self.heads) or 'the heads'}")
        return self

    @property
    def multiple(self) -> tuple[int, ...]:
        """What each image size is padded to a multiple of, so that every restoring network takes it (dims numbers)."""
        heads = [2 ** len(head.channels) for head in self.heads.values()]
        levels = 1 if self.unet is None else 2 ** (len(self.unet.channels) - 1)
        return tuple(math.lcm(factor * levels, *heads) for factor in self.latent_factor)


@dataclass(frozen=True)
class Pack:
    """One model on offer: what it is for, how large it is, or why it cannot be used.

    problems : names of what it restores; tasks : the same and synthesis, in words
    """

    name: str
    modality: str = ""
    spacing: str = ""
    megabytes: float = 0.0
    tasks: str = ""
    dims: int = 0
    problems: tuple[str, ...] = ()
    synthesizes: bool = False
    problem: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def folder_of(name: str) -> Path:
    """Folder of a model by its name or itself, whole. Raises ModelError."""
    path = Path(name)
    if not path.is_dir():
        if path.parent != Path(".") or name in ("", ".."):
            raise ModelError(f"model {name}", "no such folder", "a model folder, or a name", "see medldm models")
        path = Path(registry.find("models", name).folder())
    missing = [part for part in (WEIGHTS, PACK) if not (path / part).is_file()]
    if PACK in missing and (path / "recipe.json").is_file():
        raise ModelError(f"model {name}", "a pack of format 1", f"format {FORMAT}", "train or install it anew")
    if missing:
        raise ModelError(f"model {name}", f"no {' and no '.join(missing)}", "a whole folder", "install or train it")
    return path


def read_tables(name: str) -> AutoencoderPack:
    """The tables of a pack, by name or folder: a `ModelPack`, or that of an autoencoder alone. Raises ModelError."""
    where = f"model {Path(name).resolve().name if Path(name).is_dir() else name}"
    try:
        table = json.loads((folder_of(name) / PACK).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as failure:
        if isinstance(failure, MedldmError):
            raise
        raise ModelError(where, f"a {PACK} that cannot be read ({type(failure).__name__})", "a table") from None
    if not isinstance(table, dict):
        raise ModelError(where, f"a {PACK} that is no table", "a table")
    found = table.pop("format", None)
    if found != FORMAT:
        raise ModelError(where, f"a pack of format {found}", f"format {FORMAT}", "another version of medldm reads it")
    kind = ModelPack if {"unet", "synthesis"} & table.keys() else AutoencoderPack
    try:
        return kind.model_validate(table)
    except ValidationError as failure:
        first = failure.errors()[0]
        got = f"a {PACK} that is wrong in {'.'.join(map(str, first['loc'])) or 'itself'} ({first['msg']})"
        raise ModelError(where, got, "one of this version", "reinstall it") from None


def describe(name: str) -> Pack:
    """What a model is for; what is wrong with it goes into `problem`."""
    try:
        pack, folder = read_tables(name), folder_of(name)
        spacing = " x ".join(f"{s:g}" for s in pack.spacing[: pack.dims])
        size = round((folder / WEIGHTS).stat().st_size / 1e6, 1)
    except MedldmError as failure:
        return Pack(name, problem=str(failure))
    except OSError as failure:
        return Pack(name, problem=f"weights that cannot be read ({type(failure).__name__})")
    modality = ", ".join(pack.modality)
    if not isinstance(pack, ModelPack):
        return Pack(name, modality, spacing, size, "none: an autoencoder alone, to train a model on", pack.dims)
    synthesizes = pack.synthesis is not None
    tasks = [_words(problem, table) for problem, table in pack.problems.items()] + ["synthesize"] * synthesizes
    return Pack(name, modality, spacing, size, ", ".join(tasks), pack.dims, tuple(pack.problems), synthesizes)


def _words(problem: str, table: ProblemTable) -> str:
    keys = table.model_extra or {}
    factors = ", ".join(f"x{factor}" for factor in keys.get("factors", ()))
    return problem + (f" ({factors}{' through plane' if keys.get('through_plane') else ''})" if factors else "")


def installed_models() -> list[Pack]:
    """Every model on offer, usable or not."""
    return [describe(name) for name in registry.names("models")]
