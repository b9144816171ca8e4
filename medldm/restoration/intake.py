"""What the networks are given of a scan: its noise, its range, without what lies far outside of it; and the doubts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from medldm.operators.operator import Operator
from medldm.operators.problem import Problem
from medldm.pack import ModelPack
from medldm.restoration.noise_level import TOO_FEW, NoiseEstimate
from medldm.restoration.settings import Settings
from medldm.restoration.tissue_noise import noise_of
from medldm.space import ModelSpace
from medldm.volume import Volume

Array = NDArray[np.float32]

FAR = 2.0  # ranges beyond the model's: nothing that it was trained on lies there
FAR_IN_NOISE = 8.0  # and in deviations of the noise, where that is more
MOST_FAR = 0.2  # of the voxels; where more are outside, the range does not fit


@dataclass(frozen=True, eq=False)
class Intake:
    """A scan, made ready.

    space : with its range
    y, first : the measurement and the first guess, (1, 1, I, J, K) in the model's range
    noise_std : in the scan's unit; estimated : whether it was not given
    far : (I, J, K), voxels far outside of the range, which the networks do not see; None: none
    warnings : for a person
    """

    space: ModelSpace
    y: Tensor
    first: Tensor
    noise_std: float
    estimated: bool
    measured: Array
    far: NDArray[np.bool_] | None
    filled: Array
    warnings: list[str]

    def given_back(self, result: Array, operator: Operator) -> Array:
        """The result with what the networks did not see, as it was measured."""
        if self.far is None:
            return result
        if result.shape == self.measured.shape:
            return np.where(self.far, self.measured, result).astype(np.float32)
        excess = torch.from_numpy(np.where(self.far, self.measured - self.filled, 0))[None, None]
        spread = operator.adjoint(excess / operator.forward(operator.adjoint(torch.ones_like(excess))).clamp_min(1e-6))
        return np.asarray(result + spread[0, 0].numpy(), dtype=np.float32)


def take_in(
    measured: Volume, operator: Operator, problem: Problem, space: ModelSpace, settings: Settings, pack: ModelPack
) -> Intake:
    """Range, then what lies far outside of it, then the noise of the rest.

    measured : in the model's axes
    """
    seen = _seen(measured, operator)
    space = space.fitted(seen, settings.value_range)
    warnings = said_of_range(space, seen, settings)

    far = far_voxels(seen.array, space, settings.noise_std)
    whole, array = seen, seen.array
    if far is not None:
        array = fill_near(seen.array, far)
        seen = seen.with_array(array)
        warnings += said_of_far(int(far.sum()), space)

    estimated = settings.noise_std is None and problem.estimates_noise
    noise_std = settings.noise_std or 0.0
    if estimated:
        noise_std, said = believed(noise_in(measured.with_array(array), space, pack, far), space, problem)
        warnings += said
    warnings += said_of_noise(noise_std, space, problem)

    untouched = operator.missing() is None
    y = space.tensor(array if untouched else measured.array)
    first = operator.first_guess(y) if untouched else space.tensor(array)
    return Intake(space, y, first, noise_std, estimated, whole.array, far, array, warnings)


def noise_in(filled: Volume, space: ModelSpace, pack: ModelPack, unseen: NDArray[np.bool_] | None) -> NoiseEstimate:
    """Of a scan in the model's axes, whose voxels that say nothing of its noise were filled in."""
    floor = np.float32(space.range.offset if pack.intensity.zero_floor else 0.0)
    return noise_of(filled.array - floor, pack, filled.geometry.spacing, across=filled.slice_axis, ignore=unseen)


def noise_of_scan(volume: Volume, pack: ModelPack) -> NoiseEstimate:
    """What `take_in` finds of a scan that nothing is missing in."""
    space = ModelSpace.of(pack, volume)
    turned = space.turned(volume)
    space = space.fitted(turned)
    far = far_voxels(turned.array, space, None)
    filled = turned if far is None else turned.with_array(fill_near(turned.array, far))
    return noise_in(filled, space, pack, far)


def _seen(measured: Volume, operator: Operator) -> Volume:
    """The scan with what was not measured interpolated: what its noise and its range are found in."""
    if operator.missing() is None:
        return measured
    y = torch.from_numpy(np.array(measured.array, dtype=np.float32, order="C"))[None, None]  # flipped views, too
    return measured.with_array(operator.first_guess(y)[0, 0].numpy())


def said_of_range(space: ModelSpace, seen: Volume, settings: Settings) -> list[str]:
    """Where values below 0 were shifted, for a model that knows none."""
    offset = space.range.offset
    if not space.pack.intensity.zero_floor or settings.value_range is not None or offset == 0:
        return []
    text = f"values down to {float(seen.array.min()):.4g}, where the model knows none below 0"
    return [f"{text}: {offset:.4g} is taken for air; if it is not, give value_range"]


def said_of_far(count: int, space: ModelSpace) -> list[str]:
    if not count:
        return []
    low, high = space.range.offset, space.range.offset + space.range.scale
    text = f"{count} voxels far outside of the range of {low:.4g} to {high:.4g}"
    return [f"{text} (an implant, a marker, hot pixels?); they come back as they were measured"]


def said_of_noise(noise_std: float, space: ModelSpace, problem: Problem) -> list[str]:
    scaled = space.range.std_forward(noise_std)
    if scaled <= 1.1 * problem.noise_std[1]:
        return []
    share, most = 100 * scaled, 100 * problem.noise_std[1]
    return [f"noise of {share:.0f} % of the range; the model was trained up to {most:.3g} %"]


def believed(found: NoiseEstimate, space: ModelSpace, problem: Problem) -> tuple[float, list[str]]:
    """The level that is taken of an estimate, in the scan's unit, and what a person has to hear of it."""
    noise_std = found.value if problem.believes(space.range.std_forward(found.value), found.sure) else 0.0
    return noise_std, [] if problem.keeps_measured else _weak(found, noise_std, space, problem)


def far_voxels(array: Array, space: ModelSpace, noise_std: float | None) -> NDArray[np.bool_] | None:
    scaled = space.range.forward(array)
    limit = max(FAR, FAR_IN_NOISE * space.range.std_forward(noise_std or 0.0))
    far = (scaled < -limit) | (scaled > 1 + limit)
    return far if 0 < far.mean() <= MOST_FAR else None


def fill_near(array: Array, mask: NDArray[np.bool_]) -> Array:
    """The array with its masked voxels as those around them: the mean nearby, else the nearest."""
    known = (~mask).astype(np.float32)
    weight = ndimage.gaussian_filter(known, 1.5)
    mean = ndimage.gaussian_filter(np.where(mask, 0, array), 1.5) / np.maximum(weight, 1e-6)
    nearest = ndimage.distance_transform_edt(mask, return_distances=False, return_indices=True)
    filled = np.where(weight > 0.05, mean, array[tuple(nearest)])
    return np.where(mask, filled, array).astype(np.float32)


def _weak(found: NoiseEstimate, taken: float, space: ModelSpace, problem: Problem) -> list[str]:
    """What is to be said of an estimate that may be wrong by more than the model would not notice."""
    why = found.doubt or ("more than the model was trained on" if taken < found.value else "")
    clean = problem.exact(taken)  # by default: fine anatomy, or a tiny image, are no news then
    size = found.value if clean else found.most
    if not why or (clean and why == TOO_FEW) or space.range.std_forward(size) < problem.noise_std[0]:
        return []
    how = f"taken as {taken:.3g}" if taken else "the scan is taken as free of it"
    return [f"the noise is hard to tell ({why}, at most {found.most:.3g}): {how}; give noise_std if it is known"]
