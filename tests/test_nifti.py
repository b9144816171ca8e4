import gzip
import warnings

import nibabel as nib
import numpy as np
import pytest

import medldm
from medldm.errors import (
    AmbiguousInput,
    GeometryError,
    InputError,
    LimitError,
    OutputError,
    PixelError,
    UnsupportedInput,
)
from medldm.geometry import Geometry
from medldm.volume import Volume

OBLIQUE = np.array([[0, -0.6, 1.6, -90], [-2.0, 0, 0, 120], [0, 0.8, 1.2, -70], [0, 0, 0, 1]])


def values(shape=(4, 5, 6)):
    return np.arange(np.prod(shape), dtype=np.int16).reshape(shape)


def save(path, array, affine=OBLIQUE, change=None):
    """A NIfTI file by nibabel; both codes 1, mm; `change(header)` may alter the header."""
    image = nib.Nifti1Image(array, affine)
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    image.header.set_xyzt_units("mm")
    if change is not None:
        change(image.header)
    nib.save(image, path)
    return path


QFORM_CODE, SFORM_CODE, PIXDIM_1, DIM_1, SCL_SLOPE, SROW_X = 252, 254, 80, 42, 112, 280  # offsets in NIfTI-1


def patch(path, offset, raw):
    """Overwrite bytes of an uncompressed file: nibabel would repair what is wrong while writing it."""
    data = bytearray(path.read_bytes())
    data[offset : offset + len(raw)] = raw
    path.write_bytes(bytes(data))
    return path


def test_array_affine_and_scale_are_those_of_the_file(tmp_path):
    path = save(tmp_path / "a.nii.gz", values(), change=lambda h: h.set_slope_inter(2, -7))
    volume = medldm.read(path)
    np.testing.assert_array_equal(volume.array, np.asarray(nib.load(path).dataobj))
    np.testing.assert_allclose(volume.geometry.affine, OBLIQUE, atol=1e-6)
    assert (volume.unit, volume.modality) == ("arbitrary", "")


def test_differing_forms_warn_and_the_sform_counts(tmp_path):
    moved = OBLIQUE.copy()
    moved[0, 3] += 5
    path = save(tmp_path / "a.nii", values(), change=lambda h: h.set_qform(moved, 1))
    with pytest.warns(UserWarning, match="5 mm"):
        volume = medldm.read(path)
    np.testing.assert_allclose(volume.geometry.affine, OBLIQUE, atol=1e-6)
    assert volume.history[0]["qform_differs_mm"] == pytest.approx(5, abs=1e-3)


def test_a_lone_qform_counts(tmp_path):
    path = patch(save(tmp_path / "a.nii", values()), SFORM_CODE, np.int16(0).tobytes())
    volume = medldm.read(path)
    np.testing.assert_allclose(volume.geometry.affine, OBLIQUE, atol=1e-4)
    assert volume.history[0]["xform"] == "qform"


NO_CODE, NAN, ZERO = np.int16(0).tobytes(), np.float32(np.nan).tobytes(), np.float32(0).tobytes()


def test_a_chosen_form_counts_and_needs_no_warning(tmp_path):
    moved = OBLIQUE.copy()
    moved[0, 3] += 5
    path = save(tmp_path / "a.nii", values(), change=lambda h: h.set_qform(moved, 1))
    for name, affine in (("sform", OBLIQUE), ("qform", moved)):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            volume = medldm.read(path, xform=name)
        np.testing.assert_allclose(volume.geometry.affine, affine, atol=1e-4)
        assert volume.history[0]["xform"] == name


@pytest.mark.parametrize(("chosen", "code"), [("sform", SFORM_CODE), ("qform", QFORM_CODE)])
def test_a_chosen_form_that_is_not_coded_is_refused(tmp_path, chosen, code):
    path = patch(save(tmp_path / "a.nii", values()), code, NO_CODE)
    medldm.read(path)
    for assume in (False, True):
        with pytest.raises(GeometryError, match=f"no {chosen}"):
            medldm.read(path, xform=chosen, assume_affine=assume)


