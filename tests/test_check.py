"""A data set is gone over once: what can be used goes into a table by patient, and training reads that table."""

import csv
import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from medldm.cli import app
from medldm.io.choice import series_key
from medldm.io.dataset import check_dataset
from medldm.io.manifest import (
    COLUMNS,
)
from medldm.recipe import parse_recipe
from medldm.training.data import load_scans
from tests.dicom_maker import CANARY
from tests.mixed_set import nifti
from tests.tiny import tiny_table

NAMES = ("file", "series", "select", "patient", "modality", "spacing", "shape", "doubts", "split")


def call(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_table_has_every_scan_once_and_no_patient(mixed):
    done = call("check", mixed)
    assert done.exit_code == 0, done.output
    rows = rows_of(mixed / "manifest.csv")
    assert tuple(rows[0]) == NAMES == COLUMNS
    assert len(rows) == 9 + 1 + 8
    twins = [row for row in rows if row["file"] == "d0"]
    assert [row["select"] for row in twins] == ["EchoTime=3", "EchoTime=9"]
    assert {row["series"] for row in twins} == {series_key("1.2.0")}
    (bids, *_) = [row for row in rows if row["file"].startswith("bids")]
    assert (bids["series"], bids["select"], bids["spacing"]) == ("", "", "1x2x3")
    assert {row["modality"] for row in rows if row["series"]} == {"MR"}
    text = (mixed / "manifest.csv").read_text()
    assert CANARY not in text and "1.2." not in text and str(mixed) not in text


def test_patients_are_hashed_and_never_in_two_splits(mixed):
    call("check", mixed, "--test", 0.25, "--validation", 0.25)
    rows = rows_of(mixed / "manifest.csv")
    splits = {row["patient"]: {r["split"] for r in rows if r["patient"] == row["patient"]} for row in rows}
    assert len(splits) == 8 + 4 and all(len(found) == 1 for found in splits.values())
    assert sorted(split for found in splits.values() for split in found) == (
        ["test"] * 3 + ["train"] * 6 + ["validation"] * 3
    )
    of = {row["file"]: row["patient"] for row in rows}
    assert of["again"] == of["d1"] != of["d2"]
    assert all(len(p) == 12 and set(p) <= set("0123456789abcdef") for p in splits)


def test_the_report_says_why_and_names_nobody(mixed):
    done = call("check", mixed, "--dry-run")
    assert done.exit_code == 0 and not (mixed / "manifest.csv").exists()
    for text in ("18 scans of 12 patients", "2 refused", "1 other file", "bids/sub-00/broken.nii.gz", "gap"):
        assert text in done.stdout, text
    report = json.loads(call("check", mixed, "--dry-run", "--json").stdout)
    assert len(report["scans"]) == 18 and report["other_files"] == 1
    assert {r["file"]: r["error"] for r in report["refused"]} == {
        "gap": "GeometryError",
        "bids/sub-00/broken.nii.gz": "PixelError",
    }
    assert sum(split["scans"] for split in report["splits"].values()) == 18
    everything = done.output + json.dumps(report)
    assert CANARY not in everything and "1.2." not in everything and str(mixed) not in everything


def test_the_same_seed_divides_alike_wherever_the_set_lies(mixed, tmp_path):
    first = [m.record() for m in check_dataset(mixed, test=0.3, seed=3).members]
    shutil.copytree(mixed, tmp_path / "elsewhere")
    assert [m.record() for m in check_dataset(tmp_path / "elsewhere", test=0.3, seed=3).members] == first
    assert [m.record() for m in check_dataset(mixed, test=0.3, seed=4).members] != first


def test_an_existing_table_stays_unless_overwritten(mixed):
    (mixed / "manifest.csv").write_text("mine")
    done = call("check", mixed)
    assert done.exit_code == 2 and "existing" in done.stderr and done.stderr.count("\n") == 1
    assert (mixed / "manifest.csv").read_text() == "mine"
    assert call("check", mixed, "--overwrite", "--quiet").stdout == ""
    assert len(rows_of(mixed / "manifest.csv")) == 18


def test_nothing_is_written_into_the_folder_unasked(mixed, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    before = sorted(mixed.rglob("*"))
    done = call("check", mixed)
    assert sorted(mixed.rglob("*")) == before
    assert [path.name for path in Path.cwd().iterdir()] == ["manifest.csv"]
    (index,) = [line.split('index = "')[1].split('"')[0] for line in done.stdout.splitlines() if "index = " in line]
    assert len(load_scans(recipe_of(folder=".", index=index), mixed)) > 0
    assert call("check", mixed, "--out", mixed / "manifest.csv").exit_code == 0  # asked for


def test_a_failing_write_leaves_the_old_table(mixed, monkeypatch):
    (mixed / "manifest.csv").write_text("mine")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    done = call("check", mixed, "--overwrite")
    assert done.exit_code == 2 and "No space" in done.stderr
    assert (mixed / "manifest.csv").read_text() == "mine"
    assert not [path for path in mixed.iterdir() if path.name.startswith(".")]


def test_table_and_report_go_where_they_are_asked_to(mixed, tmp_path):
    before = sorted(mixed.rglob("*"))
    assert call("check", mixed, "--out", tmp_path / "table.csv").exit_code == 0
    assert call("check", mixed, "--out", tmp_path / "new").exit_code == 0
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["manifest.csv", "report.json"]
    assert (tmp_path / "new" / "manifest.csv").read_bytes() == (tmp_path / "table.csv").read_bytes()
    assert len(json.loads((tmp_path / "new" / "report.json").read_text())["scans"]) == 18
    assert sorted(mixed.rglob("*")) == before
    assert "existing" in call("check", mixed, "--out", tmp_path / "new").stderr
    assert "no folder" in call("check", mixed, "--out", tmp_path / "no" / "folder" / "x.csv").stderr


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("absent",), "no such folder"),
        ((".", "--test", "0.7", "--validation", "0.4"), "fractions"),
        ((".", "--test", "-0.1"), "fractions"),
        ((".", "--test", "nan"), "fractions"),
        ((".", "--patient", "(("), "regular expression"),
    ],
)
def test_wrong_calls_are_one_line_and_write_nothing(tmp_path, monkeypatch, words, reason):
    nifti(tmp_path / "a.nii")
    monkeypatch.chdir(tmp_path)
    done = call("check", *words)
    assert done.exit_code == 2 and reason in done.stderr and done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.nii"]


def test_a_folder_without_a_usable_scan_ends_with_2_and_no_table(tmp_path):
    (tmp_path / "a.nii").write_bytes(b"junk")
    done = call("check", tmp_path)
    assert done.exit_code == 2 and "a.nii" in done.stdout and "0 scans" in done.stdout
    assert "no scan that can be used (1 refused, 0 other files)" in done.stderr and done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.nii"]


def recipe_of(**source):
    return parse_recipe(tiny_table(3) | {"source": [source]})
