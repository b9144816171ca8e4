"""Batches that depend on (seed, stage, step) alone, and each example on its number in the batch alone.

A resumed training therefore sees the batches that the interrupted one would have seen, without any state of
loaders to save; and processes that share a batch draw together what one process would have drawn.
"""

from __future__ import annotations

import copy
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from medldm.errors import MedldmError, RunError
from medldm.nets.conditioner import Conditions
from medldm.operators.measurement import Measurement, noise_model
from medldm.operators.problem import Problem
from medldm.recipe import Recipe
from medldm.stage_tables import StageTable
from medldm.training.lesions import with_lesions
from medldm.training.scan import Scan

ZOOM_SHARE = 0.25
MASK_AFTER_NOISE_SHARE = 0.3


class Batch(NamedTuple):
    """Examples of a step.

    x : (B, 1, *S) clean images
    measurement : what was measured of them, None for synthesis
    problem : the name of the problem that they pose, "" for none
    seeds : one an example, of its own random numbers in the stage
    scans : number of each example's scan
    conditions, coarse : for synthesis, what they are, and (B, 1, *S') their images at the level before
    where : for synthesis, (B, dims, *cells), where their latent cells lay before they were moved (`Generator.where`)
    """

    x: Tensor
    measurement: Measurement | None
    problem: str
    seeds: tuple[int, ...]
    scans: tuple[int, ...]
    conditions: Conditions | None = None
    coarse: Tensor | None = None
    where: Tensor | None = None

    def split(self, size: int) -> list[Batch]:
        """The same in parts of `size` examples, the last one maybe smaller."""
        return [self._part(slice(at, at + size)) for at in range(0, len(self.x), size)]

    def _part(self, part: slice) -> Batch:
        measurement = self.measurement and self.measurement.map(lambda field: field[part])
        asked = self.conditions and self.conditions.map(lambda field: field[part])
        coarse, where = (None if field is None else field[part] for field in (self.coarse, self.where))
        return Batch(self.x[part], measurement, self.problem, self.seeds[part], self.scans[part], asked, coarse, where)


class Example(NamedTuple):
    """The random numbers of an example: `step` is alike for all of a step, the others are its own.

    seed : of the numbers that the stage draws for it
    """

    step: np.random.Generator
    own: np.random.Generator
    noise: torch.Generator
    seed: int


class Coarser(Protocol):
    """`medldm.training.redrawn.Redrawn`."""

    def of(self, position: int, rng: np.random.Generator) -> Tensor: ...


