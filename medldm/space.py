"""The only way between a scan and a model: the model's axes, its intensity range, tensors; and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from medldm.conditions import ConditionTable, LabelMapCondition, label_lookup
from medldm.errors import InputError, ModelError
from medldm.geometry import Geometry
from medldm.intensity import Intensity, Scaling
from medldm.pack import AutoencoderPack
from medldm.volume import Volume

MOST_SLICES = 24  # that are looked at for what all slices of a volume share, so that memory does not grow with them
_DIRECTIONS = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}


@dataclass(frozen=True)
class ModelSpace:
    """How one scan lies in the space of a model.

    geometry : the scan's own grid
    order, flips : ``permute(order)`` then ``flip(flips)`` takes the scan's axes to the model's
    scaling : the scan's unit to the model's range; None until `fitted`
    """

    pack: AutoencoderPack
    geometry: Geometry
    order: tuple[int, int, int]
    flips: tuple[int, ...]
    scaling: Scaling | None = None

    @classmethod
    def of(cls, pack: AutoencoderPack, volume: Volume) -> ModelSpace:
        """The space of a scan, whose values are not looked at yet. Raises ModelError for several slices in 2D."""
        if pack.dims == 2 and volume.geometry.shape[2] != 1:
            got = f"a scan of {volume.geometry.shape[2]} slices"
            do = "give one slice, or take a 3D model"
            raise ModelError(f"model {pack.name}", got, "a single image (this model is 2D)", do)
        return cls(pack, volume.geometry, *pack.orientation(volume.geometry))

    @property
    def dims(self) -> int:
        return self.pack.dims

    def fitted(self, turned: Volume, value_range: tuple[float, float] | None = None) -> ModelSpace:
        """The same, with the intensity range of a scan in the model's axes, or the one that is given."""
        intensity = Intensity.from_dict(self.pack.intensity.model_dump())
        return replace(self, scaling=intensity.fit(turned, value_range))

    @property
    def range(self) -> Scaling:
        """The scaling. Raises InputError before `fitted`."""
        if self.scaling is None:
            raise InputError("ModelSpace", "no intensity range yet", "one", "call fitted() first")
        return self.scaling

    def turned(self, volume: Volume) -> Volume:
        """A volume in the scan's axes -> in the model's."""
        return volume.permute(self.order).flip(self.flips)

    def turned_back(self, volume: Volume) -> Volume:
        """The reverse of `turned`, for a volume on any grid of the same axes."""
        return volume.flip(self.flips).permute(self._reverse)

    @property
    def _reverse(self) -> tuple[int, int, int]:
        i, j, k = (int(a) for a in np.argsort(self.order))
        return (i, j, k)

    def turn(self, array: NDArray[Any]) -> NDArray[Any]:
        """An array on the scan's voxels -> on the model's axes."""
        return np.flip(array.transpose(self.order), self.flips)

    def to_model(self, values: tuple[float, float, float]) -> tuple[float, float, float]:
        """One number an axis of the scan -> one an axis of the model."""
        i, j, k = (values[axis] for axis in self.order)
        return (i, j, k)

    def to_scan(self, values: Sequence[float]) -> tuple[float, float, float]:
        """The reverse of `to_model`."""
        i, j, k = (values[axis] for axis in self._reverse)
        return (i, j, k)

    def tensor(self, turned: NDArray[Any]) -> Tensor:
        """(I, J, K) in the scan's unit, in the model's axes -> (1, 1, I, J, K) float32 in the model's range."""
        return torch.from_numpy(np.ascontiguousarray(self.range.forward(turned), dtype=np.float32))[None, None]

    def image(self, turned: Volume) -> Tensor:
        """A scan in the model's axes as it is trained on: (*S), K dropped in 2D."""
        found = self.tensor(turned.array)[0, 0]
        return found[..., 0] if self.dims == 2 else found

    def array(self, x: Tensor) -> NDArray[np.float32]:
        """(1, 1, *S) in the model's range -> (I, J, K) in the scan's unit, in the model's axes."""
        return self.range.inverse(to_array(x, self.dims)).astype(np.float32)

    def std_array(self, std: Tensor) -> NDArray[np.float32]:
        """`array` for standard deviations."""
        return self.range.std_inverse(to_array(std, self.dims)).astype(np.float32)


