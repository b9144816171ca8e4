import shutil

import numpy as np
import pydicom
import pytest
from pydicom.uid import JPEGLSLossless, RLELossless

import medldm
from medldm.errors import (
    AmbiguousInput,
    EmptyInput,
    GeometryError,
    InputError,
    LimitError,
    NotImage,
    PixelError,
    UnsupportedInput,
)
from tests.dicom_maker import AXIAL, CANARY, CORONAL, OBLIQUE, SAGITTAL, affine_ras, stored_values

EXPECTED = np.stack([stored_values(12, 10, k).T for k in range(6)], axis=-1).astype(float)


def setting(**attributes):
    """A `change` that gives every slice these attributes; a value may be a function of the slice's number."""

    def change(ds, k):
        for keyword, value in attributes.items():
            new = value(k) if callable(value) else value
            if new is None:
                if keyword in ds:
                    delattr(ds, keyword)
            else:
                setattr(ds, keyword, new)

    return change


def rewrite(path, change):
    ds = pydicom.dcmread(path)
    change(ds)
    ds.save_as(path)


@pytest.mark.parametrize(
    "orientation", [AXIAL, SAGITTAL, CORONAL, OBLIQUE], ids=["axial", "sagittal", "coronal", "oblique"]
)
def test_array_and_affine_follow_the_standard(dicom_series, orientation):
    volume = medldm.read(dicom_series(orientation=orientation))
    np.testing.assert_array_equal(volume.array, EXPECTED)
    np.testing.assert_allclose(volume.geometry.affine, affine_ras(orientation), atol=1e-6)
    assert (volume.modality, volume.unit) == ("MR", "arbitrary")


@pytest.mark.parametrize("order", [[5, 4, 3, 2, 1, 0], [3, 0, 5, 1, 4, 2]])
@pytest.mark.parametrize("number", [None, "1", lambda k: str(99 - k)], ids=["absent", "equal", "reversed"])
def test_file_names_and_instance_numbers_play_no_part(dicom_series, order, number):
    volume = medldm.read(dicom_series(order=order, change=setting(InstanceNumber=number)))
    np.testing.assert_array_equal(volume.array, EXPECTED)
    np.testing.assert_allclose(volume.geometry.affine, affine_ras(), atol=1e-6)


def test_positions_against_the_normal_are_sorted_along_it(dicom_series):
    volume = medldm.read(dicom_series(step=(0, 0, -3)))
    np.testing.assert_array_equal(volume.array, EXPECTED[..., ::-1])
    np.testing.assert_allclose(volume.geometry.affine, affine_ras(origin=(-30, 20, -10)), atol=1e-6)


@pytest.mark.parametrize("tilt", [None, "18.5", "-18.5"])
def test_a_tilted_gantry_gives_a_sheared_affine_whatever_its_attribute_says(dicom_series, tilt):
    orientation = (1, 0, 0, 0, 0.8, -0.6)
    step = (0, 0, 2.5)
    volume = medldm.read(
        dicom_series(orientation=orientation, step=step, modality="CT", change=setting(GantryDetectorTilt=tilt))
    )
    np.testing.assert_allclose(volume.geometry.affine, affine_ras(orientation, step=step), atol=1e-6)
    assert volume.geometry.is_sheared and volume.history[0]["sheared"] is True
    np.testing.assert_array_equal(volume.array, EXPECTED - 1024)


def test_each_slice_has_its_own_rescale(dicom_series):
    change = setting(RescaleSlope=lambda k: str(0.5 + 0.25 * k), RescaleIntercept="-3")
    volume = medldm.read(dicom_series(modality="PT", change=change))
    np.testing.assert_allclose(volume.array, EXPECTED * (0.5 + 0.25 * np.arange(6)) - 3)
    assert volume.unit == "BQML"


def test_bits_above_bits_stored_are_dropped_and_signs_kept(dicom_series):
    dirty = dicom_series(
        "dirty", pixels=lambda k: stored_values(12, 10, k) | 0xA000, change=setting(BitsStored=12, HighBit=11)
    )
    np.testing.assert_array_equal(medldm.read(dirty).array, EXPECTED)
    signed = dicom_series(
        "signed",
        pixels=lambda k: stored_values(12, 10, k).astype(np.int16) - 300,
        change=setting(PixelRepresentation=1),
    )
    np.testing.assert_array_equal(medldm.read(signed).array, EXPECTED - 300)


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless], ids=["RLE", "JPEG-LS"])
def test_compressed_files_read_the_same(dicom_series, syntax):
    folder = dicom_series()
    for path in folder.iterdir():
        rewrite(path, lambda ds: ds.compress(syntax, generate_instance_uid=False))
    np.testing.assert_array_equal(medldm.read(folder).array, EXPECTED)


