"""A collaborative filter: patches of the scan that look alike are denoised together.

What repeats within a scan (a rib's edge, a fold of the cortex) tells more about each of its places than the place
itself. As in BM3D (Dabov et al. 2007), in the closed form of NL-Ridge (Herbreteau and Kervrann 2022): each patch of a
group is estimated as that combination of the group's noisy patches which fits best, by a `pilot` that stands for the
truth. The pilot is what a network made of the scan, the next pilot is what the filter made with it. Nothing here is
trained.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, avg_pool3d, pad

from medldm.operators.measurement import Measurement, Noise

ESTIMATES = 2  # what `collaborative_estimates` gives of each image
_LEAST_NOISE = 0.001  # of the range; below there is nothing to filter, and single precision ends
_GROUPS = 1024  # at a time: bounds the memory


@dataclass(frozen=True)
class Search:
    """Which patches make a group.

    edge : of a patch, along each axis
    stride : between the patches that a group is looked for
    radius : how far away the others may be, along each axis
    group : how many patches
    block : references are gone through in blocks of this edge: bounds the memory
    """

    edge: int
    stride: int
    radius: int
    group: int
    block: int


SEARCH = {2: Search(edge=7, stride=4, radius=12, group=48, block=120), 3: Search(3, 2, 3, 24, block=48)}


def collaborative_estimates(
    measurement: Measurement, pilot: Tensor, noise: Noise, on_block: Callable[[], None] = lambda: None
) -> Tensor:
    """(B, ESTIMATES, *S): the filter's answer, and its answer with that as the pilot.

    pilot : (B, 1, *S) an estimate of the image, in its unit
    noise : of the measurement; what it adds on average is taken off
    on_block : called now and then; may raise to cancel
    """
    found = []
    for image, guess, std in zip(measurement.image, pilot, measurement.noise_std, strict=True):
        noise_std = std.mean().clamp_min(_LEAST_NOISE)
        passes, last = [], guess[0].float()
        for _ in range(ESTIMATES):
            bias = noise.mean(last, noise_std) - last
            last = _filtered(image[0].float() - bias, last, noise_std, SEARCH[last.ndim], on_block)
            passes.append(last)
        found.append(torch.stack(passes))
    return torch.stack(found).to(measurement.image)


def count_blocks(size: Sequence[int]) -> int:
    """How often `collaborative_estimates` calls `on_block` for an image of that size."""
    search = SEARCH[len(size)]
    starts = (_starts(n + more, search) for n, more in zip(size, _tail(size, search), strict=True))
    return ESTIMATES * math.prod(map(len, starts))


def _tail(size: Sequence[int], search: Search) -> list[int]:
    """By how much an image is lengthened, so that its last patches are references."""
    edge, stride = search.edge, search.stride
    return [max((edge - n) % stride if n > edge else edge - n, 0) for n in size]


def _starts(n: int, search: Search) -> range:
    return range(0, n - search.edge + 1, search.block // search.stride * search.stride)


def _filtered(y: Tensor, pilot: Tensor, noise_std: Tensor, search: Search, on_block: Callable[[], None]) -> Tensor:
    """One pass: (*S) of the noisy image and of the pilot."""
    edge, stride, radius = search.edge, search.stride, search.radius
    size, tail = y.shape, _tail(y.shape, search)
    y, pilot = (_lengthened(field, tail) for field in (y, pilot))
    total, weight = torch.zeros_like(y), torch.zeros_like(y)
    block = search.block // stride * stride
    for start in itertools.product(*(_starts(n, search) for n in y.shape)):
        last = [min(a + block - stride, n - edge) for a, n in zip(start, y.shape, strict=True)]
        around = [max(a - radius, 0) for a in start]
        ends = [min(b + radius + edge, n) for b, n in zip(last, y.shape, strict=True)]
        cut = tuple(slice(a, b) for a, b in zip(around, ends, strict=True))
        first = [a - b for a, b in zip(start, around, strict=True)]
        counts = [(b - a) // stride + 1 for a, b in zip(start, last, strict=True)]
        part, share = _block(y[cut], pilot[cut], noise_std, search, first, counts)
        total[cut] += part
        weight[cut] += share
        on_block()
    return (total / weight)[tuple(slice(0, n) for n in size)]


def _lengthened(field: Tensor, tail: Sequence[int]) -> Tensor:
    ends = [n for more in reversed(tail) for n in (0, more)]
    return pad(field[None, None], ends, mode="replicate")[0, 0] if any(tail) else field


def _block(
    y: Tensor, pilot: Tensor, noise_std: Tensor, search: Search, first: Sequence[int], counts: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Weighted sum of what is estimated of each voxel, and the weights; the references begin at `first`."""
    where = _alike(pilot, search, first, counts)
    places = [n - search.edge + 1 for n in y.shape]
    flat = torch.zeros_like(where[0])
    for index, n in zip(where, places, strict=True):
        flat = flat * n + index
    noisy, guessed = _patches(y, search.edge), _patches(pilot, search.edge)
    voxels = search.edge**y.ndim
    total, weight = y.new_zeros(math.prod(places), voxels), y.new_zeros(math.prod(places))
    for part in torch.arange(len(flat), device=flat.device).split(_GROUPS):
        at = tuple(index[part] for index in where)
        patches, weights = _estimated(noisy[at].flatten(2), guessed[at].flatten(2), noise_std)
        total.index_add_(0, flat[part].flatten(), patches.flatten(0, 1))
        weight.index_add_(0, flat[part].flatten(), weights.flatten())
    return _overlaid(total, weight, places, search.edge, y)


