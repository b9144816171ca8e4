"""A scan: voxels with their geometry, unit and history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from medldm import foreign, thumbnail
from medldm.errors import GeometryError, InputError
from medldm.geometry import Geometry
from medldm.marks import AI_PROCESSED, QUANTITY, RESEARCH_USE, SYNTHETIC, Marks

if TYPE_CHECKING:
    import nibabel
    import SimpleITK
    import xarray

SQUARE = 1.02  # a pixel whose sides differ by less
PadMode = Literal["reflect", "edge", "constant"]


class WithHistory:
    """What can be told of a scan by its history."""

    history: tuple[dict[str, Any], ...]
    geometry: Geometry

    @property
    def slice_axis(self) -> int:
        """Axis across the slices as they were acquired: the one beside two of equal spacing, as pixels are square; else
        the thickest; of equal ones, the file's last.

        Slices of a DICOM series may be half as thick as their pixels are wide.
        """
        shape, spacing = self.geometry.shape, self.geometry.spacing
        if 1 in shape:
            return max(axis for axis, n in enumerate(shape) if n == 1)
        for axis in (2, 1, 0):
            pixel = [spacing[other] for other in range(3) if other != axis]
            if max(pixel) < SQUARE * min(pixel):
                return axis
        alike = 0.5 if any(step.get("format") == "dicom" for step in self.history) else 0.95
        return 2 if spacing[2] > alike * max(spacing) else spacing.index(max(spacing))

    @property
    def ai_processed(self) -> bool:
        """Whether a model had a hand in it, by its history or by the mark in the file that it was read from."""
        return any(AI_PROCESSED in step for step in self.history)

    @property
    def synthetic(self) -> bool:
        """Whether a model drew it and nobody was scanned, by the same."""
        return any(step.get(SYNTHETIC) for step in self.history)

    @property
    def quantity(self) -> str:
        """What a map beside a result holds, one of `medldm.marks.MAPS`; "" for a scan."""
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

    >>> import numpy as np
    >>> medldm.Volume(np.zeros((64, 64, 20)), medldm.Geometry.from_spacing((64, 64, 20), (1, 1, 3)), "HU", "CT")
    Volume(64 x 64 x 20, 1 x 1 x 3 mm, RAS, HU, CT)
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

    def _repr_html_(self) -> str:
        picture, low, high = thumbnail.grey_slice(self.array, self.geometry)
        unit = "" if self.unit == "arbitrary" else f" {self.unit}"
        figures = {
            "voxels": " x ".join(map(str, self.geometry.shape)),
            "spacing": " x ".join(f"{s:.3g}" for s in self.geometry.spacing) + " mm",
            "axes": "".join(self.geometry.axcodes),
            "unit": self.unit,
            "modality": self.modality or "unknown",
            "values": f"{self.array.min():.4g} to {self.array.max():.4g}",
            "history": ", ".join(str(step.get("step", "")) for step in self.history),
            "made by a model": RESEARCH_USE if self.ai_processed else "",
        }
        title = "Volume" + (f": {self.quantity}" if self.quantity else "")
        return thumbnail.page({f"middle slice, {low:.4g} to {high:.4g}{unit}": picture}, figures, title)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled and copied as what it is: read-only, with all that belongs to it."""
        return type(self), tuple(getattr(self, field.name) for field in fields(self))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """The voxels for numpy, (I, J, K) float32: read-only, unless they are copied."""
        return np.array(self.array, dtype=dtype, copy=copy)

    @property
    def marks(self) -> Marks:
        """What an image of another program can carry of it beside voxels and place."""
        return Marks(self.unit, self.modality, self.ai_processed, self.quantity, self.synthetic)

    def to_nibabel(self) -> nibabel.Nifti1Image:
        """The same scan for nibabel: float32, affine (RAS+ mm) in sform and qform; unit and marks are described.

        Raises OutputError for an axis of more than 32767 voxels.

        >>> scan.to_nibabel().shape
        (24, 20, 16)
        """
        return foreign.to_nibabel(self.array, self.geometry, self.marks)

    def to_sitk(self) -> SimpleITK.Image:
        """The same scan for SimpleITK (extra `interop`), in ITK's LPS+ mm; its index is (i, j, k), too.

        Unit and marks are metadata. Raises GeometryError for axes off a right angle, which ITK cannot hold, and
        OutputError where SimpleITK is not installed.

        >>> scan.to_sitk().GetSize()
        (24, 20, 16)
        """
        return foreign.to_sitk(self.array, self.geometry, self.marks)

    def to_xarray(self) -> xarray.DataArray:
        """The same scan for xarray (extra `interop`): dimensions i, j, k, their coordinates the voxel indices.

        The attribute `affine` takes coordinates to RAS+ mm, so that parts and turned arrays come back in their place.
        Raises OutputError where xarray is not installed.

        >>> scan.to_xarray().isel(k=slice(4, 8)).sizes["k"]
        4
        """
        return foreign.to_xarray(self.array, self.geometry, self.marks)

    def with_array(self, array: NDArray[Any], step: dict[str, Any] | None = None) -> Volume:
        """Other values, `array` (I, J, K), on the same grid; `step` (default None) goes into the history."""
        return replace(self, array=array, history=(*self.history, step) if step else self.history)

    def with_step(self, step: dict[str, Any]) -> Volume:
        """The same scan with one more entry in its history: `step`, plain data with a key "step"."""
        return replace(self, history=(*self.history, step))

    def permute(self, order: Sequence[int]) -> Volume:
        """New axis a is the old axis `order`[a]; each voxel stays where it is in the world."""
        return replace(self, array=self.array.transpose(tuple(order)), geometry=self.geometry.permute(order))

    def flip(self, axes: Sequence[int]) -> Volume:
        """Reverse some `axes` (0, 1, 2); each voxel stays where it is in the world. Raises GeometryError."""
        return replace(self, array=np.flip(self.array, tuple(axes)), geometry=self.geometry.flip(axes))

    def crop(self, start: Sequence[int], stop: Sequence[int]) -> Volume:
        """Voxels from `start` up to, not with, `stop` along each axis. Raises GeometryError."""
        geometry = self.geometry.crop(start, stop)
        window = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
        return replace(self, array=self.array[window], geometry=geometry)

    def pad(self, before: Sequence[int], after: Sequence[int], mode: PadMode = "edge") -> Volume:
        """More voxels `before` and `after` along each axis, filled by `mode`: "reflect", "edge" or "constant" (0).

        Raises GeometryError for negative numbers.
        """
        geometry = self.geometry.pad(before, after)
        array = np.pad(self.array, list(zip(before, after, strict=True)), mode=mode)
        return replace(self, array=array, geometry=geometry)

    def reorient(self, axcodes: Sequence[str]) -> Volume:
        """Permute and flip, nothing else, so that the axes run nearest to `axcodes` ("RAS", "PSR", ...)."""
        order, flips = self.geometry.orientation_to(axcodes)
        return self.permute(order).flip(flips)

    def resample(self, spacing: Sequence[float], *, nearest: bool = False) -> Volume:
        """On a grid of another `spacing` (mm along I, J, K); the outer edges stay, to half a new voxel.

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
