"""What `medldm check` found is what a training reads: its table, its splits, and nothing of another kind."""

import shutil

import numpy as np
import pytest
import torch

import medldm
from medldm.errors import EmptyInput, InputError
from medldm.io.dataset import check_dataset
from medldm.io.manifest import (
    load_manifest,
    split_rows,
    write_manifest,
)
from medldm.io.survey import describe
from medldm.recipe import parse_recipe
from medldm.training.data import load_scans
from tests.mixed_set import nifti
from tests.test_check import call, recipe_of, rows_of
from tests.tiny import tiny_table, with_pack


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
