"""What is known of scans from elsewhere reaches the table of `medldm check`, and names nobody."""

import csv
import json

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from medldm.cli import app
from medldm.errors import InputError
from medldm.io.labels import find_labels
from medldm.io.patients import patients_of
from medldm.io.survey import Item
from tests.dicom_maker import CANARY, make_series


def call(*words, expect=0):
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == expect, done.output
    return done


def pictures(folder, count=6):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 255, (16, 20), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"scan{number}.png")
    return folder


def rows_of(path):
    return list(csv.DictReader(path.open(newline="", encoding="utf-8")))


def item(file, patient=""):
    return Item(file, 1, "x", "", {}, "", patient, {})


def table(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_labels_by_file_reach_the_manifest_with_patients_and_splits(tmp_path):
    pictures(tmp_path / "set" / "images")
    lines = [
        f"scan{n}.png,{CANARY}{n // 2},{'ill' if n % 2 else 'well'},{'train' if n < 4 else 'test'}" for n in range(6)
    ]
    table(tmp_path / "l.csv", "file,patient,finding,split\n" + "\n".join(lines) + "\nother.png,p9,ill,train\n")
    done = call("check", tmp_path / "set", "--labels", tmp_path / "l.csv", "--out", tmp_path / "m.csv")
    rows = rows_of(tmp_path / "m.csv")
    assert [row["finding"] for row in rows] == ["well", "ill"] * 3
    assert [row["split"] for row in rows] == ["train"] * 4 + ["test"] * 2
    assert len({row["patient"] for row in rows}) == 3
    assert "6 of 6 scans by file" in done.stdout and "rows of the labels that name no scan: 1" in done.stdout
    assert CANARY not in (tmp_path / "m.csv").read_text() + done.output


def test_patients_that_a_table_tells_count_and_the_others_go_by_their_place(tmp_path, monkeypatch):
    """Six scans of three patients in one folder, which nothing tells apart but the table; a seventh elsewhere."""
    monkeypatch.chdir(tmp_path)
    pictures(tmp_path / "set" / "site")
    pictures(tmp_path / "set", 1)
    lines = [f"site/scan{n}.png,{'abc'[n // 2]}" for n in range(6)]
    (tmp_path / "set" / "who.csv").write_text("file,subject\n" + "\n".join(lines) + "\n")
    alone = call("check", "set", "--dry-run").stdout
    assert "what who.csv knows of the scans is joined to them by --labels" in alone
    done = call("check", "set", "--labels", "set/who.csv", "--test", 0.25, "--validation", 0.25)
    patients = {row["file"]: row["patient"] for row in rows_of(tmp_path / "manifest.csv")}
    assert len(set(patients.values())) == 4 and "labels (6)" in done.stdout and "--labels" not in done.stdout
    assert patients["site/scan2.png"] == patients["site/scan3.png"] != patients["site/scan4.png"]
    assert "nothing is put aside" not in done.stdout


def test_a_scan_that_no_row_tells_goes_with_its_own_kind_or_puts_all_in_doubt():
    beside = [item("sub-1/a.nii"), item("sub-1/b.nii"), item("sub-2/a.nii")]
    first, second, third = patients_of(beside, told=["x", "", "y"]).hashes
    assert first == second != third
    torn = patients_of([item("set/a/1.png"), item("set/a/2.png"), item("set/a/3.png"), item("set/b/4.png")],
                       told=["x", "y", "", "z"])  # fmt: skip
    assert "1 scans that the labels do not name" in torn.doubt


def test_bids_tables_of_patients_are_joined_and_their_gaps_are_gaps(tmp_path):
    for subject in ("01", "02", "03"):
        folder = tmp_path / "set" / f"sub-{subject}" / "anat"
        folder.mkdir(parents=True)
        for kind in ("T1w", "T2w"):
            array = np.random.default_rng(int(subject)).random((8, 9, 10)).astype(np.float32)
            nib.save(nib.Nifti1Image(array, np.eye(4)), folder / f"sub-{subject}_{kind}.nii.gz")
    table(tmp_path / "set" / "participants.tsv", "participant_id\tage\tsex\nsub-01\t61\tF\nsub-02\tn/a\tM\n")
    done = call(
        "check", tmp_path / "set", "--labels", tmp_path / "set" / "participants.tsv", "--out", tmp_path / "m.csv"
    )
    assert [(row["age"], row["sex"]) for row in rows_of(tmp_path / "m.csv")] == [
        ("61", "F"), ("61", "F"), ("", "M"), ("", "M"), ("", ""), ("", ""),
    ]  # fmt: skip
    assert "4 of 6 scans by participant_id" in done.stdout


def test_dicom_is_joined_by_patient_id_which_is_told_nowhere(tmp_path):
    for number in range(3):

        def change(ds, k, number=number):
            ds.PatientID = f"{CANARY}-{number}"

        make_series(tmp_path / "set" / f"d{number}", series=f"1.2.{number}", change=change, n=4)
    text = "PatientID;PatientName;age\n" + "\n".join(f"{CANARY}-{n};{CANARY} N;{50 + n}" for n in range(3))
    table(tmp_path / "l.csv", text)
    done = call("check", tmp_path / "set", "--labels", tmp_path / "l.csv", "--out", tmp_path / "out")
    rows = rows_of(tmp_path / "out" / "manifest.csv")
    assert [row["age"] for row in rows] == ["50", "51", "52"] and "PatientName" not in rows[0]
    everything = done.output + "".join(path.read_text() for path in (tmp_path / "out").iterdir())
    assert CANARY not in everything.replace("PatientName", "")
    assert [s["labels"]["age"] for s in json.loads((tmp_path / "out" / "report.json").read_text())["scans"]] == [
        "50", "51", "52",
    ]  # fmt: skip


def test_label_maps_belong_to_scans_and_are_none(tmp_path):
    for number in range(3):
        for kind, values in (("t1", np.random.default_rng(number).random((8, 9, 10))), ("seg", np.ones((8, 9, 10)))):
            (tmp_path / "set" / kind).mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(values.astype(np.float32), np.eye(4)), tmp_path / "set" / kind / f"s{number}.nii")
    call("check", tmp_path / "set", "--label-map", "seg/{stem}.nii", "--out", tmp_path / "m.csv")
    assert [(r["file"], r["label_map"]) for r in rows_of(tmp_path / "m.csv")] == [
        (f"t1/s{n}.nii", f"seg/s{n}.nii") for n in range(3)
    ]