class Batches:
    """Batches of a stage: `images(step)`, `restoration(step)` of degraded crops.

    problems : those that the stage learns, and `shares` of each among its batches
    salt : tells stages apart
    all_flips : any flip and transposition, else left-right alone
    rank, world : this process draws the examples rank, rank + world, ... of each batch
    redrawn : versions of the coarser images that a finer level is shown, in place of the real ones (None)
    """

    def __init__(
        self,
        scans: Sequence[Scan],
        recipe: Recipe,
        stage: StageTable,
        problems: Mapping[str, Problem],
        *,
        salt: int,
        all_flips: bool,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.scans, self.recipe, self.pack, self.stage = scans, recipe, recipe.pack, stage
        self.problems, self.shares = problems, dict(getattr(stage, "problems", {}))
        self.lesions: float = getattr(stage, "lesions", 0.0)
        self.salt, self.all_flips = salt, all_flips
        self.rank, self.world = rank, world
        self.redrawn: Coarser | None = None
        self.noise = noise_model(self.pack.noise)
        sources = [scan.source for scan in scans]
        numbers = [recipe.sources.index(source) for source in sources]
        counts = Counter(numbers)
        weights = np.array([s.weight / counts[n] for s, n in zip(sources, numbers, strict=True)])
        self.weights = weights / weights.sum()
        self.whole = [number for number, source in enumerate(sources) if source.synthesis]
        axis = 0 if self.pack.dims == 2 else next(a for a, c in enumerate(self.pack.axcodes or "RAS") if c in "LR")
        self.left_right = axis
        self.flip_axes = tuple(range(self.pack.dims)) if all_flips else (axis,)

    def of_one_process(self) -> Batches:
        """The same, not shared."""
        other = copy.copy(self)
        other.rank, other.world = 0, 1
        return other

    def numbers(self, count: int) -> range:
        """Of the examples in a batch that this process draws."""
        return range(self.rank, -(-count // self.world) * self.world, self.world)

    def _step(self, step: int) -> np.random.Generator:
        """What all examples of a step share."""
        return np.random.default_rng([self.recipe.seed, self.salt, step])

    def example(self, step: int, number: int) -> Example:
        """The random numbers of an example."""
        sequence = np.random.SeedSequence([self.recipe.seed, self.salt, step, 1 + number])
        noise, stage = (int(n >> np.uint64(1)) for n in sequence.generate_state(2, np.uint64))
        generator = torch.Generator().manual_seed(noise)
        return Example(self._step(step), np.random.default_rng(sequence), generator, stage)

    def scans_of(self, step: int) -> list[str]:
        """Names of the scans that the crops of a step come from."""
        chosen = [self._scan(self.example(step, n).own) for n in self.numbers(self.stage.batch_size)]
        return [self.scans[number].name for number in dict.fromkeys(chosen)]

    def _scan(self, rng: np.random.Generator) -> int:
        return int(rng.choice(len(self.scans), p=self.weights))

    def _crop(self, rng: np.random.Generator) -> tuple[Tensor, bool, int]:
        """A crop (*crop), whether it is of an organ copy, and the number of its scan."""
        number = self._scan(rng)
        scan = self.scans[number]
        stripped = scan.organ is not None and rng.random() < 0.5
        image = scan.organ if stripped and scan.organ is not None else scan.image
        size = self.stage.crop
        coarse = int(rng.choice(scan.source.coarsen))
        if coarse > 1:
            image = F.avg_pool2d(image[None, None], coarse)[0, 0]
        zoom = float(rng.uniform(1, self.recipe.augment_zoom)) if rng.random() < ZOOM_SHARE else 1.0
        window = [math.ceil(s / zoom) for s in size]
        for _ in range(4):  # mostly tissue: empty crops teach little
            start = [int(rng.integers(0, max(n - w, 0) + 1)) for n, w in zip(image.shape, window, strict=True)]
            crop = image[tuple(slice(a, a + w) for a, w in zip(start, window, strict=True))]
            if float((crop > 0.1).float().mean()) > 0.2:
                break
        short = [max(w - n, 0) for n, w in zip(crop.shape, window, strict=True)]
        crop = F.pad(crop, [n for s in reversed(short) for n in (0, s)])
        if zoom > 1:
            mode = "bicubic" if self.pack.dims == 2 else "trilinear"
            crop = F.interpolate(crop[None, None], size=tuple(size), mode=mode, align_corners=False)[0, 0]
        crop = crop.flip([a for a in self.flip_axes if rng.random() < 0.5])
        if self.all_flips and len(set(size)) == 1:
            crop = crop.permute(*rng.permutation(self.pack.dims).tolist())
        gain = self.recipe.augment_gain
        scale = float(np.exp(rng.uniform(-1, 1) * np.log1p(gain)))
        crop = crop.clamp_min(0) * scale if self.pack.noise == "rician" else crop * scale
        return crop, stripped, number

    def images(self, step: int) -> Batch:
        """Clean crops (B, 1, *crop)."""
        examples = [self.example(step, n) for n in self.numbers(self.stage.batch_size)]
        crops, _, numbers = zip(*(self._crop(example.own) for example in examples), strict=True)
        return Batch(torch.stack(crops)[:, None], None, "", tuple(e.seed for e in examples), numbers)

    def restoration(self, step: int) -> Batch:
        """Clean crops and what was measured of them: one problem a step, a noise level a crop."""
        names, shares = list(self.shares), np.array(list(self.shares.values()))
        name = names[int(self._step(step).choice(len(names), p=shares / shares.sum()))]
        examples = [self.example(step, n) for n in self.numbers(self.stage.batch_size)]
        images, measured, numbers = [], [], []
        for example in examples:
            crop, stripped, number = self._crop(example.own)
            if self.lesions and example.own.random() < self.lesions:
                crop = with_lesions(crop, example.own)
            x = crop[None, None]
            found = self.problems[name].draw(x, self.noise, example)
            plain = found.missing is None and not bool((found.blur > 1).any())
            if plain and stripped and example.own.random() < MASK_AFTER_NOISE_SHARE:
                found = found._replace(image=found.image * (x > 0))
            images.append(x)
            measured.append(found)
            numbers.append(number)
        together = Measurement.together(measured)
        return Batch(torch.cat(images), together, name, tuple(e.seed for e in examples), tuple(numbers))


class _Steps(Dataset[Batch]):
    def __init__(self, make: Callable[[int], Batch]) -> None:
        self.make = make

    def __getitem__(self, step: int) -> Batch:
        return self.make(step)


def _as_is(batch: Any) -> Any:
    return batch


def prefetch(
    make: Callable[[int], Batch], steps: range, workers: int, scans_of: Callable[[int], list[str]], where: str
) -> Iterator[tuple[int, Batch]]:
    """Yield (step, batch) in order, drawn here or ahead by workers; the batches are the same however many those are.

    Raises RunError naming step and scans where a batch cannot be drawn, or its worker died.
    """
    loader = (
        map(make, steps)
        if workers == 0
        else DataLoader(
            _Steps(make),
            sampler=steps,
            batch_size=None,
            num_workers=workers,
            collate_fn=_as_is,
            # where processes can be forked safely, scans are shared, not copied
            multiprocessing_context="fork" if sys.platform == "linux" else "spawn",
        )
    )
    drawn = iter(loader)
    for step in steps:
        try:
            batch = next(drawn)
        except StopIteration:  # pragma: no cover - as many batches as steps
            return
        except MedldmError:
            raise
        except Exception as failure:
            reason = (str(failure).splitlines() or [""])[-1][:120] or type(failure).__name__
            if isinstance(failure, ConnectionError | EOFError):  # how its death shows where it was answering
                reason = "its worker died"
            scans = "; ".join(scans_of(step))
            raise RunError(f"{where}, step {step}, {scans}", reason, "a batch", "look at these scans") from None
        yield step, batch
