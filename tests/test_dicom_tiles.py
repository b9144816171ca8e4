"""Slices tiled in one image: Siemens mosaics, UIH's VFRAME, and GE's sequence that stores images upside down."""

import shutil
import struct

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import ImplicitVRLittleEndian, RLELossless

import medldm
from medldm.errors import AmbiguousInput, GeometryError, InputError, UnsupportedInput
from tests.dicom_maker import AXIAL, CANARY, CORONAL, OBLIQUE, SAGITTAL, affine_ras
from tests.referees import converted
from tests.test_dicom import rewrite, setting

TILE, SPACING, GAP = (16, 12), (2.0, 1.5), 3.3
CSA2, CSA1 = "SV10", ""


def slices(count, volume=0):
    """(count, rows, columns), no two pixels alike within a slice."""
    k, row, column = np.ogrid[:count, : TILE[0], : TILE[1]]
    return (5000 * volume + 200 * k + 12 * row + column + 1).astype(np.uint16)


def csa(kind=CSA2, **tags):
    """A CSA header with these tags; a value is a list of texts."""
    data = (b"SV10\4\3\2\1" if kind == CSA2 else b"") + struct.pack("<2i", len(tags), 77)
    items = {name: [str(v) for v in values] for name, values in tags.items()}
    first = len(next(iter(items.values())))
    for name, values in items.items():
        data += struct.pack("<64si4s3i", name.encode(), len(values), b"FD\0\0", 0, len(values), 77)
        for value in values:
            text = value.encode() + b"\0"
            lengths = (len(text),) * 4 if kind == CSA2 else (len(text) + first,) + (len(text),) * 3
            data += struct.pack("<4i", *lengths) + text + bytes(-len(text) % 4)
    return data


