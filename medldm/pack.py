"""What a pack is: which scans it is for, its networks, the problems that it solves. Nothing here needs torch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from medldm.appearance import seem_hu
from medldm.conditions import ConditionTable
from medldm.geometry import Geometry
from medldm.net_tables import (
    AutoencoderTable,
    GeneratorTable,
    HeadTable,
    ImportedNetTable,
    IntensityTable,
    LevelsTable,
    MeasurementTable,
    PCATable,
    ProcessTable,
    UNetTable,
)
from medldm.tables import Axcodes, Modality, Positive, PositiveRange, Size, Table, wrong
from medldm.volume import Volume

if TYPE_CHECKING:
    from medldm.io.lazy import LazyScan

THICK = 1.5  # times as thick: an image is cut across these slices, however it was trained
SPACING_TOLERANCE = 0.05  # anatomy differs more in size from person to person
PROMPT = "prompt"  # the condition whose values an external text encoder embedded


class ProblemTable(Table):
    """A task that a pack was trained for; further keys are those of its `medldm.operators.problem.Problem`.

    head : which of the pack's heads answers it
    noise_std : of the scans trained on, least and most, as shares of the range
    """

    model_config = ConfigDict(extra="allow")
    head: str
    noise_std: PositiveRange


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


class AnatomyTable(Table):
    """What the training's scans show, in the words of `medldm.io.dicom.anatomy`; nothing is asked where it is empty.

    body_part, view : BodyPartExamined and ViewPosition of DICOM; weighting : of MR
    """

    body_part: tuple[str, ...] = ()
    view: tuple[str, ...] = ()
    weighting: tuple[str, ...] = ()


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
    anatomy: AnatomyTable = AnatomyTable()

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
    def in_hu(self) -> bool:
        """Whether values are those of CT: of all scans on one scale, which says what is air, fat or soft tissue."""
        return self.intensity.kind == "window"

    def orientation(self, geometry: Geometry) -> tuple[tuple[int, int, int], tuple[int, ...]]:
        """``permute(order)`` and then ``flip(flips)`` that bring a scan to the axes of the training's.

        A single image is turned in its plane alone, and taken as it lies where that is not the plane of the training's.
        """
        if self.axcodes is None:
            return (0, 1, 2), ()
        order, flips = geometry.orientation_to(self.axcodes)
        if self.dims == 3:
            return order, flips
        return (order, tuple(axis for axis in flips if axis != 2)) if order[2] == 2 else ((0, 1, 2), ())

    def slice_axis(self, scan: Volume | LazyScan) -> int:
        """Across which axis a model of single images takes a volume: that of the training's slices, unless the scan's
        own are much thicker than its voxels along that one."""
        acquired = scan.slice_axis
        if self.axcodes is None or 1 in scan.geometry.shape:
            return acquired
        trained = scan.geometry.orientation_to(self.axcodes)[0][2]
        spacing = scan.geometry.spacing
        return trained if spacing[acquired] < THICK * spacing[trained] else acquired

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
        for key, trained in self.anatomy.model_dump().items():
            said = next((step[key] for step in scan.history if step.get(key)), "")
            if trained and said and said not in trained:
                warnings.append(f"{key.replace('_', ' ')} {said}; the model was trained on {', '.join(trained)}")
        if self.in_hu and scan.unit != "HU" and not _may_be_hu(scan):
            warnings.append(f"values in {scan.unit}; the model's window is in HU")
        low, high = self.trained_range
        assumed = any(step.get("spacing_assumed") for step in scan.history)
        spacing = [s / f for s, f in zip(scan.geometry.spacing, factor, strict=True)]
        if self.dims == 2:
            del spacing[self.slice_axis(scan)]
        if not assumed and not all(low <= s <= high for s in spacing):
            text = " x ".join(f"{s:.3g}" for s in spacing)
            warnings.append(f"voxels of {text} mm; the model was trained on {low:.3g} to {high:.3g} mm")
        return warnings


def _may_be_hu(scan: Volume | LazyScan) -> bool:
    return isinstance(scan, Volume) and scan.unit == "arbitrary" and seem_hu(scan.array)


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
        for name, head in self.heads.items():
            if not name.replace("-", "_").isidentifier():
                raise wrong(("heads", name), name, "a name of letters, digits, - and _")
            if head.after is not None and (head.after not in self.heads or self.heads[head.after].after is not None):
                raise wrong(("heads", name, "after"), head.after, "another head, which comes after none")
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
    def tasks(self) -> tuple[str, ...]:
        """Names of the problems that it solves, and "synthesize" where it does."""
        return (*self.problems, *(("synthesize",) if self.synthesis is not None else ()))

    @property
    def multiple(self) -> tuple[int, ...]:
        """What each image size is padded to a multiple of, so that every restoring network takes it (dims numbers)."""
        heads = [2 ** len(head.channels) for head in self.heads.values()]
        levels = 1 if self.unet is None else 2 ** (len(self.unet.channels) - 1)
        return tuple(math.lcm(factor * levels, *heads) for factor in self.latent_factor)
