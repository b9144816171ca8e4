"""The exact images, degradations and figures that the restoration benchmark compares methods on.

Chest: the first image (sorted by file) of each of the 80 test patients of `chest-xray-256`, in [0, 1]; children:
likewise, of the 100 of `chest-xray-children-256`.
Brain: the 5 test heads of `brain-t1-2mm`, divided by the 99.5th percentile over brain (labels > 0); stripped: the 8 of
`brain-t1-stripped`, where all that is not 0 is brain.
"""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medldm.errors import EmptyInput
from medldm.evaluate.baselines import block_average
from medldm.evaluate.similarity import psnr, ssim

Image = NDArray[np.float64]

CHEST_NOISE = (0.02, 0.05, 0.10, 0.20)
BRAIN_NOISE = (0.03, 0.05, 0.10)
FACTORS = (2, 4)
QUICK_CHEST = 24
BRAIN_SUPERIOR_AXIS = 1


def data_folder() -> Path:
    """`MEDLDM_DATA`, else ../shared/data beside the repository."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    return Path(os.environ.get("MEDLDM_DATA", default))


@dataclass(frozen=True, eq=False)
class Case:
    """One patient's image in [0, 1] (the truth), its brain mask or None, and its index in the test list."""

    patient: str
    index: int
    truth: Image
    mask: NDArray[np.bool_] | None = None
    affine: Image | None = None

    @property
    def superior(self) -> int:
        """The array's axis from inferior to superior."""
        import nibabel as nib

        return [code in "SI" for code in nib.aff2axcodes(self.affine)].index(True)

    def score(self, result: Image) -> dict[str, float]:
        """PSNR (brain voxels where there is a mask; clipped to [0, 1] where there is none) and SSIM."""
        if self.mask is None:
            result = np.clip(result, 0, 1)
        return {
            "psnr": psnr(result, self.truth, mask=self.mask),
            "ssim": ssim(result, self.truth, mask=self.mask),
        }


def table(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        raise EmptyInput(f"data {path.name}", "no such file", "the prepared data", "set MEDLDM_DATA; see datasets/")
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def chest_cases(count: int | None = None, folder_name: str = "chest-xray-256") -> list[Case]:
    """The first `count` (all without one) test patients' radiographs, (256, 256)."""
    from PIL import Image as Picture

    folder = data_folder() / folder_name
    first: dict[str, str] = {}
    for row in sorted(table(folder / "index.csv"), key=lambda row: row["file"]):
        if row["split"] == "test":
            first.setdefault(row["patient"], row["file"])
    cases = []
    for index, (patient, file) in enumerate(list(first.items())[:count]):
        with Picture.open(folder / "images" / file) as picture:
            truth = np.asarray(picture.convert("L"), dtype=np.float64) / 255
        cases.append(Case(patient, index, truth))
    return cases


def brain_cases(count: int | None = None) -> list[Case]:
    """The first `count` (all 5 without one) test heads, (120, 120, 90), axes P, S, R."""
    import nibabel as nib

    folder = data_folder() / "brain-t1-2mm"
    heads = sorted(row["participant"] for row in table(folder / "participants.csv") if row["split"] == "test")
    cases = []
    for index, head in enumerate(heads[:count]):
        scan = nib.Nifti1Image.from_filename(folder / "t1" / f"{head}.nii.gz")
        image = scan.get_fdata()
        brain = nib.Nifti1Image.from_filename(folder / "labels" / f"{head}.nii.gz").get_fdata() > 0
        cases.append(Case(head, index, image / np.percentile(image[brain], 99.5), brain, scan.affine))
    return cases


def stripped_cases(count: int | None = None) -> list[Case]:
    """The first `count` (all 8 without one) brain-extracted test heads, axes R, A, S."""
    import nibabel as nib

    folder = data_folder() / "brain-t1-stripped"
    heads = sorted(row["participant"] for row in table(folder / "participants.csv") if row["split"] == "test")
    cases = []
    for index, head in enumerate(heads[:count]):
        scan = nib.Nifti1Image.from_filename(folder / "t1" / f"{head}.nii.gz")
        image = scan.get_fdata()
        brain = image > 0
        cases.append(Case(head, index, image / np.percentile(image[brain], 99.5), brain, scan.affine))
    return cases


def gaussian(case: Case, noise_std: float) -> Image:
    """Chest: white noise, one generator an image (1000 + its index); not clipped."""
    generator = np.random.default_rng(1000 + case.index)
    return case.truth + noise_std * generator.standard_normal(case.truth.shape)


def rician(case: Case, noise_std: float) -> Image:
    """Brain: magnitude of a complex signal; generator 7 for each head, the real part's noise drawn first."""
    generator = np.random.default_rng(7)
    real = case.truth + noise_std * generator.standard_normal(case.truth.shape)
    imaginary = noise_std * generator.standard_normal(case.truth.shape)
    return np.sqrt(real**2 + imaginary**2)


def in_plane(case: Case, factor: int) -> Image:
    """Chest: mean over `factor` x `factor` pixels."""
    return block_average(case.truth, (factor, factor))


def through_plane(case: Case, factor: int) -> Image:
    """Brain: mean over `factor` voxels along superior-inferior."""
    return block_average(case.truth, coarse(case, factor))


def whole_blocks(case: Case) -> Case:
    """Without the uppermost slices that no block of any factor would be full of."""
    part = [slice(None)] * 3
    part[case.superior] = slice(case.truth.shape[case.superior] // max(FACTORS) * max(FACTORS))
    mask = None if case.mask is None else case.mask[tuple(part)]
    return replace(case, truth=case.truth[tuple(part)], mask=mask)


def coarse(case: Case, factor: int) -> tuple[int, int, int]:
    """`factor` along superior-inferior."""
    i, j, k = (factor if axis == case.superior else 1 for axis in range(3))
    return i, j, k
