"""What networks are made of and trained for: the tables of a pack that are arguments of classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, JsonValue, Tag, model_validator

from medldm.tables import Positive, PositiveRange, Size, Table, wrong


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
    """Arguments of `medldm.nets.head.MeasurementHead`.

    mask : it is told where nothing was measured
    after : the head whose answer it is given, and what patches that look alike make of that
    """

    channels: tuple[Size, ...] = Field(min_length=1)
    depth: Size = 2
    separable: bool = False
    mask: bool = False
    after: str | None = None


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


class DistilledTable(Table):
    """What a level was distilled for: how many steps, at what guidance of its teacher, and how far from its guide."""

    steps: int = Field(ge=1)
    guidance: float = 1.0
    guide_scale: float = 1.0


class GuideTable(Table):
    """A small network of the same kind as a level's, trained for a short time, that knows the images less well.

    scale : how far the level's estimates are moved away from this one's, 1 is not at all (autoguidance: Karras et al.
        2024); what it gets wrong the level gets wrong in the same way, but less
    lowest_sigma : the noise level below which they are not moved
    """

    unet: UNetTable
    scale: float = Field(1.75, ge=1)
    lowest_sigma: float = Field(0.5, ge=0)


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
    steps : of sampling, where none are asked for and it was not distilled
    last_sigma : the lowest level in sampling, of latents of deviation 1; the estimate there is the result, since below
        it networks of short trainings add errors of their own (decision 0017). None: the lowest that was trained
    guide : None for a level that is sampled by its own network alone
    coordinates : the network is told where each latent cell lies in the image; in training, where it lay before the
        image was moved, so that it draws images as they are (decision 0025)
    tile : of fields larger than this (latent cells an axis), parts are computed and blended in every step; None: whole
    distilled : None for a level that wants many steps
    """

    coarsen: int = Field(1, ge=1)
    unet: NetTable
    process: AnyProcess = ProcessTable(sigma_max=80.0, log_mean=0.3, log_std=1.2)
    coarse_noise: tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(ge=0)]] = (0.0, 0.05)
    sampled_noise: float = Field(0.01, ge=0)
    steps: int = Field(20, ge=2)
    last_sigma: float | None = Field(None, gt=0)
    guide: GuideTable | None = None
    coordinates: bool = False
    tile: tuple[Annotated[int, Field(ge=1)], ...] | None = None
    distilled: DistilledTable | None = None

    def of_guide(self) -> GeneratorTable:
        """The level as its guide sees it."""
        assert self.guide is not None
        return self.model_copy(update={"unet": self.guide.unet, "guide": None, "distilled": None})

    @model_validator(mode="after")
    def _both_imported_or_none(self) -> Self:
        if isinstance(self.unet, ImportedNetTable) != isinstance(self.process, ScheduleTable):
            expected = "an imported unet with a process of kind schedule, or neither"
            raise wrong(("process",), self.process.__class__.__name__, expected)
        if self.coordinates and isinstance(self.unet, ImportedNetTable):
            raise wrong(("coordinates",), "true", "false: an imported network takes none")
        if self.guide is not None:
            if isinstance(self.unet, ImportedNetTable):
                raise wrong(("guide",), "a table", "none: medldm trains no guide of an imported network")
            if self.guide.unet.multiple > self.unet.multiple:
                expected = f"{len(self.unet.channels)} widths at most, as the level's own network"
                raise wrong(("guide", "unet", "channels"), list(self.guide.unet.channels), expected)
        if self.last_sigma is not None:
            if not isinstance(self.process, ProcessTable):
                raise wrong(("last_sigma",), f"{self.last_sigma:g}", "none: the levels are those of the schedule")
            low, high = self.process.sigma_min, self.process.sigma_max
            if not low <= self.last_sigma < high:
                raise wrong(("last_sigma",), f"{self.last_sigma:g}", f"a level of the process, {low:g} to {high:g}")
        return self
