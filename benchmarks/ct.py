"""Slices of CT: the images, noises and figures that `benchmarks.restoration --task ct` compares methods on.

Test patients of `ct-torso-256`: every 8th slice of a volume, and single slices, between -1000 and 400 HU as 0 and 1.
Figures are of the body. Beside white noise there is that of a sharp kernel, as strong: its power rises with the spatial
frequency to two thirds of Nyquist's, then falls to nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from benchmarks import record
from benchmarks.protocol import Case, Image, data_folder, table
from medldm.evaluate.intervals import interval
from medldm.geometry import Geometry
from medldm.model import Model
from medldm.volume import Volume

LOW, RANGE = -1000.0, 1400.0
NOISE_HU = (20.0, 40.0, 80.0)
EVERY = 8  # slices of a volume
SHARP_FILE, SOFT_FILE = "volumes/lungdx-A0001.nii.gz", "volumes/lungdx-A0001-s1.nii.gz"
SOFT_TISSUE = (0.0, 80.0)  # HU
REGION_MM = 10.0
TOLD_HU = 40.0  # about the noise of the sharp kernel of the pair
MODEL = "ct-torso"


@dataclass(frozen=True, eq=False)
class Slice(Case):
    """A slice, whose mask is the body; its voxels may lie beyond the window, and are judged inside of it."""

    def score(self, result: Image) -> dict[str, float]:
        window = Case(self.patient, self.index, np.clip(self.truth, 0, 1), self.mask, self.affine)
        found = window.score(np.clip(result, 0, 1))
        region = calm_regions(self.truth * RANGE + LOW, self.spacing)
        if region is not None:
            found["bias"] = float((result - self.truth)[region].mean()) * RANGE
        return found

    @property
    def spacing(self) -> float:
        assert self.affine is not None
        return float(np.linalg.norm(self.affine[:3, 0]))


def slices(*, quick: bool) -> list[Case]:
    """Those of all test patients; `quick`: the first single slice, or the middle one of the volume, of each."""
    import nibabel as nib

    folder, found = data_folder() / "ct-torso-256", list[Case]()
    patients = set[str]()
    for row in sorted(table(folder / "index.csv"), key=lambda row: row["file"]):
        if row["split"] != "test" or row["file"] == SHARP_FILE or (quick and row["patient"] in patients):
            continue
        patients.add(row["patient"])
        scan = nib.Nifti1Image.from_filename(folder / row["file"])
        values = scan.get_fdata()
        depth = values.shape[2]
        for k in [depth // 2] if quick or depth == 1 else range(EVERY // 2, depth, EVERY):
            image = (values[:, :, k] - LOW) / RANGE
            found.append(Slice(row["patient"], len(found), image, body(values[:, :, k]), scan.affine))
    return found


def body(hu: Image) -> NDArray[np.bool_]:
    """The largest thing denser than -500 HU, with what it encloses: (I, J) -> (I, J)."""
    parts, count = ndimage.label(hu > -500)
    sizes = ndimage.sum_labels(np.ones_like(parts), parts, range(1, count + 1))
    found: NDArray[np.bool_] = ndimage.binary_fill_holes(parts == 1 + int(np.argmax(sizes)))
    return found


def calm_regions(hu: Image, spacing: float) -> NDArray[np.bool_] | None:
    """The discs of 1 cm, all of soft tissue, whose values vary least, a tenth of all; None where there is none."""
    radius = REGION_MM / 2 / spacing
    reach = int(np.ceil(radius))
    i, j = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disc = i**2 + j**2 <= radius**2
    mean = ndimage.convolve(hu, disc / disc.sum())
    spread = ndimage.convolve(hu**2, disc / disc.sum()) - mean**2
    low, high = SOFT_TISSUE
    soft = ndimage.binary_erosion((hu > low - 60) & (hu < high + 60), disc) & (mean > low) & (mean < high)
    if not soft.any():
        return None
    found: NDArray[np.bool_] = ndimage.binary_dilation(soft & (spread <= np.quantile(spread[soft], 0.1)), disc)
    return found


def sharp_power(shape: tuple[int, ...]) -> Image:
    """Power of a sharp kernel's noise over the frequencies of a 2D Fourier transform, of mean 1."""
    radius = np.sqrt(sum(np.square(f) for f in np.meshgrid(*(2 * np.fft.fftfreq(n) for n in shape), indexing="ij")))
    power = np.minimum(radius / (2 / 3), np.maximum((1 - radius) / (1 / 3), 0))
    mean: Image = power / power.mean()
    return mean


def white(case: Case, level: float) -> Image:
    """`level` HU of white noise, one generator an image."""
    generator = np.random.default_rng(2000 + case.index)
    return case.truth + level / RANGE * generator.standard_normal(case.truth.shape)


def sharp(case: Case, level: float) -> Image:
    """`level` HU of a sharp kernel's noise."""
    noise = np.random.default_rng(3000 + case.index).standard_normal(case.truth.shape)
    coloured = np.fft.ifft2(np.fft.fft2(noise) * np.sqrt(sharp_power(case.truth.shape))).real
    return case.truth + level / RANGE * coloured


