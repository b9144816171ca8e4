"""Bad and hard inputs by number: each function builds its input below `tmp` and asserts what reading does.

B01 to B35 are DICOM and zip, B36 to B40 NIfTI. `data` is the folder of real series. Used by
`test_hard_inputs.py`, and by `benchmarks/hard_inputs.py` for time and memory.
"""

from __future__ import annotations

import gzip
import io
import re
import shutil
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless

import medldm
from medldm.errors import (
    AmbiguousInput,
    EmptyInput,
    GeometryError,
    InputError,
    LimitError,
    NotImage,
    PixelError,
    UnsafeInput,
    UnsupportedInput,
)
from tests.dicom_maker import CORONAL, OBLIQUE, SAGITTAL, affine_ras, make_series, stored_values

Case = Callable[[Path, Path], None]
CASES: dict[str, Case] = {}
VALUES = np.stack([stored_values(12, 10, k).T for k in range(6)], axis=-1).astype(np.float64)


def case(function: Case) -> Case:
    CASES[function.__name__.split("_")[0].upper()] = function
    return function


def refused(path: Path, error: type[InputError], reason: str = "", **choice: Any) -> None:
    """Assert that reading raises just this kind of error, in one line, with the reason in it."""
    try:
        medldm.read(path, **choice)
    except InputError as failure:
        assert type(failure) is error, f"{type(failure).__name__}: {failure}"
        assert re.search(reason, str(failure)), str(failure)
        assert "\n" not in str(failure)
        return
    raise AssertionError(f"{path.name} was read")


def equal(path: Path, affine: Any = None, values: Any = VALUES, **choice: Any) -> medldm.Volume:
    """Assert that a series reads to these values at this place (1e-3 mm)."""
    volume = medldm.read(path, **choice)
    np.testing.assert_allclose(volume.geometry.affine, affine_ras() if affine is None else affine, atol=1e-3)
    np.testing.assert_allclose(volume.array, values, rtol=1e-6, atol=1e-4)
    return volume


def setting(**attributes: Any) -> Callable[[Any, int], None]:
    """Set attributes of each slice; None deletes one, a function gets the slice's number."""

    def change(ds: Any, k: int) -> None:
        for keyword, value in attributes.items():
            new = value(k) if callable(value) else value
            if new is not None:
                setattr(ds, keyword, new)
            elif keyword in ds:
                delattr(ds, keyword)

    return change


def one(k: int, **attributes: Any) -> Callable[[Any, int], None]:
    """The same for slice k alone."""
    change = setting(**attributes)
    return lambda ds, number: change(ds, number) if number == k else None


def example(name: str) -> Path:
    return Path(get_testdata_file(name, download=False))


def with_file(tmp: Path, name: str, content: bytes) -> Path:
    tmp.mkdir(parents=True, exist_ok=True)
    (tmp / name).write_bytes(content)
    return tmp / name


def at(z: float) -> list[str]:
    return ["-30", "20", f"{z:.6g}"]


# --- files and folders ---


@case
def b01_nothing_there(tmp: Path, data: Path) -> None:
    (tmp / "empty").mkdir()
    refused(tmp / "empty", EmptyInput)
    with_file(tmp / "texts", "a.txt", b"text")
    refused(tmp / "texts", EmptyInput)


@case
def b02_other_files_beside(tmp: Path, data: Path) -> None:
    folder = make_series(tmp / "G")
    for name, content in (("readme.txt", b"text"), ("empty.dcm", b""), ("picture.png", b"\x89PNG\r\n")):
        (folder / name).write_bytes(content)
    assert sum(equal(folder).history[0]["skipped"].values()) == 3


@case
def b03_dicomdir(tmp: Path, data: Path) -> None:
    folder = make_series(tmp / "G")
    shutil.copy(data / "dicom/not_images/DIRFILE", folder / "DICOMDIR")
    equal(folder)
    alone = tmp / "alone"
    alone.mkdir()
    shutil.copy(data / "dicom/not_images/DIRFILE", alone / "DICOMDIR")
    refused(alone, NotImage, "Directory")