def test_other_files_are_skipped_and_counted(dicom_series, tmp_path):
    folder = dicom_series("root/deep/series")
    (folder / "readme.txt").write_text("no image")
    (folder / "empty").touch()
    (folder / ".hidden.dcm").write_bytes(b"junk")
    (folder / "link.dcm").symlink_to(folder / "a000.dcm")
    volume = medldm.read(tmp_path / "root")
    np.testing.assert_array_equal(volume.array, EXPECTED)
    assert volume.history[0]["skipped"] == {"hidden": 1, "repeated": 1, "not_dicom": 2}


def test_a_file_without_preamble_is_read(dicom_series):
    folder = dicom_series()
    path = folder / "a002.dcm"
    path.write_bytes(path.read_bytes()[132:])
    np.testing.assert_array_equal(medldm.read(folder).array, EXPECTED)


def test_a_single_slice_takes_its_thickness(dicom_series):
    folder = dicom_series(n=1)
    for path in (folder, folder / "a000.dcm"):
        volume = medldm.read(path)
        assert volume.geometry.shape == (10, 12, 1) and volume.history[0]["step_assumed"] is True
        np.testing.assert_allclose(volume.geometry.affine, affine_ras(), atol=1e-6)
    for thickness in (None, "0"):
        rewrite(folder / "a000.dcm", lambda ds, t=thickness: setting(SliceThickness=t)(ds, 0))
        with pytest.raises(GeometryError, match="SliceThickness"):
            medldm.read(folder)


def test_two_series_are_listed_and_one_can_be_chosen(dicom_series, tmp_path):
    dicom_series("both", prefix="b", series="1.2.3.4")
    dicom_series("both", prefix="c", series="1.2.3.5", n=3)
    with pytest.raises(AmbiguousInput, match=r"2 series: 1\.2\.3\.4 \(MR, 6 images\), 1\.2\.3\.5 \(MR, 3 images\)"):
        medldm.read(tmp_path / "both")
    volume = medldm.read(tmp_path / "both", series="1.2.3.5")
    np.testing.assert_array_equal(volume.array, EXPECTED[..., :3])
    with pytest.raises(InputError, match="no series 9.9"):
        medldm.read(tmp_path / "both", series="9.9")


def test_equal_copies_are_dropped_and_different_ones_ambiguous(dicom_series):
    folder = dicom_series()
    shutil.copy(folder / "a003.dcm", folder / "copy.dcm")
    rewrite(folder / "copy.dcm", lambda ds: setattr(ds, "SOPInstanceUID", "1.2.3.4.99"))
    volume = medldm.read(folder)
    np.testing.assert_array_equal(volume.array, EXPECTED)
    assert volume.history[0]["copies_dropped"] == 1
    rewrite(folder / "copy.dcm", lambda ds: setattr(ds, "PixelData", bytes(240)))
    with pytest.raises(AmbiguousInput, match="same place with different pixels"):
        medldm.read(folder)


def test_a_missing_slice_is_named_by_its_place(dicom_series):
    folder = dicom_series()
    (folder / "a002.dcm").unlink()
    with pytest.raises(GeometryError, match=r"1 missing slices.*-30\.00\\20\.00\\11\.00 mm"):
        medldm.read(folder)


@pytest.mark.parametrize(("off", "refused"), [(0.02, False), (0.3, True)])
@pytest.mark.parametrize("axis", [0, 2])
def test_slices_off_the_line_by_more_than_a_twentieth_mm_are_refused(dicom_series, off, refused, axis):
    def change(ds, k):
        if k == 3:
            position = list(ds.ImagePositionPatient)
            position[axis] = float(position[axis]) + off
            ds.ImagePositionPatient = position

    folder = dicom_series(change=change)
    if refused:
        with pytest.raises(GeometryError, match="0.300 mm off"):
            medldm.read(folder)
    else:
        np.testing.assert_allclose(medldm.read(folder).geometry.affine, affine_ras(), atol=1e-6)


def test_rounded_orientations_are_accepted_and_made_orthonormal(dicom_series):
    volume = medldm.read(dicom_series(change=setting(ImageOrientationPatient=["1", "0.0001", "0", "0", "1", "0"])))
    u, v = volume.geometry.affine[:3, 0], volume.geometry.affine[:3, 1]
    assert abs(u @ v) < 1e-9 and np.allclose(volume.geometry.spacing, (2, 0.5, 3))


