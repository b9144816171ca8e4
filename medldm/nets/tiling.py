"""Encode and decode arrays larger than memory, tile by tile, with the whole's result.

A tile is read with the cells around it that it depends on (`Autoencoder.halo`), and only its own cells are kept. A
tile at the edge of the image ends there, so that the network's zero padding falls where it does in the whole.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medldm.errors import InputError, ModelError
from medldm.io.atomic import write_whole
from medldm.nets.autoencoder import Autoencoder

Array = NDArray[Any]
Slices = tuple[slice, ...]
TileProgress = Callable[[int, int], None]  # tiles done, tiles in all; whatever it raises ends the work

TILE = 256
ZEROS = bytes(1 << 24)


class Tile(NamedTuple):
    """Slices along the axes: what to read, what is its own, and where that lies within what was read."""

    outer: Slices
    inner: Slices
    within: Slices


def tiles(size: Sequence[int], edge: Sequence[int], halo: Sequence[int]) -> Iterator[Tile]:
    """Tiles of at most `edge` that cover `size` once, each with `halo` around it as far as `size` reaches."""
    for start in itertools.product(*(range(0, s, e) for s, e in zip(size, edge, strict=True))):
        inner = [slice(a, min(a + e, s)) for a, e, s in zip(start, edge, size, strict=True)]
        outer = [slice(max(i.start - h, 0), min(i.stop + h, s)) for i, h, s in zip(inner, halo, size, strict=True)]
        within = [slice(i.start - o.start, i.stop - o.start) for i, o in zip(inner, outer, strict=True)]
        yield Tile(tuple(outer), tuple(inner), tuple(within))


@torch.inference_mode()
def encode_tiled(
    autoencoder: Autoencoder,
    image: Array,
    out: Array | Path | None = None,
    *,
    tile: int | Sequence[int] = TILE,
    with_std: bool = False,
    progress: TileProgress | None = None,
) -> Array:
    """White latents of an image of any size: the mean that ``autoencoder.encode`` gives for the whole image, padded.

    image : (*S), numbers in the model's range; may be memory-mapped
    out : where it goes: an array or memory map (C, *cells), or a path ending in .npy; None: a new float32 array
    tile : length of a tile in voxels, one number or one an axis; rounded up to a multiple of ``autoencoder.multiple``
    with_std : the deviation too; the result is then (2, C, *cells), mean first

    Returns `out`; for a path the file, memory-mapped for reading. cells are S / factor, S padded to the autoencoder's
    `multiple`. A path is written whole or not at all; an array that is `out` stays half filled after an error.
    Raises InputError for sizes that do not fit, ModelError where a tile depends on the whole image (a `halo` of None)
    and is smaller than it, OutputError where the file cannot be written.
    """
    if image.ndim != autoencoder.dims or 0 in image.shape:
        raise InputError("encode_tiled", f"an array of shape {image.shape}", f"one image of {autoencoder.dims} axes")
    cells = _cells(autoencoder, image.shape)
    shape = (2, autoencoder.channels, *cells) if with_std else (autoencoder.channels, *cells)
    every = (slice(None),) * (len(shape) - len(cells))

    def encoded(part: Tile) -> tuple[Slices, Tensor]:
        pixels = _mirrored(image, _in_voxels(part.outer, autoencoder.factor))
        mean, std = autoencoder.encode(_tensor(pixels[None, None], autoencoder))
        latents = torch.stack((mean[0], std.expand_as(mean)[0])) if with_std else mean[0]
        return every + part.inner, latents[every + part.within]

    return _fill(out, shape, _plan(autoencoder, cells, tile), encoded, progress)


@torch.inference_mode()
def decode_tiled(
    autoencoder: Autoencoder,
    z: Array,
    out: Array | Path | None = None,
    *,
    size: Sequence[int] | None = None,
    tile: int | Sequence[int] = TILE,
    progress: TileProgress | None = None,
) -> Array:
    """The image that ``autoencoder.decode`` gives for the whole of the white latents, cropped to `size`.

    z : (C, *cells), may be memory-mapped
    size : of the image that was encoded; None: that of `out` where it is an array, else cells * factor
    All else as in `encode_tiled`; `out` is (*size).
    """
    if z.ndim != autoencoder.dims + 1 or z.shape[0] != autoencoder.channels or 0 in z.shape:
        wanted = f"{autoencoder.channels} channels and {autoencoder.dims} axes"
        raise InputError("decode_tiled", f"an array of shape {z.shape}", wanted, "give the latents of one image")
    cells = z.shape[1:]
    if size is None:
        size = (
            out.shape
            if isinstance(out, np.ndarray)
            else [n * f for n, f in zip(cells, autoencoder.factor, strict=True)]
        )
    if len(size) != autoencoder.dims or _cells(autoencoder, size) != cells:
        got = f"the size {tuple(size)} for latents of {cells} cells, {autoencoder.factor} voxels each"
        raise InputError("decode_tiled", got, "the size of the image that was encoded")

    def decoded(part: Tile) -> tuple[Slices, Tensor]:
        image = autoencoder.decode(_tensor(z[(slice(None), *part.outer)][None], autoencoder))[0, 0]
        inner, within = (_in_voxels(slices, autoencoder.factor) for slices in (part.inner, part.within))
        own = tuple(slice(i.start, min(i.stop, s)) for i, s in zip(inner, size, strict=True))
        return own, image[tuple(slice(w.start, w.start + o.stop - o.start) for w, o in zip(within, own, strict=True))]

    return _fill(out, tuple(size), _plan(autoencoder, cells, tile), decoded, progress)


def _cells(autoencoder: Autoencoder, size: Sequence[int]) -> tuple[int, ...]:
    return tuple(-(-s // m) * m // f for s, m, f in zip(size, autoencoder.multiple, autoencoder.factor, strict=True))


def _plan(autoencoder: Autoencoder, cells: tuple[int, ...], tile: int | Sequence[int]) -> list[Tile]:
    """The tiles in cells; each begins, with and without its halo, at a multiple of what `autoencoder` needs."""
    if autoencoder.training:
        raise InputError("autoencoder", "one in training mode", "evaluation mode", "call eval() first")
    lengths = [tile] * autoencoder.dims if isinstance(tile, int) else list(tile)
    if len(lengths) != autoencoder.dims or min(lengths) < 1:
        raise InputError("tile", str(tile), f"one length in voxels, or {autoencoder.dims}, each at least 1")
    step = [m // f for m, f in zip(autoencoder.multiple, autoencoder.factor, strict=True)]
    edge = [-(-n // m) * s for n, m, s in zip(lengths, autoencoder.multiple, step, strict=True)]
    if autoencoder.halo is None:
        if any(e < n for e, n in zip(edge, cells, strict=True)):
            whole = tuple(n * f for n, f in zip(cells, autoencoder.factor, strict=True))
            raise ModelError(
                "autoencoder",
                "one in which each tile depends on the whole image (a norm over space, or attention)",
                "a kind with a halo (pca)",
                f"or a tile of {whole}, which is the whole image",
            )
        return list(tiles(cells, edge, [0] * autoencoder.dims))
    return list(tiles(cells, edge, [-(-autoencoder.halo // s) * s for s in step]))


def _in_voxels(slices: Slices, factor: Sequence[int]) -> Slices:
    return tuple(slice(s.start * f, s.stop * f) for s, f in zip(slices, factor, strict=True))


def _mirrored(image: Array, wanted: Slices) -> Array:
    """A part of the image, its far edges mirrored as `pad_to_multiple` mirrors those of the whole."""
    ranges, places = [], []
    for part, size in zip(wanted, image.shape, strict=True):
        place = np.arange(part.start, part.stop) % (2 * size)
        place = np.minimum(place, 2 * size - 1 - place)
        ranges.append(slice(place.min(), place.max() + 1))
        places.append(place - place.min())
    return np.asarray(image[tuple(ranges)])[np.ix_(*places)]


def _tensor(array: Array, autoencoder: Autoencoder) -> Tensor:
    return torch.from_numpy(np.array(array, dtype=np.float32, order="C")).to(autoencoder.latent_mean.device)


def _fill(
    out: Array | Path | None,
    shape: tuple[int, ...],
    plan: list[Tile],
    compute: Callable[[Tile], tuple[Slices, Tensor]],
    progress: TileProgress | None,
) -> Array:
    def fill(target: Array) -> None:
        for done, part in enumerate(plan, start=1):
            own, values = compute(part)
            target[own] = values.float().cpu().numpy()
            if progress is not None:
                progress(done, len(plan))

    def fill_file(path: Path) -> None:
        mapped = _new_file(path, shape)
        fill(mapped)
        mapped.flush()

    if isinstance(out, Path):
        if out.suffix != ".npy":
            raise InputError(out.name, "a name that ends otherwise", "a name ending in .npy")
        write_whole(out, fill_file)
        return np.lib.format.open_memmap(out, mode="r")
    if out is None:
        out = np.empty(shape, np.float32)
    elif out.shape != shape:
        raise InputError("out", f"an array of shape {out.shape}", f"{shape}")
    fill(out)
    return out


def _new_file(path: Path, shape: tuple[int, ...]) -> np.memmap[Any, Any]:
    """A .npy file of float32 zeros, mapped. The zeros are written: a hole met by a full disk would end the process."""
    head = {"descr": "<f4", "fortran_order": False, "shape": shape}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, head)
        left = 4 * int(np.prod(shape))
        while left:
            left -= file.write(ZEROS[: min(left, len(ZEROS))])
    return np.lib.format.open_memmap(path, mode="r+")