@case
def b04_no_preamble(tmp: Path, data: Path) -> None:
    whole = medldm.read(example("CT_small.dcm"))
    bare = with_file(tmp / "bare", "a.dcm", example("CT_small.dcm").read_bytes()[132:])
    np.testing.assert_array_equal(medldm.read(bare).array, whole.array)
    assert medldm.read(bare).geometry.isclose(whole.geometry)
    folder = make_series(tmp / "G")
    with_file(folder, "text.dcm", b"\x08\x00 text that is no DICOM at all, however it starts" * 9)
    equal(folder)


@case
def b05_cut_at_the_end(tmp: Path, data: Path) -> None:
    folder = make_series(tmp / "G")
    (folder / "a003.dcm").write_bytes((folder / "a003.dcm").read_bytes()[:-100])
    refused(folder, PixelError, "a003.dcm")
    refused(example("MR_truncated.dcm"), PixelError, "MR_truncated.dcm")


@case
def b06_wrong_length(tmp: Path, data: Path) -> None:
    def longer(extra: int) -> Callable[[Any, int], None]:
        return lambda ds, k: setattr(ds["PixelData"], "_value", ds.PixelData + bytes(extra)) if k == 2 else None

    refused(make_series(tmp / "long", change=longer(1000)), PixelError, "a002.dcm")
    folder = make_series(tmp / "cut")
    at_rows = (folder / "a002.dcm").read_bytes().index(b"\x28\x00\x10\x00US")
    for length in (at_rows + 2, at_rows + 60):
        (folder / "a002.dcm").write_bytes((folder / "a002.dcm").read_bytes()[:length])
        refused(folder, PixelError, "a002.dcm")
    refused(with_file(tmp / "head", "a.dcm", example("CT_small.dcm").read_bytes()[:2000]), PixelError, "a.dcm")


@case
def b07_two_series(tmp: Path, data: Path) -> None:
    folder = make_series(tmp / "G", series="1.2.3.4", order=range(0, 12, 2))
    make_series(folder, series="1.2.3.5", order=range(1, 12, 2), pixels=lambda k: stored_values(12, 10, k) + 7)
    refused(folder, AmbiguousInput, r"1\.2\.3\.4 .*1\.2\.3\.5 ")
    equal(folder, series="1.2.3.4")
    equal(folder, values=VALUES + 7, series="1.2.3.5")


@case
def b08_copies(tmp: Path, data: Path) -> None:
    folder = make_series(tmp / "same")
    ds = pydicom.dcmread(folder / "a002.dcm")
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4.99"
    ds.save_as(folder / "copy.dcm")
    assert equal(folder).history[0]["copies_dropped"] == 1
    ds.PixelData = bytes(len(ds.PixelData))
    ds.save_as(folder / "copy.dcm")
    refused(folder, AmbiguousInput, "same place")
    refused(data / "dicom/ct_same_position_siemens", AmbiguousInput)


# --- geometry ---


@case
def b09_missing_slice(tmp: Path, data: Path) -> None:
    folder = make_series(tmp / "G")
    (folder / "a003.dcm").unlink()
    refused(folder, GeometryError, r"missing.*-30\.00\\20\.00\\14\.00 mm")


@case
def b10_uneven_slices(tmp: Path, data: Path) -> None:
    folder = data / "dicom/ct_tilt_nonuniform_ge"
    refused(folder, GeometryError, "1.081 to 6.999")
    volume = medldm.read(folder, resample_nonuniform=True)
    assert len(volume.history[0]["resampled_from_mm"]) == 3
    # exact where the values run linearly with the place
    places = [0, 2, 5, 6.5, 10, 12]
    ramp = make_series(
        tmp / "ramp",
        change=setting(ImagePositionPatient=lambda k: at(5 + places[k])),
        pixels=lambda k: np.full((12, 10), int(100 * places[k]), np.uint16),
    )
    refused(ramp, GeometryError)
    even = medldm.read(ramp, resample_nonuniform=True)
    z = even.geometry.to_world(np.array([[0, 0, k] for k in range(even.geometry.shape[2])]))[:, 2]
    np.testing.assert_allclose(even.array[0, 0], 100 * (z - 5), rtol=1e-5, atol=1e-2)
    assert (z[0], z[-1]) == (5, 17)