def test_an_impossible_sform_names_the_way_out(tmp_path):
    path = patch(save(tmp_path / "a.nii", values()), SROW_X, NAN)
    with pytest.raises(GeometryError, match="sform.*choose the qform"):
        medldm.read(path)
    np.testing.assert_allclose(medldm.read(path, xform="qform").geometry.affine, OBLIQUE, atol=1e-4)


def without_forms(path, array, unit="mm"):
    spacing = np.diag([2.0, 3.0, 4.0, 1])
    save(path, array, spacing, lambda h: h.set_xyzt_units(unit))
    return patch(patch(path, SFORM_CODE, NO_CODE), QFORM_CODE, NO_CODE)


@pytest.mark.parametrize(("unit", "mm"), [("mm", 1), ("micron", 1e-3)])
def test_a_place_is_made_up_on_demand_alone(tmp_path, unit, mm):
    path = without_forms(tmp_path / "a.nii", values(), unit)
    with pytest.raises(GeometryError, match="neither"):
        medldm.read(path)
    volume = medldm.read(path, assume_affine=True)
    np.testing.assert_allclose(volume.geometry.affine[:3, :3], np.diag([2, 3, 4]) * mm)
    np.testing.assert_allclose(volume.geometry.corners().mean(0), 0, atol=1e-12)
    assert volume.history[0]["affine_assumed"] is True and "xform" not in volume.history[0]


def test_a_place_is_not_made_up_where_there_is_one(tmp_path):
    volume = medldm.read(save(tmp_path / "a.nii", values()), assume_affine=True)
    np.testing.assert_allclose(volume.geometry.affine, OBLIQUE, atol=1e-6)
    assert "affine_assumed" not in volume.history[0]


@pytest.mark.parametrize("bad", [0, np.inf, np.nan])
def test_no_place_can_be_made_up_without_voxel_sizes(tmp_path, bad):
    path = patch(without_forms(tmp_path / "a.nii", values()), PIXDIM_1, np.float32(bad).tobytes())
    with pytest.raises(GeometryError, match="pixdim"):
        medldm.read(path, assume_affine=True)


@pytest.mark.parametrize(("unit", "mm"), [("micron", 1e-3), ("meter", 1e3), ("mm", 1)])
def test_lengths_are_converted_to_mm(tmp_path, unit, mm):
    path = save(tmp_path / "a.nii", values(), np.diag([2.0, 3, 4, 1]), lambda h: h.set_xyzt_units(unit))
    np.testing.assert_allclose(medldm.read(path).geometry.spacing, np.array([2, 3, 4]) * mm)


def test_no_unit_of_length_warns(tmp_path):
    path = save(tmp_path / "a.nii", values(), change=lambda h: h.set_xyzt_units("unknown"))
    with pytest.warns(UserWarning, match="millimetres assumed"):
        medldm.read(path)


def test_trailing_axes_of_one_are_dropped_and_missing_ones_added(tmp_path):
    assert medldm.read(save(tmp_path / "a.nii", values((4, 5, 6, 1, 1)))).geometry.shape == (4, 5, 6)
    assert medldm.read(save(tmp_path / "b.nii", values((4, 5)))).geometry.shape == (4, 5, 1)


