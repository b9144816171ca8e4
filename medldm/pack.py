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
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import ConfigDict, Discriminator, Field, JsonValue, Tag, ValidationError, model_validator

from medldm import registry
from medldm.conditions import ConditionTable
from medldm.errors import MedldmError, ModelError
from medldm.tables import Axcodes, Modality, Positive, PositiveRange, Size, Table, first_wrong, wrong

if TYPE_CHECKING:
    from medldm.io.lazy import LazyScan
    from medldm.volume import Volume

FORMAT = 3  # of pack.json; format 1 was called recipe.json, format 2 shared one denoiser with synthesis
SPACING_TOLERANCE = 0.05  # anatomy differs more in size from person to person
PROMPT = "prompt"  # the condition whose values an external text encoder embedded
WEIGHTS, PACK, TRAINING, CARD = "weights.safetensors", "pack.json", "training.json", "card.md"


class IntensityTable(Table):
    """Arguments of `medldm.intensity.Intensity`."""

    kind: Literal["window", "percentile"]
    low: float
    high: float
    zero_floor: bool = False

    @model_validator(mode="after")
    def _a_range(self) -> Self:
        if self.kind == "percentile" and not 0 <= self.low <= 100:
            raise wrong(("low",), self.low, "a percentile, 0 to 100")
        if self.kind == "percentile" and not 0 <= self.high <= 100:
            raise wrong(("high",), self.high, "a percentile, 0 to 100")
        if self.low >= self.high:
            raise wrong(("low",), self.low, f"less than high, {self.high:g}")
        if self.kind == "window" and self.zero_floor:
            raise wrong(("zero_floor",), self.zero_floor, "false for a window, whose low is its floor")
        return self


class LevelsTable(Table):
    """Arguments of `medldm.nets.quantizers.FiniteLevels`: one number of levels a latent channel."""

    kind: Literal["levels"] = "levels"
    levels: tuple[Annotated[int, Field(ge=2)], ...] = Field(min_length=1)


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
    factor: Size | tuple[Size, ...]
    channels: Size
    width: Size = 96
    encoder_depth: Annotated[int, Field(ge=0)] = 2
    decoder_depth: Annotated[int, Field(ge=0)] = 4
    noise_std: Annotated[float, Field(ge=0)] = 0.01
    learned_std: bool = False
    white_branches: bool = True
    quantizer: QuantizerTable | None = None

    def factors(self, dims: int) -> tuple[int, ...]:
        return (self.factor,) * dims if isinstance(self.factor, int) else self.factor


class MonaiTable(Table):
    """Arguments of `medldm.nets.monai_autoencoder`."""

    kind: Literal["monai"]
    channels: Size
    widths: tuple[Size, ...] = Field((32, 64, 64), min_length=1)
    num_res_blocks: Size = 2
    norm_groups: Size = 16
    middle_attention: bool = False
    quantizer: QuantizerTable | None = None

    @model_validator(mode="after")
    def _whole_groups(self) -> Self:
        for level, width in enumerate(self.widths):
            if width % self.norm_groups:
                raise wrong(("widths", level), width, f"multiples of norm_groups, {self.norm_groups}")
        return self

    def factors(self, dims: int) -> tuple[int, ...]:
        return (2 ** (len(self.widths) - 1),) * dims


class ImportedTable(Table):
    """An autoencoder of another library: `family` is the entry point `medldm.autoencoders`, `config` is its own."""

    kind: Literal["imported"]
    family: str
    factor: tuple[Size, ...]
    channels: Size
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
    """Arguments of `medldm.nets.unet.LatentUNet`.

    channels : widths, one a level; multiples of 16, of 32 where there is attention
    """

    channels: tuple[Size, ...] = Field(min_length=1)
    attention_levels: tuple[bool, ...]
    num_res_blocks: Size = 1

    @model_validator(mode="after")
    def _widths_that_it_takes(self) -> Self:
        if len(self.attention_levels) != len(self.channels):
            expected = f"one a level, {len(self.channels)} as there are channels"
            raise wrong(("attention_levels",), list(self.attention_levels), expected)
        last = len(self.channels) - 1
        for level, (width, attends) in enumerate(zip(self.channels, self.attention_levels, strict=True)):
            if attends or level == last:  # its middle attends at any rate
                if width % 32:
                    why = "where there is attention" if attends else "at the last level, whose middle attends"
                    raise wrong(("channels", level), width, f"a multiple of 32 {why}")
            elif width % 16:
                raise wrong(("channels", level), width, "a multiple of 16")
        return self

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
    sigma_min: Positive = 0.008
    sigma_max: Positive = 40.0
    sigma_data: Positive | tuple[Positive, ...] = 1.0
    log_mean: float = 0.0
    log_std: Positive = 1.5

    @model_validator(mode="after")
    def _levels_between(self) -> Self:
        if self.sigma_min >= self.sigma_max:
            raise wrong(("sigma_min",), self.sigma_min, f"less than sigma_max, {self.sigma_max:g}")
        return self


