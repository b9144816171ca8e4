"""What every restoration task is: a problem, of which an operator is one instance. Denoising is the simplest.

An entry point of `medldm.problems` is a class of these. Its fields are the keys of its table in a pack, which say what
the pack was trained for; its methods draw measurements in training, and measure a scan that is to be restored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from torch import Tensor

from medldm import registry
from medldm.errors import InputError, ModelError
from medldm.geometry import Geometry
from medldm.operators.measurement import Kernel, Measurement, Noise
from medldm.operators.operator import Identity, Operator
from medldm.pack import ModelPack, ProblemTable
from medldm.tables import PositiveRange, first_wrong

Array = NDArray[np.float32]

SLOPES, CUTS = (0.5, 1.25), (0.4, 1.6)  # of the kernels in a training: soft and sharp, in slices fine and coarse


class Axes(Protocol):
    """How a scan lies in the model's axes (`medldm.space.ModelSpace`)."""

    @property
    def dims(self) -> int:
        """2 or 3."""
        ...

    @property
    def geometry(self) -> Geometry:
        """The scan's own grid."""
        ...

    def to_model(self, values: tuple[float, float, float]) -> tuple[float, float, float]:
        """One number an axis of the scan -> one an axis of the model."""
        ...

    def turn(self, array: NDArray[Any]) -> NDArray[Any]:
        """An array on the scan's voxels -> on the model's axes."""
        ...


class Draw(Protocol):
    """Random numbers of one example: `step` is the same for all examples of a step, `own` and `noise` are not."""

    @property
    def step(self) -> np.random.Generator: ...
    @property
    def own(self) -> np.random.Generator: ...
    @property
    def noise(self) -> torch.Generator: ...


class Problem(BaseModel):
    """A task that a model is trained for.

    head : the head of the pack that answers it
    noise_std : of the measurements, least and most, as shares of the range
    A problem of one's own fills in `operator_type` and `drawn_operator`; all else has a default.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    head: str
    noise_std: PositiveRange

    operator_type: ClassVar[type[Operator]] = Identity
    estimates_noise: ClassVar[bool] = True  # or else a scan whose noise is not given is taken as free of it
    keeps_measured: ClassVar[bool] = False  # to the bit: a wrong noise level spoils nothing of it

    @classmethod
    def untrained(cls, dims: int) -> Self:
        """The problem as a model solves it that knows images alone: whatever can be asked of it."""
        return cls(head="", noise_std=(0.001, 1.0))

    def operator(self, options: Mapping[str, Any], axes: Axes) -> Operator:
        """What a scan was measured by, from what the user says: by default the arguments of `operator_type`.

        options : by name; texts of a command line are converted
        Raises InputError.
        """
        try:
            found: Operator = TypeAdapter(self.operator_type).validate_python(dict(options))
        except ValidationError as failure:
            first = failure.errors()[0]
            key = ".".join(map(str, first["loc"])) or self.operator_type.__name__
            raise InputError(key, str(first.get("input"))[:60], first["msg"]) from None
        return found

    def of_slice(
        self, options: Mapping[str, Any], geometry: Geometry, order: tuple[int, int, int], number: int
    ) -> Mapping[str, Any] | None:
        """The options for one slice of a volume: by default the same. None: there is nothing to do in this slice.

        geometry : of the volume, turned so that its slices lie across the last axis
        order : axis a of it was axis `order`[a] of the scan; number : of the slice
        Raises InputError for what cannot be done slice by slice.
        """
        return options

    @property
    def multiple(self) -> int:
        """What the sizes of an image must be multiples of, so that every operator of the training takes it."""
        return 1

    def drawn_operator(self, shape: tuple[int, int, int], draw: Draw, dims: int) -> Operator:
        """What the image (I, J, K) of an example is measured by in training."""
        return self.operator_type.example()

    def drawn_noise(self, draw: Draw) -> float:
        """An example's noise: even in its logarithm."""
        low, high = np.log(self.noise_std)
        return float(np.exp(draw.own.uniform(low, high)))

    def draw(self, x: Tensor, noise: Noise, draw: Draw) -> Measurement:
        """What is measured of one example, x (1, 1, *S)."""
        dims = x.ndim - 2
        volume = x if dims == 3 else x[..., None]
        i, j, k = volume.shape[2:]
        operator = self.drawn_operator((i, j, k), draw, dims)
        noise_std = self.drawn_noise(draw)
        y = noise.sample(operator.forward(volume), torch.tensor(noise_std), draw.noise)
        return Measurement.of(operator, operator.first_guess(y), noise_std, dims)

    def error_weight(self, x: Tensor, measurement: Measurement) -> Tensor:
        """Inverse of the mean squared error to expect, so that each degradation counts alike in training: (B,).

        By default that of denoising. The exponent is that of block-matching denoisers on chest radiographs:
        error ~ noise_std^0.58.
        """
        noise_std = measurement.noise_std.flatten(1).amax(1)
        return 2000 * (noise_std.clamp_min(0.004) / 0.1) ** -1.16

    def finish(self, image: Tensor, measurement: Measurement) -> Tensor:
        """The estimate (1, 1, *S), in the model's range, as it is to be returned."""
        return image

    def believes(self, noise_std: float, sure: bool) -> bool:
        """Whether an estimate of the noise is taken as it is, or for none.

        noise_std : share of the range; sure : it is not fine anatomy for a good part
        """
        return True

    def exact(self, noise_std: float) -> bool:
        """Whether the result's own measurement is to equal the scan."""
        return noise_std == 0

    def settle(self, result: Array, measured: Array, operator: Operator) -> Array:
        """The result in the scan's unit, on the fine grid, with what of the scan is to be kept to the bit."""
        return result

    def checks(self, operator: Operator) -> dict[str, Any] | None:
        """What is reported in the place of the residual's checks; None: those."""
        return None


