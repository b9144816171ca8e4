"""Synthetic scans as data sets: BIDS and DICOM, by several processes, gone on with; variations; values in turn."""

import csv
import json
from collections import Counter

import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch
from typer.testing import CliRunner

import medldm
from medldm.cli import app
from medldm.conditions import in_turn
from medldm.errors import InputError, OutputError
from medldm.synthesis.bids import BidsFolder, suffix_of
from tests.tiny import pack_of, tiny_table, with_pack

CONDITIONS = {
    "sex": {"kind": "class", "values": ["F", "M"]},
    "age": {"kind": "number", "low": 20.0, "high": 80.0},
    "tissue": {"kind": "label_map", "labels": {"grey": [3], "white": [5, 6]}},
}


def model_of(folder, dims=3, **synthesis):
    table = tiny_table(dims)
    table = with_pack(table, name="t1-heads", synthesis=table["pack"]["synthesis"] | synthesis)
    return pack_of(folder / table["pack"]["name"], table)


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    """The folder of a model with conditions, and a label map on its grid."""
    folder = tmp_path_factory.mktemp("heads")
    model = model_of(folder, conditions=CONDITIONS)
    scan = next(medldm.synthesize(model=model, n=1, steps=2))
    labels = np.zeros(scan.array.shape, np.float32)
    labels[4:12, 4:12], labels[6:9, 6:9] = 3, 6
    medldm.write(scan.with_array(labels), folder / "labels.nii.gz")
    return folder


def call(*words, expect=0, **environment):
    """In this process: processes share their work by what stands in the environment, one after the other as here or at
    once (tests/test_conditions.py)."""
    done = CliRunner(env=environment).invoke(app, [str(word) for word in words])
    assert done.exit_code == expect, done.output
    return done.output


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_bids_by_two_processes_is_that_of_one_and_goes_on(heads, tmp_path):
    words = ("--model", heads / "t1-heads", "-n", 4, "--seed", 7, "--steps", 2, "--format", "bids", "--quiet")
    words += ("--condition", "sex=*", "--condition", "age=44", "--label-map", heads / "labels.nii.gz")
    call("synthesize", "-o", tmp_path / "one", *words)
    for rank in range(2):
        call("synthesize", "-o", tmp_path / "two", *words, RANK=str(rank), WORLD_SIZE="2")
    one, two = contents(tmp_path / "one"), contents(tmp_path / "two")
    assert one.keys() == two.keys()
    assert one["participants.tsv"] == two["participants.tsv"]
    rows = list(csv.DictReader(one["participants.tsv"].decode().splitlines(), delimiter="\t"))
    assert rows[1]["tissue"] == "derivatives/labels/sub-seed7n0001/anat/sub-seed7n0001_desc-tissue_dseg.nii.gz"
    assert [row["sex"] for row in rows] == ["F", "M", "F", "M"]
    assert {(row["seed"], row["age"]) for row in rows} == {("7", "44")} and rows[2]["index"] == "2"
    name = f"{rows[2]['participant_id']}/anat/{rows[2]['participant_id']}_T1w.nii.gz"
    assert np.array_equal(*(nib.load(tmp_path / who / name).get_fdata() for who in ("one", "two")))
    model = medldm.load_model(heads / "t1-heads")
    step = json.loads(one[name.replace(".nii.gz", ".json")])["medldm"]["history"][-1]
    assert (step["seed"], step["index"], step["synthetic"]) == (7, 2, True)
    assert step["weights_sha256"] == model.weights_sha256 and step["conditions"]["sex"] == "F"
    scan = medldm.read(tmp_path / "one" / name)
    assert scan.geometry.spacing == pytest.approx(model.pack.spacing) and scan.array.shape == (20, 16, 12)
    followed = medldm.read(tmp_path / "one/derivatives/labels" / name.replace("_T1w", "_desc-tissue_dseg"))
    assert followed.geometry.isclose(scan.geometry) and set(np.unique(followed.array)) == {0, 1, 2}
    assert one["derivatives/labels/desc-tissue_dseg.tsv"].decode() == "index\tname\n1\tgrey\n2\twhite\n"
    described = json.loads(one["dataset_description.json"])
    assert described["DatasetType"] == "raw" and model.weights_sha256 in described["GeneratedBy"][0]["Description"]
    assert json.loads(one["derivatives/labels/dataset_description.json"])["DatasetType"] == "derivative"

    before = (tmp_path / "two" / name).stat().st_mtime_ns
    gone = next((tmp_path / "two").glob("sub-*n0003/anat/*.nii.gz"))
    gone.unlink()
    (tmp_path / "two" / "participants.tsv").unlink()
    more = (*words[:3], 5, *words[4:], "--resume")
    call("synthesize", "-o", tmp_path / "two", *more)
    assert gone.exists() and (tmp_path / "two" / name).stat().st_mtime_ns == before
    assert (tmp_path / "two" / "participants.tsv").read_text().count("\n") == 6