@cache
def model() -> Model:
    import medldm

    return medldm.load_model(MODEL)


def volume_of(case: Case, y: Image) -> Volume:
    """A slice of the case's place as a scan in HU."""
    assert case.affine is not None
    return Volume((y * RANGE + LOW).astype(np.float32)[:, :, None], Geometry(case.affine, (*y.shape, 1)), "HU", "CT")


def restored(case: Case, y: Image, level: float) -> Image:
    import medldm

    result = medldm.denoise(volume_of(case, y), model=model(), noise_std=level)
    return (np.asarray(result.array, dtype=np.float64)[:, :, 0] - LOW) / RANGE


def real_pair() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """One scan in two kernels: how far the sharp one, restored, moves towards the soft one, and what edges keep.

    Every 8th slice as a series, its noise estimated, and told. Of soft tissue (whole, and without the two voxels along
    its edges, which are sharper for the better) and of lung the root mean square difference, before
    and after; along the steepest twentieth of the soft one's edges in the lung, those of vessels, the gradient as a
    share of the soft one's.
    """
    import nibabel as nib

    import medldm

    folder = data_folder() / "ct-torso-256"
    sharp_scan, soft_scan = (nib.Nifti1Image.from_filename(folder / name) for name in (SHARP_FILE, SOFT_FILE))
    looked_at = slice(EVERY // 2, None, EVERY)
    sharps, softs = (scan.get_fdata()[:, :, looked_at] for scan in (sharp_scan, soft_scan))
    assert sharp_scan.affine is not None
    series = Volume(sharps.astype(np.float32), Geometry(sharp_scan.affine, sharps.shape), "HU", "CT")
    afters, tolds = (
        np.asarray(medldm.denoise(series, model=model(), noise_std=level).array, dtype=np.float64)
        for level in (None, TOLD_HU)
    )
    rows = list[dict[str, Any]]()
    for k in range(sharps.shape[2]):
        before, soft, after, told = (images[:, :, k] for images in (sharps, softs, afters, tolds))
        smooth, inside = ndimage.gaussian_filter(soft, 1), ndimage.binary_erosion(body(soft), iterations=3)
        row: dict[str, Any] = {"task": "one scan in two kernels", "slice": EVERY // 2 + k * EVERY}
        tissue = inside & (smooth > 0) & (smooth < 80)
        deep = ndimage.binary_erosion((smooth > -20) & (smooth < 100), iterations=2) & tissue
        lung = inside & (smooth > -950) & (smooth < -700)
        for name, where in (("soft tissue", tissue), ("soft tissue, off its edges", deep), ("lung", lung)):
            row[f"{name}: before (HU)"] = float(np.sqrt(np.square(before - soft)[where].mean()))
            row[f"{name}: after (HU)"] = float(np.sqrt(np.square(after - soft)[where].mean()))
            row[f"{name}: told {TOLD_HU:g} HU"] = float(np.sqrt(np.square(told - soft)[where].mean()))
        steep = np.hypot(*np.gradient(smooth))
        around = ndimage.binary_dilation(inside & (smooth < -700), iterations=3) & inside
        edges = around & (steep > np.quantile(steep[around], 0.95))
        along = np.stack(np.gradient(smooth)) / np.maximum(steep, 1e-6)
        slopes = [(np.stack(np.gradient(x)) * along).sum(0)[edges].mean() for x in (soft, after, told)]
        row["edges kept"], row[f"edges kept, told {TOLD_HU:g} HU"] = (float(s / slopes[0]) for s in slopes[1:])
        rows.append(row)
    mean = {key: float(np.mean([row[key] for row in rows])) for key in rows[0] if key not in ("task", "slice")}
    kept = mean[f"edges kept, told {TOLD_HU:g} HU"]
    bars = []
    for name in ("soft tissue", "soft tissue, off its edges"):
        for how in ("after (HU)", f"told {TOLD_HU:g} HU"):
            left = mean[f"{name}: {how}"] / mean[f"{name}: before (HU)"]
            title = f"two kernels, {name}, {how.removesuffix(' (HU)')}: difference that is left"
            bars.append(record.bar(title, left, "<= 0.5", left <= 0.5))
    return rows, [
        *bars,
        # of the result that was told its noise: a scan that comes back as it was keeps its edges for no merit
        record.bar(f"two kernels, told {TOLD_HU:g} HU: edges of vessels kept", kept, ">= 0.9", kept >= 0.9),
    ]


def bias_bar(name: str, level: float, bias: dict[str, float]) -> dict[str, Any]:
    """Mean error in soft tissue over patients, in HU."""
    found = interval(list(bias.values()))
    label = f"{name}, {level:g}: bias in soft tissue (HU [{found.low:+.2f}, {found.high:+.2f}]; {found.n} patients)"
    return record.bar(label, found.mean, "-1 to 1", abs(found.mean) <= 1)