@case
def b11_one_slice_moved(tmp: Path, data: Path) -> None:
    def moved(by: float) -> Callable[[Any, int], None]:
        return one(2, ImagePositionPatient=lambda k: at(5 + 3 * k + by))

    medldm.read(make_series(tmp / "little", change=moved(0.02)))
    refused(make_series(tmp / "much", change=moved(0.3)), GeometryError)


@case
def b12_one_slice(tmp: Path, data: Path) -> None:
    volume = equal(make_series(tmp / "G", n=1), values=VALUES[..., :1])
    assert volume.history[0]["step_assumed"] is True
    refused(make_series(tmp / "thin", n=1, change=setting(SliceThickness=None)), GeometryError, "SliceThickness")
    assert medldm.read(data / "dicom/pt_single_slices/1.dcm").geometry.shape == (168, 168, 1)
    refused(data / "dicom/pt_single_slices", AmbiguousInput, "2 series")


@case
def b13_order_of_files(tmp: Path, data: Path) -> None:
    equal(make_series(tmp / "reversed", order=[5, 4, 3, 2, 1, 0]))
    against = make_series(tmp / "against", step=(0, 0, -3), origin=(-30, 20, 20))
    equal(against, values=VALUES[..., ::-1])
    volume = medldm.read(data / "dicom/ct_enhanced/perfusion")
    assert volume.geometry.affine[2, 2] > 0 or volume.geometry.axcodes[2] == "I"


@case
def b14_instance_numbers(tmp: Path, data: Path) -> None:
    rules: dict[str, Any] = {"absent": None, "ones": "1", "reversed": lambda k: str(9 - k)}
    for name, rule in (rules | {"shuffled": lambda k: str([3, 1, 6, 2, 5, 4][k])}).items():
        equal(make_series(tmp / name, change=setting(InstanceNumber=rule)))


@case
def b15_tilt(tmp: Path, data: Path) -> None:
    folder = data / "dicom/ct_tilt_philips_phantom"
    volume = medldm.read(folder)
    np.testing.assert_allclose(volume.geometry.affine[:3, 2], (0, 0, 2.5), atol=1e-3)
    assert volume.geometry.is_sheared and volume.history[0]["sheared"] is True
    for name, tilt in (("flipped", "18.5"), ("absent", None)):
        for file in folder.iterdir():
            ds = pydicom.dcmread(file)
            setting(GantryDetectorTilt=tilt)(ds, 0)
            (tmp / name).mkdir(exist_ok=True)
            ds.save_as(tmp / name / file.name)
        assert medldm.read(tmp / name).geometry.isclose(volume.geometry, 1e-9)


@case
def b16_orientations(tmp: Path, data: Path) -> None:
    for name, iop in (("sagittal", SAGITTAL), ("coronal", CORONAL), ("oblique", OBLIQUE)):
        equal(make_series(tmp / name, orientation=iop), affine_ras(iop))
    volume = medldm.read(data / "dicom/mr_philips_mprage_classic")
    first = min(
        (pydicom.dcmread(f, stop_before_pixels=True) for f in (data / "dicom/mr_philips_mprage_classic").iterdir()),
        key=lambda ds: np.linalg.norm(np.array(ds.ImagePositionPatient) * (-1, -1, 1) - volume.geometry.affine[:3, 3]),
    )
    np.testing.assert_allclose(np.array(first.ImagePositionPatient) * (-1, -1, 1), volume.geometry.affine[:3, 3])


