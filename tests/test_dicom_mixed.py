"""Series whose images do not go together, and others that a reader could get wrong without a word."""

import numpy as np
import pytest

import medldm
from medldm.errors import AmbiguousInput, GeometryError
from tests.dicom_maker import CANARY, stored_values
from tests.test_dicom import EXPECTED, setting


@pytest.mark.parametrize("keyword", ["PatientID", "StudyInstanceUID", "FrameOfReferenceUID"])
def test_images_of_two_under_one_series_uid_are_refused(dicom_series, keyword):
    folder = dicom_series(change=setting(**{keyword: lambda k: f"1.2.77.{k // 3}"}))
    with pytest.raises(AmbiguousInput, match=f"images of 2 .*{keyword} differs") as caught:
        medldm.read(folder)
    assert "1.2.77" not in str(caught.value) and CANARY not in str(caught.value)
    part = medldm.read(folder, select={keyword: "1.2.77.1"})
    np.testing.assert_array_equal(part.array, EXPECTED[..., 3:])


def test_a_frame_of_reference_that_some_images_leave_out_is_none_of_its_own(dicom_series):
    folder = dicom_series(change=setting(FrameOfReferenceUID=lambda k: None if k == 2 else "1.2.3.9"))
    np.testing.assert_array_equal(medldm.read(folder).array, EXPECTED)


def test_values_with_a_supplemental_palette_are_kept_and_recorded(dicom_series):
    for kind, noted in (("COLOR", True), ("MIXED", True), ("MONOCHROME", False)):
        volume = medldm.read(dicom_series(kind, change=setting(PixelPresentation=kind)))
        np.testing.assert_array_equal(volume.array, EXPECTED)
        assert volume.history[0].get("shown_in_colour", False) is noted


def test_each_image_has_its_own_sign_and_bits(dicom_series):
    def change(ds, k):
        if k > 2:
            setting(PixelRepresentation=1, BitsStored=12, HighBit=11)(ds, k)

    def pixels(k):
        return stored_values(12, 10, k) if k <= 2 else (stored_values(12, 10, k).astype(np.int16) - 900) & 0x0FFF

    wanted = EXPECTED - 900 * (np.arange(6) > 2)
    np.testing.assert_array_equal(medldm.read(dicom_series(change=change, pixels=pixels)).array, wanted)


def test_thickness_and_spacing_between_slices_play_no_part(dicom_series):
    volume = medldm.read(dicom_series(change=setting(SliceThickness="9", SpacingBetweenSlices="7")))
    assert volume.geometry.spacing == pytest.approx((2, 0.5, 3))


def test_a_slice_missing_from_a_tilted_stack_is_named(dicom_series):
    folder = dicom_series(orientation=(1, 0, 0, 0, 0.8, -0.6), step=(0, 0, 2.5), modality="CT")
    (folder / "a002.dcm").unlink()
    with pytest.raises(GeometryError, match=r"1 missing slices.*-30\.00\\20\.00\\10\.00 mm"):
        medldm.read(folder)


def test_times_at_places_of_their_own_are_no_single_volume(dicom_series):
    def change(ds, k):
        ds.TemporalPositionIdentifier = str(k % 2 + 1)
        ds.ImagePositionPatient = ["0", "0", str(3 * (k // 2) + k % 2)]

    folder = dicom_series(change=change)
    with pytest.raises(AmbiguousInput, match="TemporalPositionIdentifier=1 .*TemporalPositionIdentifier=2 "):
        medldm.read(folder)
    part = medldm.read(folder, select={"TemporalPositionIdentifier": "2"})
    np.testing.assert_array_equal(part.array, EXPECTED[..., 1::2])
