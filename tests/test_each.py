"""A folder of scans: all that can be read is restored, what is done is not done again, nothing ends it."""

import csv
import functools
import json
import shutil

import numpy as np
import pytest
from PIL import Image

import medldm
from medldm.errors import Cancelled, EmptyInput, OutputError
from medldm.folder import SUMMARY, TABLE
from medldm.geometry import Geometry
from medldm.volume import Volume
from tests.dicom_maker import make_series
from tests.test_cli import call
from tests.test_dicom_tiles import make_mosaic
from tests.tiny import tiny_model

SETTINGS = {"task": "denoise", "noise_std": 20.0}


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packs")
    tiny_model(folder, 3)
    return folder / "tiny-3d"


@pytest.fixture(scope="module")
def denoise(pack):
    return functools.partial(medldm.denoise, model=medldm.load_model(pack), noise_std=20.0)


def head(seed):
    array = 500 * np.random.default_rng(seed).random((8, 7, 9))
    return Volume(array, Geometry.from_spacing((8, 7, 9), (2, 2, 2)), "arbitrary", "MR")


@pytest.fixture
def folder(tmp_path):
    """Two heads, one below; a DICOM series; two series in one folder; a picture (no scan of this model); damage."""
    root = tmp_path / "scans"
    (root / "below").mkdir(parents=True)
    for seed, name in enumerate(("one.nii.gz", "below/two.nii")):
        medldm.write(head(seed), root / name)
        (root / name.replace(".nii.gz", ".json").replace(".nii", ".json")).unlink()
    make_series(root / "mr", series="1.2.3")
    for series in ("1.2.4", "1.2.5"):
        make_series(tmp_path / series, series=series)
        for file in (tmp_path / series).iterdir():
            (root / "both").mkdir(exist_ok=True)
            shutil.copy(file, root / "both" / f"{series}-{file.name}")
    Image.fromarray(np.eye(12, dtype=np.uint8) * 99).save(root / "picture.png")
    (root / "broken.nii.gz").write_bytes(b"nothing")
    return root


def states(rows):
    return {" ".join(filter(None, (row.file, row.series))): row.state for row in rows}


def test_every_scan_is_restored_as_alone_and_the_rest_is_told(folder, denoise, tmp_path):
    out = tmp_path / "out"
    rows = list(medldm.restore_each(folder, out, denoise, settings=SETTINGS))
    found = states(rows)
    assert sum(state == "done" for state in found.values()) == 6 and found["broken.nii.gz"] == "refused"
    alone = denoise(folder / "one.nii.gz")
    np.testing.assert_allclose(medldm.read(out / "one.nii.gz").array, alone.array, atol=1e-4)
    np.testing.assert_allclose(medldm.read(out / "one-uncertainty.nii.gz").array, alone.uncertainty.array, atol=1e-4)
    assert medldm.read(out / "below" / "two.nii.gz").ai_processed
    for row in rows:
        if row.file in ("mr", "both"):
            source = medldm.read(folder / row.file, row.series)
            assert medldm.read(out / row.output).geometry.isclose(source.geometry)
    assert len({row.output for row in rows if row.output}) == 6
    with (out / TABLE).open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [line["state"] for line in table] == [row.state for row in rows]
    assert "nothing" not in (out / SUMMARY).read_text() and str(tmp_path) not in (out / SUMMARY).read_text()


def test_names_with_dots_and_many_frames_in_a_file_become_series(denoise, tmp_path):
    """Folders are often named by their UID, an echo has its time in its name, and a mosaic is one .dcm file."""

    def echo(dataset, k):
        dataset.EchoTime = "5.19" if k < 6 else "7.65"
        dataset.ImagePositionPatient[2] = 3.0 * (k % 6)

    root, out = tmp_path / "scans", tmp_path / "out"
    for series in ("1.2.840.7", "1.2.840.8"):
        make_series(root / series, series=series)
    make_series(root / "echoes", n=12, series="1.2.9", change=echo)
    made = make_mosaic(lambda name="m", **how: make_series(tmp_path / name, **how))
    shutil.copy(next(made.iterdir()), root / "mosaic.dcm")
    rows = list(medldm.restore_each(root, out, denoise, settings=SETTINGS))
    assert [row.reason for row in rows] == [""] * 5
    assert {row.output.split("/")[0] for row in rows} == {"1.2.840.7", "1.2.840.8", "echoes", "mosaic"}
    for row in rows:
        select = dict([row.select.split("=")]) if row.select else None
        source = medldm.read(root / row.file, row.series, select=select)
        assert medldm.read(out / row.output).geometry.isclose(source.geometry, 1e-4) and (out / row.output).is_dir()
    flat = medldm.restore_each(root, tmp_path / "flat", denoise, settings=SETTINGS, format="nifti")
    assert {"1.2.840.7.nii.gz", "1.2.840.8.nii.gz", "mosaic.nii.gz"} <= {row.output for row in flat}