@case
def b17_no_place(tmp: Path, data: Path) -> None:
    for keyword in ("ImageOrientationPatient", "ImagePositionPatient"):
        folder = make_series(tmp / keyword, n=1, change=setting(**{keyword: None}))
        refused(folder, GeometryError, keyword)
    sc = make_series(
        tmp / "sc",
        n=1,
        change=setting(
            SOPClassUID="1.2.840.10008.5.1.4.1.1.7", ImageOrientationPatient=None, ImagePositionPatient=None
        ),
    )
    refused(sc, GeometryError)


@case
def b18_no_spacing(tmp: Path, data: Path) -> None:
    dx = setting(SOPClassUID="1.2.840.10008.5.1.4.1.1.1.1", PixelSpacing=None, ImagerPixelSpacing=["0.14", "0.14"])
    refused(make_series(tmp / "dx", n=1, change=dx), GeometryError, "detector")
    flat = setting(
        SOPClassUID="1.2.840.10008.5.1.4.1.1.1.1",
        PixelSpacing=None,
        ImagerPixelSpacing=["0.14", "0.15"],
        ImagePositionPatient=None,
        ImageOrientationPatient=None,
    )
    folder = make_series(tmp / "flat", n=1, change=flat)
    refused(folder, GeometryError)
    volume = medldm.read(folder, assume_affine=True)
    assert volume.geometry.spacing[:2] == (0.15, 0.14) and volume.history[0]["affine_assumed"] is True
    refused(make_series(tmp / "none", change=setting(PixelSpacing=None)), GeometryError, "PixelSpacing")
    for number, value in enumerate((["0", "1"], ["-1", "1"])):
        refused(make_series(tmp / str(number), change=setting(PixelSpacing=value)), GeometryError, "PixelSpacing")
    refused(_with_text(make_series(tmp / "nan", spacing=("0.55", "2.25")), b"0.55", b"NaN "), GeometryError)


def _with_text(folder: Path, old: bytes, new: bytes) -> Path:
    """Overwrite a value in each file by another of the same length, as no library would write it."""
    for file in folder.iterdir():
        content = file.read_bytes()
        assert old in content
        file.write_bytes(content.replace(old, new))
    return folder


@case
def b19_orientation_off(tmp: Path, data: Path) -> None:
    bad = setting(ImageOrientationPatient=["1", "0", "0", "0.3", "0.9", "0"])
    refused(make_series(tmp / "bad", change=bad), GeometryError, "ImageOrientationPatient")
    rounded = setting(ImageOrientationPatient=["1", "0.0001", "0", "0", "0.9999", "0"])
    medldm.read(make_series(tmp / "rounded", change=rounded))


@case
def b20_localizer(tmp: Path, data: Path) -> None:
    folder = data / "dicom/mr_localizer_mixed_philips"
    refused(folder, AmbiguousInput, "2 volumes: Stack=1 .*Stack=2 ")
    assert medldm.read(folder, select={"Stack": "2"}).geometry.shape == (288, 288, 2)


@case
def b21_echoes_times_b_values(tmp: Path, data: Path) -> None:
    echoes = data / "dicom/mr_multiecho_siemens"
    refused(echoes, AmbiguousInput, "EchoTime=5.19 .*EchoTime=7.65")
    assert medldm.read(echoes, select={"EchoTime": "5.19"}).geometry.shape[2] == 4
    refused(echoes, InputError, "no image with EchoTime=6", select={"EchoTime": "6"})
    directions = data / "dicom/mr_4d_ge_dti"
    refused(directions, AmbiguousInput, "DiffusionBValue=0.*DiffusionBValue=1000")
    assert medldm.read(directions, select={"DiffusionBValue": "1000"}).geometry.shape[2] == 4

    def pair(keyword: str, first: Any, second: Any) -> Path:
        folder = make_series(tmp / keyword, change=setting(**{keyword: first}))
        later = setting(SOPInstanceUID=lambda k: f"1.2.3.4.5.{k}", **{keyword: second})
        return make_series(folder, prefix="b", change=later, pixels=lambda k: stored_values(12, 10, k) + 7)

    parts = (["ORIGINAL", "PRIMARY", "M"], ["ORIGINAL", "PRIMARY", "P"])
    for keyword, first, second, value in (
        ("TemporalPositionIdentifier", "1", "2", "2"),
        ("TriggerTime", "10", "250.5", "250.5"),
        ("ImageType", *parts, "ORIGINAL\\PRIMARY\\P"),
    ):
        folder = pair(keyword, first, second)
        refused(folder, AmbiguousInput, f"2 volumes: {keyword}=")
        equal(folder, values=VALUES + 7, select={keyword: value})


