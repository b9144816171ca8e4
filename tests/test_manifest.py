from pathlib import Path

import pytest

from medldm.errors import InputError
from medldm.io.manifest import (
    COLUMNS,
    Row,
    draw_splits,
    find_manifest,
    hash_patient,
    load_manifest,
    pack_select,
    rows_of_folder,
    split_rows,
    unpack_select,
    write_manifest,
)
from tests.mixed_set import nifti


@pytest.fixture
def table(tmp_path):
    """Write a table of (file, patient, split) and its files; returns the CSV's path."""

    def make(records, create=True):
        lines = ["file,patient,split,finding"] + [f"{f},{p},{s},none" for f, p, s in records]
        (tmp_path / "index.csv").write_text("\n".join(lines) + "\n")
        (tmp_path / "images").mkdir(exist_ok=True)
        for file, *_ in records if create else []:
            (tmp_path / "images" / file).touch()
        return tmp_path / "index.csv"

    return make


def load(path):
    return load_manifest(path, root=path.parent, file_pattern="images/{file}", dataset="set")


def test_a_manifest_is_found_here_or_there_if_its_scans_are_there(tmp_path, monkeypatch):
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
    monkeypatch.chdir(here)
    (there / "a.nii").touch()
    assert find_manifest(there) is None
    (there / "manifest.csv").write_text("file,patient\na.nii,p\n")
    assert find_manifest(there) == there / "manifest.csv"
    (here / "manifest.csv").write_text("file,patient\na.nii,p\nof another folder.nii,p\n")
    assert find_manifest(there) == there / "manifest.csv"
    (here / "manifest.csv").write_text("file,patient\na.nii,p\n")
    assert find_manifest(there) == Path("manifest.csv")


def test_rows_hold_paths_splits_conditions_and_no_patient(table):
    rows = load(table([("a.png", "Smith", "train"), ("b.png", "Smith", "train"), ("c.png", "Jones", "test")]))
    assert [r.path.name for r in rows] == ["a.png", "b.png", "c.png"] and all(r.path.is_file() for r in rows)
    assert rows[0].patient_hash == rows[1].patient_hash != rows[2].patient_hash
    assert len(rows[0].patient_hash) == 12 and rows[0].conditions["finding"] == "none"
    assert "Smith" not in repr(rows)


def test_hashes_differ_between_data_sets():
    assert hash_patient("1", "a") != hash_patient("1", "b")


def test_a_patient_in_two_splits_is_refused_and_not_named(table):
    with pytest.raises(InputError, match="two splits") as caught:
        load(table([("a.png", "Smith", "train"), ("b.png", "Smith", "test")]))
    assert "Smith" not in str(caught.value)


def test_missing_files_are_counted_and_the_first_named(table):
    with pytest.raises(InputError, match="2 missing files.*a.png"):
        load(table([("a.png", "1", "train"), ("b.png", "2", "train")], create=False))


def test_missing_table_and_columns_are_named(table, tmp_path):
    with pytest.raises(InputError, match="absent.csv"):
        load(tmp_path / "absent.csv")
    with pytest.raises(InputError, match="subject"):
        load_manifest(table([("a.png", "1", "train")]), root=tmp_path, file_pattern="images/{file}", patient="subject")


def test_validation_is_drawn_by_patient_and_repeatable(table):
    rows = load(table([(f"{p}-{n}.png", str(p), "train") for p in range(20) for n in range(3)]))
    train, validation = split_rows(rows, 0.25, seed=3)
    assert len(validation) == 15 and len(train) == 45
    assert not {r.patient_hash for r in train} & {r.patient_hash for r in validation}
    assert split_rows(rows, 0.25, seed=3) == (train, validation) != split_rows(rows, 0.25, seed=4)
    assert split_rows(rows, 0, seed=3) == (rows, [])


def test_a_folder_of_scans_is_a_data_set(tmp_path):
    for name in ("b.nii.gz", "a.png", "notes.txt"):
        (tmp_path / name).touch()
    rows = rows_of_folder(tmp_path)
    assert [r.path.name for r in rows] == ["a.png", "b.nii.gz"]
    assert len({r.patient_hash for r in rows}) == 2


def test_real_tables(data_dir):
    chest = data_dir / "chest-xray-256"
    rows = load_manifest(chest / "index.csv", root=chest, file_pattern="images/{file}", dataset="chest")
    assert len(rows) == 854 and len({r.patient_hash for r in rows}) == 580
    heads = data_dir / "brain-t1-2mm"
    patterns = {"file_pattern": "t1/{participant}.nii.gz", "mask_pattern": "labels/{participant}.nii.gz"}
    rows = load_manifest(heads / "participants.csv", root=heads, patient="participant", dataset="heads", **patterns)
    assert [r.split for r in rows].count("train") == 27 and all(r.mask.is_file() for r in rows)


def test_a_patient_more_moves_at_most_one_into_training():
    """What goes on from a training must not train on what it held out."""
    rows = [Row(Path(f"{n}.nii"), None, hash_patient(str(n), ""), "train", {}) for n in range(61)]
    for seed in range(8):
        fewer, more = (split_rows(part, 0.33, seed=seed) for part in (rows[:-1], rows))
        held_out, trained = ({row.patient_hash for row in part} for part in (fewer[1], more[0]))
        assert len(held_out) == 20 and len(held_out & trained) <= 1


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