def spread_evenly(count: int, most: int = MOST_SLICES) -> list[int]:
    """At most `most` whole numbers below `count`, from its first to its last."""
    return sorted({round(float(k)) for k in np.linspace(0, count - 1, min(count, most))})


def side_by_side(slices: Sequence[NDArray[np.float32]], like: Volume) -> Volume:
    """Slices (I, J, 1) of a volume as one image (I * n, J, 1): what is found in all of them is found in one picture.

    like : the volume, its slices across the last axis
    """
    array = np.concatenate(slices)
    spacing = like.geometry.spacing
    return Volume(array, Geometry.from_spacing(array.shape, spacing), like.unit, like.modality, like.history)


def to_array(x: Tensor, dims: int) -> NDArray[np.float32]:
    """(1, 1, *S) -> (I, J, K), values as they are."""
    array: NDArray[np.float32] = x[0, 0].float().cpu().numpy()
    return array[..., None] if dims == 2 else array


def centred_geometry(pack: AutoencoderPack, shape: Sequence[int]) -> Geometry:
    """A grid in the model's axes, with the voxel size of its training, its centre at the world's origin: where no scan
    says one."""
    codes, affine = pack.axcodes or ("LPS" if pack.dims == 2 else "RAS"), np.zeros((4, 4))
    size = tuple((*shape, 1)[:3])
    for axis, (letter, step) in enumerate(zip(codes, pack.trained_spacing, strict=True)):
        row, sign = _DIRECTIONS[letter]
        affine[row, axis] = sign * step
    affine[:3, 3] = -affine[:3, :3] @ (np.array(size) - 1) / 2
    affine[3, 3] = 1
    return Geometry(affine, (size[0], size[1], size[2]))


def map_condition(table: ConditionTable, turned: Volume, pack: AutoencoderPack, where: str) -> Tensor:
    """A scan that is a condition, in the model's axes: (*S), in the model's range or int16 numbers of labels from 1.

    Raises InputError for a value of a label map that the table does not list.
    """
    if not isinstance(table, LabelMapCondition):
        return ModelSpace.of(pack, turned).fitted(turned).image(turned)
    known = label_lookup(table)
    values, index = np.unique(turned.array, return_inverse=True)
    foreign = [float(value) for value in values if float(value) not in known]
    if foreign:
        got = f"the value {foreign[0]:g}" + (f" and {len(foreign) - 1} others" if len(foreign) > 1 else "")
        known_values = "; ".join(f"{label}: {_ranges(values)}" for label, values in table.labels.items())
        raise InputError(where, got, f"0, or a value of {known_values}", "map it to one, or to 0")
    numbers = np.array([known[int(value)] for value in values], dtype=np.int16)[index].reshape(turned.array.shape)
    found = torch.from_numpy(np.ascontiguousarray(numbers))
    return found[..., 0] if pack.dims == 2 else found


def _ranges(values: Sequence[int]) -> str:
    """Whole numbers in words, neighbours together: 1, 4 to 6."""
    runs: list[list[int]] = []
    for value in sorted(values):
        if runs and value == runs[-1][-1] + 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs)


def centred(x: Tensor, size: Sequence[int]) -> Tensor:
    """The last axes cut, or filled with 0, to a `size` about their middle."""
    for axis, wanted in enumerate(size, start=x.ndim - len(size)):
        more = wanted - x.shape[axis]
        if more < 0:
            x = x.narrow(axis, -more // 2, wanted)
        elif more > 0:
            x = F.pad(x, [0, 0] * (x.ndim - 1 - axis) + [more // 2, more - more // 2])
    return x