@case
def b22_enhanced(tmp: Path, data: Path) -> None:
    pair = data / "dicom/ct_enhanced/legacy_pair"
    classic, multiframe = medldm.read(pair / "classic"), medldm.read(pair / "multiframe")
    np.testing.assert_array_equal(multiframe.array, classic.array)
    assert multiframe.geometry.isclose(classic.geometry, 1e-3) and multiframe.unit == classic.unit == "HU"
    assert medldm.read(data / "dicom/ct_enhanced/perfusion").geometry.shape == (512, 512, 2)
    file = next(f for f in (data / "dicom/mr_enhanced_philips_asl").iterdir())
    volume, ds = medldm.read(file), pydicom.dcmread(file)
    frame = 7
    group = ds.PerFrameFunctionalGroupsSequence[frame]
    place = np.array(group.PlanePositionSequence[0].ImagePositionPatient) * (-1, -1, 1)
    k = int(round(float(volume.geometry.to_voxel(place)[2])))
    np.testing.assert_allclose(volume.geometry.to_world([0, 0, k]), place, atol=1e-3)
    rescale = group.PixelValueTransformationSequence[0]
    wanted = ds.pixel_array[frame] * float(rescale.RescaleSlope) + float(rescale.RescaleIntercept)
    np.testing.assert_allclose(volume.array[..., k], wanted.T, rtol=1e-6)


# --- pixels ---


@case
def b23_slopes(tmp: Path, data: Path) -> None:
    slopes = 0.5 + 0.25 * np.arange(6)
    each = setting(RescaleSlope=lambda k: str(slopes[k]), RescaleIntercept="0")
    equal(make_series(tmp / "each", modality="PT", change=each), values=VALUES * slopes)
    equal(make_series(tmp / "none", modality="PT", change=setting(RescaleSlope=None)))
    refused(make_series(tmp / "zero", change=setting(RescaleSlope="0")), PixelError, "RescaleSlope")
    nan = _with_text(make_series(tmp / "nan", change=setting(RescaleSlope="1.55")), b"1.55", b"NaN ")
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


@case
def b31_no_size(tmp: Path, data: Path) -> None:
    refused(make_series(tmp / "rows", change=setting(Rows=0)), PixelError)
    refused(make_series(tmp / "frames", change=setting(NumberOfFrames="0")), PixelError, "NumberOfFrames")


@case
def b32_bombs(tmp: Path, data: Path) -> None:
    ds = pydicom.dcmread(example("MR_small_RLE.dcm"))
    ds.Rows = ds.Columns = 30000
    ds.save_as(tmp / "forged.dcm")
    refused(tmp / "forged.dcm", LimitError, "30000")
    folder = make_series(tmp / "deflated", n=1)
    ds = pydicom.dcmread(folder / "a000.dcm")
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    ds.save_as(folder / "a000.dcm")
    content = (folder / "a000.dcm").read_bytes()
    start = content.index(b"\x02\x00\x00\x00UL\x04\x00") + 8
    start += 4 + int.from_bytes(content[start : start + 4], "little")
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    body = packer.compress(zlib.decompress(content[start:], -15))
    for _ in range(400):
        body += packer.compress(bytes(2**20))
    (folder / "a000.dcm").write_bytes(content[:start] + body + packer.flush())
    refused(folder, LimitError, "inflate")
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=9) as file:
        header = nib.Nifti1Header()
        header.set_data_shape((30000, 30000, 30))
        header.set_sform(np.eye(4), 1)
        file.write(header.binaryblock + bytes(4))
        for _ in range(200):
            file.write(bytes(2**20))
    refused(with_file(tmp, "bomb.nii.gz", packed.getvalue()), LimitError)


