"""Refusals of DICOM that say the truth: what is rounded is not missing, what has no decoder is not damaged."""

import io

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.encaps import encapsulate

import medldm
from medldm.errors import GeometryError, InputError, PixelError, UnsupportedInput
from tests.dicom_maker import CORONAL, OBLIQUE
from tests.test_cli import call

LOSSY_12 = "1.2.840.10008.1.2.4.51"


def rounded(step, unit, n=20, tilt=(0.0, 0.0)):
    def change(ds, k):
        exact = np.array([-30.0 + tilt[0] * k, 20.0 + tilt[1] * k, 5.0 + step * k])
        ds.ImagePositionPatient = [f"{x:g}" for x in np.rint(exact / unit) * unit]

    return {"n": n, "change": change}


STEPS = [(1.25, 1), (1.3, 1), (2.5, 1), (0.7, 0.5), (1.4, 1), (0.625, 0.5), (0.33, 0.1)]


@pytest.mark.parametrize(("step", "unit"), STEPS)
def test_rounded_places_are_called_rounded(dicom_series, step, unit):
    folder = dicom_series(**rounded(step, unit))
    reason = rf"rounded to {unit:g} mm .a step of (.*) mm fits.*resample_nonuniform"
    with pytest.raises(GeometryError, match=reason) as caught:
        medldm.read(folder)
    found = float(str(caught.value).split("a step of ")[1].split(" mm")[0])
    assert found == pytest.approx(step, abs=unit / 19)
    assert medldm.read(folder, resample_nonuniform=True).history[0]["resampled_from_mm"]


@pytest.mark.parametrize("gone", [7, 8])
def test_missing_slices_are_still_called_missing(dicom_series, gone):
    folder = dicom_series(**rounded(3, 1))
    (folder / f"a{gone:03d}.dcm").unlink()
    with pytest.raises(GeometryError, match="1 missing slices.*find the missing files") as caught:
        medldm.read(folder)
    assert "rounded" not in str(caught.value)


def test_where_both_may_be_both_are_told(dicom_series):
    folder = dicom_series(**rounded(1, 1, n=6))
    (folder / "a003.dcm").unlink()
    with pytest.raises(GeometryError, match=r"rounded to 1 mm.*or 1 missing slices, the first at .*20.00\\8.00"):
        medldm.read(folder)


def test_slices_that_are_simply_uneven_stay_so(dicom_series):
    heights = (0, 1, 5, 6, 20, 21, 22)

    def change(ds, k):
        ds.ImagePositionPatient = [-30, 20, heights[k]]

    with pytest.raises(GeometryError) as caught:
        medldm.read(dicom_series(n=7, change=change))
    assert "rounded" not in str(caught.value)


@pytest.mark.parametrize("orientation", [CORONAL, OBLIQUE])
def test_rounding_of_every_coordinate(dicom_series, orientation):
    normal = np.cross(orientation[:3], orientation[3:])

    def change(ds, k):
        ds.ImagePositionPatient = [f"{x:g}" for x in np.rint(np.array([-30.0, 20.0, 5.0]) + 1.7 * k * normal)]

    with pytest.raises(GeometryError, match="rounded to 1 mm"):
        medldm.read(dicom_series(n=24, orientation=orientation, change=change))


def radiograph(spacing):
    def change(ds, k):
        ds.SOPClassUID, ds.Modality = "1.2.840.10008.5.1.4.1.1.1", "CR"
        del ds.ImagePositionPatient, ds.ImageOrientationPatient, ds.PixelSpacing
        setattr(ds, spacing, ["0.2", "0.2"])

    return change


@pytest.mark.parametrize("spacing", ["ImagerPixelSpacing", "PixelSpacing"])
def test_a_radiograph_names_the_option_that_reads_it(dicom_series, spacing):
    folder = dicom_series(n=1, change=radiograph(spacing))
    with pytest.raises(GeometryError, match="--assume-affine"):
        medldm.read(folder)
    assert "--assume-affine" in call("inspect", folder).output
    assert medldm.read(folder, assume_affine=True).geometry.spacing[:2] == (0.2, 0.2)


def test_a_slice_without_a_place_does_not(dicom_series):
    def change(ds, k):
        del ds.ImagePositionPatient

    with pytest.raises(GeometryError) as caught:
        medldm.read(dicom_series(change=change))
    assert "assume" not in str(caught.value)


def compressed(folder, syntax, stream):
    """The first file of a series with other pixels."""
    path = folder / "a000.dcm"
    ds = pydicom.dcmread(path)
    ds.PixelData = encapsulate([stream])
    ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
    ds.BitsStored, ds.HighBit = 12, 11
    ds.file_meta.TransferSyntaxUID = syntax
    ds.save_as(path)
    return path


def jpeg(bits):
    file = io.BytesIO()
    Image.fromarray(np.arange(120, dtype=np.uint8).reshape(12, 10)).save(file, format="JPEG")
    data = file.getvalue()
    at = data.index(b"\xff\xc0")
    return data[: at + 1] + b"\xc1" + data[at + 2 : at + 4] + bytes([bits]) + data[at + 5 :]


def test_a_jpeg_of_12_bits_lacks_a_decoder_and_is_not_damaged(dicom_series):
    path = compressed(dicom_series(n=1), LOSSY_12, jpeg(12))
    with pytest.raises(UnsupportedInput, match="12 bits a sample.*pylibjpeg-libjpeg"):
        medldm.read(path)
    assert "12 bits" in call("inspect", path).stderr


def test_damage_is_still_damage(dicom_series):
    path = compressed(dicom_series(n=1), "1.2.840.10008.1.2.4.90", b"\xff\x4f\xff\x51" + bytes(100))
    with pytest.raises(PixelError, match="cannot be decoded"):
        medldm.read(path)


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.4.100", "1.2.840.10008.1.2.4.53"])
def test_a_syntax_without_a_decoder_is_named(dicom_series, syntax):
    path = compressed(dicom_series(n=1), syntax, bytes(100))
    with pytest.raises(InputError, match=f"{syntax}.*decompress it first") as caught:
        medldm.read(path)
    assert isinstance(caught.value, UnsupportedInput)


def test_a_decoder_that_is_not_installed_is_named(dicom_series, monkeypatch):
    from pydicom.pixels.decoders import base

    path = compressed(dicom_series(n=1), "1.2.840.10008.1.2.4.80", bytes(100))
    found = base.get_decoder(pydicom.uid.JPEGLSLossless)
    monkeypatch.setattr(found, "_available", {})
    monkeypatch.setattr(found, "_unavailable", {"pyjpegls": ("pyjpegls>=1.2",)})
    with pytest.raises(UnsupportedInput, match="install pyjpegls"):
        medldm.read(path)