def test_what_names_somebody_stays_out_unless_it_is_asked_for(tmp_path):
    pictures(tmp_path / "set", 4)
    lines = [f"scan{n},{CANARY}{n},19{n}0-01-0{n + 1},{n * 1.5},word{n}" for n in range(4)]
    table(tmp_path / "l.csv", "id,Patient Name,birthDate,volume (ml),note\n" + "\n".join(lines))
    items = [item(f"scan{n}.png") for n in range(4)]
    found = find_labels(items, tmp_path / "set", tmp_path / "l.csv")
    assert found.by == "id" and found.each[2] == {"volume_ml": "3.0"}
    assert set(found.left_out) == {"id", "Patient Name", "birthDate", "note"}
    asked = find_labels(items, tmp_path / "set", tmp_path / "l.csv", columns=["note"])
    assert asked.each[2] == {"note": "word2"}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("file,finding\nnobody.png,ill\n", "no column that tells the scans apart"),
        ("file,file2,x\nscan0.png,scan1.png,1\nscan1.png,scan0.png,2\n", "name scans differently"),
        ("file,x\nscan0.png,1\nscan0.png,2\n", "no column that tells the scans apart"),
        ("", "no rows"),
    ],
)
def test_tables_that_do_not_go_with_the_scans_are_refused(tmp_path, text, reason):
    with pytest.raises(InputError, match=reason):
        find_labels([item("scan0.png"), item("scan1.png")], tmp_path, table(tmp_path / "l.csv", text))


def test_a_table_that_cannot_be_joined_is_one_line_and_writes_nothing(tmp_path):
    pictures(tmp_path / "set", 2)
    table(tmp_path / "l.csv", "who,x\na,1\n")
    done = call("check", tmp_path / "set", "--labels", tmp_path / "l.csv", "--out", tmp_path / "m.csv", expect=2)
    assert done.stderr.count("\n") == 1 and not (tmp_path / "m.csv").exists()