REFUSED = {
    "4D": (values((3, 3, 3, 2)), AmbiguousInput, "3 x 3 x 3 x 2"),
    "complex": (values().astype(np.complex64), UnsupportedInput, "complex"),
    "NaN": (np.where(values() < 3, np.nan, 1.0).astype(np.float32), PixelError, "3 voxels"),
    "beyond float32": (np.full((2, 2, 2), 1e300), PixelError, "8 voxels"),
    "beyond 2^53": (np.full((2, 2, 2), 2**53 + 2), PixelError, r"2\^53"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(tmp_path, case):
    array, error, reason = REFUSED[case]
    with pytest.raises(error, match=reason):
        image = nib.Nifti1Image(array, OBLIQUE, dtype=array.dtype)
        nib.save(image, tmp_path / "a.nii")
        medldm.read(tmp_path / "a.nii")


def test_voxels_that_are_not_finite_are_filled_on_demand(tmp_path):
    array = values().astype(np.float32) + 7
    array[0, 0, :3] = np.nan, np.inf, -np.inf
    path = save(tmp_path / "a.nii", array, change=lambda h: h.set_slope_inter(2, 1))
    volume = medldm.read(path, nan="fill")
    stored = np.asarray(nib.load(path).dataobj)
    good = np.isfinite(stored)
    np.testing.assert_array_equal(volume.array, np.where(good, stored, stored[good].min()))
    assert volume.history[0]["nan_filled"] == 3
    assert "nan_filled" not in medldm.read(save(tmp_path / "b.nii", values()), nan="fill").history[0]


@pytest.mark.parametrize(("value", "reason"), [(np.nan, "no voxel"), (1e300, "beyond single precision")])
def test_filling_hides_no_lost_values(tmp_path, value, reason):
    path = save(tmp_path / "a.nii", np.full((2, 2, 2), value))
    with pytest.raises(PixelError, match=reason):
        medldm.read(path, nan="fill")


def test_more_voxels_than_allowed_are_refused(tmp_path):
    path = save(tmp_path / "a.nii.gz", values())
    medldm.read(path, max_bytes=4 * 120)
    with pytest.raises(LimitError):
        medldm.read(path, max_bytes=4 * 120 - 1)


def test_whole_numbers_below_2_53_are_read(tmp_path):
    array = np.zeros((2, 2, 2), np.int64)
    array[0, 0] = 2**53, -(2**53)
    nib.save(nib.Nifti1Image(array, OBLIQUE, dtype=np.int64), tmp_path / "a.nii")
    np.testing.assert_array_equal(medldm.read(tmp_path / "a.nii").array, array)


def test_texts_of_the_header_go_nowhere(tmp_path):
    def named(header):
        header["descrip"], header["aux_file"], header["intent_name"] = b"medldm Canary", b"Canary", b"Canary"
        header["db_name"] = b"Canary"
        header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"Canary^Patient"))

    path = save(tmp_path / "a.nii", values(), change=named)
    assert path.read_bytes().count(b"Canary") == 5
    volume = medldm.read(path)
    out = medldm.write(volume, tmp_path / "b.nii")
    for file in (out, out.with_suffix(".json")):
        assert b"Canary" not in file.read_bytes()
    assert "Canary" not in repr(volume) + str(volume.history)
    for offset, raw in ((DIM_1, np.int16([0] * 3).tobytes()), (SROW_X, NAN), (70, np.int16(999).tobytes())):
        (tmp_path / "c.nii").write_bytes(path.read_bytes())
        with pytest.raises(InputError) as caught:
            medldm.read(patch(tmp_path / "c.nii", offset, raw))
        assert "Canary" not in str(caught.value)


def test_foreign_units_in_our_own_mark_are_not_believed(tmp_path):
    def forged(header):
        header["descrip"] = b"medldm; unit=Doe John 1950; modality=doe"

    volume = medldm.read(save(tmp_path / "a.nii", values(), change=forged))
    assert (volume.unit, volume.modality) == ("arbitrary", "")


def test_nifti_2_and_foreign_byte_order_read_alike(tmp_path):
    for name, image in (
        ("two.nii.gz", nib.Nifti2Image(values(), OBLIQUE)),
        ("big.nii", nib.Nifti1Image(values(), OBLIQUE, nib.Nifti1Header(endianness=">"))),
    ):
        nib.save(image, tmp_path / name)
        volume = medldm.read(tmp_path / name)
        np.testing.assert_array_equal(volume.array, values())
        np.testing.assert_allclose(volume.geometry.affine, OBLIQUE, atol=1e-6)


def test_older_formats_of_the_same_suffix_are_named(tmp_path):
    whole = save(tmp_path / "a.nii", values())
    for magic, kind in ((b"ni1\0", "without its voxels"), (b"\0\0\0\0", "Analyze")):
        (tmp_path / "b.nii").write_bytes(whole.read_bytes())
        with pytest.raises(UnsupportedInput, match=kind):
            medldm.read(patch(tmp_path / "b.nii", 344, magic))


def test_a_small_file_cannot_claim_a_large_image(tmp_path):
    """Deflate packs by 1032:1 at most; nothing is allocated for what a file cannot hold."""
    path = save(tmp_path / "a.nii", values())
    patch(path, DIM_1, np.int16([1000] * 3).tobytes())
    packed = tmp_path / "b.nii.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(PixelError, match="cut off"):
        medldm.read(packed)


