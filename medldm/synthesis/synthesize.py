"""New scans from noise: conditions in, latents sampled level by level, decoded, given a geometry."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from medldm import registry
from medldm.conditions import MAPS, check_conditions, in_turn, in_words
from medldm.diffusion.cascade import Guidance, Like, sample_cascade
from medldm.diffusion.generator import padded_shape
from medldm.diffusion.noise import FieldNoise
from medldm.errors import InputError, ModelError
from medldm.geometry import Geometry
from medldm.marks import AI_PROCESSED, RESEARCH_USE
from medldm.model import Model
from medldm.nets.conditioner import Conditions
from medldm.pack import SynthesisTable
from medldm.restoration.restore import versions
from medldm.space import ModelSpace, centred, centred_geometry, map_condition, to_array
from medldm.volume import Volume, refused_map

Progress = Callable[[str, int, int], None]
_TOP = {"grey8": 255.0, "grey16": 65535.0}


@dataclass(frozen=True)
class Request:
    """What is to be drawn: scans `first` to `first + n - 1` of a seed, `batch` at a time.

    steps : None: as many as the model was distilled for, else as its pack says
    conditions : for all scans, or one mapping a scan; maps are volumes
        "*" stands for every value in turn (`medldm.conditions.in_turn`)
    guidance : one scale, or scales by condition (`medldm.diffusion.cascade.Guidance`)
    like : a scan on the model's grid that is varied; strength : the share of noise that hides it, 0 to 1
    """

    n: int
    seed: int = 0
    first: int = 0
    batch: int = 1
    steps: int | None = None
    sampler: str = "dpmpp_2m"
    conditions: Mapping[str, object] | Sequence[Mapping[str, object]] = ()
    guidance: float | Mapping[str, float] = 1.0
    guidance_interval: tuple[float, float] = (0.0, float("inf"))
    like: Volume | None = None
    strength: float = 0.4

    def of_scan(self, number: int) -> Mapping[str, object]:
        """The conditions of the scan at `first + number`."""
        if isinstance(self.conditions, Mapping):
            return self.conditions
        return self.conditions[number] if self.conditions else {}


def synthesize(model: Model, request: Request, progress: Progress | None) -> Iterator[Volume]:
    """Yield synthetic scans; the one at index i depends on (seed, i) and its conditions alone.

    Everything is checked before the first is drawn. Raises InputError for bad settings or conditions, ModelError for a
    model that does not synthesize.
    """
    r = request
    if r.n < 1 or (r.steps is not None and r.steps < 2) or r.batch < 1 or r.first < 0:
        got = f"n={r.n}, steps={r.steps}, batch={r.batch}, first={r.first}"
        raise InputError("synthesize", got, "n >= 1, steps >= 2, batch >= 1, first >= 0")
    if model.pack.synthesis is None:
        got = "no training for synthesis"
        raise ModelError(f"model {model.name}", got, "a model that synthesizes", "see medldm models")
    if r.conditions and not isinstance(r.conditions, Mapping) and len(r.conditions) != r.n:
        raise InputError("conditions", f"{len(r.conditions)} mappings", f"one a scan, {r.n}")
    table = model.pack.synthesis
    r = replace(r, conditions=[in_turn(table.conditions, r.of_scan(n), r.first + n) for n in range(r.n)])
    read: dict[int, Tensor] = {}  # a map of many scans is held once
    asked = [_asked(model, table, r.of_scan(number), read) for number in range(r.n)]
    varied = None if r.like is None else _Varied.of(model, table, r.like, r.strength)
    return _scans(model, table, r, asked, _guidance(table, r), varied, progress)


@dataclass(frozen=True)
class _Varied:
    """A scan that is varied, on the grid of synthetic ones: its image (1, 1, *shape), and the noise that hides it."""

    space: ModelSpace
    geometry: Geometry
    image: Tensor
    sigma: float
    sha256: str
    unit: str
    modality: str

    @classmethod
    def of(cls, model: Model, table: SynthesisTable, like: Volume, strength: float) -> _Varied:
        """Raises InputError for another voxel size than the model's, or a strength that is none."""
        if not 0 < strength <= 1:
            raise InputError("strength", f"{strength:g}", "above 0, where nothing changes, to 1, where nothing stays")
        if like.quantity:
            raise refused_map("like", like.quantity)
        pack, space = model.pack, ModelSpace.of(model.pack, like)
        turned = space.turned(like)
        assumed = any(step.get("spacing_assumed") for step in like.history)
        has, wanted = (s[: pack.dims] for s in (turned.geometry.spacing, pack.trained_spacing))
        if not assumed and not np.allclose(has, wanted, rtol=0.05):
            got, expected = (" x ".join(f"{s:.4g}" for s in sizes) + " mm" for sizes in (has, wanted))
            raise InputError("like", f"voxels of {got}", expected, "resample it to the model's grid")
        space = space.fitted(turned)
        image = centred(space.image(turned), table.shape[: pack.dims])
        first = [_first(n, w) for n, w in zip(turned.geometry.shape, table.shape, strict=True)]
        affine = turned.geometry.affine.copy()
        affine[:, 3] = affine @ np.array([*first, 1.0])
        sigma = float("inf") if strength == 1 else strength / (1 - strength)
        digest = hashlib.sha256(np.ascontiguousarray(like.array).tobytes()).hexdigest()
        geometry = Geometry(affine, table.shape)
        return cls(space, geometry, image[None, None], sigma, digest, like.unit, like.modality)