def _estimated(noisy: Tensor, guessed: Tensor, noise_std: Tensor) -> tuple[Tensor, Tensor]:
    """Patches (R, K, voxels) of each group, times their weights, and the weights (R, K).

    About each patch's own mean, of which the pilot is sure, the best combination is ridge regression:
    ``Q (Q + n sigma^2)^-1`` with ``Q = X X^T`` of the pilot's patches. A patch that gathers more noise weighs less.
    """
    group, voxels = noisy.shape[1:]
    mean = guessed.mean(2, keepdim=True)
    x, y = guessed - mean, noisy - mean
    wide = x.double()  # patches that are almost the same are more than single precision can tell apart
    noise = voxels * noise_std.double() ** 2
    alike = wide @ wide.mT
    alike.diagonal(dim1=1, dim2=2).add_(noise)
    without = torch.cholesky_inverse(torch.linalg.cholesky(alike)).mul_(-noise)
    without.diagonal(dim1=1, dim2=2).add_(1)
    combination = without.to(y)
    weights = 1 / combination.square().sum(2).clamp(1 / group, 1)
    return (combination @ y + mean) * weights[..., None], weights


def _alike(pilot: Tensor, search: Search, first: Sequence[int], counts: Sequence[int]) -> list[Tensor]:
    """For each reference, where the patches that are most like it begin: (R, K) along each axis; itself among them."""
    dims, edge, radius = pilot.ndim, search.edge, search.radius
    lengths = [(count - 1) * search.stride + edge for count in counts]
    reference = pilot[tuple(slice(a, a + n) for a, n in zip(first, lengths, strict=True))]
    wide = pad(pilot, [radius, radius] * dims, value=math.inf)  # no patch is taken from outside
    across, pool = 2 * radius + 1, avg_pool2d if dims == 2 else avg_pool3d
    distances = []
    for shift in itertools.product(range(across), repeat=dims - 1):  # all shifts along the last axis at once
        rows = tuple(slice(a + by, a + by + n) for a, by, n in zip(first[:-1], shift, lengths[:-1], strict=True))
        near = wide[(*rows, slice(first[-1], first[-1] + lengths[-1] + 2 * radius))]
        shifted = near.unfold(-1, lengths[-1], 1).movedim(-2, 0)
        distances.append(pool((shifted - reference).square_()[:, None], edge, search.stride).flatten(1))
    distance = torch.cat(distances).t().contiguous()
    distance[:, across**dims // 2] = -1.0
    at_a_corner = math.prod(min(radius + 1, n - edge + 1) for n in pilot.shape)
    shift_of = distance.topk(min(search.group, at_a_corner), dim=1, largest=False, sorted=False).indices
    starts = [torch.arange(n, device=pilot.device) * search.stride + a for a, n in zip(first, counts, strict=True)]
    own = torch.stack(torch.meshgrid(*starts, indexing="ij"), -1).flatten(0, -2)
    where = []
    for axis in reversed(range(dims)):
        where.append(own[:, axis, None] + shift_of % across - radius)
        shift_of = shift_of // across
    return where[::-1]


def _patches(field: Tensor, edge: int) -> Tensor:
    """A view: (*places, *edges)."""
    for axis in range(field.ndim):
        field = field.unfold(axis, edge, 1)
    return field


def _overlaid(total: Tensor, weight: Tensor, places: Sequence[int], edge: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Patches laid where they belong, and their weights."""
    image, weights = torch.zeros_like(like), torch.zeros_like(like)
    laid, one = total.view(*places, -1), weight.view(*places)
    for number, at in enumerate(_offsets(places, edge)):
        image[at] += laid[..., number]
        weights[at] += one
    return image, weights


def _offsets(places: Sequence[int], edge: int) -> Iterator[tuple[slice, ...]]:
    """Where each voxel of the patches goes."""
    for offset in itertools.product(range(edge), repeat=len(places)):
        yield tuple(slice(by, by + n) for by, n in zip(offset, places, strict=True))
