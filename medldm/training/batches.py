"""Batches that depend on (seed, stage, step) alone, and each example on its number in the batch alone.

A resumed training therefore sees the batches that the interrupted one would have seen, without any state of
loaders to save; and processes that share a batch draw together what one process would have drawn.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from medldm.nets.conditioning import Measurement
from medldm.nets.patches import pad_to_multiple
from medldm.operators.block_average import BlockAverage
from medldm.operators.gap import fill_smooth, random_gap
from medldm.operators.noise import MOST_NOISE_AROUND_GAPS, noise_model
from medldm.recipe import Recipe, StageTable
from medldm.training.scans import Scan

ZOOM_SHARE = 0.25
MASK_AFTER_NOISE_SHARE = 0.3


class Batch(NamedTuple):
    """Examples of a step.

    x : (B, 1, *S) clean images
    measurement : what was measured of them, None for synthesis
    seeds : (B,) of each example's own random numbers in the stage
    scans : (B,) number of each example's scan
    """

    x: Tensor
    measurement: Measurement | None
    seeds: Tensor
    scans: Tensor

    def split(self, size: int) -> list[Batch]:
        """The same in parts of `size` examples, the last one maybe smaller."""
        return [self._part(slice(at, at + size)) for at in range(0, len(self.x), size)]

    def _part(self, part: slice) -> Batch:
        measurement = self.measurement and self.measurement.map(lambda field: field[part])
        return Batch(self.x[part], measurement, self.seeds[part], self.scans[part])


class Batches:
    """Batches of a stage: `images(step)`, `restoration(step)` of degraded crops, `whole(step)` images.

    salt : tells stages apart
    all_flips : any flip and transposition, else left-right alone
    super_resolution_share : of the batches that are coarse
    rank, world : this process draws the examples rank, rank + world, ... of each batch
    """

    def __init__(
        self,
        scans: Sequence[Scan],
        recipe: Recipe,
        stage: StageTable,
        *,
        salt: int,
        all_flips: bool,
        super_resolution_share: float,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.scans, self.recipe, self.stage = scans, recipe, stage
        self.salt, self.all_flips = salt, all_flips
        self.super_resolution_share = super_resolution_share
        self.rank, self.world = rank, world
        self.noise = noise_model(recipe.degradation.noise)
        sources = [scan.source for scan in scans]
        counts = Counter(sources)
        weights = np.array([s.weight / counts[s] for s in sources])
        self.weights = weights / weights.sum()
        self.synthesis = [number for number, source in enumerate(sources) if source.synthesis]
        axis = 0 if recipe.dims == 2 else next(a for a, c in enumerate(recipe.axcodes or "RAS") if c in "LR")
        self.left_right = axis
        self.flip_axes = tuple(range(recipe.dims)) if all_flips else (axis,)

    def _numbers(self, count: int) -> range:
        return range(self.rank, -(-count // self.world) * self.world, self.world)

    def _step(self, step: int) -> np.random.Generator:
        """What all examples of a step share."""
        return np.random.default_rng([self.recipe.seed, self.salt, step])

    def _example(self, step: int, number: int) -> tuple[np.random.Generator, int, int]:
        """An example's generator, and seeds for its measurement's noise and for the stage."""
        sequence = np.random.SeedSequence([self.recipe.seed, self.salt, step, 1 + number])
        noise, stage = sequence.generate_state(2, np.uint64)
        return np.random.default_rng(sequence), int(noise >> np.uint64(1)), int(stage >> np.uint64(1))

    def scans_of(self, step: int) -> list[str]:
        """Names of the scans that the crops of a step come from."""
        chosen = [self._scan(self._example(step, n)[0]) for n in self._numbers(self.stage.batch_size)]
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
            mode = "bicubic" if self.recipe.dims == 2 else "trilinear"
            crop = F.interpolate(crop[None, None], size=tuple(size), mode=mode, align_corners=False)[0, 0]
        crop = crop.flip([a for a in self.flip_axes if rng.random() < 0.5])
        if self.all_flips and len(set(size)) == 1:
            crop = crop.permute(*rng.permutation(self.recipe.dims).tolist())
        gain = self.recipe.augment_gain
        scale = float(np.exp(rng.uniform(-1, 1) * np.log1p(gain)))
        crop = crop.clamp_min(0) * scale if self.recipe.degradation.noise == "rician" else crop * scale
        return crop, stripped, number

    def images(self, step: int) -> Batch:
        """Clean crops (B, 1, *crop)."""
        examples = [self._example(step, n) for n in self._numbers(self.stage.batch_size)]
        crops = [self._crop(rng) for rng, _, _ in examples]
        x = torch.stack([crop for crop, _, _ in crops])[:, None]
        return Batch(
            x, None, torch.tensor([stage for _, _, stage in examples]), torch.tensor([n for _, _, n in crops])
        )

    def whole(self, step: int) -> Batch:
        """Whole images (B, 1, *S), about as many voxels as a batch of crops, padded, flipped left-right at random."""
        size = self.recipe.synthesis_shape[: self.recipe.dims]
        count = max(1, round(self.stage.batch_size * math.prod(self.stage.crop) / math.prod(size)))
        images, seeds, numbers = [], [], []
        for example in self._numbers(count):
            rng, _, seed = self._example(step, example)
            number = self.synthesis[int(rng.integers(len(self.synthesis)))]
            image = self.scans[number].image[tuple(slice(0, s) for s in size)]
            images.append(image.flip([self.left_right]) if rng.random() < 0.5 else image)
            seeds.append(seed)
            numbers.append(number)
        x = pad_to_multiple(torch.stack(images)[:, None], self.recipe.multiple)[0]
        return Batch(x, None, torch.tensor(seeds), torch.tensor(numbers))

    def _factor(self, rng: np.random.Generator) -> tuple[int, ...]:
        """The block average of a step, one number an axis."""
        table, dims = self.recipe.degradation, self.recipe.dims
        if rng.random() >= self.super_resolution_share:
            return (1,) * dims
        weights = table.factor_weights
        f = int(rng.choice(table.factors, p=None if weights is None else np.array(weights) / sum(weights)))
        if not table.through_plane:
            return (f,) * dims
        axis = int(rng.integers(dims))
        return tuple(f if a == axis else 1 for a in range(dims))

    def restoration(self, step: int) -> Batch:
        """Clean crops and what was measured of them; one operator a batch, a noise level a crop."""
        table, dims = self.recipe.degradation, self.recipe.dims
        factor = self._factor(self._step(step))
        coarse = max(factor) > 1
        low, high = np.log(table.noise_std)
        images, measured, levels, seeds, numbers = [], [], [], [], []
        operator = BlockAverage((*factor, 1)[:3])  # type: ignore[arg-type]
        for example in self._numbers(self.stage.batch_size):
            rng, noise_seed, seed = self._example(step, example)
            x, stripped, number = self._crop(rng)
            noise_std = float(np.exp(rng.uniform(low, high)))
            if coarse:
                noise_std = noise_std / 2 if rng.random() < table.noisy_share else 0.0
            volume = x.reshape(1, 1, *x.shape, *(1,) * (3 - dims))
            generator = torch.Generator().manual_seed(noise_seed)
            y = self.noise.sample(operator.forward(volume), torch.tensor(noise_std), generator)
            image = operator.upsample(y).reshape(1, *x.shape)
            if not coarse and stripped and rng.random() < MASK_AFTER_NOISE_SHARE:
                image = image * (x > 0)
            images.append(x[None])
            measured.append(image)
            levels.append(noise_std)
            seeds.append(seed)
            numbers.append(number)
        factors = torch.tensor([factor] * len(images), dtype=torch.float32)
        measurement = Measurement(torch.stack(measured), torch.tensor(levels, dtype=torch.float32), factors)
        return Batch(torch.stack(images), measurement, torch.tensor(seeds), torch.tensor(numbers))

    def gaps(self, step: int) -> Batch:
        """Clean crops, and what is left of them around gaps, which are interpolated; half of them lightly noisy."""
        table = self.recipe.degradation
        images, measured, gaps, levels, seeds, numbers = [], [], [], [], [], []
        for example in self._numbers(self.stage.batch_size):
            rng, noise_seed, seed = self._example(step, example)
            x, _, number = self._crop(rng)
            noise_std = float(np.exp(rng.uniform(np.log(table.noise_std[0]), np.log(MOST_NOISE_AROUND_GAPS))))
            noise_std *= rng.random() < 0.5
            y = self.noise.sample(x, torch.tensor(noise_std), torch.Generator().manual_seed(noise_seed))
            gap = random_gap(tuple(x.shape), table.gap_radius, rng)
            images.append(x[None])
            measured.append(torch.from_numpy(fill_smooth(y.numpy(), gap))[None])
            gaps.append(torch.from_numpy(gap.astype(np.float32))[None])
            levels.append(noise_std)
            seeds.append(seed)
            numbers.append(number)
        factors = torch.ones(len(images), self.recipe.dims)
        noise = torch.tensor(levels, dtype=torch.float32)
        measurement = Measurement(torch.stack(measured), noise, factors, torch.stack(gaps))
        return Batch(torch.stack(images), measurement, torch.tensor(seeds), torch.tensor(numbers))