def _first(size: int, wanted: int) -> int:
    """Which voxel of a scan becomes the first, as `medldm.space.centred` cuts and fills."""
    more = wanted - size
    return -more // 2 if more < 0 else -(more // 2)


def _asked(
    model: Model, table: SynthesisTable, said: Mapping[str, object], read: dict[int, Tensor]
) -> dict[str, object]:
    """One scan's conditions, checked; maps are tensors on the model's grid, kept in `read` by the volume's identity."""
    checked = check_conditions(table.conditions, said, f"model {model.name}")
    missing = [name for name in table.required if name not in checked]
    if missing:
        expected = f"{missing[0]}: {in_words(table.conditions[missing[0]])}"
        where = f"model {model.name}, conditions"
        raise InputError(where, f"no {missing[0]}", expected, "it was trained with all of them said")
    pack, wanted = model.pack, table.shape
    for name, value in checked.items():
        if not isinstance(table.conditions[name], MAPS):
            continue
        if not isinstance(value, Volume):
            raise InputError(name, type(value).__name__, f"a Volume: {in_words(table.conditions[name])}")
        if id(value) in read:
            checked[name] = read[id(value)]
            continue
        turned = ModelSpace.of(pack, value).turned(value)
        spacing = turned.geometry.spacing
        if turned.array.shape != tuple(wanted) or not np.allclose(spacing, pack.trained_spacing, rtol=0.02):
            grids = (turned.array.shape, spacing, wanted, pack.trained_spacing)
            shape, has, right, size = (" x ".join(f"{n:.4g}" for n in numbers) for numbers in grids)
            expected = f"{right} of {size} mm"
            raise InputError(name, f"{shape} voxels of {has} mm", expected, "resample it to the model's grid")
        checked[name] = read[id(value)] = map_condition(table.conditions[name], turned, pack, name)
    return checked


def _guidance(table: SynthesisTable, request: Request) -> Guidance:
    """Raises InputError for a scale of a condition that there is not, or below 0."""
    scale, interval = request.guidance, request.guidance_interval
    if isinstance(scale, Mapping):
        check_conditions(table.conditions, dict.fromkeys(scale), "guidance")
        found = Guidance(1.0, dict(scale), interval)
    else:
        found = Guidance(float(scale), {}, interval)
    if not all(0 <= s < float("inf") for s in (found.scale, *found.each.values())):
        raise InputError("guidance", str(scale), "scales >= 0, 1 for none")
    needed = [name for name in table.required if found.scale != 1 or found.each.get(name, 1) != 1]
    if needed:
        raise InputError("guidance", str(scale), "1: the model was not trained without its conditions")
    if not table.conditions and found.scale != 1:
        raise InputError("guidance", str(scale), "1: the model knows no conditions to be guided by")
    distilled = [level.distilled for level in table.cascade if level.distilled is not None]
    if distilled and request.steps is None and found != Guidance(interval=interval):
        expected = f"none: the model was distilled with a guidance of {distilled[0].guidance:g}"
        raise InputError("guidance", str(scale), expected, "leave it out")
    return found


