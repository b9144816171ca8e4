"""Recipes: a TOML file is the arguments of one training, checked; unknown keys are errors."""

from __future__ import annotations

import difflib
import math
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, JsonValue, Tag, ValidationError, model_validator

from medldm.errors import RecipeError


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class IntensityTable(_Table):
    """Arguments of `medldm.intensity.Intensity`."""

    kind: Literal["window", "percentile"]
    low: float
    high: float
    zero_floor: bool = False


class Source(_Table):
    """One set of scans, below the folder given as `data`.

    index : CSV table, such as the manifest.csv of `medldm check`; None: every scan in `folder` that a reader takes,
        each a patient of its own
    file, mask : file patterns over the table's columns, e.g. "t1/{participant}.nii.gz"; the mask's voxels > 0
        are the organ, and copies with everything else set to 0 are trained on as well
    weight : share of the batches in restoration
    synthesis : whether whole images of this set teach synthesis
    coarsen : block averages by one of these factors are trained on as well (2D, images finer than `spacing`)
    """

    folder: str = "."
    index: str | None = None
    file: str = "{file}"
    patient: str = "patient"
    mask: str | None = None
    weight: float = Field(1.0, gt=0)
    synthesis: bool = True
    coarsen: tuple[int, ...] = (1,)


class LevelsTable(_Table):
    """Arguments of `medldm.nets.quantizers.FiniteLevels`: one number of levels a latent channel."""

    kind: Literal["levels"] = "levels"
    levels: tuple[Annotated[int, Field(ge=2)], ...]


class CodebookTable(_Table):
    """Arguments of `medldm.nets.quantizers.Codebook`."""

    kind: Literal["codebook"] = "codebook"
    size: int = Field(ge=2)
    decay: float = Field(0.99, gt=0, lt=1)
    commitment: float = Field(0.25, ge=0)
    restart_below: float = Field(0.05, ge=0)


QuantizerTable = Annotated[LevelsTable | CodebookTable, Field(discriminator="kind")]


class LinearCodeTable(_Table):
    """Arguments of `medldm.nets.linear_code.LinearCode`. factor : one number, or one an axis (thick slices)."""

    kind: Literal["linear"] = "linear"
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


class PlainCodeTable(_Table):
    """Arguments of `medldm.nets.plain_code.PlainCode`."""

    kind: Literal["plain"]
    channels: int = Field(ge=1)
    widths: tuple[int, ...] = (32, 64, 64)
    num_res_blocks: int = 2
    norm_groups: int = Field(16, ge=1)
    middle_attention: bool = False
    quantizer: QuantizerTable | None = None

    @model_validator(mode="after")
    def _whole_groups(self) -> PlainCodeTable:
        if any(width % self.norm_groups for width in self.widths):
            raise ValueError("widths must be multiples of norm_groups")
        return self

    def factors(self, dims: int) -> tuple[int, ...]:
        return (2 ** (len(self.widths) - 1),) * dims


class ImportedCodeTable(_Table):
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
    return table.get("kind", "linear") if isinstance(table, dict) else getattr(table, "kind", "linear")


AutoencoderTable = Annotated[
    Annotated[LinearCodeTable, Tag("linear")]
    | Annotated[PlainCodeTable, Tag("plain")]
    | Annotated[ImportedCodeTable, Tag("imported")],
    Discriminator(_kind),
]


class UNetTable(_Table):
    """Arguments of `medldm.nets.unet.LatentUNet`."""

    channels: tuple[int, ...]
    attention_levels: tuple[bool, ...]
    num_res_blocks: int = 1


class HeadTable(_Table):
    """Arguments of `medldm.nets.head.MeasurementHead`."""

    channels: tuple[int, ...]
    depth: int = 2
    separable: bool = False


class DegradationTable(_Table):
    """What the measurement may have lost.

    super_resolution_share of the batches are coarse, by `factors` as often as `factor_weights` say (equally if
    None); noisy_share of those are noisy, too. Gaps have half-axes of `gap_radius` voxels, least and most.
    """

    noise: Literal["gaussian", "rician"]
    noise_std: tuple[float, float] = (0.005, 0.25)
    factors: tuple[int, ...] = (2, 3, 4)
    through_plane: bool = False
    factor_weights: tuple[float, ...] | None = None
    super_resolution_share: float = Field(0.35, ge=0, le=1)
    noisy_share: float = Field(0.4, ge=0, le=1)
    gap_radius: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (3.0, 24.0)

    @model_validator(mode="after")
    def _one_weight_a_factor(self) -> DegradationTable:
        weights = self.factor_weights
        if weights is not None and (len(weights) != len(self.factors) or min(weights) < 0 or sum(weights) <= 0):
            raise ValueError("factor_weights must be as many numbers >= 0 as there are factors")
        return self


