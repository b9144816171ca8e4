"""Does a volume larger than the memory allows decode by tiles, and is the result that of the whole?

    python -m benchmarks.tiling [--quick]

The architecture of the brain model (f = 4, c = 8, width 48) with random weights everywhere, so that each
convolution counts. Memory is the peak of a fresh process that decodes from a file to a file, one thread;
`tiles` and `whole` differ by the largest difference relative to the largest value.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.record import bar, peak_bytes, write
from medldm.nets.patches import pad_to_multiple
from medldm.nets.pca_autoencoder import PCAAutoencoder
from medldm.nets.tiling import decode_tiled, encode_tiled

LARGE, LARGE_QUICK = (512, 512, 256), (192, 192, 128)
LARGE_TILE, LARGE_TILE_QUICK = 256, 96
COMPARED: tuple[tuple[tuple[int, ...], int], ...] = (
    ((701, 563), 200),
    ((1024, 1000), 300),
    ((101, 90, 67), 48),
    ((150, 133, 121), 70),
)


def random_autoencoder(dims: int) -> PCAAutoencoder:
    torch.manual_seed(0)
    autoencoder = PCAAutoencoder(dims, factor=(4,) * dims, channels=8, width=48)
    autoencoder.begin(torch.randn(2000, 4**dims) @ torch.randn(4**dims, 4**dims))
    for parameter in autoencoder.parameters():
        if parameter.ndim > 1:
            torch.nn.init.kaiming_normal_(parameter)
    return autoencoder.eval()


def apart(tiled: np.ndarray[Any, Any], whole: torch.Tensor) -> float:
    difference = np.abs(tiled - whole.numpy())
    return float(difference.max() / np.abs(whole.numpy()).max())


def tiles_against_the_whole(size: Sequence[int], tile: int) -> dict[str, Any]:
    autoencoder = random_autoencoder(len(size))
    image = np.random.default_rng(0).random(size, dtype=np.float32)
    with torch.inference_mode():
        padded, crop = pad_to_multiple(torch.from_numpy(image)[None, None], autoencoder.multiple)
        z = autoencoder.encode(padded)[0]
        decoded = autoencoder.decode(z)[crop]
    return {
        "size": list(size),
        "tile": tile,
        "encode": apart(encode_tiled(autoencoder, image, tile=tile), z[0]),
        "decode": apart(decode_tiled(autoencoder, z[0].numpy(), size=size, tile=tile), decoded[0, 0]),
    }


def decode_and_measure(folder: Path, size: Sequence[int], tile: int) -> None:
    """What the fresh process does: decode a file into a file, print seconds and the peak of its memory."""
    torch.set_num_threads(1)
    autoencoder = random_autoencoder(3)
    before = peak_bytes()
    began = time.perf_counter()
    decode_tiled(autoencoder, np.load(folder / "z.npy", mmap_mode="r"), folder / "image.npy", size=size, tile=tile)
    seconds = time.perf_counter() - began
    print(json.dumps({"seconds": seconds, "start_gb": before / 1e9, "peak_gb": peak_bytes() / 1e9}))


def memory_of_a_decode(size: Sequence[int], tile: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        cells = tuple(s // 4 for s in size)
        z = np.lib.format.open_memmap(Path(folder) / "z.npy", mode="w+", dtype=np.float32, shape=(8, *cells))
        rng = np.random.default_rng(0)
        for channel in z:
            channel[:] = rng.standard_normal(cells, dtype=np.float32)
        z.flush()
        lengths = [str(n) for n in (*size, tile)]
        command = [sys.executable, "-m", "benchmarks.tiling", "--decode", folder, *lengths]
        done = subprocess.run(
            command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=True
        )
    return {"size": list(size), "tile": tile} | json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--decode", nargs=5, help=argparse.SUPPRESS, metavar="WORD")
    arguments = parser.parse_args()
    if arguments.decode:
        folder, *lengths = arguments.decode
        *size, tile = map(int, lengths)
        decode_and_measure(Path(folder), size, tile)
        return
    large, tile = (LARGE_QUICK, LARGE_TILE_QUICK) if arguments.quick else (LARGE, LARGE_TILE)
    name = " x ".join(map(str, large))
    memory = memory_of_a_decode(large, tile)
    print(
        f"decode of {name}, tiles of {tile}: peak {memory['peak_gb']:.2f} GB "
        f"({memory['start_gb']:.2f} before it), {memory['seconds']:.0f} s"
    )
    compared = [tiles_against_the_whole(*case) for case in (COMPARED[::2] if arguments.quick else COMPARED)]
    for row in compared:
        print(f"{row['size']} by tiles of {row['tile']}: encode {row['encode']:.1e}, decode {row['decode']:.1e}")
    worst = max(max(row["encode"], row["decode"]) for row in compared)
    bars = [
        bar(f"peak memory of a {name} decode, GB", memory["peak_gb"], "<= 8", memory["peak_gb"] <= 8),
        bar("largest relative difference, tiles and whole, in 1e-4", worst * 1e4, "<= 1", worst <= 1e-4),
    ]
    write("tiling", [memory, *compared], bars)
    for one in bars:
        print(f"{one['name']}: {one['value']:g} (bar {one['target']}) {'holds' if one['holds'] else 'MISSED'}")


if __name__ == "__main__":
    main()
