"""A scan: voxels with their geometry, unit and history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medldm.errors import GeometryError, InputError
from medldm.geometry import Geometry

PadMode = Literal["reflect", "edge", "constant"]
AI_PROCESSED = "ai_processed"  # key of a step of the history: a model had a hand in it
RESEARCH_USE = "research use only"
QUANTITY = "quantity"  # key of a step of the history: what a map is that was made beside a result
MAPS = ("residual", "uncertainty")  # what it may be


class WithHistory:
    """What can be told of a scan by its history."""

    history: tuple[dict[str, Any], ...]

    @property
    def ai_processed(self) -> bool:
        """Whether a model had a hand in it, by its history or by the mark in the file that it was read from."""
        return any(AI_PROCESSED in step for step in self.history)

    @property
    def quantity(self) -> str:
        """What a map beside a result holds, one of `MAPS`; "" for a scan."""
        return str(next((step[QUANTITY] for step in reversed(self.history) if QUANTITY in step), ""))


def refused_map(where: str, quantity: str) -> InputError:
    """Why a map that was saved beside a result is not taken for a scan."""
    return InputError(where, f"the {quantity} of a result", "a scan", "take what it was made of")


@dataclass(frozen=True, eq=False, repr=False)
class Volume(WithHistory):
    """Voxels in the world; immutable, every change returns a new one.

    array : (I, J, K) float32, read-only; a picture or radiograph has K = 1
    geometry : of the same shape
    unit : "HU", "arbitrary", "grey8" (0..255), "grey16" (0..65535), or the unit of a PET
    modality : DICOM code ("CT", "MR", ...), "" where unknown
    history : what was done to it, plain data, never a patient's identity
    source : what the writer of a derived series needs of the original, if any
    Raises GeometryError where array and geometry differ in shape.
    """

    array: NDArray[np.float32]
    geometry: Geometry
    unit: str = "arbitrary"
    modality: str = ""
    history: tuple[dict[str, Any], ...] = ()
    source: object | None = None

    def __post_init__(self) -> None:
        array = np.asarray(self.array, dtype=np.float32).view()
        if array.shape != self.geometry.shape:
            wanted = f"the geometry's {self.geometry.shape}"
            raise GeometryError("volume", f"an array of shape {array.shape}", wanted)
        array.setflags(write=False)
        object.__setattr__(self, "array", array)

    def __repr__(self) -> str:
        size = " x ".join(map(str, self.geometry.shape))
        spacing = " x ".join(f"{s:.3g}" for s in self.geometry.spacing)
        codes = "".join(self.geometry.axcodes)
        return f"Volume({size}, {spacing} mm, {codes}, {self.unit}, {self.modality or 'modality unknown'})"

    def with_array(self, array: NDArray[Any], step: dict[str, Any] | None = None) -> Volume:
        """Other values on the same grid."""
        return replace(self, array=array, history=(*self.history, step) if step else self.history)

    def with_step(self, step: dict[str, Any]) -> Volume:
        """The same scan with one more entry in its history."""
        return replace(self, history=(*self.history, step))

    def permute(self, order: Sequence[int]) -> Volume:
        """New axis a is the old axis order[a]."""
        return replace(self, array=self.array.transpose(tuple(order)), geometry=self.geometry.permute(order))

    def flip(self, axes: Sequence[int]) -> Volume:
        return replace(self, array=np.flip(self.array, tuple(axes)), geometry=self.geometry.flip(axes))

    def crop(self, start: Sequence[int], stop: Sequence[int]) -> Volume:
        geometry = self.geometry.crop(start, stop)
        window = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
        return replace(self, array=self.array[window], geometry=geometry)

    def pad(self, before: Sequence[int], after: Sequence[int], mode: PadMode = "edge") -> Volume:
        geometry = self.geometry.pad(before, after)
        array = np.pad(self.array, list(zip(before, after, strict=True)), mode=mode)
        return replace(self, array=array, geometry=geometry)

    def reorient(self, axcodes: Sequence[str]) -> Volume:
        """Permute and flip, nothing else, so that the axes run nearest to `axcodes` ("RAS", "PSR", ...)."""
        order, flips = self.geometry.orientation_to(axcodes)
        return self.permute(order).flip(flips)

    def resample(self, spacing: Sequence[float], *, nearest: bool = False) -> Volume:
        """On a grid of another spacing (mm along I, J, K); the outer edges stay, to half a new voxel.

        nearest : each value is that of the nearest voxel (masks, label maps). Else cubic splines, never beyond the
            values that there are, after a Gaussian along the axes that become coarser: what the new grid cannot hold
            would fold back (its deviation (factor - 1) / 2 voxels, as in scikit-image's `resize`).
        """
        from scipy import ndimage

        factor = np.divide(self.geometry.spacing, spacing)
        geometry, step, array = self.geometry.zoom(factor.tolist()), 1 / factor, self.array
        if not nearest:
            array = ndimage.gaussian_filter(array, np.maximum(step - 1, 0) / 2, mode="nearest")
        order = 0 if nearest else 3
        moved = ndimage.affine_transform(array, step, (step - 1) / 2, geometry.shape, order=order, mode="nearest")
        told = {"step": "resample", "spacing": [float(s) for s in spacing]}
        within = moved.clip(self.array.min(), self.array.max())
        return replace(self, array=within, geometry=geometry, history=(*self.history, told))
