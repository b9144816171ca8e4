"""Real DICOM series, against the reference and dcm2niix, and the files that pydicom brings."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file

import medldm
from medldm.errors import (
    AmbiguousInput,
    GeometryError,
    NotImage,
    PixelError,
    UnsupportedInput,
)


@pytest.mark.parametrize(
    ("name", "error", "reason"),
    [
        ("rtplan.dcm", NotImage, "RT Plan Storage"),
        ("test-SR.dcm", NotImage, "SR"),
        ("liver_1frame.dcm", NotImage, "Segmentation Storage"),
        ("rtdose.dcm", NotImage, "RT Dose Storage"),
        ("SC_rgb_small_odd.dcm", UnsupportedInput, "colour"),
        ("MR_truncated.dcm", PixelError, "MR_truncated.dcm"),
    ],
)
def test_pydicom_examples_that_are_refused(name, error, reason):
    path = get_testdata_file(name, download=False)
    if path is None:
        pytest.skip(f"pydicom does not bundle {name}")
    with pytest.raises(error, match=reason):
        medldm.read(path)


def test_pydicom_examples_that_are_read():
    little, big = (medldm.read(get_testdata_file(f"MR_small{end}.dcm", download=False)) for end in ("", "_bigendian"))
    np.testing.assert_array_equal(little.array, big.array)
    ct = get_testdata_file("CT_small.dcm", download=False)
    stored = pydicom.dcmread(ct).pixel_array.T[..., None]
    np.testing.assert_array_equal(medldm.read(ct).array, stored - 1024.0)


def dcm2niix_affine(folder, out):
    """Affine of the series by dcm2niix, and its array axes undone, as an independent referee."""
    nib = pytest.importorskip("nibabel")
    tool = Path(sys.executable).parent / "dcm2niix"
    if not tool.exists():
        pytest.skip("dcm2niix is not installed")
    out.mkdir()
    subprocess.run(
        [tool, "-b", "n", "-z", "n", "-p", "n", "-f", "%s", "-o", out, folder], check=True, capture_output=True
    )
    return nib.load(next(out.glob("*.nii")))


def test_corners_of_a_real_series_agree_with_dcm2niix(data_dir, tmp_path):
    folder = data_dir / "dicom" / "mr_philips_mprage_classic"
    volume, image = medldm.read(folder), dcm2niix_affine(folder, tmp_path / "out")
    theirs = medldm.Volume(image.get_fdata(), medldm.Geometry(image.affine, image.shape))
    theirs = theirs.reorient("".join(volume.geometry.axcodes))
    assert np.abs(theirs.geometry.corners() - volume.geometry.corners()).max() < 1e-3
    np.testing.assert_allclose(volume.array, theirs.array, rtol=1e-5)


def test_four_real_transfer_syntaxes_read_the_same(data_dir):
    folder = data_dir / "dicom" / "mr_compressed"
    volumes = [medldm.read(folder / name) for name in ("rle", "jpeg", "jpegls", "j2k")]
    for other in volumes[1:]:
        np.testing.assert_array_equal(other.array, volumes[0].array)
        assert other.geometry.isclose(volumes[0].geometry)
    assert medldm.read(folder / "fragmented_jpeg").geometry.shape == (128, 128, 4)


REAL = {
    "ct_tilt_nonuniform_ge": (GeometryError, "1.081 to 6.999"),
    "ct_same_position_siemens": (AmbiguousInput, "AcquisitionNumber"),
    "mr_localizer_mixed_philips": (AmbiguousInput, "2 volumes: Stack=1"),
    "mr_multiecho_siemens": (AmbiguousInput, "EchoTime=5.19"),
    "mr_4d_ge_dti": (AmbiguousInput, "DiffusionBValue=1000"),
    "pt_single_slices": (AmbiguousInput, "2 series"),
    "not_images/sr.dcm": (NotImage, "SR"),
    "not_images/seg.dcm": (NotImage, "Segmentation"),
    "not_images/rwvm.dcm": (NotImage, "Real World"),
    "not_images/DIRFILE": (NotImage, "Directory"),
    "not_images/rgb_htj2k.dcm": (UnsupportedInput, "colour"),
    "not_images/sc_deflated.dcm": (GeometryError, "Secondary Capture"),
}


@pytest.mark.parametrize("name", REAL)
def test_hard_real_series_are_refused_with_their_reason(data_dir, name):
    error, reason = REAL[name]
    with pytest.raises(error, match=reason):
        medldm.read(data_dir / "dicom" / name)


def test_real_tilted_ct_steps_along_the_table(data_dir):
    volume = medldm.read(data_dir / "dicom" / "ct_tilt_philips_phantom")
    np.testing.assert_allclose(volume.geometry.affine[:3, 2], (0, 0, 2.5), atol=1e-3)
    assert volume.geometry.is_sheared and volume.unit == "HU"


@pytest.mark.parametrize(("name", "slope"), [("1.dcm", 9.12329), ("2.dcm", 46.2619)])
def test_real_single_pet_slice(data_dir, name, slope):
    path = data_dir / "dicom" / "pt_single_slices" / name
    volume = medldm.read(path)
    stored = pydicom.dcmread(path).pixel_array.T[..., None]
    np.testing.assert_allclose(volume.array, stored * slope, rtol=1e-6)
    assert volume.unit == "BQML" and volume.history[0]["step_assumed"] is True