class StageTable(_Table):
    """One training stage; 0 steps leave its network as the training started.

    clip : largest norm of a gradient; small enough to bind, it lets tasks with small gradients count alike
    """

    steps: int = Field(ge=0)
    batch_size: int = Field(ge=1)
    crop: tuple[int, ...]
    lr: float = Field(gt=0)
    ema: float = Field(0.999, ge=0, lt=1)
    clip: float = Field(5.0, gt=0)


class CodeRecipe(_Table):
    """An autoencoder and the scans that it is for."""

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
        code = self.autoencoder
        if len(code.factors(self.dims)) != self.dims:
            raise ValueError(f"autoencoder.factor must be one number, or {self.dims}")
        if isinstance(code.quantizer, LevelsTable) and len(code.quantizer.levels) != code.channels:
            raise ValueError("quantizer.levels must be one number a latent channel")
        return self

    @property
    def latent_factor(self) -> tuple[int, ...]:
        """Downsampling of the latents along each axis (dims numbers)."""
        return self.autoencoder.factors(self.dims)


class AdversaryTable(_Table):
    """A patch discriminator beside the autoencoder, `medldm.nets.discriminator.PatchAdversary`.

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


class ReconstructionTable(_Table):
    """What the autoencoder minimises: the weight of each term (0: not computed), a mean over examples.

    l2, l1 : squared and absolute error; the squared error of a good code is about 1e-4, hence the weight
    perceptual : distance of EfficientNet-Lite0's features (needs the extra `perceptual`)
    gradient, spectral : lost gradient, distance of the spectra; both punish blur
    kl : of the latents' Gaussians to the standard normal one; else only a drift of their size beyond 1 is held
    slices : a volume is cut so many times across each axis for the perceptual distance
    adversary : none unless there is a table of it
    """

    l2: Annotated[float, Field(ge=0)] = 1000.0
    l1: Annotated[float, Field(ge=0)] = 0.0
    perceptual: Annotated[float, Field(ge=0)] = 0.0
    gradient: Annotated[float, Field(ge=0)] = 0.0
    spectral: Annotated[float, Field(ge=0)] = 0.0
    kl: Annotated[float, Field(ge=0)] = 0.0
    slices: Annotated[int, Field(ge=1)] = 2
    adversary: AdversaryTable | None = None


class Recipe(CodeRecipe):
    """Everything that a training needs but the data's place: networks, data, degradations, stages.

    super_head, stage_super_head : a head of its own for super-resolution; without it, `head` learns both
    gap_head, stage_gap_head : a head that fills gaps; without it, the model does not inpaint
    """

    synthesis_shape: tuple[int, int, int]
    synthesis_unit: str = "arbitrary"
    synthesis_scale: float = 1.0
    seed: int = 0
    checkpoint_seconds: float = Field(120.0, gt=0)
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    validation_fraction: float = Field(0.04, ge=0, lt=1)
    augment_gain: float = Field(0.0, ge=0)
    augment_zoom: float = Field(1.0, ge=1)
    sources: tuple[Source, ...] = Field(min_length=1)
    degradation: DegradationTable
    reconstruction: ReconstructionTable = ReconstructionTable()
    unet: UNetTable
    head: HeadTable
    stage_autoencoder: StageTable
    stage_denoiser: StageTable
    stage_head: StageTable
    super_head: HeadTable | None = None
    stage_super_head: StageTable | None = None
    gap_head: HeadTable | None = None
    stage_gap_head: StageTable | None = None

    @model_validator(mode="after")
    def _further_heads_are_trained(self) -> Recipe:
        for name in ("super_head", "gap_head"):
            if (getattr(self, name) is None) != (getattr(self, f"stage_{name}") is None):
                raise ValueError(f"{name} and stage_{name} must both be there, or neither")
        return self

    def super_resolution_share(self, stage: str) -> float:
        """Share of the batches of a stage that are coarse: with two heads, each learns its own task alone."""
        if self.super_head is not None and stage in ("head", "super_head"):
            return float(stage == "super_head")
        return self.degradation.super_resolution_share

    @property
    def multiple(self) -> tuple[int, ...]:
        """What each image size is padded to a multiple of, so that every network takes it (dims numbers)."""
        heads = [2 ** len(head.channels) for head in (self.head, self.super_head, self.gap_head) if head is not None]
        levels = 2 ** (len(self.unet.channels) - 1)
        return tuple(math.lcm(factor * levels, *heads) for factor in self.latent_factor)


def _known_keys(model: type[BaseModel]) -> set[str]:
    keys = set(model.model_fields)
    for field in model.model_fields.values():
        for kind in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                keys |= _known_keys(kind)
    return keys


def parse_recipe(table: dict[str, Any], *, where: str = "recipe") -> Recipe:
    """Check a table; raises RecipeError naming the first wrong key, the nearest name for an unknown one."""
    try:
        return Recipe.model_validate(table)
    except ValidationError as failure:
        first = failure.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
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
        raise RecipeError(
            str(path), failure.strerror or "unreadable", "a TOML recipe", "see configs/"
        ) from None
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as failure:
        raise RecipeError(str(path), f"not TOML ({failure})", "a TOML recipe", "see configs/") from None