class HeadTable(Table):
    """Arguments of `medldm.nets.head.MeasurementHead`. mask : it is told where nothing was measured."""

    channels: tuple[Size, ...] = Field(min_length=1)
    depth: Size = 2
    separable: bool = False
    mask: bool = False


class MeasurementTable(Table):
    """How networks are told of a measurement (`medldm.nets.condition`), and how far off they may take it to be.

    noise_std : noise, as a share of the range, that is told as 0 and as 1
    least_error, blur_error, missing_error : the measurement's own error, as shares of the range: at least; for each
        halving of the resolution; where a part was not measured
    """

    noise_std: PositiveRange = (0.001, 0.3)
    least_error: Positive = 0.003
    blur_error: Annotated[float, Field(ge=0)] = 0.03
    missing_error: Annotated[float, Field(ge=0)] = 0.1

    @model_validator(mode="after")
    def _levels_apart(self) -> Self:
        if self.noise_std[0] == self.noise_std[1]:
            raise wrong(("noise_std",), list(self.noise_std), "two levels, the smaller one first")
        return self


class ProblemTable(Table):
    """A task that a pack was trained for; further keys are those of its `medldm.operators.problem.Problem`.

    head : which of the pack's heads answers it
    noise_std : of the scans trained on, least and most, as shares of the range
    """

    model_config = ConfigDict(extra="allow")
    head: str
    noise_std: PositiveRange