@torch.inference_mode()
def _scans(
    model: Model,
    table: SynthesisTable,
    request: Request,
    asked: Sequence[dict[str, object]],
    guidance: Guidance,
    varied: _Varied | None,
    progress: Progress | None,
) -> Iterator[Volume]:
    pack, networks = model.pack, model.networks
    sampler = registry.find("samplers", request.sampler)
    size = padded_shape(pack, table.shape[: pack.dims])
    generators = [networks.generator(number) for number in range(len(networks.generators))]
    like = None if varied is None else Like(centred(varied.image, size).to(model.device), varied.sigma)
    for start in range(0, request.n, request.batch):
        numbers = range(start, min(start + request.batch, request.n))
        parts = [Conditions.of(table.conditions, _padded(asked[number], size), size) for number in numbers]
        together = Conditions.together(parts).map(lambda part: part.to(model.device))

        def told(done: int, total: int, preview: object, at: int = start, n: int = len(numbers)) -> None:
            if progress is not None:
                progress("synthesize", at * total + done * n, request.n * total)

        images = sample_cascade(
            networks.autoencoder,
            generators,
            together,
            FieldNoise([(request.seed, request.first + number) for number in numbers], model.device),
            size,
            steps=request.steps,
            sampler=sampler,
            guidance=guidance,
            on_step=told,
            like=like,
        )
        for number, image in zip(numbers, images.split(1), strict=True):
            yield _volume(model, table, request, number, centred(image, table.shape[: pack.dims]), varied)


def _padded(asked: dict[str, object], size: Sequence[int]) -> dict[str, object]:
    return {name: centred(value, size) if isinstance(value, Tensor) else value for name, value in asked.items()}


def _volume(
    model: Model, table: SynthesisTable, request: Request, number: int, image: Tensor, varied: _Varied | None
) -> Volume:
    said = request.of_scan(number)
    history = {
        "step": "synthesize",
        "model": model.name,
        "weights_sha256": model.weights_sha256,
        "seed": request.seed,
        "index": request.first + number,
        "steps": request.steps or [t.steps if t.distilled is None else t.distilled.steps for t in table.cascade],
        "sampler": request.sampler,
        "conditions": {name: _word(value) for name, value in said.items() if value is not None},
        "guidance": dict(request.guidance) if isinstance(request.guidance, Mapping) else request.guidance,
        "version": versions()["medldm"],
        "synthetic": True,
        AI_PROCESSED: RESEARCH_USE,
    }
    if varied is not None:
        history |= {"strength": request.strength, "like_sha256": varied.sha256}
        array, unit = varied.space.array(image), varied.unit
        floor = min(0.0, varied.space.range.offset)
        array = np.clip(array, floor, _TOP.get(unit, np.inf)).astype(np.float32)
        return Volume(array, varied.geometry, unit, varied.modality or model.pack.modality[0], (history,))
    values = to_array(image, model.pack.dims) * table.scale + table.offset
    low, high = min(table.offset, 0.0), _TOP.get(table.unit, np.inf)
    scan = np.clip(values, low, high).astype(np.float32)
    modality = model.pack.trained_modality[0]
    return Volume(scan, centred_geometry(model.pack, table.shape), table.unit, modality, (history,))


def _word(value: object) -> object:
    """A condition as it is kept in a scan's history; of a map, only that there was one."""
    return "a map" if isinstance(value, Volume) else value if isinstance(value, int | float) else str(value)
