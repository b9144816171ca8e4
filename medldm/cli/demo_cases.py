"""The scans of the demonstration, from files that ship with packages, and what is done to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from medldm.errors import InputError
from medldm.evaluate import baselines
from medldm.evaluate.similarity import psnr, ssim
from medldm.geometry import Geometry
from medldm.io import read
from medldm.report.page import Section, Table
from medldm.volume import Volume

if TYPE_CHECKING:
    from medldm.restoration.result import Restoration

RANGE = 1000.0
NOISE = 0.10
SEED = 7


def template_head() -> Volume:
    """The MNI152 T1 template at 2 mm (Fonov et al. 2011), skull-stripped, as nilearn ships it."""
    try:
        from nilearn.datasets import load_mni152_template
    except ImportError:
        raise InputError("demo", "no nilearn", "the package nilearn", "install medldm[demo], or give --scan") from None
    image = load_mni152_template(resolution=2)
    array = np.clip(np.asarray(image.dataobj, dtype=np.float64), 0, None)
    array[array < 1e-3] = 0
    array *= RANGE / np.percentile(array[array > 0.1], 99.5)
    even = array[tuple(slice(0, n - n % 2) for n in array.shape)]
    step = {"step": "read", "format": "nilearn MNI152 template"}
    geometry = Geometry(image.affine, even.shape)
    return Volume(even.astype(np.float32), geometry, "arbitrary", "MR", (step,))


def synthetic_radiograph() -> Volume:
    """A chest radiograph of nobody, drawn by a model of medldm; pixels of 1.6 mm."""
    with as_file(files("medldm.cli") / "synthetic-radiograph.png") as path:
        scan = read(path)
    return replace(scan, geometry=Geometry.from_spacing(scan.array.shape, (1.6, 1.6, 1.0)), modality="DX")


def sample_dicom(name: str) -> Path:
    """A small slice that ships with pydicom: "MR_small.dcm", "CT_small.dcm"."""
    from pydicom.data import get_testdata_file

    path = get_testdata_file(name, download=False)
    if path is None:
        raise InputError("demo", f"no {name} in pydicom", "pydicom with its test files")
    return Path(str(path))


def with_rician_noise(scan: Volume, noise_std: float, seed: int = SEED) -> Volume:
    """Magnitude of the complex signal with noise in both parts."""
    random = np.random.default_rng(seed)
    real = scan.array + noise_std * random.standard_normal(scan.array.shape)
    imaginary = noise_std * random.standard_normal(scan.array.shape)
    step = {"step": "degrade", "noise": "rician", "noise_std": noise_std, "seed": seed}
    return scan.with_array(np.sqrt(real**2 + imaginary**2), step)


def with_gaussian_noise(scan: Volume, noise_std: float, seed: int = SEED) -> Volume:
    noise = noise_std * np.random.default_rng(seed).standard_normal(scan.array.shape)
    step = {"step": "degrade", "noise": "gaussian", "noise_std": noise_std, "seed": seed}
    unit = "HU" if scan.unit == "HU" else "arbitrary"  # a picture's grey values are beyond their range now
    return replace(scan, array=(scan.array + noise).astype(np.float32), unit=unit, history=(*scan.history, step))


def coarsened(scan: Volume, factor: Sequence[int]) -> Volume:
    """Mean over blocks; the field of view stays."""
    array = baselines.block_average(np.asarray(scan.array, dtype=np.float64), factor).astype(np.float32)
    i, j, k = (1 / f for f in factor)
    step = {"step": "degrade", "block_average": list(factor)}
    return Volume(array, scan.geometry.zoom((i, j, k)), scan.unit, scan.modality, (*scan.history, step))


def superior_axis(scan: Volume) -> int:
    """The array axis that runs along superior-inferior."""
    return next(axis for axis, code in enumerate(scan.geometry.axcodes) if code in "SI")


@dataclass(frozen=True)
class Method:
    """Another method's result, for the table and for a picture."""

    name: str
    volume: Volume


def classical(
    scan: Volume, grid: Geometry, name: str, restore: Callable[[NDArray[np.float64]], NDArray[np.float64]]
) -> Method:
    """Run a classical method on the scan's array (without axes of length one); put the result on `grid`."""
    flat = np.asarray(scan.array, dtype=np.float64).squeeze()
    array = restore(flat).reshape(grid.shape).astype(np.float32)
    return Method(name, Volume(array, grid, scan.unit, scan.modality, scan.history))


def figures(
    truth: Volume,
    rows: Sequence[Method],
    *,
    data_range: float,
    mask: NDArray[np.bool_] | None = None,
    note: str = "",
) -> tuple[Table, list[dict[str, float | str]]]:
    """PSNR and SSIM of each method against the truth; the best PSNR is set off."""
    plain: list[dict[str, float | str]] = []
    values = []
    for row in rows:
        p = psnr(row.volume.array, truth.array, data_range=data_range, mask=mask)
        s = ssim(row.volume.array, truth.array, data_range=data_range, mask=mask)
        values.append(p)
        plain.append({"method": row.name, "psnr": round(p, 3), "ssim": round(s, 4)})
    text = tuple((str(r["method"]), f"{float(r['psnr']):.2f}", f"{float(r['ssim']):.3f}") for r in plain)
    return Table("Against the truth", ("method", "PSNR (dB)", "SSIM"), text, int(np.argmax(values)), note), plain


def compare(
    title: str,
    scan: Volume,
    result: Restoration,
    *,
    truth: Volume,
    others: Sequence[Method],
    plain: Sequence[Method] = (),
    text: str,
    data_range: float,
    mask: NDArray[np.bool_] | None = None,
    note: str = "",
) -> tuple[Section, list[dict[str, float | str]]]:
    """Section of a restoration whose truth is known, and its figures.

    others : methods shown as pictures and in the table; plain: in the table only
    """
    rows = [*plain, *others, Method("medldm", result.volume)]
    table, values = figures(truth, rows, data_range=data_range, mask=mask, note=note)
    section = Section.of_restoration(
        title,
        scan,
        result,
        text=text,
        truth=truth,
        others=[(m.name, m.volume) for m in others],
        tables=[table],
    )
    return section, values
