"""Links: followed once, without loops; what leads to nothing is counted, and never a slice less."""

import json
import os
from collections import Counter

import nibabel as nib
import numpy as np
import pytest

import medldm
from medldm.errors import EmptyInput, InputError, PixelError
from medldm.io.dataset import check_dataset
from medldm.io.manifest import rows_of_folder
from medldm.io.survey import survey
from medldm.io.walk import walk_files
from tests.dicom_maker import make_series
from tests.test_cli import call


def nifti(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.random.default_rng(0).random((4, 5, 6)).astype(np.float32), np.eye(4)), path)
    return path


def link(path, target):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(os.path.relpath(target, path.parent))
    return path


@pytest.fixture
def bids(tmp_path):
    """A data set as git-annex leaves it: links into a hidden store, one of them to what was not fetched."""
    root = tmp_path / "bids"
    store = root / ".git" / "annex" / "objects"
    link(root / "sub-01" / "anat" / "sub-01_T1w.nii", nifti(store / "k1.nii"))
    make_series(store / "dicom")
    for path in sorted((store / "dicom").iterdir()):
        link(root / "sub-02" / "dicom" / path.name, path)
    link(root / "sub-03" / "anat" / "sub-03_T1w.nii", store / "missing")
    return root


def test_a_tree_of_links_is_a_data_set(bids):
    found = check_dataset(bids)
    assert [m.item.file for m in found.members] == ["sub-01/anat/sub-01_T1w.nii", "sub-02/dicom"]
    assert found.skipped == {"hidden": 1, "dangling_link": 1} and found.other_files == 0
    assert found.to_dict()["skipped"] == found.skipped
    assert medldm.read(bids / "sub-02" / "dicom").geometry.shape == (10, 12, 6)
    assert medldm.open_lazily(bids / "sub-02" / "dicom").shape == (10, 12, 6)


def test_the_commands_say_what_was_left_out(bids):
    for command in (["check", str(bids), "--dry-run"], ["inspect", str(bids)]):
        result = call(*command)
        assert "1 links to nothing" in result.stdout and result.exit_code == 0
        assert json.loads(call(*command, "--json").stdout)["skipped"]["dangling_link"] == 1


def test_a_link_to_nothing_and_a_folder_of_such_say_so(bids, tmp_path):
    path = bids / "sub-03" / "anat" / "sub-03_T1w.nii"
    for act in (lambda: medldm.read(path), lambda: survey(path)):
        with pytest.raises(EmptyInput, match="link to nothing.*fetch"):
            act()
    with pytest.raises(EmptyInput, match="1 links to nothing"):
        medldm.read(path.parent)
    assert "link to nothing" in call("inspect", str(path)).stderr
    assert "links to nothing" in call("check", str(path.parent), "--dry-run").stdout


def test_a_slice_that_was_not_fetched_ends_its_series(tmp_path):
    folder = make_series(tmp_path / "series")
    for name in ("a000.dcm", "a005.dcm"):  # at the end, five slices would look whole
        kept = (folder / name).rename(tmp_path / name)
        link(folder / name, tmp_path / "nothing")
        with pytest.raises(PixelError, match=f"{name}: got a link to nothing.*fetch"):
            medldm.read(folder)
        assert [item.error for item in survey(folder).items] == ["PixelError"]
        (folder / name).unlink()
        kept.rename(folder / name)
    link(folder / "notes.txt", tmp_path / "nothing")
    volume = medldm.read(folder)
    assert volume.geometry.shape[2] == 6 and volume.history[0]["skipped"] == {"dangling_link": 1}


def test_loops_end_and_nothing_is_met_twice(tmp_path):
    root = tmp_path / "root"
    nifti(root / "z" / "scan.nii")
    nifti(tmp_path / "elsewhere" / "other.nii")
    link(root / "a" / "again.nii", root / "z" / "scan.nii")
    link(root / "z" / "up", root)
    link(root / "z" / "above", tmp_path)
    link(root / "b", root / "z")
    link(root / "c", tmp_path / "elsewhere")
    link(root / "d", root / "c")
    link(root / "circle", root / "circle")
    (tmp_path / "elsewhere" / "back").symlink_to(root)
    skipped, dangling = Counter(), []
    files = [p.relative_to(root).as_posix() for p in walk_files(root, skipped, dangling)]
    assert files == ["z/scan.nii", "c/other.nii"]
    assert skipped == {"repeated": 6, "dangling_link": 1} and dangling == [root / "circle"]
    found = check_dataset(root, test=0)
    assert [m.item.file for m in found.members] == ["c/other.nii", "z/scan.nii"]


def test_pipes_and_closed_folders_are_counted(tmp_path):
    nifti(tmp_path / "a.nii")
    os.mkfifo(tmp_path / "pipe.nii")
    link(tmp_path / "b.nii", tmp_path / "pipe.nii")
    assert survey(tmp_path).skipped == {"special": 2}


def test_training_on_a_folder_follows_them_once(bids, tmp_path):
    missing = bids / "sub-03" / "anat" / "sub-03_T1w.nii"
    with pytest.raises(InputError, match="1 links to nothing, first sub-03_T1w.nii.*fetch"):
        rows_of_folder(bids)
    missing.unlink()
    link(bids / "sub-04" / "copy.nii", bids / ".git" / "annex" / "objects" / "k1.nii")
    link(bids / "derivatives", bids / "sub-02")
    rows = rows_of_folder(bids)
    assert [r.path.relative_to(bids).as_posix() for r in rows] == ["sub-01/anat/sub-01_T1w.nii", "sub-02/dicom"]
    (tmp_path / "empty" / ".hidden").mkdir(parents=True)
    with pytest.raises(EmptyInput, match="0 files .1 hidden"):
        rows_of_folder(tmp_path / "empty")
