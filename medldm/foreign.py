"""Images of other programs as voxels with a place, and back: nibabel, SimpleITK, MONAI's MetaTensor, xarray.

Millimetres from the left or the right, columns or rows first: their conventions end here. What they are is told by what
they offer, so that nothing is imported that the caller does not use.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from medldm.errors import AmbiguousInput, GeometryError, InputError, OutputError, UnsupportedInput
from medldm.geometry import Geometry
from medldm.marks import Marks

if TYPE_CHECKING:
    import nibabel
    import SimpleITK
    import xarray

_AXES = ("i", "j", "k")
_MM = {"meter": 1e3, "micron": 1e-3}
_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # to and from RAS+


class NibabelImage(Protocol):
    """An image of nibabel, or of anything with its affine (RAS+ mm) and its voxels."""

    @property
    def affine(self) -> Any: ...

    @property
    def dataobj(self) -> Any: ...


class SitkImage(Protocol):
    """An image of SimpleITK: origin, spacing and direction in LPS+ mm."""

    def GetOrigin(self) -> Any: ...

    def GetSpacing(self) -> Any: ...

    def GetDirection(self) -> Any: ...


class LabelledArray(Protocol):
    """A DataArray of xarray."""

    @property
    def dims(self) -> Any: ...

    @property
    def coords(self) -> Any: ...

    @property
    def attrs(self) -> Any: ...


class TorchTensor(Protocol):
    """A tensor of PyTorch, or its child with an affine, MONAI's MetaTensor."""

    def detach(self) -> Any: ...

    def cpu(self) -> Any: ...


@dataclass(frozen=True, eq=False)
class Voxels:
    """An image that was taken over.

    array : (I, J, K), or what the caller gave where there is no affine
    affine : (4, 4), voxel indices -> RAS+ mm; None where the image does not say where it lies
    kind : what it was, in words
    """

    array: NDArray[Any]
    affine: NDArray[np.float64] | None
    marks: Marks
    kind: str


def taken_over(image: object) -> Voxels | None:
    """Voxels and place of another program's image; None for what is none of those known.

    Raises InputError and its children for several images in one, colours, or a place that makes no sense.
    """
    if hasattr(image, "dataobj") and hasattr(image, "affine"):
        return _of_nibabel(image)
    if hasattr(image, "GetDirection") and hasattr(image, "GetSpacing"):
        return _of_sitk(image)
    if hasattr(image, "dims") and hasattr(image, "coords") and hasattr(image, "attrs"):
        return _of_xarray(image)
    if hasattr(image, "detach") and hasattr(image, "cpu"):
        return _of_tensor(image)
    return None


def _of_nibabel(image: Any) -> Voxels:
    where, scale = "nibabel image", 1.0
    header: Any = getattr(image, "header", None)
    fields = set(header.keys()) if hasattr(header, "keys") else set()
    marks = Marks()
    if image.affine is None or ("pixdim" in fields and "sform_code" not in fields):  # Analyze: left or right, who knows
        raise GeometryError(where, "no affine", "one: voxel to RAS+ mm", "give the array and an affine")
    if "sform_code" in fields:
        if not int(header["sform_code"]) and not int(header["qform_code"]):
            do = "give the array and an affine"
            raise GeometryError(where, "neither sform nor qform", "one of them", do)
        scale = _MM.get(header.get_xyzt_units()[0], 1.0)
        marks = Marks.of_header(header)
    affine = np.diag([scale, scale, scale, 1.0]) @ np.asarray(image.affine, dtype=np.float64)
    array = np.asanyarray(image.dataobj)
    return Voxels(_three(array, where, "image.slicer[..., 0]"), affine, marks, "nibabel")


def _of_sitk(image: Any) -> Voxels:
    import SimpleITK

    where, dims = "SimpleITK image", image.GetDimension()
    if image.GetNumberOfComponentsPerPixel() != 1:
        got = f"{image.GetNumberOfComponentsPerPixel()} components a voxel"
        raise UnsupportedInput(where, got, "one value a voxel", "take one: SimpleITK.VectorIndexSelectionCast")
    array = SimpleITK.GetArrayFromImage(image).T
    three = _three(array, where, "image[..., 0]")
    direction, spacing, origin = np.eye(3), np.ones(3), np.zeros(3)  # a single slice is taken to be 1 mm thick
    n = min(dims, 3)
    direction[:n, :n] = np.reshape(image.GetDirection(), (dims, dims))[:n, :n]
    spacing[:n], origin[:n] = image.GetSpacing()[:n], image.GetOrigin()[:n]
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = direction * spacing, origin
    marks = Marks.of({key: image.GetMetaData(key) for key in image.GetMetaDataKeys() if "|" not in key})
    return Voxels(three, _LPS @ affine, marks, where)