@pytest.mark.parametrize("place", [-1, -3000])
def test_a_changed_byte_of_a_compressed_file_is_noticed(tmp_path, place):
    path = save(tmp_path / "a.nii.gz", np.random.default_rng(0).normal(size=(16, 16, 16)))
    data = bytearray(path.read_bytes())
    data[place - 4] ^= 255
    path.write_bytes(bytes(data))
    with pytest.raises(PixelError, match="a.nii.gz"):
        medldm.read(path)


def test_rgb_is_refused(tmp_path):
    rgb = np.zeros((3, 3, 3), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    with pytest.raises(UnsupportedInput, match="RGB"):
        medldm.read(save(tmp_path / "a.nii", rgb))


DAMAGED = {
    "both codes 0": ([(SFORM_CODE, NO_CODE), (QFORM_CODE, NO_CODE)], GeometryError, "neither"),
    "NaN in the sform": ([(SROW_X, NAN)], GeometryError, "sform"),
    "qform with a spacing of 0": ([(SFORM_CODE, NO_CODE), (PIXDIM_1, ZERO)], GeometryError, "qform"),
    "negative size": ([(DIM_1, np.int16(-3).tobytes())], PixelError, "-3"),
    "gigantic size": ([(DIM_1, np.int16([32767] * 3).tobytes())], LimitError, "GiB"),
    "size beyond the file": ([(DIM_1, np.int16([100] * 3).tobytes())], PixelError, "cut off"),
    "data inside the header": ([(108, np.float32(0).tobytes())], PixelError, "vox_offset 0"),
    "infinite slope": ([(SCL_SLOPE, np.float32([np.inf, 0]).tobytes())], PixelError, "slope"),
    "unknown type": ([(70, np.int16(999).tobytes())], UnsupportedInput, "type 999"),
    "slope without intercept": ([(SCL_SLOPE, np.float32([2, np.nan]).tobytes())], PixelError, "inter"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_headers_are_refused(tmp_path, case):
    patches, error, reason = DAMAGED[case]
    path = save(tmp_path / "a.nii", values())
    for offset, raw in patches:
        patch(path, offset, raw)
    with pytest.raises(error, match=reason):
        medldm.read(path)


@pytest.mark.parametrize("slope", [0, np.nan])
def test_a_slope_of_0_or_nan_means_none(tmp_path, slope):
    path = patch(save(tmp_path / "a.nii", values()), SCL_SLOPE, np.float32([slope, 5]).tobytes())
    np.testing.assert_array_equal(medldm.read(path).array, values())


def test_files_cut_off_are_refused(tmp_path):
    whole = save(tmp_path / "a.nii.gz", np.random.default_rng(0).normal(size=(16, 16, 16))).read_bytes()
    for name, data in (
        ("b.nii.gz", whole[:-2000]),
        ("c.nii.gz", whole[:20]),
        ("d.nii.gz", b""),
        ("e.nii", gzip.decompress(whole)[:-10]),
        ("f.nii", gzip.decompress(whole)[:100]),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(PixelError, match=name):
            medldm.read(tmp_path / name)


def test_missing_folder_and_unknown_names(tmp_path):
    volume = Volume(values(), Geometry(OBLIQUE, (4, 5, 6)))
    with pytest.raises(OutputError, match="no folder"):
        medldm.write(volume, tmp_path / "no" / "a.nii")
    with pytest.raises(OutputError, match="dicom"):
        medldm.write(volume, tmp_path / "folder")
    with pytest.raises(InputError):
        medldm.read(tmp_path / "absent.nii")
    with pytest.raises(InputError, match="series"):
        medldm.read(save(tmp_path / "a.nii", values()), series="1.2")


def test_real_heads(data_dir):
    path = sorted((data_dir / "brain-t1-2mm" / "t1").iterdir())[0]
    volume, image = medldm.read(path), nib.load(path)
    np.testing.assert_array_equal(volume.array, image.get_fdata(dtype=np.float32))
    np.testing.assert_allclose(volume.geometry.affine, image.affine, atol=1e-6)
    assert volume.geometry.axcodes == ("P", "S", "R")
