"""Stored values of DICOM and their unit: B23 to B30."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

import medldm
from medldm.errors import (
    GeometryError,
    NotImage,
    PixelError,
    UnsupportedInput,
)
from tests.dicom_maker import make_series, stored_values
from tests.hard_inputs_cases import VALUES, case, equal, example, refused, setting, with_text


@case
def b23_slopes(tmp: Path, data: Path) -> None:
    slopes = 0.5 + 0.25 * np.arange(6)
    each = setting(RescaleSlope=lambda k: str(slopes[k]), RescaleIntercept="0")
    equal(make_series(tmp / "each", modality="PT", change=each), values=VALUES * slopes)
    equal(make_series(tmp / "none", modality="PT", change=setting(RescaleSlope=None)))
    refused(make_series(tmp / "zero", change=setting(RescaleSlope="0")), PixelError, "RescaleSlope")
    nan = with_text(make_series(tmp / "nan", change=setting(RescaleSlope="1.55")), b"1.55", b"NaN ")
    refused(nan, PixelError, "RescaleSlope|rescale")


@case
def b24_monochrome1(tmp: Path, data: Path) -> None:
    folder = make_series(tmp / "G", change=setting(PhotometricInterpretation="MONOCHROME1"))
    assert equal(folder).history[0]["monochrome1"] is True


@case
def b25_colour(tmp: Path, data: Path) -> None:
    for name in ("SC_rgb_small_odd.dcm", "examples_ybr_color.dcm", "examples_palette.dcm"):
        refused(example(name), UnsupportedInput)


@case
def b26_bits_and_padding(tmp: Path, data: Path) -> None:
    ct = example("CT_small.dcm")
    np.testing.assert_array_equal(medldm.read(ct).array[..., 0], pydicom.dcmread(ct).pixel_array.T - 1024.0)
    signed = setting(PixelRepresentation=1, PixelPaddingValue=-2000)

    def values(k: int) -> Any:
        image = stored_values(12, 10, k).astype(np.int16) - 300
        image[0, 0] = -2000
        return image

    wanted = np.stack([values(k).T for k in range(6)], axis=-1)
    volume = equal(make_series(tmp / "signed", change=signed, pixels=values), values=wanted)
    assert volume.history[0]["padding_voxels"] == 6
    dirty = make_series(
        tmp / "dirty",
        change=setting(BitsStored=12, HighBit=11),
        pixels=lambda k: stored_values(12, 10, k) | np.uint16(0xA000),
    )
    equal(dirty)


@case
def b27_hounsfield(tmp: Path, data: Path) -> None:
    unknown = make_series(tmp / "unknown", modality="CT", change=setting(RescaleIntercept=None))
    refused(unknown, PixelError, "RescaleIntercept")
    ge = make_series(
        tmp / "ge",
        modality="CT",
        change=setting(RescaleIntercept="0", PixelRepresentation=1),
        pixels=lambda k: stored_values(12, 10, k).astype(np.int16) - 1024,
    )
    assert equal(ge, values=VALUES - 1024).unit == "HU"


@case
def b28_compressed(tmp: Path, data: Path) -> None:
    folder = data / "dicom/mr_compressed"
    arrays = [medldm.read(folder / name).array for name in ("jpeg", "jpegls", "j2k", "rle")]
    for other in arrays[1:]:
        np.testing.assert_array_equal(other, arrays[0])
    assert medldm.read(folder / "fragmented_jpeg").geometry.shape == (128, 128, 4)
    for syntax in (RLELossless, JPEGLSLossless, JPEG2000Lossless):
        name = syntax.name.replace("/", "")
        plain, packed = (make_series(tmp / part / name, rows=80, columns=70) for part in ("plain", "packed"))
        for file in packed.iterdir():
            ds = pydicom.dcmread(file)
            ds.compress(syntax, generate_instance_uid=False)
            ds.save_as(file)
        np.testing.assert_array_equal(medldm.read(packed).array, medldm.read(plain).array)
    lossy = example("693_J2KI.dcm")
    assert medldm.read(lossy).history[0].get("lossy") is True
    refused(example("image_dfl.dcm"), GeometryError)
    refused(data / "dicom/not_images/rgb_htj2k.dcm", UnsupportedInput, "colour")
    unknown = make_series(tmp / "unknown")
    for file in unknown.iterdir():
        ds = pydicom.dcmread(file)
        ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.100"  # MPEG2: no decoder for it
        ds.PixelData = encapsulate([bytes(10)])
        ds["PixelData"].VR = "OB"
        ds.save_as(file)
    refused(unknown, UnsupportedInput, r"1\.2\.840\.10008\.1\.2\.4\.100.*install")


@case
def b29_big_endian(tmp: Path, data: Path) -> None:
    little, big = medldm.read(example("MR_small.dcm")), medldm.read(example("MR_small_bigendian.dcm"))
    np.testing.assert_array_equal(big.array, little.array)
    assert big.array.dtype == np.float32 and big.array.dtype.isnative


@case
def b30_depths(tmp: Path, data: Path) -> None:
    refused(example("liver_1frame.dcm"), NotImage)
    wide = setting(BitsAllocated=32, BitsStored=32, HighBit=31)
    big = make_series(tmp / "int32", change=wide, pixels=lambda k: stored_values(12, 10, k).astype(np.uint32) + 70000)
    equal(big, values=VALUES + 70000)

    def floats(bad: float) -> Callable[[Any, int], None]:
        def change(ds: Any, k: int) -> None:
            image = stored_values(12, 10, k).astype("<f4") / 8
            image[0, 0] = bad if k == 2 else 0
            del ds.PixelData
            setting(BitsAllocated=32, BitsStored=None, HighBit=None, PixelRepresentation=None)(ds, k)
            ds.FloatPixelData = image.tobytes()

        return change

    wanted = VALUES / 8
    wanted[0, 0] = 0
    equal(make_series(tmp / "float", change=floats(0)), values=wanted)
    refused(make_series(tmp / "nan", change=floats(np.nan)), PixelError, "not finite")
