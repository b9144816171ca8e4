"""From the public 1024 x 1024 PNGs of NIH ChestX-ray14 to what medldm/recipes/chest-xray-256.toml reads.

    python datasets/chest-xray-256/prepare.py --source FOLDER --out DATA

FOLDER holds the PNGs, at any depth. DATA gets `chest-xray-256` (mean over 4 x 4 pixels, rounded half to even)
and `chest-xray-native-crops` (384 x 384 pixels at the original resolution), each with `images/*.webp`
(lossless) and `index.csv`. Pixels are checked against the manifests beside this file; nothing is left where
one differs.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medldm.errors import EmptyInput, MedldmError, OutputError, PixelError
from medldm.io.atomic import write_folder_whole

HERE = Path(__file__).parent
ORIGINAL, FACTOR, CROP = 1024, 4, 384
CHECKSUMS = ("sha256", "pixels_sha256")

Pixels = NDArray[np.uint8]
Row = dict[str, str]


def grey(path: Path) -> Pixels:
    """An original as (1024, 1024) uint8. Raises PixelError."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("L"))
    except (OSError, SyntaxError, ValueError):
        raise PixelError(path.name, "not readable", "a whole PNG", "fetch it again") from None
    if pixels.shape != (ORIGINAL, ORIGINAL):
        raise PixelError(path.name, f"{pixels.shape[1]} x {pixels.shape[0]} pixels", f"{ORIGINAL} x {ORIGINAL}")
    return pixels


def averaged(pixels: Pixels, row: Row) -> Pixels:
    """Mean over 4 x 4 pixels, rounded."""
    side = ORIGINAL // FACTOR
    return np.rint(pixels.reshape(side, FACTOR, side, FACTOR).mean((1, 3))).astype(np.uint8)


def cropped(pixels: Pixels, row: Row) -> Pixels:
    """The crop at the place that the manifest gives."""
    left, top = int(row["left"]), int(row["top"])
    return pixels[top : top + CROP, left : left + CROP]


def pixels_sha256(pixels: Pixels) -> str:
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()


def prepare(source: Path, out: Path, manifest: Path, make: Callable[[Pixels, Row], Pixels], *, overwrite: bool) -> int:
    """Write one data set, whole or not at all; returns how many images it has. Raises MedldmError."""
    from PIL import Image

    if out.exists() and not overwrite:
        raise OutputError(str(out), "an existing folder", "a new one", "remove it, or --overwrite")
    with manifest.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    originals = {path.stem: path for path in sorted(source.rglob("*.png"))}
    missing = [row["file"] for row in rows if Path(row["file"]).stem not in originals]
    if missing:
        raise EmptyInput(
            str(source),
            f"{len(missing)} of {len(rows)} PNGs missing, first {Path(missing[0]).stem}.png",
            "all of them",
        )

    def fill(folder: Path) -> None:
        (folder / "images").mkdir()
        for row in rows:
            pixels = make(grey(originals[Path(row["file"]).stem]), row)
            if pixels_sha256(pixels) != row["pixels_sha256"]:
                raise PixelError(row["file"], "pixels that differ from the manifest", "the public original")
            Image.fromarray(pixels).save(folder / "images" / row["file"], lossless=True, quality=100, method=6)
        columns = [name for name in rows[0] if name not in CHECKSUMS]
        with (folder / "index.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)

    write_folder_whole(out, fill)
    return len(rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, help="folder of the public PNGs")
    parser.add_argument("--out", type=Path, required=True, help="folder for the two data sets")
    parser.add_argument("--manifests", type=Path, default=HERE, help="folder of manifest.csv and crops.csv")
    parser.add_argument("--overwrite", action="store_true", help="replace earlier data sets")
    chosen = parser.parse_args()
    sets = (("chest-xray-256", "manifest.csv", averaged), ("chest-xray-native-crops", "crops.csv", cropped))
    try:
        chosen.out.mkdir(parents=True, exist_ok=True)
        for name, manifest, make in sets:
            count = prepare(
                chosen.source,
                chosen.out / name,
                chosen.manifests / manifest,
                make,
                overwrite=chosen.overwrite,
            )
            print(f"{name}: {count} images")
    except MedldmError as failure:
        print(f"error: {failure}", file=sys.stderr)
        return failure.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