def test_an_interrupted_run_goes_on_and_does_nothing_twice(folder, denoise, tmp_path):
    out = tmp_path / "out"

    def stop(file, done, total):
        if file and done == 3 and total < 9:
            raise Cancelled("each", "a request to stop")

    with pytest.raises(Cancelled):
        list(medldm.restore_each(folder, out, denoise, settings=SETTINGS, progress=stop))
    lines = (out / SUMMARY).read_text().splitlines()
    before = {json.loads(line)["file"] for line in lines[1:]}
    with (out / SUMMARY).open("a") as file:
        file.write(lines[-1][: len(lines[-1]) // 2])  # cut off in the middle of a line
    assert 0 < len(before) < 6
    counted = []

    def counting(scan):
        counted.append(scan)
        return denoise(scan)

    rows = list(medldm.restore_each(folder, out, counting, settings=SETTINGS))
    kept = [row for row in rows if row.state == "kept"]
    assert len(kept) + len(counted) == 6 and kept
    counted.clear()
    medldm.write(head(9), folder / "one.nii.gz", overwrite=True)  # another scan under the old name
    (out / "below" / "two.nii.gz").unlink()  # a result that was lost
    rows = states(medldm.restore_each(folder, out, counting, settings=SETTINGS))
    assert len(counted) == 2 and rows["one.nii.gz"] == rows["below/two.nii"] == "done"


def test_a_scan_adds_a_line_and_writes_nothing_anew(folder, denoise, tmp_path):
    """What is written for a scan does not grow with the number of scans before it."""
    out, seen = tmp_path / "out", []
    for _ in medldm.restore_each(folder, out, denoise, settings=SETTINGS):
        seen.append([(out / name).read_text() for name in (SUMMARY, TABLE)])
    for before, after in zip(seen, seen[1:], strict=False):
        for old, new in zip(before, after, strict=True):
            assert new.startswith(old) and new[len(old) :].count("\n") == 1


def test_results_of_other_settings_are_not_mixed(folder, denoise, tmp_path):
    list(medldm.restore_each(folder / "mr", tmp_path / "out", denoise, settings=SETTINGS))
    with pytest.raises(OutputError, match="noise_std"):
        list(medldm.restore_each(folder / "mr", tmp_path / "out", denoise, settings=SETTINGS | {"noise_std": 1}))


def test_folders_that_will_not_do_are_refused_before_any_work(folder, denoise, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    (tmp_path / "empty").mkdir()
    cases = [
        (folder, folder / "out", OutputError, "within"),
        (folder, tmp_path / "full", OutputError, "not empty"),
        (folder, tmp_path / "no" / "such", OutputError, "no folder"),
        (tmp_path / "empty", tmp_path / "out", EmptyInput, "no scan"),
    ]
    for source, out, kind, said in cases:
        with pytest.raises(kind, match=said):
            list(medldm.restore_each(source, out, denoise, settings=SETTINGS))
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["notes.txt"] and not (folder / "out").exists()


def test_one_failure_ends_nothing_and_is_told(folder, denoise, tmp_path):
    def odd(scan):
        if scan.history[0]["format"] == "picture":
            raise MemoryError
        return denoise(scan)

    rows = {row.file: row for row in medldm.restore_each(folder, tmp_path / "out", odd, settings=SETTINGS)}
    assert rows["picture.png"].state == "failed" and "memory" in rows["picture.png"].reason
    assert rows["one.nii.gz"].state == "done"


def test_the_command_line_does_the_same(folder, pack, tmp_path):
    words = ("denoise", "--each", "-i", folder, "-o", tmp_path / "out", "--model", pack, "--noise-std", 20)
    done = call(*words)
    assert done.exit_code == 0, done.output
    assert "broken.nii.gz" in done.stdout and "refused" in done.stdout and "below/two.nii.gz" in done.stdout
    again = call(*words, "--json")
    assert sorted({row["state"] for row in json.loads(again.stdout)}) == ["kept", "refused"]
    assert "beside it" in call(*words, "--report", tmp_path / "r.html").stderr
