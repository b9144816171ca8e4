"""What to restore and how, apart from any window: the whole scan, one slice of it, or a region with a soft edge."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

import medldm
from medldm import LazyScan, MedldmError, Restoration, Volume
from medldm.calibration import CUT
from medldm.pack import AutoencoderPack

CONTEXT = 16  # voxels around a slice or region that the model sees, too
FEATHER = 6  # voxels over which a region's edge fades


TASKS = {"denoise": "denoise", "super-resolve": "super_resolve", "inpaint": "inpaint", "synthesize": "synthesize"}


def tasks() -> list[str]:
    """What the installed medldm can do."""
    return [task for task, function in TASKS.items() if function in medldm.__all__]  # hasattr would import PyTorch


@dataclass(frozen=True)
class Request:
    """Settings of one restoration; plain data, so that it can be kept and run again.

    task : one of `tasks()`
    scale : an axis of the scan, for super-resolution
    noise_std : in the scan's unit, None to estimate it
    mode : 0 (fidelity) to 1 (perceptual)
    count : of new scans, for synthesis; conditions : what they are to be, as `medldm.synthesize` takes it
    guidance : how strictly conditions are followed, 1 as in the training set
    """

    task: str
    model: str
    noise_std: float | None = None
    mode: float = 0.0
    samples: int = 1
    steps: int = 20
    seed: int = 0
    scale: tuple[int, int, int] = (1, 1, 1)
    count: int = 1
    conditions: Mapping[str, Any] = field(default_factory=dict)
    guidance: float = 1.0

    def to_dict(self) -> dict[str, Any]:
        """Plain data; of a map, only that there was one."""
        table = asdict(replace(self, conditions={}))
        del table["conditions"]
        said = {name: "a map" if isinstance(value, Volume) else value for name, value in self.conditions.items()}
        return table | ({"conditions": said} if said else {})

    @classmethod
    def from_dict(cls, table: dict[str, Any]) -> Request:
        return cls(**(table | {"scale": tuple(table["scale"])}))


def across(pack: AutoencoderPack, scan: Volume | LazyScan) -> int | None:
    """The axis across which a model of single images takes a scan; None for a model of volumes."""
    return pack.slice_axis(scan) if pack.dims == 2 else None


def refined(volume: Volume | LazyScan, factor: int, across: int | None) -> tuple[int, int, int]:
    """`factor` an axis: along the thickest of a volume; of an image, and by a model of single images, both in plane.

    across : axis between the slices that the model takes, None for a model of volumes
    """
    scale = [1, 1, 1]
    thickest = 2 - int(np.argmax(volume.geometry.spacing[::-1]))
    slices = volume.slice_axis if across is None else across
    in_plane = [axis for axis in range(3) if axis != slices]
    for axis in in_plane if across is not None or volume.geometry.shape[2] == 1 else (thickest,):
        scale[axis] = factor
    return scale[0], scale[1], scale[2]


Progress = Callable[[str, int, int], None]
Preview = Callable[[Volume], None]


def run(
    volume: Volume,
    request: Request,
    model: Any,
    progress: Progress,
    preview: Preview | None,
    mask: NDArray[np.bool_] | None = None,
) -> Restoration:
    """The whole scan, or what lies within `mask` (I, J, K).

    Raises MedldmError, and whatever `progress` raises to cancel.
    """
    if request.task == "denoise" and mask is not None:
        return run_region(volume, mask, request, model, progress)
    common: dict[str, Any] = {
        "model": model,
        "mode": request.mode,
        "samples": request.samples,
        "steps": request.steps,
        "seed": request.seed,
        "progress": progress,
        "preview": preview,
        "force": True,  # what is doubted was confirmed
    }
    if request.task == "inpaint":
        return medldm.inpaint(volume, mask, **common)
    common["noise_std"] = request.noise_std
    if request.task == "super-resolve":
        return medldm.super_resolve(volume, scale=request.scale, **common)
    return medldm.denoise(volume, **common)


def new_scans(request: Request, model: Any, progress: Progress) -> Iterator[Volume]:
    """`count` scans that were never measured. Raises MedldmError, and whatever `progress` raises to cancel."""
    return medldm.synthesize(
        model=model,
        n=request.count,
        seed=request.seed,
        steps=request.steps,
        conditions=request.conditions,
        guidance=request.guidance,
        progress=progress,
    )


@dataclass(frozen=True)
class Order:
    """One restoration of every scan below a folder.

    factor : of super-resolution; the request's own scale is not used, as scans differ
    format : "nifti" for all, None: each as its scan
    """

    folder: str
    out: str
    request: Request
    factor: int = 2
    format: str | None = None
    uncertainty: bool = True


def run_each(order: Order, model: Any, progress: Progress) -> Iterator[Any]:
    """A `medldm.restore_each` row a scan. Raises MedldmError, and whatever `progress` raises to cancel."""

    def restore(scan: Volume) -> Restoration:
        finer = order.request.task == "super-resolve"
        scale = refined(scan, order.factor, across(model.pack, scan)) if finer else (1, 1, 1)
        return run(scan, replace(order.request, scale=scale), model, lambda *_: progress("", 0, 0), None)

    settings = {**order.request.to_dict(), "factor": order.factor, "weights_sha256": model.weights_sha256}
    return medldm.restore_each(
        order.folder,
        order.out,
        restore,
        settings=settings,
        format=order.format,
        uncertainty=order.uncertainty,
        progress=progress,
    )


def region_of_slice(volume: Volume | LazyScan, axis: int, index: int) -> NDArray[np.bool_]:
    """(I, J, K) mask of one slice across `axis`."""
    mask = np.zeros(volume.geometry.shape, dtype=bool)
    mask[(slice(None),) * axis + (index,)] = True
    return mask


def context(across: int | None) -> list[int]:
    """Voxels around a region that a model sees along each axis: one of single images sees no other slice."""
    return [0 if axis == across else CONTEXT for axis in range(3)]


def run_region(
    volume: Volume, mask: NDArray[np.bool_], request: Request, model: Any, progress: Progress, *, feather: int = FEATHER
) -> Restoration:
    """Denoise within `mask` (I, J, K); outside it the scan comes back bit for bit.

    The model sees `CONTEXT` voxels around; intensities are scaled as for the whole scan, so that a region
    comes out as it would in the whole. The edge fades inwards over `feather` voxels. Raises MedldmError.
    """
    if request.task != "denoise":
        raise MedldmError("region", f"the task {request.task}", "denoise", "super-resolve the whole scan")
    if mask.shape != volume.array.shape or not mask.any():
        raise MedldmError("region", "an empty region", "one that covers part of the scan", "draw it on the scan")
    box = ndimage.find_objects(mask.astype(np.uint8))[0]
    loaded = model if not isinstance(model, str) else medldm.load_model(model)
    around = context(across(loaded.pack, volume))
    start = [max(s.start - more, 0) for s, more in zip(box, around, strict=True)]
    stop = [min(s.stop + more, n) for s, more, n in zip(box, around, volume.array.shape, strict=True)]
    part = medldm.denoise(
        volume.crop(start, stop).with_step({"step": CUT}),
        model=loaded,
        noise_std=request.noise_std,
        mode=request.mode,
        samples=request.samples,
        steps=request.steps,
        seed=request.seed,
        value_range=loaded.value_range(volume),
        progress=progress,
    )
    window = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    inside = mask[window]
    flat = tuple(axis for axis, n in enumerate(mask.shape) if n > 1 and not np.any(np.diff(np.nonzero(mask)[axis])))
    weight = _weight(inside, feather, flat)
    step = part.volume.history[-1] | {"region_voxels": int(mask.sum())}

    def whole(values: NDArray[np.float32], outside: NDArray[np.float32]) -> Volume:
        array = outside.copy()
        array[window] = np.where(weight > 0, outside[window] + weight * (values - outside[window]), outside[window])
        return volume.with_array(array.astype(np.float32), step)

    nothing = np.zeros_like(volume.array)
    result = whole(part.volume.array, volume.array)
    residual = volume.with_array(volume.array - result.array, step)
    report = part.report | {"region_voxels": int(mask.sum())}
    return Restoration(result, result.array, residual, whole(part.uncertainty.array, nothing), report, part.intervals)


def _weight(inside: NDArray[np.bool_], feather: int, flat: tuple[int, ...]) -> NDArray[np.float32]:
    """1 well inside, falling to 0 at the edge; across an axis along which the region is one voxel thin, no edge."""
    if feather < 1:
        return inside.astype(np.float32)
    if flat:
        axis = flat[0]
        kept = np.flatnonzero(inside.any(tuple(a for a in range(3) if a != axis)))[0]
        plane = np.take(inside, kept, axis)
        full = bool(plane.all())
        edge = np.ones(plane.shape) if full else np.clip(ndimage.distance_transform_edt(plane) / feather, 0, 1)
        weight = np.zeros(inside.shape, dtype=np.float32)
        weight[(slice(None),) * axis + (kept,)] = edge
        return weight
    distance = ndimage.distance_transform_edt(np.pad(inside, 1, mode="edge"))[1:-1, 1:-1, 1:-1]
    return np.clip(distance / feather, 0, 1).astype(np.float32) * inside
