"""Files, folders and archives: B01 to B08, B31 to B33, B35."""

from __future__ import annotations

import gzip
import io
import shutil
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
from pydicom.uid import DeflatedExplicitVRLittleEndian

import medldm
from medldm.errors import (
    AmbiguousInput,
    EmptyInput,
    LimitError,
    NotImage,
    PixelError,
    UnsafeInput,
)
from tests.dicom_maker import make_series, stored_values
from tests.hard_inputs_cases import VALUES, case, equal, example, refused, setting, with_file


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