def test_every_scan_follows_a_map_of_its_own_where_it_is_bent(heads, tmp_path):
    given = heads / "labels.nii.gz"
    words = ("--model", heads / "t1-heads", "--seed", 2, "--steps", 2, "--label-map", given, "--deform", 12)
    call("synthesize", "-o", tmp_path / "one", *words, "-n", 3, "--format", "bids")
    call("synthesize", "-o", tmp_path / "late", *words, "-n", 1, "--first", 2, "--format", "bids")
    maps = {p.name: medldm.read(p).array for p in (tmp_path / "one").rglob("*_dseg.nii.gz")}
    assert len(maps) == 3 and len({array.tobytes() for array in maps.values()}) == 3
    (late,) = (tmp_path / "late").rglob("*_dseg.nii.gz")
    assert np.array_equal(medldm.read(late).array, maps[late.name])  # the i-th is the i-th
    numbers = np.array([0, 0, 0, 1, 0, 0, 2])  # of grey and white in the file
    bent = medldm.deform_labels(given, 12, (2, 2)).array
    assert np.array_equal(maps[late.name], numbers[bent.astype(int)])
    scans = {p.name: p.read_bytes() for p in tmp_path.rglob("*n0002_T1w.nii.gz")}
    model = medldm.load_model(heads / "t1-heads")
    asked = {"tissue": medldm.deform_labels(given, 12, (2, 2))}
    (again,) = medldm.synthesize(model=model, n=1, first=2, seed=2, steps=2, conditions=asked)
    (drawn,) = scans
    found = medldm.read(next(tmp_path.rglob(drawn)))
    assert np.allclose(found.array, again.array, atol=1e-3)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--deform", 3, "--format", "bids"), "--label-map, too"),
        (("--deform", 3, "--label-map", "labels.nii.gz"), "--format bids"),
        (("--deform", -3, "--label-map", "labels.nii.gz", "--format", "bids"), "0 mm or more"),
    ],
)
def test_bending_what_cannot_be_is_refused_in_one_line(heads, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(heads)
    done = CliRunner().invoke(app, ["synthesize", "-o", str(tmp_path / "out"), "--model", "t1-heads", *map(str, words)])
    assert done.exit_code == 2 and said in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_bids_of_somebody_else_is_left_alone(heads, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "dataset_description.json").write_text('{"Name": "patients"}')
    words = ("--model", heads / "t1-heads", "--format", "bids", "--steps", 2)
    done = CliRunner().invoke(app, [str(word) for word in ("synthesize", "-o", tmp_path / "real", *words)])
    assert done.exit_code == 2 and done.stderr.count("\n") == 1 and "did not make" in done.stderr
    assert [path.name for path in (tmp_path / "real").iterdir()] == ["dataset_description.json"]


def test_dicom_is_of_nobody_and_says_what_was_asked_for(heads, tmp_path):
    words = ("--model", heads / "t1-heads", "-n", 2, "--seed", 3, "--steps", 2, "--format", "dicom")
    call("synthesize", "-o", tmp_path / "out", *words, "--condition", "sex=M")
    folders = sorted((tmp_path / "out").iterdir())
    first, second = (pydicom.dcmread(folder / "0001.dcm") for folder in folders)
    assert first.PatientID.startswith("SYNTH-") and first.PatientID != second.PatientID
    assert first.StudyInstanceUID != second.StudyInstanceUID and first.SyntheticData == "YES"
    sha = medldm.load_model(heads / "t1-heads").weights_sha256
    for text in ("seed 3", "index 0", "asked for sex=M", f"weights sha256 {sha}", "not a patient"):
        assert text in first.DerivationDescription, text
    assert medldm.read(folders[0]).geometry.spacing == pytest.approx((1, 1, 1))


def test_the_contrast_is_asked_for_where_the_model_does_not_say_it(heads):
    pack = medldm.load_model(heads / "t1-heads").pack
    assert suffix_of(pack) == ("anat", "T1w")
    plain = pack.model_copy(update={"name": "heads"})
    with pytest.raises(InputError, match="--suffix"):
        suffix_of(plain)
    assert suffix_of(plain, "FLAIR") == ("anat", "FLAIR")
    assert suffix_of(pack.model_copy(update={"modality": ("DX",)})) == ("xray", "xray")


def test_a_table_that_another_process_left_old_is_made_anew(heads, tmp_path, monkeypatch):
    """A scan that ends between the look and the write is in the table all the same."""
    model = medldm.load_model(heads / "t1-heads")
    folder = BidsFolder(tmp_path / "set", model.pack)
    folder.begin(model)
    scans = list(medldm.synthesize(model=model, n=2, steps=2))
    folder.write(scans[0], {})
    look = folder._rows

    def late():
        rows = look()
        if len(rows) == 1:
            folder.write(scans[1], {}, overwrite=True)
        return rows

    monkeypatch.setattr(folder, "_rows", late)
    folder.finish()
    assert (tmp_path / "set" / "participants.tsv").read_text().count("\n") == 3
    other = BidsFolder(tmp_path / "set", model.pack)
    with pytest.raises(OutputError, match="did not make"):
        other.begin(model_of(tmp_path, conditions={}))


def test_values_in_turn_are_balanced_in_all_combinations(heads):
    tables = medldm.load_model(heads / "t1-heads").pack.synthesis.conditions
    more = {**tables, "side": type(tables["sex"])(kind="class", values=("l", "m", "r"))}
    said = [in_turn(more, {"sex": "*", "side": "*", "age": 30}, n) for n in range(24)]
    counts = Counter((one["sex"], one["side"]) for one in said)
    assert len(counts) == 6 and set(counts.values()) == {4} and {one["age"] for one in said} == {30}
    ages = np.sort([in_turn(tables, {"age": "*"}, n)["age"] for n in range(60)])
    assert ages.min() >= 20 and ages.max() <= 80 and np.diff(ages).max() < 3 and np.diff(ages).min() > 0.1
    with pytest.raises(InputError, match="tissue"):
        in_turn(tables, {"tissue": "*"}, 0)


def test_the_i_th_scan_has_its_value_however_it_is_drawn(heads):
    model = medldm.load_model(heads / "t1-heads")
    together = list(medldm.synthesize(model=model, n=4, batch=2, steps=2, conditions={"sex": "*"}))
    alone = next(medldm.synthesize(model=model, n=1, first=3, steps=2, conditions={"sex": "*"}))
    assert [scan.history[-1]["conditions"]["sex"] for scan in together] == ["F", "M", "F", "M"]
    assert alone.history[-1]["conditions"]["sex"] == "M"
    assert np.allclose(alone.array, together[3].array, atol=1e-3)


@pytest.fixture(scope="module")
def cascade(tmp_path_factory):
    """A cascade of two levels, 2D: whatever it draws, what comes of a scan begins with that scan."""
    unet = {"channels": [16, 32], "attention_levels": [False, False]}
    levels = [{"coarsen": 2, "unet": unet}, {"unet": unet}]
    return model_of(tmp_path_factory.mktemp("cascade"), 2, shape=[32, 32, 1], cascade=levels)


def picture():
    """Bright, and not of the model's size."""
    values = 40 + 120 * np.hypot(*np.mgrid[-1:1:36j, -1:1:28j])[..., None]
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    affine[:3, 3] = 17, 29, 0
    return medldm.Volume(values.astype(np.float32), medldm.Geometry(affine, values.shape), "grey8", "DX")


def test_a_variation_goes_from_the_scan_to_what_is_drawn_without_it(cascade):
    scan = picture()

    def varied(strength):
        return next(medldm.synthesize(model=cascade, n=1, seed=2, steps=6, like=scan, strength=strength))

    encoder = cascade.networks.autoencoder
    inside = scan.array[2:34, :, 0]
    image = torch.from_numpy(np.pad(inside, ((0, 0), (2, 2))) / 255)[None, None]
    with torch.inference_mode():
        itself = encoder.decode(encoder.encode(image)[0])[0, 0].numpy() * 255
    distances = [np.abs(varied(s).array[..., 0] - itself.clip(0)).mean() for s in (0.001, 0.2, 0.5, 0.9)]
    assert distances[0] < 1 and distances == sorted(distances)
    made = varied(0.2)
    step = made.history[-1]
    assert step["strength"] == 0.2 and len(step["like_sha256"]) == 64 and step["synthetic"] and made.source is None
    assert made.unit == "grey8" and made.array.shape == (32, 32, 1)
    # voxel (0, 0) is the scan's (2, -2)
    assert np.allclose(made.geometry.affine[:3, 3], scan.geometry.affine @ [2, -2, 0, 1] @ np.eye(4)[:, :3])


def test_variations_on_the_command_line(cascade, tmp_path):
    cascade.save(tmp_path / "pack")
    medldm.write(picture(), tmp_path / "scan.png")
    words = ("synthesize", "-o", tmp_path / "out", "--model", tmp_path / "pack", "--steps", 4)
    call(*words, "-n", 2, "--like", tmp_path / "scan.png", "--strength", 0.3)
    one, two = (medldm.read(path).array for path in sorted((tmp_path / "out").iterdir()))
    assert one.shape == (32, 32, 1) and not np.array_equal(one, two)
    for more in (
        ("--strength", 0.3),
        ("--like", tmp_path / "no.png"),
        ("--like", tmp_path / "scan.png", "--strength", 2),
    ):
        done = CliRunner().invoke(app, [str(word) for word in (*words, *more)])
        assert done.exit_code == 2 and done.stderr.count("\n") == 1


def test_a_scan_of_other_voxels_is_not_varied(heads):
    model = medldm.load_model(heads / "t1-heads")
    scan = medldm.Volume(
        np.random.default_rng(0).random((20, 16, 12)), medldm.Geometry(np.diag([2.0, 2, 2, 1]), (20, 16, 12))
    )
    with pytest.raises(InputError, match="like: got voxels of 2 x 2 x 2 mm; expected 1 x 1 x 1 mm"):
        medldm.synthesize(model=model, n=1, like=scan)
    with pytest.raises(InputError, match="strength"):
        medldm.synthesize(model=model, n=1, like=scan, strength=0)