BAD = {
    "no orientation": ({"ImageOrientationPatient": None}, GeometryError, "ImageOrientationPatient"),
    "no position": ({"ImagePositionPatient": None}, GeometryError, "ImagePositionPatient"),
    "no spacing": ({"PixelSpacing": None}, GeometryError, "PixelSpacing"),
    "detector spacing": ({"PixelSpacing": None, "ImagerPixelSpacing": [0.1, 0.1]}, GeometryError, "detector"),
    "spacing 0": ({"PixelSpacing": [0, 1]}, GeometryError, "PixelSpacing"),
    "spacing negative": ({"PixelSpacing": [1, -1]}, GeometryError, "PixelSpacing"),
    "skewed orientation": ({"ImageOrientationPatient": [1, 0, 0, 0.3, 0.9, 0]}, GeometryError, "right angle"),
    "a position of 1e12": ({"ImagePositionPatient": [0, 0, 1e12]}, GeometryError, "finite"),
    "slope 0": ({"RescaleSlope": 0}, PixelError, "RescaleSlope 0"),
    "colour": ({"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3}, UnsupportedInput, "colour"),
    "no rows": ({"Rows": 0}, PixelError, "10 x 0"),
    "no frames": ({"NumberOfFrames": 0}, PixelError, "NumberOfFrames 0"),
    "frames": ({"NumberOfFrames": 2}, UnsupportedInput, "NumberOfFrames 2"),
    "bitmap": ({"BitsAllocated": 1}, NotImage, "1 bit"),
    "pixels too long": ({"PixelData": bytes(1240)}, PixelError, "1240 bytes"),
    "pixels too short": ({"PixelData": bytes(200)}, PixelError, "200 bytes"),
    "no pixels": ({"PixelData": None}, PixelError, "PixelData"),
    "echoes": (
        {"EchoTime": lambda k: 5 + k % 2, "ImagePositionPatient": lambda k: [0, 0, k // 2]}, AmbiguousInput, "EchoTime"
    ),
    "orientations": (
        {"ImageOrientationPatient": lambda k: list(AXIAL if k < 4 else SAGITTAL)}, AmbiguousInput, "2 volumes: Stack=1"
    ),
    "pixel spacings": ({"PixelSpacing": lambda k: [1, 1 + k // 3]}, AmbiguousInput, "2 volumes: Stack=1"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_refusals_are_typed_and_name_no_patient(dicom_series, case):
    attributes, error, reason = BAD[case]
    folder = dicom_series(change=setting(**attributes))
    with pytest.raises(error, match=reason) as caught:
        medldm.read(folder)
    assert CANARY not in str(caught.value) and "\n" not in str(caught.value)
    assert caught.value.__cause__ is None or CANARY not in str(caught.value.__cause__)


def test_ct_without_intercept_has_no_unit(dicom_series):
    with pytest.raises(PixelError, match="RescaleIntercept"):
        medldm.read(dicom_series(modality="CT", change=setting(RescaleIntercept=None)))


@pytest.mark.parametrize("kept", [-100, -300, 900, 500, 300, 140])
def test_a_file_cut_off_is_named(dicom_series, kept):
    folder = dicom_series()
    path = folder / "a004.dcm"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(PixelError, match="a004.dcm"):
        medldm.read(folder)


def test_a_compressed_file_cut_off_is_named(dicom_series):
    folder = dicom_series(
        rows=64, columns=64, pixels=lambda k: np.random.default_rng(k).integers(0, 999, (64, 64), np.uint16)
    )
    for path in folder.iterdir():
        rewrite(path, lambda ds: ds.compress(JPEGLSLossless, generate_instance_uid=False))
    path = folder / "a001.dcm"
    path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(PixelError, match="a001.dcm"):
        medldm.read(folder)


def test_the_size_is_checked_before_decoding(dicom_series):
    forged = dicom_series("forged", n=1)
    rewrite(forged / "a000.dcm", lambda ds: ds.compress(RLELossless, generate_instance_uid=False))
    rewrite(forged / "a000.dcm", lambda ds: (setattr(ds, "Rows", 30000), setattr(ds, "Columns", 30000)))
    with pytest.raises(LimitError, match="30000 x 30000"):
        medldm.read(forged)
    with pytest.raises(LimitError, match="10 x 12 x 6"):
        medldm.read(dicom_series("large"), max_bytes=12 * 10 * 6 * 4 - 1)


def test_folders_without_an_image(tmp_path):
    with pytest.raises(EmptyInput):
        medldm.read(tmp_path)
    (tmp_path / "readme.txt").write_text("nothing here")
    with pytest.raises(EmptyInput):
        medldm.read(tmp_path)


def test_no_patient_text_in_volume_nifti_or_sidecar(dicom_series, tmp_path, capsys, recwarn):
    volume = medldm.read(dicom_series())
    medldm.write(volume, tmp_path / "out.nii")
    written = (tmp_path / "out.nii").read_bytes() + (tmp_path / "out.json").read_bytes()
    said = "".join(capsys.readouterr()) + "".join(str(w.message) for w in recwarn)
    assert CANARY.encode() not in written
    assert CANARY not in repr(volume) + repr(volume.source) + str(volume.history) + said
