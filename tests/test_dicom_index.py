"""Several series of one folder, read one after the other: always what is there now."""

import os
import shutil
import time

import numpy as np
import pydicom
import pytest

import medldm
from medldm.errors import GeometryError, InputError, PixelError
from medldm.io.choice import series_key
from medldm.io.dicom.reader import read_each
from medldm.io.survey import survey
from tests.dicom_maker import stored_values

HOUR = 3600


@pytest.fixture
def folder(dicom_series, monkeypatch):
    """Three series in one folder, looked at an hour later: only what rests is remembered."""
    for number in range(3):
        path = dicom_series(
            "all", prefix="abc"[number], series=f"1.2.3.{number}", n=3 + number, pixels=lambda k, n=number: values(k, n)
        )
    (path / "note.txt").write_text("no image")
    later(monkeypatch)
    return path


def later(monkeypatch):
    now = time.time_ns
    monkeypatch.setattr("medldm.io.dicom.files.time.time_ns", lambda: now() + HOUR * 10**9)


def values(k, number):
    return stored_values(12, 10, k) + np.uint16(1000 * number)


def read_all(folder):
    return [medldm.read(folder, f"1.2.3.{number}") for number in range(3)]


def test_every_series_is_the_one_that_is_read_from_a_folder_of_its_own(folder, dicom_series):
    for _ in range(2):
        for number, volume in enumerate(read_all(folder)):
            alone = dicom_series(f"{number}", series="1.2.3", n=3 + number, pixels=lambda k, n=number: values(k, n))
            wanted = medldm.read(alone)
            np.testing.assert_array_equal(volume.array, wanted.array)
            assert volume.geometry.isclose(wanted.geometry)
            others = sum(3 + n for n in range(3)) - (3 + number)
            assert volume.history[0]["skipped"] == {"not_dicom": 1, "other_series": others}
    assert read_all(folder)[1].history == medldm.read(folder, series_key("1.2.3.1")).history


def rewrite(path, **attributes):
    ds = pydicom.dcmread(path)
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    before = path.stat()
    ds.save_as(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # as copying tools leave it


def test_a_file_that_changes_is_read_anew_even_with_its_old_time(folder):
    read_all(folder)
    rewrite(folder / "b001.dcm", PixelData=bytes(240))
    assert (medldm.read(folder, "1.2.3.1").array[..., 1] == 0).all()
    rewrite(folder / "b002.dcm", ImagePositionPatient=["-30", "20", "99"])
    with pytest.raises(GeometryError, match="distances of 3.000 to 85.000 mm"):
        medldm.read(folder, "1.2.3.1")


def test_a_file_that_moves_to_another_series_is_missed_and_found(folder):
    read_all(folder)
    rewrite(folder / "c004.dcm", SeriesInstanceUID="1.2.3.0", ImagePositionPatient=["-30", "20", "14"])
    assert [v.geometry.shape[2] for v in read_all(folder)] == [4, 4, 4]


def test_files_that_come_and_go_are_noticed(folder):
    read_all(folder)
    (folder / "b003.dcm").unlink()
    assert medldm.read(folder, "1.2.3.1").geometry.shape[2] == 3
    shutil.copytree(folder, folder / "deeper")
    with pytest.raises(InputError, match="1.2.3.9"):
        medldm.read(folder, "1.2.3.9")
    assert medldm.read(folder, "1.2.3.1").history[0]["copies_dropped"] == 3
    shutil.rmtree(folder / "deeper")
    for file in folder.glob("b*"):
        file.unlink()
    with pytest.raises(InputError, match="no series 1.2.3.1"):
        medldm.read(folder, "1.2.3.1")


def test_a_file_that_is_damaged_later_holds_its_series_back(folder):
    read_all(folder)
    path = folder / "b001.dcm"
    path.write_bytes(path.read_bytes()[:400])  # its series is not named any more
    for number in range(3):
        with pytest.raises(PixelError, match="b001.dcm"):
            medldm.read(folder, f"1.2.3.{number}")


def test_a_damaged_file_without_a_series_is_reported_once(folder):
    path = folder / "b001.dcm"
    path.write_bytes(path.read_bytes()[:400])
    (found,) = read_each(folder)
    assert found.volume is None and "b001.dcm" in str(found.refusal) and "3 series beside it" in str(found.refusal)
    assert len(found.files) == 12 and (found.series, found.patient) == ("", "")
    looked = survey(folder)
    assert [item.error for item in looked.items] == ["PixelError"] and looked.other_files == 1
    assert looked.items[0].files == 12 and looked.items[0].file == "."


def test_a_damaged_file_of_one_series_is_reported_once_and_leaves_the_others_alone(folder):
    path = folder / "b001.dcm"
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"\x28\x00\x10\x00US")])  # its series is, its size is not
    found = list(read_each(folder))
    assert [f.refusal is None for f in found].count(True) == 2 and len(found) == 3
    (refused,) = [f for f in found if f.refusal is not None]
    assert refused.series == series_key("1.2.3.1") and refused.modality == "MR" and len(refused.files) == 4
    assert len(survey(folder).items) == 3