class Denoise(Problem):
    """Every voxel was measured, with noise.

    sharp_share : of the examples, those whose noise is that of a CT kernel, soft to sharp (`Kernel`), not white
    """

    sharp_share: float = Field(0.0, ge=0, le=1)

    def draw(self, x: Tensor, noise: Noise, draw: Draw) -> Measurement:
        """What is measured of one example, x (1, 1, *S)."""
        if not self.sharp_share or draw.own.random() >= self.sharp_share:
            return super().draw(x, noise, draw)
        noise_std = self.drawn_noise(draw)
        kernel = Kernel(draw.own.uniform(*SLOPES), draw.own.uniform(*CUTS))
        y = kernel.sample(x, torch.tensor(noise_std), draw.noise)
        dims = x.ndim - 2
        return Measurement.of(Identity(), y if dims == 3 else y[..., None], noise_std, dims)

    def finish(self, image: Tensor, measurement: Measurement) -> Tensor:
        """Faded out below the lightest noise of the training: a clean scan comes back as it was."""
        share = (measurement.noise_std / self.noise_std[0]).clamp(max=1).square()
        return measurement.image + share * (image - measurement.image)

    def exact(self, noise_std: float) -> bool:
        return False


def untrained(name: str, dims: int) -> Problem:
    """A problem that nothing was trained for. Raises InputError for one that is not installed."""
    kind = registry.find("problems", name)
    found: Problem = kind.untrained(dims)
    return found


def problem_of(name: str, table: ProblemTable, where: str) -> Problem:
    """The problem of a pack's table. Raises InputError for one that is not installed, ModelError for a wrong table."""
    kind, keys = registry.find("problems", name), table.model_dump()
    try:
        found: Problem = kind.model_validate(keys)
    except ValidationError as failure:
        first = first_wrong(failure, keys)
        place = f"{where}: problems.{name}" + (f".{first.path}" if first.key else "")
        raise ModelError(place, first.got, first.expected) from None
    return found


def problems_of(pack: ModelPack) -> dict[str, Problem]:
    """All problems of a pack by their names. Raises as `problem_of`."""
    return {name: problem_of(name, table, f"model {pack.name}") for name, table in pack.problems.items()}
