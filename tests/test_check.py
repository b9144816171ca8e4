"""A data set is gone over once: what can be used goes into a table by patient, and training reads that table."""

import csv
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import medldm
from medldm.cli import app
from medldm.errors import EmptyInput, InputError
from medldm.io.choice import series_key
from medldm.io.dataset import check_dataset
from medldm.io.manifest import (
    COLUMNS,
    draw_splits,
    hash_patient,
    load_manifest,
    pack_select,
    split_rows,
    unpack_select,
    write_manifest,
)
from medldm.io.patients import patients_of
from medldm.io.survey import Item, describe
from medldm.recipe import parse_recipe
from medldm.training.data import load_scans
from tests.dicom_maker import CANARY, make_series, stored_values
from tests.tiny import tiny_table, with_pack

NAMES = ("file", "series", "select", "patient", "modality", "spacing", "shape", "doubts", "split")


def call(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def nifti(path, value=0.0, shape=(8, 9, 10)):
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.random.default_rng(0).random(shape).astype(np.float32) + value
    nib.save(nib.Nifti1Image(array, np.diag([1.0, 2, 3, 1])), path)
    return path


def of_patient(patient, **values):
    def change(ds, k):
        ds.PatientID = patient
        for name, value in values.items():
            setattr(ds, name, value)

    return change


@pytest.fixture
def mixed(tmp_path, monkeypatch):
    """The working folder.

    Eight DICOM patients in folders that say nothing, one with two echoes in one series; BIDS; what is damaged.
    """
    root = tmp_path / "set"
    for number in range(8):
        identity = of_patient(f"{CANARY}-{number}", EchoTime="3")
        make_series(root / f"d{number}", series=f"1.2.{number}", change=identity, n=4)
    second = {"change": of_patient(f"{CANARY}-0", EchoTime="9"), "pixels": lambda k: stored_values(12, 10, k) + 7}
    make_series(root / "d0", series="1.2.0", prefix="e", n=4, **second)
    make_series(root / "again", series="1.2.9", change=of_patient(f"{CANARY}-1"), n=4)
    for subject in range(4):
        for session in (1, 2):
            nifti(root / "bids" / f"sub-{subject:02d}" / f"ses-{session}" / f"sub-{subject:02d}_T1w.nii.gz", subject)
    (root / "bids" / "sub-00" / "broken.nii.gz").write_bytes(b"no scan")
    gap = make_series(root / "gap", series="1.2.10")
    (gap / "a002.dcm").unlink()
    (root / "notes.txt").write_text(CANARY)
    monkeypatch.chdir(root)
    return root


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def item(file, patient=""):
    return Item(file, 1, "x", "", {}, "", patient, {})


def groups(files, pattern=None):
    """Which of the paths are of one patient, as a list of sets of their places."""
    hashes = patients_of([item(file) for file in files], pattern).hashes
    return sorted([{n for n, h in enumerate(hashes) if h == one} for one in set(hashes)], key=min)


# --- the table ---


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


# --- whose scan is whose ---

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


# --- splits ---


@pytest.mark.parametrize(
    ("count", "test", "validation", "expected"),
    [(100, 0.1, 0.2, (70, 20, 10)), (3, 0.1, 0.1, (1, 1, 1)), (2, 0.1, 0.1, (1, 0, 1)), (1, 0.5, 0.4, (1, 0, 0)),
     (10, 0, 0.3, (7, 3, 0)), (10, 0, 0, (10, 0, 0)), (0, 0.1, 0.1, (0, 0, 0))],
)  # fmt: skip
def test_splits_have_their_shares_and_something_is_left_to_train_on(count, test, validation, expected):
    names = [f"{n:012x}" for n in range(count)]
    drawn = list(draw_splits(names * 2, test=test, validation=validation, seed=1).values())
    assert tuple(drawn.count(split) for split in ("train", "validation", "test")) == expected


def test_a_set_that_grows_keeps_nearly_all_of_its_splits():
    before = draw_splits([str(n) for n in range(100)], test=0.1, validation=0.1, seed=0)
    after = draw_splits([str(n) for n in range(101)], test=0.1, validation=0.1, seed=0)
    assert sum(before[name] != after[name] for name in before) <= 2
    assert before != draw_splits([str(n) for n in range(100)], test=0.1, validation=0.1, seed=1)


@pytest.mark.parametrize(
    "select", [{}, {"EchoTime": "5.19"}, {"Stack": "2", "ImageType": r"ORIGINAL\M;x=1", "A": "100 %3B %"}]
)
def test_selections_survive_the_table(select):
    assert unpack_select(pack_select(select), "here") == select


def test_names_survive_the_table(tmp_path):
    name = 'a,"b"{c} %3B\u00e9.nii'
    nifti(tmp_path / name)
    record = {**dict.fromkeys(COLUMNS, ""), "file": name, "patient": "p", "split": "train"}
    write_manifest(tmp_path / "t.csv", [record])
    (row,) = load_manifest(tmp_path / "t.csv", root=tmp_path)
    assert row.path == tmp_path / name and (row.series, row.select) == ("", {})
    assert row.patient_hash == hash_patient("p", "") and row.conditions["file"] == name


def test_a_damaged_table_is_refused(tmp_path):
    nifti(tmp_path / "a.nii")
    (tmp_path / "t.csv").write_text("file,series,select,patient,split\na.nii,,EchoTime,p,train\n")
    with pytest.raises(InputError, match="line 2.*KEY=VALUE"):
        load_manifest(tmp_path / "t.csv", root=tmp_path)
    (tmp_path / "t.csv").write_bytes(b"file,patient\n\xff\xfe,\n")
    with pytest.raises(InputError, match="UTF-8"):
        load_manifest(tmp_path / "t.csv", root=tmp_path)


# --- training ---


def recipe_of(**source):
    return parse_recipe(tiny_table(3) | {"source": [source]})


def test_training_reads_the_table_dicom_and_nifti_alike(mixed):
    call("check", mixed)
    rows = rows_of(mixed / "manifest.csv")
    counts = {split: sum(row["split"] == split for row in rows) for split in ("train", "validation", "test")}
    recipe = recipe_of(folder=".", index="manifest.csv")
    train, held_out = load_scans(recipe, mixed), load_scans(recipe, mixed, part="validation")
    assert (len(train), len(held_out)) == (counts["train"], counts["validation"])
    shapes = {(12, 4, 10), (9, 10, 8)}  # of the files' (10, 12, 4) and (8, 9, 10), turned to P, S, R
    assert {tuple(scan.image.shape) for scan in train} == shapes


def test_series_and_selection_of_the_table_are_what_is_read(mixed):
    call("check", mixed, "--test", 0, "--validation", 0)
    rows = rows_of(mixed / "manifest.csv")
    kept = [row for row in rows if row["file"] == "d0"]
    write_manifest(mixed / "two.csv", kept)
    read = load_manifest(mixed / "two.csv", root=mixed)
    assert [row.select for row in read] == [{"EchoTime": "3"}, {"EchoTime": "9"}]
    table = with_pack(tiny_table(3), intensity={"kind": "window", "low": 0, "high": 1000})
    recipe = parse_recipe(table | {"validation_fraction": 0, "source": [{"index": "two.csv"}]})
    three, nine = (scan.image for scan in load_scans(recipe, mixed))
    torch.testing.assert_close(nine - three, torch.full_like(three, 0.007), atol=1e-5, rtol=0)


def test_real_series_and_their_parts_are_read_by_the_table(data_dir, tmp_path):
    found = check_dataset(data_dir / "dicom")
    found.write_manifest(tmp_path / "t.csv")
    rows = load_manifest(tmp_path / "t.csv", root=data_dir / "dicom")
    assert len(rows) == len(found.members) > 10 and any(row.select for row in rows)
    for row, member in zip(rows, found.members, strict=True):
        volume = medldm.read(row.path, row.series or None, select=row.select)
        facts = describe(volume)
        assert {k: facts[k] for k in ("shape", "affine", "range")} == {
            k: member.item.facts[k] for k in ("shape", "affine", "range")
        }


def test_without_a_validation_split_it_is_drawn_by_patient(mixed):
    call("check", mixed, "--test", 0, "--validation", 0)
    recipe = recipe_of(index="manifest.csv")
    rows = load_manifest(mixed / "manifest.csv", root=mixed, dataset=".")
    train, held_out = split_rows(rows, recipe.validation_fraction, seed=recipe.seed)
    assert len(load_scans(recipe, mixed)) == len(train)
    assert len(load_scans(recipe, mixed, part="validation")) == len(held_out) > 0


def test_without_a_table_a_folder_is_a_data_set_as_before(mixed):
    for name in ("d0", "gap"):
        shutil.rmtree(mixed / name)
    (mixed / "bids" / "sub-00" / "broken.nii.gz").unlink()
    scans = load_scans(recipe_of(), mixed) + load_scans(recipe_of(), mixed, part="validation")
    assert len(scans) == 7 + 1 + 8


def test_a_table_without_a_row_is_refused(tmp_path):
    write_manifest(tmp_path / "t.csv", [])
    with pytest.raises(EmptyInput):
        load_manifest(tmp_path / "t.csv", root=tmp_path)


def test_a_map_beside_a_result_is_no_scan_to_train_on(tmp_path):
    """Else a training would learn residuals: they lie in the folder of the results."""
    scan = medldm.read(nifti(tmp_path / "in" / "a.nii.gz", shape=(24, 24, 16)))
    for name, quantity in (("b", ""), ("c", "residual"), ("d", "uncertainty")):
        step = {"step": "map", "quantity": quantity} if quantity else {"step": "copy"}
        medldm.write(scan.with_step(step), tmp_path / "in" / f"{name}.nii.gz")
    found = check_dataset(tmp_path / "in")
    assert sorted(member.item.file for member in found.members) == ["a.nii.gz", "b.nii.gz"]
    assert sorted((item.file, item.error) for item in found.refused) == [
        ("c.nii.gz", "InputError"),
        ("d.nii.gz", "InputError"),
    ]
    with pytest.raises(InputError, match="residual of a result"):
        load_scans(parse_recipe(tiny_table(3) | {"source": [{"folder": "in"}]}), tmp_path)


def test_a_scan_of_another_kind_than_the_recipes_is_not_trained_on(tmp_path, dicom_series):
    """The model would vouch for what it never saw: modality and voxel size are as the recipe says, or refused."""
    shape = (24, 22, 20)
    array = np.random.default_rng(0).random(shape, dtype=np.float32)
    (tmp_path / "thick").mkdir()
    medldm.write(medldm.Volume(array, medldm.Geometry.from_spacing(shape, (1, 1, 6))), tmp_path / "thick" / "a.nii.gz")
    recipe = parse_recipe(tiny_table(3) | {"validation_fraction": 0.0})
    with pytest.raises(InputError, match=r"a.nii.gz: got voxels of 1 x 1 x 6 mm; expected the recipe's 0.5 to 3 mm"):
        load_scans(recipe, tmp_path / "thick")
    wide = parse_recipe(with_pack(tiny_table(3), spacing_range=[0.5, 6.0]) | {"validation_fraction": 0.0})
    assert len(load_scans(wide, tmp_path / "thick")) == 1
    folder = dicom_series("series/one", rows=24, columns=24, n=16).parent
    modality = medldm.read(folder / "one").modality
    other = "PT" if modality != "PT" else "MR"
    table = with_pack(tiny_table(3), modality=[other], spacing_range=[0.1, 9.0]) | {"validation_fraction": 0.0}
    with pytest.raises(InputError, match=f"got modality {modality}; expected the recipe's {other}"):
        load_scans(parse_recipe(table), folder)
    assert len(load_scans(parse_recipe(with_pack(table, modality=[other, modality])), folder)) == 1
