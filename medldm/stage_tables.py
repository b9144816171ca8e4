"""Tables of a recipe's stages: what each trains, on what, by which terms."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from medldm.tables import Size, Table


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
    crop: tuple[Size, ...]
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
    lesions : share of the crops that small lesions are put into (`medldm.training.lesions`)
    likelihood : weight of the likelihood of the deviation that the head says its error has
    """

    train: Literal["head"]
    head: str
    problems: dict[str, Annotated[float, Field(gt=0)]] = Field(min_length=1)
    mean_share: float = Field(0.8, ge=0, le=1)
    lesions: float = Field(0.0, ge=0, le=1)
    likelihood: float = Field(0.02, ge=0)

    @property
    def name(self) -> str:
        return f"head-{self.head}"


class GeneratorStage(_Stage):
    """A level of the pack's cascade, on the latents of whole images or, finer levels, of parts of them.

    level : its number in pack.synthesis.cascade, from 0
    guide : not the level itself is trained but its guide, a small network, for a short time
    crop : of the level's images, in their voxels; none: whole images
    shift, zoom, stretch : images are moved by so large a share of their size, and made larger or smaller, as a whole
        and along each axis by itself, at most; only coarse levels zoom and stretch, since it blurs
    bend : images are bent smoothly, by so large a share of their size at most, as if of another patient; only coarse
        levels
    flip : share of the images that is mirrored, left to right
    drop : how often each condition, and how often all of them, are not said
    redraws : finer levels see so many versions of each coarser image, as the level before draws it again from some
        noise (`medldm.training.redrawn`); 0: the image as it is
    patience : looks at held-out scans (50 in a stage, at most) without a better one, after which it ends; 0: none
    """

    train: Literal["generator"]
    level: int = Field(0, ge=0)
    guide: bool = False
    crop: tuple[Size, ...] = ()
    shift: float = Field(0.0, ge=0, lt=0.5)
    zoom: float = Field(0.0, ge=0, lt=0.5)
    stretch: float = Field(0.0, ge=0, lt=0.5)
    bend: float = Field(0.0, ge=0, lt=0.25)
    flip: float = Field(0.0, ge=0, le=1)
    drop: float = Field(0.1, ge=0, lt=1)
    redraws: int = Field(0, ge=0)
    patience: int = Field(20, ge=0)

    @property
    def name(self) -> str:
        return f"{'guide' if self.guide else 'generator'}-{self.level}"


class TrajectoryStage(_Stage):
    """A level of the cascade, taught to go in the few steps that it is distilled for where it went in many.

    trajectories : of it that are kept, with that `guidance`, and what it is guided by for its own
    substeps : of the teacher within each step
    drop, redraws : as in the level's own training
    """

    train: Literal["trajectory"]
    level: int = Field(0, ge=0)
    crop: tuple[Size, ...] = ()
    bend: float = Field(0.0, ge=0, lt=0.25)
    flip: float = Field(0.0, ge=0, le=1)
    drop: float = Field(0.1, ge=0, lt=1)
    redraws: int = Field(0, ge=0)
    trajectories: int = Field(4000, ge=1)
    substeps: int = Field(5, ge=1)
    guidance: float = Field(1.0, ge=0)

    @property
    def name(self) -> str:
        return f"trajectory-{self.level}"

    @property
    def files(self) -> int:
        """A file of trajectories is a batch."""
        return -(-self.trajectories // self.batch_size)

    def as_generator(self) -> GeneratorStage:
        """How the images are drawn whose conditions the trajectories have: nothing is moved."""
        keys = {key: getattr(self, key) for key in ("steps", "batch_size", "lr", "level", "crop", "flip")}
        return GeneratorStage(train="generator", **keys)


StageTable = Annotated[
    AutoencoderStage | DenoiserStage | HeadStage | GeneratorStage | TrajectoryStage, Field(discriminator="train")
]
