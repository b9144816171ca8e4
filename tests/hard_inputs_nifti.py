"""NIfTI: B36 to B40."""

from __future__ import annotations

import gzip
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

import medldm
from medldm.errors import (
    AmbiguousInput,
    GeometryError,
    LimitError,
    PixelError,
    UnsupportedInput,
)
from tests.hard_inputs_cases import case, refused, with_file


def nifti(path: Path, change: Callable[[Any], None], array: Any = None, affine: Any = None) -> Path:
    """A NIfTI file whose header `change` altered after nibabel had its say; values 0, 1, 2, ..."""
    values = np.arange(24, dtype=np.float32).reshape(2, 3, 4) if array is None else array
    image = nib.Nifti1Image(values, np.diag([2.0, 3, 4, 1]) if affine is None else affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(image.affine, 1)
    image.set_qform(image.affine, 1)
    image.header["vox_offset"] = 352
    change(image.header)
    content = image.header.binaryblock + bytes(4) + np.asarray(values).tobytes(order="F")
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def heard(path: Path, **choice: Any) -> tuple[medldm.Volume, str]:
    """A volume and the warnings on the way."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        volume = medldm.read(path, **choice)
    return volume, " ".join(str(w.message) for w in caught)


@case
def b36_forms(tmp: Path, data: Path) -> None:
    def differ(header: Any) -> None:
        header["srow_x"] = (2, 0, 0, 5)

    both = nifti(tmp / "both.nii", differ)
    volume, said = heard(both)
    assert volume.geometry.affine[0, 3] == 5 and "5 mm" in said
    assert heard(both, xform="qform")[0].geometry.affine[0, 3] == 0

    lone = nifti(tmp / "lone.nii", lambda h: (differ(h), h.__setitem__("sform_code", 0)))
    assert heard(lone)[0].geometry.affine[0, 3] == 0
    none = nifti(tmp / "none.nii", lambda h: (h.__setitem__("sform_code", 0), h.__setitem__("qform_code", 0)))
    refused(none, GeometryError, "sform")
    assumed = heard(none, assume_affine=True)[0]
    assert assumed.geometry.spacing == (2, 3, 4)
    assert assumed.history[0].get("affine_assumed") is True


@case
def b37_units(tmp: Path, data: Path) -> None:
    volume, said = heard(nifti(tmp / "none.nii", lambda h: h.set_xyzt_units("unknown")))
    assert volume.geometry.spacing == (2, 3, 4) and "mm" in said or "millimetres" in said
    for unit, mm in (("micron", 1e-3), ("meter", 1e3)):
        volume, _ = heard(nifti(tmp / f"{unit}.nii", lambda h, unit=unit: h.set_xyzt_units(unit)))
        np.testing.assert_allclose(volume.geometry.spacing, np.array([2, 3, 4]) * mm)

    def zero(header: Any) -> None:
        header["sform_code"] = header["qform_code"] = 0
        header["pixdim"][1:4] = 0

    refused(nifti(tmp / "zero.nii", zero), GeometryError)
    refused(nifti(tmp / "zero2.nii", zero), GeometryError, assume_affine=True)
    refused(nifti(tmp / "nan.nii", lambda h: h.__setitem__("srow_y", (np.nan, 1, 0, 0))), GeometryError)


@case
def b38_voxels(tmp: Path, data: Path) -> None:
    four = tmp / "4d.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((2, 3, 4, 5), np.float32), np.eye(4)), four)
    refused(four, AmbiguousInput)
    nib.save(nib.Nifti1Image(np.zeros((2, 3, 4, 1), np.float32), np.eye(4)), four)
    assert heard(four)[0].geometry.shape == (2, 3, 4)
    nib.save(nib.Nifti1Image(np.zeros((2, 3, 4), np.complex64), np.eye(4)), tmp / "complex.nii")
    refused(tmp / "complex.nii", UnsupportedInput)
    rgb = np.zeros((2, 3, 4), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.save(nib.Nifti1Image(rgb, np.eye(4)), tmp / "rgb.nii")
    refused(tmp / "rgb.nii", UnsupportedInput)
    holes = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    holes[0, 0, :2] = np.nan
    nib.save(nib.Nifti1Image(holes, np.eye(4)), tmp / "nan.nii")
    refused(tmp / "nan.nii", PixelError, "^nan.nii: got 2 ")
    filled = heard(tmp / "nan.nii", nan="fill")[0]
    np.testing.assert_array_equal(filled.array, np.where(np.isnan(holes), 2, holes))
    for top, fits in ((2**40, True), (2**53 + 2, False)):
        big = np.zeros((2, 3, 4), np.int64)
        big[0, 0, 0] = top
        nib.save(nib.Nifti1Image(big, np.eye(4), dtype=np.int64), tmp / f"{fits}.nii")
    assert heard(tmp / "True.nii")[0].array[0, 0, 0] == 2**40
    refused(tmp / "False.nii", PixelError, "2\\^53")


@case
def b39_damaged(tmp: Path, data: Path) -> None:
    rng = np.random.default_rng(0)
    noise = rng.random((20, 20, 20)).astype(np.float32)
    nib.save(nib.Nifti1Image(noise, np.eye(4)), tmp / "whole.nii.gz")
    content = (tmp / "whole.nii.gz").read_bytes()
    for length in (10, 200, len(content) // 2, len(content) - 4):
        refused(with_file(tmp, f"{length}.nii.gz", content[:length]), PixelError)
    negative = nifti(tmp / "negative.nii", lambda h: h["dim"].__setitem__(2, -3))
    refused(negative, PixelError)
    huge = nifti(tmp / "huge.nii", lambda h: h["dim"].__setitem__(slice(1, 4), 32767))
    refused(huge, LimitError)


@case
def b40_handedness_and_scale(tmp: Path, data: Path) -> None:
    left = np.array([[-2.0, 0, 0, 90], [0, 3, 0, -126], [0, 0, 4, -72], [0, 0, 0, 1]])
    volume = heard(nifti(tmp / "left.nii", lambda h: None, affine=left))[0]
    np.testing.assert_array_equal(volume.geometry.affine, left)
    medldm.write(volume, tmp / "again.nii.gz")
    np.testing.assert_array_equal(nib.load(tmp / "again.nii.gz").affine, left)
    for name, slope, inter in (("nan", np.nan, np.nan), ("zero", 0, 5)):

        def change(header: Any, slope: float = slope, inter: float = inter) -> None:
            header["scl_slope"], header["scl_inter"] = slope, inter

        values = heard(nifti(tmp / f"{name}.nii", change))[0].array
        np.testing.assert_array_equal(values.ravel(), np.arange(24))

    def half(header: Any) -> None:
        header["scl_slope"], header["scl_inter"] = 2, np.nan

    refused(nifti(tmp / "half.nii", half), PixelError)