def make_mosaic(make, name="mosaic", count=7, volumes=1, orientation=AXIAL, against=False, kind=CSA2, change=None):
    """Mosaics of `count` slices; the first one's first pixel lies at the maker's origin."""
    across = int(np.ceil(np.sqrt(count)))
    u, v = np.array(orientation[:3], float), np.array(orientation[3:], float)
    normal = np.cross(u, v) * (-1 if against else 1)
    beyond = u * SPACING[1] * TILE[1] * (across - 1) / 2 + v * SPACING[0] * TILE[0] * (across - 1) / 2

    def picture(volume):
        whole = np.zeros((across, TILE[0], across, TILE[1]), np.uint16)
        for k, image in enumerate(slices(count, volume)):
            whole[k // across, :, k % across] = image
        return whole.reshape(across * TILE[0], across * TILE[1])

    def tags(ds, volume):
        ds.ImageType, ds.Manufacturer = ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"], "SIEMENS"
        ds.ImagePositionPatient = [f"{x:.10g}" for x in np.array((-30.0, 20.0, 5.0)) - beyond]
        ds.SpacingBetweenSlices, ds.AcquisitionNumber, ds.AcquisitionMatrix = str(GAP), str(volume + 1), [0, 12, 16, 0]
        private = ds.private_block(0x0019, "SIEMENS MR HEADER", create=True)
        private.add_new(0x0A, "US", count)
        header = csa(kind, NumberOfImagesInMosaic=[count], SliceNormalVector=normal.round(8), ProtocolSliceNumber=[0])
        ds.private_block(0x0029, "SIEMENS CSA HEADER", create=True).add_new(0x10, "OB", header + bytes(len(header) % 2))
        if change is not None:
            change(ds, volume)

    return make(
        name, n=volumes, rows=across * TILE[0], columns=across * TILE[1], spacing=SPACING, orientation=orientation,
        pixels=picture, change=tags,
    )  # fmt: skip


def is_right(volume, count, orientation=AXIAL, against=False, number=0):
    normal = np.cross(orientation[:3], orientation[3:]) * GAP * (-1 if against else 1)
    values, origin, step = slices(count, number).T.astype(float), np.array((-30.0, 20.0, 5.0)), normal
    if against:  # slices are in the order along rows x columns, whatever the order in the picture
        values, origin, step = values[..., ::-1], origin + normal * (count - 1), -normal
    np.testing.assert_array_equal(volume.array, values)
    affine = affine_ras(orientation, SPACING, step, origin)
    np.testing.assert_allclose(volume.geometry.affine, affine, atol=1e-4)


@pytest.mark.parametrize("against", [False, True], ids=["along", "against"])
@pytest.mark.parametrize("orientation", [AXIAL, SAGITTAL, CORONAL, OBLIQUE])
@pytest.mark.parametrize("count", [1, 4, 7, 36])
def test_a_mosaic_is_taken_apart(dicom_series, count, orientation, against):
    volume = medldm.read(make_mosaic(dicom_series, count=count, orientation=orientation, against=against))
    if count > 1:
        is_right(volume, count, orientation, against)
        assert volume.history[0]["tiled"] is True and "step_assumed" not in volume.history[0]
    else:
        np.testing.assert_array_equal(volume.array, slices(1).T)


@pytest.mark.parametrize("kind", [CSA2, CSA1], ids=["CSA2", "CSA1"])
def test_either_form_of_the_csa_header_is_read(dicom_series, kind):
    is_right(medldm.read(make_mosaic(dicom_series, against=True, kind=kind)), 7, against=True)


@pytest.mark.parametrize("against", [False, True], ids=["along", "against"])
@pytest.mark.parametrize("orientation", [AXIAL, OBLIQUE])
def test_a_made_mosaic_agrees_with_dcm2niix(dicom_series, tmp_path, orientation, against):
    folder = make_mosaic(dicom_series, orientation=orientation, against=against)
    volume = medldm.read(folder)
    theirs = converted(folder, tmp_path / "out").reorient("".join(volume.geometry.axcodes))
    assert np.abs(theirs.geometry.corners() - volume.geometry.corners()).max() < 1e-3
    np.testing.assert_array_equal(theirs.array, volume.array)


@pytest.mark.parametrize("name", ["interleaved", "head_to_feet"])
def test_real_mosaics_agree_with_their_reference_and_dcm2niix(data_dir, tmp_path, name):
    folder = data_dir / "dicom" / "mr_mosaic_siemens" / name
    if not folder.is_dir():
        pytest.skip("no real mosaics")
    with pytest.raises(AmbiguousInput, match="AcquisitionNumber=1 .1 axial mosaics, 384x384.; AcquisitionNumber=2 "):
        medldm.read(folder)
    image = nib.load(folder.with_name(f"{name}.nii.gz"))
    for time in (0, 1):
        volume = medldm.read(folder, select={"AcquisitionNumber": str(time + 1)})
        reference = medldm.Volume(np.asarray(image.dataobj[..., time]), medldm.Geometry(image.affine, image.shape[:3]))
        alone = tmp_path / f"in{time}"  # dcm2niix takes the other files of a folder, too
        alone.mkdir()
        shutil.copy(folder / f"000{time + 1}.dcm", alone)
        for number, theirs in enumerate((reference, converted(alone, tmp_path / f"out{time}"))):
            theirs = theirs.reorient("".join(volume.geometry.axcodes))
            assert np.abs(theirs.geometry.corners() - volume.geometry.corners()).max() < 1e-3, number
            np.testing.assert_array_equal(theirs.array, volume.array)


def test_several_mosaics_are_volumes_to_choose_from(dicom_series):
    folder = make_mosaic(dicom_series, volumes=3)
    with pytest.raises(AmbiguousInput, match="3 volumes: AcquisitionNumber=1 .*AcquisitionNumber=3 "):
        medldm.read(folder)
    for number in range(3):
        is_right(medldm.read(folder, select={"AcquisitionNumber": str(number + 1)}), 7, number=number)


@pytest.mark.parametrize("keyword", ["EchoTime", "InstanceNumber", "AcquisitionTime", ""])
def test_mosaics_are_told_apart_by_whatever_differs(dicom_series, keyword):
    def change(ds, k):
        ds.AcquisitionNumber = ds.InstanceNumber = "1"
        if keyword:
            setattr(ds, keyword, str(101500 + 7 * k) if keyword == "AcquisitionTime" else str(k + 3))

    folder = make_mosaic(dicom_series, volumes=2, change=change)
    with pytest.raises(AmbiguousInput, match=f"2 volumes: {keyword or 'Stack'}="):
        medldm.read(folder)
    values = {"AcquisitionTime": "101507", "": "2"}.get(keyword, "4")
    is_right(medldm.read(folder, select={keyword or "Stack": values}), 7, number=1)


def without(ds, group, creator, offset):
    del ds[ds.private_block(group, creator)[offset].tag]


def other_csa(ds, **tags):
    ds.private_block(0x0029, "SIEMENS CSA HEADER")[0x10].value = csa(**tags)


def no_private(ds, k):
    ds.remove_private_tags()


BAD = {
    "no private attributes": (no_private, GeometryError, "mosaic of an unknown number"),
    "no number": (
        lambda ds, k: (without(ds, 0x19, "SIEMENS MR HEADER", 0x0A), other_csa(ds, SliceNormalVector=[0, 0, 1])),
        GeometryError, "mosaic of an unknown number",
    ),
    "no CSA header": (lambda ds, k: without(ds, 0x29, "SIEMENS CSA HEADER", 0x10), GeometryError, "in which order"),
    "two numbers": (
        lambda ds, k: other_csa(ds, NumberOfImagesInMosaic=[8], SliceNormalVector=[0, 0, 1]),
        GeometryError, "7 or 8",
    ),
    "a normal askew": (
        lambda ds, k: other_csa(ds, NumberOfImagesInMosaic=[7], SliceNormalVector=[0, 1, 0]),
        GeometryError, "angles",
    ),
    "not a multiple": (
        setting(Rows=47, PixelData=bytes(2 * 47 * 36)), GeometryError, "7 slices tiled in 36 x 47",
    ),
    "no distance": (setting(SpacingBetweenSlices=None), GeometryError, "SpacingBetweenSlices"),
    "distance 0": (setting(SpacingBetweenSlices="0"), GeometryError, "SpacingBetweenSlices 0"),
    "a secondary capture": (setting(SOPClassUID="1.2.840.10008.5.1.4.1.1.7"), UnsupportedInput, "MOSAIC"),
    "a damaged CSA header": (
        lambda ds, k: other_csa(ds, NumberOfImagesInMosaic=["x"], SliceNormalVector=[0, 0, 1]),
        InputError, "CSA header",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_mosaic_that_does_not_say_how_is_refused(dicom_series, case):
    change, error, reason = BAD[case]
    with pytest.raises(error, match=reason) as caught:
        medldm.read(make_mosaic(dicom_series, change=change))
    assert "dcm2niix" in str(caught.value) or case in ("no distance",)
    assert CANARY not in str(caught.value) and "\n" not in str(caught.value)


def test_a_mosaic_whose_image_type_was_rewritten_is_still_one(dicom_series):
    change = setting(ImageType=["DERIVED", "SECONDARY", "OTHER"])
    is_right(medldm.read(make_mosaic(dicom_series, change=change)), 7)

    def csa_alone(ds, k):
        change(ds, k)
        without(ds, 0x19, "SIEMENS MR HEADER", 0x0A)

    is_right(medldm.read(make_mosaic(dicom_series, "csa", change=csa_alone)), 7)


def test_an_mr_wider_than_any_magnet_is_no_slice(dicom_series):
    folder = dicom_series(n=1, rows=384, columns=384, spacing=(3.2, 3.2), pixels=lambda k: np.ones((384, 384), "u2"))
    with pytest.raises(GeometryError, match="1228.8 x 1228.8 mm.*tiled"):
        medldm.read(folder)


def test_a_csa_header_too_long_to_be_kept_counts(dicom_series):
    def change(ds, k):
        element = ds.private_block(0x0029, "SIEMENS CSA HEADER")[0x10]
        element.value += bytes(40_000)

    is_right(medldm.read(make_mosaic(dicom_series, against=True, change=change)), 7, against=True)


def test_compressed_and_lazily_read_mosaics(dicom_series):
    folder = make_mosaic(dicom_series)
    scan = medldm.open_lazily(folder)
    np.testing.assert_array_equal(scan.plane(6), slices(7)[6].T)
    is_right(scan.load(), 7)
    rewrite(folder / "a000.dcm", lambda ds: ds.compress(RLELossless, generate_instance_uid=False))
    is_right(medldm.read(folder), 7)


def test_a_series_derived_from_a_mosaic_is_one_of_slices(dicom_series, tmp_path):
    volume = medldm.read(make_mosaic(dicom_series, against=True))
    medldm.write(volume, tmp_path / "out", "dicom")
    again = medldm.read(tmp_path / "out")
    assert again.geometry.isclose(volume.geometry, 1e-3) and len(list((tmp_path / "out").iterdir())) == 7
    np.testing.assert_array_equal(again.array, volume.array)
    ds = pydicom.dcmread(tmp_path / "out" / "0001.dcm")
    assert "MOSAIC" not in ds.ImageType and (ds.Rows, ds.Columns) == TILE
    assert len(ds.SourceImageSequence) == 1 and "ReferencedFrameNumber" not in ds.SourceImageSequence[0]


def make_vframe(make, count=7, backwards=False, change=None):
    across = int(np.ceil(np.sqrt(count)))
    down = int(np.ceil(count / across))

    def picture(_):
        whole = np.zeros((down, TILE[0], across, TILE[1]), np.uint16)
        for k, image in enumerate(slices(count)):
            whole[k // across, :, k % across] = image
        return whole.reshape(down * TILE[0], across * TILE[1])

    def tags(ds, number):
        ds.ImageType, ds.Manufacturer = ["ORIGINAL", "PRIMARY", "M", "VFRAME"], "UIH"
        del ds.ImagePositionPatient
        private = ds.private_block(0x0065, "Image Private Header", create=True)
        private.add_new(0x50, "DS", str(count))
        items = []
        for k in range(count):
            item = Dataset()
            item.ImagePositionPatient = ["-30", "20", f"{5 + GAP * (count - 1 - k if backwards else k):.6g}"]
            items.append(item)
        private.add_new(0x51, "SQ", Sequence(items))
        if change is not None:
            change(ds, number)

    size = {"rows": down * TILE[0], "columns": across * TILE[1], "spacing": SPACING}
    return make("vframe", n=1, pixels=picture, change=tags, **size)


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("count", [4, 6, 7])
def test_a_vframe_is_taken_apart(dicom_series, count, backwards):
    volume = medldm.read(make_vframe(dicom_series, count, backwards))
    values = slices(count)[::-1] if backwards else slices(count)
    np.testing.assert_array_equal(volume.array, values.T)
    np.testing.assert_allclose(volume.geometry.affine, affine_ras(AXIAL, SPACING, (0, 0, GAP)), atol=1e-4)


def as_implicit(path):
    """Without the VRs, as archives hand files on: those of private attributes are lost then."""
    ds = pydicom.dcmread(path)
    ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    ds.save_as(path, implicit_vr=True, little_endian=True)


def test_private_attributes_without_their_vr_are_read(dicom_series):
    vframe, mosaic = make_vframe(dicom_series), make_mosaic(dicom_series, against=True)
    for folder in (vframe, mosaic):
        as_implicit(folder / "a000.dcm")
    np.testing.assert_array_equal(medldm.read(vframe).array, slices(7).T)
    is_right(medldm.read(mosaic), 7, against=True)


@pytest.mark.parametrize("case", ["no sequence", "too few", "no private attributes"])
def test_a_vframe_without_its_places_is_refused(dicom_series, case):
    def change(ds, k):
        block = ds.private_block(0x0065, "Image Private Header")
        if case == "too few":
            block[0x51].value.pop()
        elif case == "no sequence":
            del ds[block[0x51].tag]
        else:
            ds.remove_private_tags()

    with pytest.raises(GeometryError, match="VFRAME.*dcm2niix"):
        medldm.read(make_vframe(dicom_series, change=change))


def pepolar(mode, name="research/ABCD/epi_pepolar"):
    def change(ds, k):
        ds.Manufacturer = "GE MEDICAL SYSTEMS"
        block = ds.private_block(0x0019, "GEMS_ACQU_01", create=True)
        block.add_new(0x9C, "LO", name)
        if mode is not None:
            block.add_new(0xB3, "DS", str(mode))

    return change


@pytest.mark.parametrize("mode", [1, 2, 3, None])
def test_images_stored_upside_down_without_a_word_are_refused(dicom_series, mode):
    with pytest.raises(UnsupportedInput, match="epi_pepolar.*upside down.*dcm2niix"):
        medldm.read(dicom_series(change=pepolar(mode)))


def test_forward_images_of_that_sequence_and_other_sequences_are_read(dicom_series):
    for name, change in (("forward", pepolar(0)), ("epi", pepolar(2, "epi"))):
        volume = medldm.read(dicom_series(name, change=change))
        np.testing.assert_allclose(volume.geometry.affine, affine_ras(), atol=1e-6)
    with pytest.raises(UnsupportedInput, match="epi_pepolar"):
        medldm.read(dicom_series("named", change=setting(SequenceName="epi_pepolar")))
