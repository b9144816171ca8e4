"""Every third axial slice of the volumes, and the single slices, each as a file, with its share of lung.

    python datasets/ct-torso-256/slices.py FOLDER OUT

FOLDER is this data set, prepared as the README says; OUT gets `slices/` and `index.csv` (file, patient, split, lungs),
which `configs/ct-slices.toml` trains on. `lungs` is the share of the body's pixels that hold air (below -400 HU): 0.1
at the dome of the diaphragm, 0.3 to 0.5 in the middle of the chest. Slices without lungs are left out, since most of
them are of one patient; so are those without a body.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

EVERY, BODY, AIR = 3, -300, -400
LEAST_BODY, LEAST_LUNG = 0.1, 0.03


def lungs(slice_: NDArray[np.float32]) -> float | None:
    """The share of air in the body, values in HU; None where the largest thing there covers less than a tenth."""
    dense = ndimage.binary_opening(slice_ > BODY, iterations=2)  # takes the table off
    things, count = ndimage.label(dense)
    if not count:
        return None
    largest = 1 + int(np.argmax(np.bincount(things.ravel())[1:]))
    body = ndimage.binary_fill_holes(things == largest)
    if body.mean() < LEAST_BODY:
        return None
    return float((slice_[body] < AIR).mean())


def slices(row: dict[str, str], folder: Path) -> Iterator[tuple[str, nib.Nifti1Image]]:
    """Names and images of 256 x 256 x 1; a volume's every third slice."""
    image = nib.load(folder / row["file"])
    assert isinstance(image, nib.Nifti1Image)
    name = Path(row["file"]).name.removesuffix(".nii.gz")
    whole = image.shape[2] == 1
    for number in range(0 if whole else EVERY // 2, image.shape[2], EVERY):
        yield (name if whole else f"{name}-{number:03d}"), image.slicer[:, :, number : number + 1]


def main(folder: Path, out: Path) -> None:
    (out / "slices").mkdir(parents=True, exist_ok=True)
    with (folder / "index.csv").open(newline="") as read, (out / "index.csv").open("w", newline="") as written:
        table = csv.writer(written)
        table.writerow(["file", "patient", "split", "lungs"])
        for row in csv.DictReader(read):
            for name, image in slices(row, folder):
                share = lungs(np.asarray(image.dataobj, np.float32)[:, :, 0])
                if share is not None and share >= LEAST_LUNG:
                    file = f"slices/{name}.nii.gz"
                    nib.save(image, out / file)
                    table.writerow([file, row["patient"], row["split"], f"{share:.3f}"])


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
