"""From the 2 mm copies of IXI heads and their label maps to what medldm/recipes/brain-t1-2mm.toml reads.

    python datasets/brain-t1-2mm/prepare.py --t1 FOLDER --labels FOLDER --out DATA/brain-t1-2mm

The folders hold one NIfTI file a participant, its name beginning with the participant's (IXI132-HH-1415...).
Each T1 is stored in 8 bits (slope = maximum / 255), the grid kept; label maps as they are. Voxels are checked
against the manifest beside this file; nothing is left where one differs.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medldm.errors import AmbiguousInput, EmptyInput, GeometryError, MedldmError, OutputError, PixelError
from medldm.io.atomic import write_folder_whole

HERE = Path(__file__).parent
SHAPE, SPACING = (120, 120, 90), 2.0
COLUMNS = ("participant", "age", "sex", "split")

Stored = NDArray[np.uint8]


def scan_of(folder: Path, participant: str) -> Path:
    """The participant's file. Raises EmptyInput, AmbiguousInput."""
    found = sorted(path for path in folder.iterdir() if path.name.startswith(participant) and ".nii" in path.name)
    if not found:
        raise EmptyInput(str(folder), f"no file of {participant}", "one NIfTI file a participant")
    if len(found) > 1:
        raise AmbiguousInput(str(folder), f"{len(found)} files of {participant}", "one")
    return found[0]


def load(path: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Voxels and affine of a 2 mm copy. Raises GeometryError, PixelError."""
    import nibabel as nib

    try:
        image: Any = nib.load(path)
        array = np.asarray(image.dataobj, dtype=np.float64)
    except Exception as failure:
        raise PixelError(path.name, f"not readable ({type(failure).__name__})", "a whole NIfTI file") from None
    spacing = np.linalg.norm(image.affine[:3, :3], axis=0)
    if array.shape != SHAPE or not np.allclose(spacing, SPACING, atol=1e-3):
        raise GeometryError(path.name, f"{array.shape} voxels of {spacing.round(3)} mm", f"{SHAPE} of {SPACING} mm")
    return array, image.affine


def quantised(array: NDArray[np.float64]) -> tuple[Stored, float]:
    """8 bits and their slope: the maximum becomes 255."""
    slope = float(array.max()) / 255
    if slope <= 0 or array.min() < 0:
        raise PixelError("T1", f"values from {array.min():g} to {array.max():g}", "values >= 0, some above")
    return np.rint(array / slope).astype(np.uint8), slope


def voxels_sha256(stored: Stored) -> str:
    return hashlib.sha256(np.ascontiguousarray(stored).tobytes()).hexdigest()


def _save(stored: Stored, slope: float, affine: NDArray[np.float64], path: Path) -> None:
    import nibabel as nib

    image = nib.Nifti1Image(stored, affine)
    image.header.set_slope_inter(slope, 0)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    nib.save(image, path)


def prepare(t1: Path, labels: Path, out: Path, manifest: Path, *, overwrite: bool) -> int:
    """Write the data set, whole or not at all; returns how many heads it has. Raises MedldmError."""
    if out.exists() and not overwrite:
        raise OutputError(str(out), "an existing folder", "a new one", "remove it, or --overwrite")
    with manifest.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        scan_of(t1, row["participant"]), scan_of(labels, row["participant"])

    def fill(folder: Path) -> None:
        (folder / "t1").mkdir()
        (folder / "labels").mkdir()
        for row in rows:
            name = row["participant"]
            array, affine = load(scan_of(t1, name))
            stored, slope = quantised(array)
            label_array, label_affine = load(scan_of(labels, name))
            if not np.allclose(label_affine, affine, atol=1e-2):
                raise GeometryError(f"{name} labels", "another grid than the T1's", "the same grid")
            label_stored = label_array.astype(np.uint8)
            for kind, voxels in (("t1", stored), ("labels", label_stored)):
                if voxels_sha256(voxels) != row[f"{kind}_voxels_sha256"]:
                    raise PixelError(f"{name} {kind}", "voxels that differ from the manifest", "the public copies")
            _save(stored, slope, affine, folder / "t1" / f"{name}.nii.gz")
            _save(label_stored, 1.0, affine, folder / "labels" / f"{name}.nii.gz")
        with (folder / "participants.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)

    write_folder_whole(out, fill)
    return len(rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--t1", type=Path, required=True, help="folder of the 2 mm T1 copies")
    parser.add_argument("--labels", type=Path, required=True, help="folder of the label maps")
    parser.add_argument("--out", type=Path, required=True, help="folder of the data set")
    parser.add_argument("--manifest", type=Path, default=HERE / "manifest.csv", help="participants and checksums")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier data set")
    chosen = parser.parse_args()
    try:
        count = prepare(chosen.t1, chosen.labels, chosen.out, chosen.manifest, overwrite=chosen.overwrite)
    except MedldmError as failure:
        print(f"error: {failure}", file=sys.stderr)
        return failure.exit_code
    print(f"brain-t1-2mm: {count} heads")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