def _of_tensor(tensor: Any) -> Voxels:
    """The affine of a MetaTensor alone: those of MONAI's transforms keep it right."""
    values = tensor.detach().cpu()
    values = values.as_tensor() if hasattr(values, "as_tensor") else values
    array = np.asarray(values.float() if values.is_floating_point() else values)  # numpy has no bfloat16
    if not (hasattr(tensor, "affine") and hasattr(tensor, "meta")):
        return Voxels(array, None, Marks(), "tensor")
    meta, where = tensor.meta, "MetaTensor"
    axes = len(meta["spatial_shape"]) if "spatial_shape" in meta else 3
    if array.ndim == axes + 1 or array.ndim > 3:  # channel first, as all of MONAI's transforms have it
        if array.shape[0] != 1:
            raise AmbiguousInput(where, f"shape {array.shape}", "one channel first, or none", "take one: tensor[:1]")
        array = array[0]
    given = np.asarray(tensor.affine.detach().cpu(), dtype=np.float64)
    affine = np.eye(4)
    if given.shape == (3, 3):  # of an image of two dimensions
        affine[:2, :2], affine[:2, 3] = given[:2, :2], given[:2, 2]
    else:
        affine = given
    if str(meta.get("space", "RAS")).upper().endswith("LPS"):
        affine = _LPS @ affine
    return Voxels(_three(array, where, "tensor[:1]"), affine, Marks.of(meta), where)


def _of_xarray(labelled: Any) -> Voxels:
    """By an attribute `affine` that takes the coordinates i, j, k to RAS+ mm: parts and turned axes lie right, too."""
    where, dims = "DataArray", tuple(map(str, labelled.dims))
    if "affine" not in labelled.attrs:
        return Voxels(np.asarray(labelled.values), None, Marks.of(labelled.attrs), where)
    missing = [a for a in _AXES if a not in dims]
    if not set(dims) <= set(_AXES):
        do = "rename them; of several images take one"
        raise InputError(where, f"dimensions {', '.join(dims)}", "i, j and k, as the affine has them", do)
    moved = np.eye(4)
    for axis, name in enumerate(_AXES):
        places = np.atleast_1d(labelled.coords[name].values) if name in labelled.coords else None
        if places is None:
            places = np.arange(labelled.sizes[name] if name in dims else 1)
        steps = np.diff(places.astype(np.float64))
        if steps.size and (not np.allclose(steps, steps[0], atol=1e-6) or steps[0] == 0):
            raise GeometryError(where, f"uneven coordinates along {name}", "even ones", "resample it first")
        moved[axis, axis], moved[axis, 3] = steps[0] if steps.size else 1.0, places[0]
    array = labelled.transpose(*(a for a in _AXES if a in dims)).values
    array = np.expand_dims(array, [_AXES.index(a) for a in missing])
    affine = np.asarray(labelled.attrs["affine"], dtype=np.float64)
    if affine.shape != (4, 4):
        raise GeometryError(where, f"an affine of shape {affine.shape}", "(4, 4)")
    return Voxels(array, affine @ moved, Marks.of(labelled.attrs), where)


def _three(array: NDArray[Any], where: str, one: str) -> NDArray[Any]:
    """(I, J, K): further axes of length 1 dropped, a missing one added. Raises AmbiguousInput for several images."""
    while array.ndim > 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim > 3:
        raise AmbiguousInput(where, f"shape {array.shape}", "one image", f"take one: {one}")
    if array.ndim not in (2, 3):
        raise InputError(where, f"shape {array.shape}", "two or three axes")
    return array[..., None] if array.ndim == 2 else array


def to_nibabel(array: NDArray[np.float32], geometry: Geometry, marks: Marks) -> nibabel.Nifti1Image:
    """sform and qform hold the same affine (the sform alone, if it is sheared), in mm; (I, J, K) or (I, J, K, N).

    Raises OutputError for an axis that NIfTI-1 cannot hold.
    """
    import nibabel as nib

    if max(array.shape) > 32767:
        raise OutputError("NIfTI", f"an axis of {max(array.shape)} voxels", "at most 32767 in NIfTI-1")
    image: Any = nib.Nifti1Image(np.array(array, dtype=np.float32), geometry.affine, dtype=np.float32)
    image.set_sform(geometry.affine, code=1, update_affine=False)  # the header's is rounded to 32 bits
    image.set_qform(geometry.affine, code=0 if geometry.is_sheared else 1, update_affine=False)
    image.header.set_xyzt_units("mm")
    marks.into_header(image.header)
    return image  # type: ignore[no-any-return]


def to_sitk(array: NDArray[np.float32], geometry: Geometry, marks: Marks) -> SimpleITK.Image:
    """Raises GeometryError for axes off a right angle: ITK has none; OutputError where SimpleITK is not installed."""
    try:
        import SimpleITK
    except ImportError:
        raise OutputError("SimpleITK", "no such package", "SimpleITK", "pip install 'medldm[interop]'") from None
    if geometry.is_sheared:
        do = "resample it first, or write it as NIfTI"
        raise GeometryError("SimpleITK image", "axes off a right angle (a tilted gantry)", "right angles", do)
    affine = _LPS @ geometry.affine
    spacing = np.asarray(geometry.spacing)
    image: Any = SimpleITK.GetImageFromArray(array.T)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
    for key, value in marks.to_dict().items():
        image.SetMetaData(key, value)
    return image  # type: ignore[no-any-return]


def to_xarray(array: NDArray[np.float32], geometry: Geometry, marks: Marks) -> xarray.DataArray:
    """Raises OutputError where xarray is not installed."""
    try:
        import xarray
    except ImportError:
        raise OutputError("xarray", "no such package", "xarray", "pip install 'medldm[interop]'") from None
    coords = {name: np.arange(n) for name, n in zip(_AXES, array.shape, strict=True)}
    attrs = {**marks.to_dict(), "affine": geometry.affine.tolist()}
    return xarray.DataArray(array.copy(), coords=coords, dims=_AXES, attrs=attrs)
