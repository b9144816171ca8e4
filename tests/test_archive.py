"""Zip files: read like the folder in them, refused where they could do harm, nothing left behind."""

import stat
import tempfile
import zipfile

import numpy as np
import pytest

import medldm
from medldm.errors import EmptyInput, LimitError, PixelError, UnsafeInput, UnsupportedInput
from medldm.io.dicom.reader import read_each


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """Temporary files of the code under test go here, and have to be gone at the end."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


def zipped(path, names, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in names.items():
            archive.writestr(name, content)
    return path


def test_a_zipped_series_reads_as_its_folder(dicom_series, tmp_path):
    folder = dicom_series()
    packed = zipped(tmp_path / "scan.zip", {f"deep/{f.name}": f.read_bytes() for f in folder.iterdir()})
    one, other = medldm.read(folder), medldm.read(packed)
    np.testing.assert_array_equal(other.array, one.array)
    assert other.geometry.isclose(one.geometry, 1e-9) and other.history[0]["archive"] == "zip"
    found = list(read_each(packed))
    assert len(found) == 1 and len(found[0].files) == 6
    np.testing.assert_array_equal(found[0].volume.array, one.array)
    medldm.write(other, tmp_path / "derived")  # the source outlives the temporary files


def test_a_zipped_nifti_is_read(dicom_series, tmp_path):
    volume = medldm.read(dicom_series())
    medldm.write(volume, tmp_path / "scan.nii.gz")
    packed = zipped(tmp_path / "scan.zip", {"scan.nii.gz": (tmp_path / "scan.nii.gz").read_bytes()})
    np.testing.assert_array_equal(medldm.read(packed).array, volume.array)


@pytest.mark.parametrize("name", ["../x.dcm", "a/../../x.dcm", "/x.dcm", "..\\x.dcm", "C:/x.dcm"])
def test_names_that_lead_outside_are_refused(tmp_path, name):
    with pytest.raises(UnsafeInput, match="leads outside"):
        medldm.read(zipped(tmp_path / "a.zip", {"good.dcm": b"x", name: b"x"}))


def test_links_bombs_and_crowds_are_refused(tmp_path):
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(UnsafeInput, match="link"):
        medldm.read(tmp_path / "link.zip")
    with pytest.raises(UnsafeInput, match=":1"):
        medldm.read(zipped(tmp_path / "bomb.zip", {"a": bytes(10**7)}))
    with pytest.raises(UnsafeInput, match="100000 files"):
        medldm.read(zipped(tmp_path / "crowd.zip", {str(n): b"" for n in range(10**5)}, zipfile.ZIP_STORED))


def test_limits_and_damage(dicom_series, tmp_path):
    files = {f.name: f.read_bytes() for f in dicom_series().iterdir()}
    packed = zipped(tmp_path / "scan.zip", files)
    with pytest.raises(LimitError, match="unpacked"):
        medldm.read(packed, max_bytes=1000)
    data = bytearray(packed.read_bytes())
    (tmp_path / "cut.zip").write_bytes(data[: len(data) // 2])
    with pytest.raises(PixelError, match="damaged archive"):
        medldm.read(tmp_path / "cut.zip")
    data[200] ^= 255
    (tmp_path / "flipped.zip").write_bytes(data)
    with pytest.raises(PixelError, match="damaged archive"):
        medldm.read(tmp_path / "flipped.zip")
    with pytest.raises(EmptyInput):
        medldm.read(zipped(tmp_path / "empty.zip", {}))


def test_an_encrypted_archive_is_named(tmp_path):
    packed = bytearray(zipped(tmp_path / "a.zip", {"a.dcm": b"x" * 50}, zipfile.ZIP_STORED).read_bytes())
    packed[packed.index(b"PK\x01\x02") + 8] |= 1
    packed[6] |= 1
    (tmp_path / "a.zip").write_bytes(packed)
    with pytest.raises(UnsupportedInput, match="encrypted"):
        medldm.read(tmp_path / "a.zip")


def test_a_member_without_a_name_is_a_damaged_archive(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("x", b"content")
    content = (tmp_path / "a.zip").read_bytes()
    at = content.rindex(b"PK\x01\x02")
    name_length = content[at + 28 : at + 30]
    assert name_length == b"\x01\x00"
    (tmp_path / "a.zip").write_bytes(content[: at + 46] + b"\0" + content[at + 47 :])
    with pytest.raises(PixelError, match="damaged archive"):
        medldm.read(tmp_path / "a.zip")
