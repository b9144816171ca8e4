"""New scans from noise: conditions in, latents sampled level by level, decoded, given a geometry."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from medldm import registry
from medldm.conditions import MAPS, check_conditions, in_words
from medldm.diffusion.cascade import Guidance, sample_cascade
from medldm.diffusion.generator import padded_shape
from medldm.diffusion.noise import FieldNoise
from medldm.errors import InputError, ModelError
from medldm.model import Model
from medldm.nets.conditioner import Conditions
from medldm.pack import SynthesisTable
from medldm.restoration.restore import versions
from medldm.space import ModelSpace, centred, centred_geometry, map_condition, to_array
from medldm.volume import AI_PROCESSED, RESEARCH_USE, Volume

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Request:
    """What is to be drawn: scans `first` to `first + n - 1` of a seed, `batch` at a time.

    conditions : for all scans, or one mapping a scan; maps are volumes
    guidance : one scale, or scales by condition (`medldm.diffusion.cascade.Guidance`)
    """

    n: int
    seed: int = 0
    first: int = 0
    batch: int = 1
    steps: int = 20
    sampler: str = "dpmpp_2m"
    conditions: Mapping[str, object] | Sequence[Mapping[str, object]] = ()
    guidance: float | Mapping[str, float] = 1.0
    guidance_interval: tuple[float, float] = (0.0, float("inf"))

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
    if r.n < 1 or r.steps < 2 or r.batch < 1 or r.first < 0:
        got = f"n={r.n}, steps={r.steps}, batch={r.batch}, first={r.first}"
        raise InputError("synthesize", got, "n >= 1, steps >= 2, batch >= 1, first >= 0")
    if model.pack.synthesis is None:
        got = "no training for synthesis"
        raise ModelError(f"model {model.name}", got, "a model that synthesizes", "see medldm models")
    if r.conditions and not isinstance(r.conditions, Mapping) and len(r.conditions) != r.n:
        raise InputError("conditions", f"{len(r.conditions)} mappings", f"one a scan, {r.n}")
    asked = [_asked(model, model.pack.synthesis, r.of_scan(number)) for number in range(r.n)]
    return _scans(model, model.pack.synthesis, r, asked, _guidance(model.pack.synthesis, r), progress)


def _asked(model: Model, table: SynthesisTable, said: Mapping[str, object]) -> dict[str, object]:
    """One scan's conditions, checked; maps are tensors on the model's grid."""
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
        turned = ModelSpace.of(pack, value).turned(value)
        if turned.array.shape != tuple(wanted) or not np.allclose(turned.geometry.spacing, pack.spacing, rtol=0.02):
            shape, spacing = (" x ".join(f"{n:.4g}" for n in v) for v in (turned.array.shape, turned.geometry.spacing))
            expected = " x ".join(map(str, wanted)) + " of " + " x ".join(f"{s:.4g}" for s in pack.spacing) + " mm"
            raise InputError(name, f"{shape} voxels of {spacing} mm", expected, "resample it to the model's grid")
        checked[name] = map_condition(table.conditions[name], turned, pack, name)
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
    return found


@torch.inference_mode()
def _scans(
    model: Model,
    table: SynthesisTable,
    request: Request,
    asked: Sequence[dict[str, object]],
    guidance: Guidance,
    progress: Progress | None,
) -> Iterator[Volume]:
    pack, networks = model.pack, model.networks
    sampler = registry.find("samplers", request.sampler)
    size = padded_shape(pack, table.shape[: pack.dims])
    generators = [networks.generator(number) for number in range(len(networks.generators))]
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
        )
        for number, image in zip(numbers, images.split(1), strict=True):
            yield _volume(model, table, request, number, centred(image, table.shape[: pack.dims]))


def _padded(asked: dict[str, object], size: Sequence[int]) -> dict[str, object]:
    return {name: centred(value, size) if isinstance(value, Tensor) else value for name, value in asked.items()}


def _volume(model: Model, table: SynthesisTable, request: Request, number: int, image: Tensor) -> Volume:
    said = request.of_scan(number)
    history = {
        "step": "synthesize",
        "model": model.name,
        "weights_sha256": model.weights_sha256,
        "seed": request.seed,
        "index": request.first + number,
        "steps": request.steps,
        "sampler": request.sampler,
        "conditions": {name: _word(value) for name, value in said.items() if value is not None},
        "guidance": dict(request.guidance) if isinstance(request.guidance, Mapping) else request.guidance,
        "version": versions()["medldm"],
        "synthetic": True,
        AI_PROCESSED: RESEARCH_USE,
    }
    values = to_array(image, model.pack.dims) * table.scale + table.offset
    low, high = (0.0, 255.0) if table.unit == "grey8" else (min(table.offset, 0.0), np.inf)
    scan = np.clip(values, low, high).astype(np.float32)
    return Volume(scan, centred_geometry(model.pack, table.shape), table.unit, model.pack.modality[0], (history,))


def _word(value: object) -> object:
    """A condition as it is kept in a scan's history; of a map, only that there was one."""
    return "a map" if isinstance(value, Volume) else value if isinstance(value, int | float) else str(value)
