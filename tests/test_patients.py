"""Whose scan is whose: by header, by BIDS names, by folders, or as somebody says."""

import numpy as np
import pytest
from PIL import Image

from medldm.errors import InputError
from medldm.io.patients import patients_of
from tests.test_cli import call
from tests.test_labels import item, rows_of


def groups(files, pattern=None):
    """Which of the paths are of one patient, as a list of sets of their places."""
    hashes = patients_of([item(file) for file in files], pattern).hashes
    return sorted([{n for n, h in enumerate(hashes) if h == one} for one in set(hashes)], key=min)


LAYOUTS = {
    "BIDS": (["sub-01/ses-1/sub-01_T1w.nii", "sub-01/ses-2/x.nii", "sub-02/x.nii"], [{0, 1}, {2}]),
    "BIDS in names": (["sub-01_T1w.nii", "sub-01_T2w.nii", "sub-010_T1w.nii", "a_sub-02.nii"], [{0, 1}, {2}, {3}]),
    "folders": (["all/a/T1.nii", "all/a/T2.nii", "all/b/T1.nii", "all/b/T2.nii"], [{0, 1}, {2, 3}]),
    "deep folders": (["a/s1/T1.nii", "a/s2/T1.nii", "b/s1/T1.nii"], [{0, 1}, {2}]),
    "flat": (["images/a.png", "images/b.png"], [{0}, {1}]),
    "kinds": (["T1/a.nii", "T1/b.nii", "T1/c.nii", "T2/a.nii", "T2/b.nii", "T2/c.nii.gz"], [{0, 3}, {1, 4}, {2, 5}]),
    "kinds of folders": (
        ["T1/a/1.nii", "T1/a/2.nii", "T1/b/1.nii", "T1/c/1.nii", "T2/a/1.nii", "T2/b/1.nii", "T2/c/3.nii"],
        [{0, 1, 4}, {2, 5}, {3, 6}],
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_patients_are_told_by_how_folders_lie(layout):
    files, expected = LAYOUTS[layout]
    assert groups(files) == expected


def test_the_patient_of_the_header_counts_before_the_path():
    items = [item("sub-01/a", "x"), item("sub-02/a", "x"), item("sub-01/b")]
    found = patients_of(items)
    assert found.hashes[0] == found.hashes[1] != found.hashes[2]
    assert found.rules == {"PatientID": 2, "sub- in the path": 1}


def test_a_pattern_counts_before_all_and_has_to_match_all():
    files = ["set/0001_012.png", "set/0001_015.png", "set/0002_001.png"]
    assert groups(files, r"/(\d+)_") == groups(files, r"\d{4}(?=_)") == [{0, 1}, {2}]
    assert patients_of([item("a1", "x"), item("a2", "x")], r"a(\d)").rules == {"pattern": 2}
    with pytest.raises(InputError, match="1 scans whose path it does not match, first b.png"):
        groups([*files, "b.png"], r"(\d+)_")


def test_folders_with_many_scans_are_doubted_and_nothing_is_put_aside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    few = [item(f"{folder}/{folder}{n}.png") for folder in "ab" for n in range(5)]
    many = [item(f"{n % 12}/{n}.png") for n in range(12 * 21)]
    assert "2 folders" in patients_of(few).doubt and "12 folders" in patients_of(many).doubt
    assert patients_of([item(f"{n % 12}/{n}.png") for n in range(12 * 20)]).doubt == ""
    for one in few:
        (tmp_path / one.file).parent.mkdir(exist_ok=True)
        Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4)).save(tmp_path / one.file)
    done = call("check", tmp_path, "--test", 0.5)
    assert "nothing is put aside" in done.stdout and "--patient" in done.stdout
    assert {row["split"] for row in rows_of(tmp_path / "manifest.csv")} == {"train"}
    call("check", tmp_path, "--test", 0.5, "--patient", r"(\w+)\.png", "--overwrite")
    assert [row["split"] for row in rows_of(tmp_path / "manifest.csv")].count("test") == 5