@case
def b33_zip(tmp: Path, data: Path) -> None:
    before = {p.name for p in tmp.parent.iterdir()}

    def packed(name: str, *entries: tuple[Any, bytes]) -> Path:
        with zipfile.ZipFile(tmp / name, "w", zipfile.ZIP_DEFLATED) as archive:
            for entry, content in entries:
                archive.writestr(entry, content)
        return tmp / name

    refused(packed("up.zip", ("../x", b"x")), UnsafeInput)
    refused(packed("root.zip", ("/x", b"x")), UnsafeInput)
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    refused(packed("link.zip", (link, b"/etc/hosts")), UnsafeInput)
    refused(packed("ratio.zip", ("x", bytes(2**24))), UnsafeInput)
    refused(packed("many.zip", *((str(n), b"") for n in range(10**5))), UnsafeInput)
    assert {p.name for p in tmp.parent.iterdir()} == before
    files = [(f.name, f.read_bytes()) for f in make_series(tmp / "G").iterdir()]
    equal(packed("good.zip", *files))


@case
def b34_not_finite(tmp: Path, data: Path) -> None:
    huge = setting(ImagePositionPatient=lambda k: at(1e12 + k))
    refused(make_series(tmp / "huge", change=huge), GeometryError)
    for number, text in enumerate((b"NaN ", b"inf ")):
        place = setting(ImagePositionPatient=lambda k: ["7.77", "20", str(5 + 3 * k)])
        refused(_with_text(make_series(tmp / f"p{number}", change=place), b"7.77", text), GeometryError)
        axis = setting(ImageOrientationPatient=["1", "0", "0", "0", "1.00", "0"])
        refused(_with_text(make_series(tmp / f"o{number}", change=axis), b"1.00", text), GeometryError)
    image = nib.Nifti1Image(np.zeros((2, 3, 4), np.float32), np.eye(4))
    for number, value in enumerate((np.nan, np.inf, 1e12)):
        image.header["sform_code"], image.header["qform_code"] = 1, 0
        image.header["srow_x"] = (value, 0, 0, 0)
        content = image.header.binaryblock + bytes(4) + np.zeros(24, np.float32).tobytes()
        refused(with_file(tmp, f"{number}.nii", content), GeometryError)


@case
def b35_no_images(tmp: Path, data: Path) -> None:
    folder = make_series(tmp / "G")
    for name, kind in (
        ("test-SR.dcm", "SR"),
        ("rtstruct.dcm", "RT Structure Set"),
        ("rtdose.dcm", "RT Dose"),
        ("waveform_ecg.dcm", "ECG|Waveform"),
    ):
        refused(example(name), NotImage, kind)
        shutil.copy(example(name), folder / name)
    ds = pydicom.dcmread(folder / "a000.dcm")
    for keyword in ("Rows", "Columns", "PixelData"):
        delattr(ds, keyword)
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.104.1"
    ds.save_as(tmp / "pdf.dcm")
    refused(tmp / "pdf.dcm", NotImage, "PDF")
    shutil.copy(tmp / "pdf.dcm", folder / "pdf.dcm")
    for name in ("sr.dcm", "seg.dcm", "rwvm.dcm"):
        refused(data / "dicom/not_images" / name, NotImage)
    assert equal(folder).history[0]["skipped"] == {"not_image": 5}


# --- NIfTI ---


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