class DistilledTable(Table):
    """What a level was distilled for: how many steps, at what guidance of its teacher."""

    steps: int = Field(ge=1)
    guidance: float = 1.0


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
    distilled : None for a level that wants many steps
    """

    coarsen: int = Field(1, ge=1)
    unet: NetTable
    process: AnyProcess = ProcessTable(sigma_max=80.0, log_mean=0.3, log_std=1.2)
    coarse_noise: tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(ge=0)]] = (0.0, 0.2)
    sampled_noise: float = Field(0.05, ge=0)
    tile: tuple[Annotated[int, Field(ge=1)], ...] | None = None
    distilled: DistilledTable | None = None

    @model_validator(mode="after")
    def _both_imported_or_none(self) -> Self:
        if isinstance(self.unet, ImportedNetTable) != isinstance(self.process, ScheduleTable):
            expected = "an imported unet with a process of kind schedule, or neither"
            raise wrong(("process",), self.process.__class__.__name__, expected)
        return self


class SynthesisTable(Table):
    """The grid of synthetic scans, what the model's 1 is in their unit, what can be asked for, and the networks.

    conditions : by their names (`medldm.conditions`)
    cascade : from coarse to fine; one level is no cascade
    """

    shape: tuple[Size, Size, Size]
    unit: str = "arbitrary"
    scale: Positive = 1.0
    offset: float = 0.0
    conditions: dict[Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")], ConditionTable] = {}
    cascade: tuple[GeneratorTable, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _from_coarse_to_fine(self) -> Self:
        steps = [level.coarsen for level in self.cascade]
        if steps[-1] != 1 or any(a <= b or a % b for a, b in zip(steps, steps[1:], strict=False)):
            raise wrong(("cascade",), f"coarsen {steps}", "factors that fall to 1, each a multiple of the next")
        if len(self.cascade) > 1 and any(isinstance(level.unet, ImportedNetTable) for level in self.cascade):
            raise wrong(("cascade",), "an imported unet", "a level of its own, not one of several")
        return self

    @property
    def required(self) -> tuple[str, ...]:
        """Conditions that have to be said: an imported network may know nothing else."""
        unet = self.cascade[0].unet
        if not isinstance(unet, ImportedNetTable) or unet.null is not None:
            return ()
        others = [name for name, told in ((unet.label, unet.label), (PROMPT, unet.prompts)) if name and told]
        return (*unet.numbers, *unet.regions, *others)


class SeenTable(Table):
    """What a model was trained on, as the scans themselves say: not what a recipe says of them.

    scans, patients : how many
    modality : the most frequent first; empty where no scan says it
    spacing_range : least and most voxel size along any axis, as trained on (mm); None where no scan says it
    spacing : median along each of the model's axes, of the scans that synthesis learns from (mm)
    """

    scans: Size
    patients: Size
    modality: tuple[str, ...] = ()
    spacing_range: PositiveRange | None = None
    spacing: tuple[Positive, Positive, Positive] | None = None


class AutoencoderPack(Table):
    """An autoencoder, and the scans that it is for. The pack of an autoencoder alone says nothing else.

    modality, spacing, spacing_range : what a recipe says; `trained_modality` and so on what was seen
    """

    name: str = Field(min_length=1)
    description: str = ""
    dims: Literal[2, 3]
    modality: tuple[Modality, ...]
    spacing: tuple[Positive, Positive, Positive]
    spacing_range: PositiveRange
    axcodes: Axcodes | None = None
    intensity: IntensityTable
    autoencoder: AutoencoderTable
    seen: SeenTable | None = None

    @model_validator(mode="after")
    def _one_factor_an_axis(self) -> Self:
        table = self.autoencoder
        factors = table.factors(self.dims)
        if len(factors) != self.dims:
            raise wrong(("autoencoder", "factor"), list(factors), f"one number, or {self.dims}")
        if isinstance(table, PCATable) and table.channels > math.prod(factors):
            expected = f"at most {math.prod(factors)}, the voxels of a block"
            raise wrong(("autoencoder", "channels"), table.channels, expected)
        if isinstance(table.quantizer, LevelsTable) and len(table.quantizer.levels) != table.channels:
            levels = list(table.quantizer.levels)
            raise wrong(("autoencoder", "quantizer", "levels"), levels, "one number a latent channel")
        return self

    @property
    def trained_modality(self) -> tuple[str, ...]:
        """Modalities that were seen; where no scan said its own, what the recipe says."""
        return (self.seen.modality if self.seen is not None else ()) or self.modality

    @property
    def trained_spacing(self) -> tuple[float, float, float]:
        """Voxel size (mm), median of what was seen; where no scan said it, what the recipe says."""
        return (self.seen.spacing if self.seen is not None else None) or self.spacing

    @property
    def trained_range(self) -> tuple[float, float]:
        """Least and most voxel size (mm) that were seen, a twentieth beyond; or what the recipe says."""
        if self.seen is None or self.seen.spacing_range is None:
            return self.spacing_range
        low, high = self.seen.spacing_range
        return low / (1 + SPACING_TOLERANCE), high * (1 + SPACING_TOLERANCE)

    @property
    def turns(self) -> bool:
        """Whether scans are turned to the model's axes: an image of two dimensions is taken as it lies."""
        return self.dims == 3 and self.axcodes is not None

    @property
    def latent_factor(self) -> tuple[int, ...]:
        """Downsampling of the latents along each axis (dims numbers)."""
        return self.autoencoder.factors(self.dims)

    def doubts(self, scan: Volume | LazyScan, factor: tuple[float, float, float] = (1, 1, 1)) -> list[str]:
        """Reasons for doubt about using the model on `scan`, refined by `factor` (none: an empty list)."""
        warnings = []
        if self.dims == 3 and min(scan.geometry.shape) == 1:
            warnings.append("a single image; the model was trained on volumes, and needs the slices beside it")
        if scan.ai_processed:
            warnings.append("made or changed by a model already; the model was trained on scans as they were measured")
        if scan.modality and scan.modality not in self.trained_modality:
            warnings.append(f"modality {scan.modality}; the model was trained on {', '.join(self.trained_modality)}")
        if self.intensity.kind == "window" and scan.unit != "HU":
            warnings.append(f"values in {scan.unit}; the model's window is in HU")
        low, high = self.trained_range
        assumed = any(step.get("spacing_assumed") for step in scan.history)
        spacing = [s / f for s, f in zip(scan.geometry.spacing, factor, strict=True)][: self.dims]
        if not assumed and not all(low <= s <= high for s in spacing):
            text = " x ".join(f"{s:.3g}" for s in spacing)
            warnings.append(f"voxels of {text} mm; the model was trained on {low:.3g} to {high:.3g} mm")
        return warnings


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
    def _parts_go_together(self) -> Self:
        if not self.modality or len(set(self.modality)) < len(self.modality):
            raise wrong(("modality",), list(self.modality), "one or several different modalities")
        deviations, channels = self.process.sigma_data, self.autoencoder.channels
        if isinstance(deviations, tuple) and len(deviations) != channels:
            raise wrong(("process", "sigma_data"), list(deviations), f"one number, or {channels}: one a latent channel")
        for name in self.heads:
            if not name.replace("-", "_").isidentifier():
                raise wrong(("heads", name), name, "a name of letters, digits, - and _")
        if self.problems and self.unet is None:
            raise wrong(("unet",), "nothing", "a table: problems need a denoiser")
        if not self.problems and self.synthesis is None:
            raise wrong(("problems",), "none", "a problem, or a table synthesis")
        for name, problem in self.problems.items():
            if problem.head not in self.heads:
                expected = f"one of {', '.join(self.heads) or 'the heads'}"
                raise wrong(("problems", name, "head"), problem.head, expected)
        if self.synthesis is not None and self.dims == 2 and self.synthesis.shape[2] != 1:
            raise wrong(("synthesis", "shape"), list(self.synthesis.shape), "one slice in 2D, such as [256, 256, 1]")
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
        first = first_wrong(failure, table)
        got = f"a {PACK} that is wrong in {first.path or 'itself'} ({first.got}; expected {first.expected})"
        raise ModelError(where, got, "one of this version", "reinstall it") from None


def describe(name: str) -> Pack:
    """What a model is for; what is wrong with it goes into `problem`."""
    try:
        pack, folder = read_tables(name), folder_of(name)
        spacing = " x ".join(f"{s:g}" for s in pack.trained_spacing[: pack.dims])
        size = round((folder / WEIGHTS).stat().st_size / 1e6, 1)
    except MedldmError as failure:
        return Pack(name, problem=str(failure))
    except OSError as failure:
        return Pack(name, problem=f"weights that cannot be read ({type(failure).__name__})")
    modality = ", ".join(pack.trained_modality)
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
