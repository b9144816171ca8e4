"""What lies below a path is listed with what reads it, what is refused with why; patients stay out of it."""

import json
import os
import shlex
import zipfile

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import medldm
from medldm.cli import app
from medldm.cli.options import choice_of, parse_select
from medldm.cli.output import print_table
from medldm.errors import InputError, PixelError
from medldm.io import read_choice
from medldm.io.choice import series_key
from medldm.io.dicom.files import dicom_parts
from medldm.io.survey import survey
from tests.dicom_maker import CANARY, OBLIQUE, make_series

AFFINE = np.array([[0, 0, 1.0, -9], [-1.0, 0, 0, 8], [0, 2.0, 0, -7], [0, 0, 0, 1]])


def call(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def nifti(path, shape=(5, 6, 7)):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(np.arange(np.prod(shape), dtype=np.float32).reshape(shape), AFFINE)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)
    return path


def echo(time):
    return lambda ds, k: setattr(ds, "EchoTime", time)


@pytest.fixture
def mixed(tmp_path):
    """Two series (one of two echoes) in one folder, a gap, NIfTI, a picture, a zip; damaged files and texts."""
    root = tmp_path / "set"
    make_series(root / "flat", series="1.2.3.1", prefix="a", orientation=OBLIQUE)
    make_series(root / "flat", series="1.2.3.2", prefix="b", change=echo("4.5"))
    for file in make_series(tmp_path / "second", series="1.2.3.2", prefix="c", change=echo("9")).iterdir():
        file.rename(root / "flat" / file.name)
    gap = make_series(root / "gap", series="1.2.3.3")
    (gap / "a002.dcm").unlink()
    for number, file in enumerate(sorted(make_series(tmp_path / "spread", series="1.2.3.4").iterdir())):
        (root / "deep" / str(number % 2)).mkdir(parents=True, exist_ok=True)
        file.rename(root / "deep" / str(number % 2) / file.name)
    nifti(root / "n" / "scan.nii.gz")
    (root / "n" / "cut.nii.gz").write_bytes((root / "n" / "scan.nii.gz").read_bytes()[:300])
    (root / "n" / "scan.json").write_text("{}")
    (root / "empty.dcm").touch()
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(6, 8)).save(root / "p.png")
    with zipfile.ZipFile(root / "z.zip", "w") as archive:
        for file in make_series(tmp_path / "zipped", series="1.2.3.5").iterdir():
            archive.write(file, f"x/{file.name}")
    (root / "bad.zip").write_bytes(b"PK no archive")
    return root


def test_every_scan_is_found_and_every_refusal_has_its_reason(mixed):
    found = survey(mixed)
    listed = [(item.file, item.files, item.series, item.select) for item in found.scans]
    keys = {n: series_key(f"1.2.3.{n}") for n in range(1, 6)}
    assert sorted(listed, key=str) == sorted(
        [
            ("flat", 6, keys[1], {}),
            ("flat", 6, keys[2], {"EchoTime": "4.5"}),
            ("flat", 6, keys[2], {"EchoTime": "9"}),
            ("deep", 6, keys[4], {}),
            ("n/scan.nii.gz", 1, "", {}),
            ("p.png", 1, "", {}),
            ("z.zip", 6, keys[5], {}),
        ],
        key=str,
    )
    assert {(item.file, item.error) for item in found.refused} == {
        ("gap", "GeometryError"),
        ("n/cut.nii.gz", "PixelError"),
        ("bad.zip", "PixelError"),
    }
    assert found.other_files == 2


def test_what_is_listed_is_what_reads_it(mixed):
    for item in survey(mixed).scans:
        choice = choice_of(item.series or None, [f"{key}={value}" for key, value in item.select.items()])
        volume = read_choice(mixed / item.file, choice)
        assert item.facts["shape"] == list(volume.array.shape)
        np.testing.assert_array_equal(item.facts["affine"], volume.geometry.affine)
        assert item.facts["range"] == [volume.array.min(), volume.array.max()]


def test_a_reader_that_fails_ends_nothing_and_is_not_quoted(mixed, monkeypatch):
    def fail(path, choice=None):
        raise RuntimeError("Canary^Patient")

    monkeypatch.setattr("medldm.io.picture.read", fail)
    refused = {item.file: item.refusal for item in survey(mixed).refused}
    assert "RuntimeError" in refused["p.png"] and "Canary" not in refused["p.png"] and len(refused) == 4


def test_absolute_paths_stay_out_of_reasons(mixed, monkeypatch):
    def fail(path, choice=None):
        raise PixelError(str(path), f"trouble at {path.resolve()}")

    monkeypatch.setattr("medldm.io.picture.read", fail)
    (item,) = [item for item in survey(mixed).refused if item.file == "p.png"]
    assert item.refusal == "p.png: got trouble at p.png"


def test_progress_counts_files_up_to_all_of_them(mixed):
    seen = []
    survey(mixed, progress=lambda stage, done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    files = sum(path.is_file() for path in mixed.rglob("*"))
    assert seen[-1] == (files, files) and {total for _, total in seen} == {files}


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_large_sets_are_read_part_by_part_and_no_series_is_torn(tmp_path):
    for patient in ("a", "b"):
        for number in (1, 2):
            make_series(tmp_path / patient / f"s{number}", series=f"1.2.{patient == 'a':d}.{number}", n=4)
    (tmp_path / "table.csv").touch()
    files = files_of(tmp_path)
    assert dicom_parts(tmp_path, files, 17) == [tmp_path]
    assert dicom_parts(tmp_path, files, 8) == [tmp_path / "a", tmp_path / "b"]
    every = [tmp_path / patient / f"s{number}" for patient in "ab" for number in (1, 2)]
    assert dicom_parts(tmp_path, files, 7) == dicom_parts(tmp_path, files, 1) == every
    (tmp_path / "b" / "s1" / "a000.dcm").rename(tmp_path / "b" / "s2" / "moved.dcm")
    assert dicom_parts(tmp_path, files_of(tmp_path), 1) == [*every[:2], tmp_path / "b"]
    (tmp_path / "a" / "s1" / "a000.dcm").rename(tmp_path / "b" / "a000.dcm")
    assert dicom_parts(tmp_path, files_of(tmp_path), 1) == [tmp_path]


def test_reading_part_by_part_finds_the_same(mixed, monkeypatch):
    whole = survey(mixed)
    monkeypatch.setattr("medldm.io.dicom.files.dicom_parts.__defaults__", (1, None))
    assert survey(mixed) == whole


@pytest.fixture
def folder_reader(tmp_path, monkeypatch):
    """A plugin whose scans are folders ending in .slab."""
    (tmp_path / "slab-1.0.dist-info").mkdir()
    (tmp_path / "slab-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: slab\nVersion: 1.0\n")
    (tmp_path / "slab-1.0.dist-info" / "entry_points.txt").write_text("[medldm.readers]\nslab = slab_reader\n")
    (tmp_path / "slab_reader.py").write_text(
        "import numpy as np\nimport medldm\nSUFFIXES = ('.slab',)\n"
        "def can_read(path):\n    return path.is_dir() and path.name.endswith('.slab')\n"
        "def read(path, choice=None):\n    array = np.load(path / 'voxels.npy')\n"
        "    return medldm.Volume(array, medldm.Geometry.from_spacing(array.shape, (1, 2, 3)))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))


def test_plugins_may_read_folders(tmp_path, folder_reader):
    root = tmp_path / "set"
    for name, shape in (("a.slab", (2, 3, 4)), ("b.slab", (3, 3, 3))):
        (root / name).mkdir(parents=True)
        np.save(root / name / "voxels.npy", np.zeros(shape))
        (root / name / "more.txt").touch()
    found = survey(root)
    assert [(i.file, i.facts["shape"]) for i in found.scans] == [("a.slab", [2, 3, 4]), ("b.slab", [3, 3, 3])]
    assert found.other_files == 0 and not found.refused


def test_names_that_are_no_utf_8_are_refused_not_fatal(tmp_path):
    whole = nifti(tmp_path / "a.nii")
    try:
        (tmp_path / os.fsdecode(b"b\xff.nii")).write_bytes(whole.read_bytes())
    except OSError:
        pytest.skip("this file system knows UTF-8 alone")
    found = survey(tmp_path)
    assert [i.file for i in found.scans] == ["a.nii"] and "UTF-8" in found.refused[0].refusal
    json.dumps([i.to_dict() for i in found.items]).encode()
    assert call("inspect", tmp_path).exit_code == 0


def test_the_listing_names_parts_and_reasons_but_no_patient(mixed):
    done = call("inspect", mixed)
    assert done.exit_code == 0, done.output
    for text in ("--select EchoTime=4.5", f"--series {series_key('1.2.3.1')}", "n/scan.nii.gz", "gap", "2 other"):
        assert text in done.stdout, text
    everything = done.output + call("inspect", mixed, "--json").output
    assert CANARY not in everything and "1.2.3." not in everything and str(mixed) not in everything


def test_the_commands_of_the_listing_work(mixed):
    table = json.loads(call("inspect", mixed, "--json").stdout)
    assert len(table["scans"]) == 7 and len(table["refused"]) == 3 and table["other_files"] == 2
    for scan in table["scans"]:
        facts = json.loads(call("inspect", mixed / scan["file"], "--json", *shlex.split(scan["read_with"])).stdout)
        assert facts["shape"] == scan["shape"] and facts["affine"] == scan["affine"]


def test_options_change_what_is_refused(mixed):
    folder = mixed / "gap"
    refused = call("inspect", folder, "--json")
    assert refused.exit_code == 2 and json.loads(refused.stdout)["scans"] == []
    assert "Refused" in call("inspect", folder).stdout
    done = call("inspect", folder, "--resample-nonuniform")
    assert done.exit_code == 0 and "10 x 12 x 6" in done.stdout, done.output
    assert call("inspect", mixed / "p.png", "--max-bytes", 100).exit_code == 2


def test_one_scan_is_shown_in_full_with_the_exact_affine(tmp_path):
    path = nifti(tmp_path / "a.nii.gz")
    facts = json.loads(call("inspect", path, "--json").stdout)
    np.testing.assert_array_equal(facts["affine"], medldm.read(path).geometry.affine)
    assert facts["scans"][0]["shape"] == facts["shape"] == [5, 6, 7] and facts["refused"] == []
    text = call("inspect", path).stdout
    assert "shape       5 x 6 x 7" in text and "xform sform" in text
    (tmp_path / "note.txt").touch()
    text = call("inspect", tmp_path).stdout
    assert "1 other files" in text and text.startswith("file        a.nii.gz\n")


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [("absent.nii", None, "no such file"), ("a.txt", b"text", "no reader knows"), ("a.nii", b"junk", "a.nii")],
)
def test_a_single_file_that_is_refused_is_one_line(tmp_path, name, content, expected):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    done = call("inspect", tmp_path / name)
    assert done.exit_code == 2 and done.stdout == "" and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ") and expected in done.stderr


def test_a_folder_without_scans_is_one_line(tmp_path):
    (tmp_path / "a.txt").touch()
    done = call("inspect", tmp_path)
    assert done.exit_code == 2 and "without DICOM" in done.stderr and done.stderr.count("\n") == 1


def test_options_become_a_choice():
    choice = choice_of("k", ["EchoTime=5.19", r"ImageType=ORIGINAL\PRIMARY", "A=b=c"], True, "qform", True, "fill", 99)
    assert choice.series == "k" and choice.resample_nonuniform and choice.assume_affine
    assert choice.select == {"EchoTime": "5.19", "ImageType": r"ORIGINAL\PRIMARY", "A": "b=c"}
    assert (choice.xform, choice.nan, choice.max_bytes) == ("qform", "fill", 99)


@pytest.mark.parametrize("texts", [["EchoTime"], ["=5"], ["EchoTime="], ["A=1", "A=2"]])
def test_wrong_selections_are_refused(texts):
    with pytest.raises(InputError, match="--select"):
        parse_select(texts)


@pytest.mark.parametrize("words", [("--xform", "best"), ("--nan", "zero"), ("--select", "EchoTime")])
def test_wrong_options_are_one_line(tmp_path, words):
    done = call("inspect", nifti(tmp_path / "a.nii"), *words)
    assert done.exit_code == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_tables_take_names_for_text_and_leave_out_empty_columns(capsys):
    print_table(("file", "none", "why"), [("[red]a[/red].nii", "", ":smile:"), ("b", "", "c")])
    text = capsys.readouterr().out
    assert "[red]a[/red].nii" in text and ":smile:" in text and "none" not in text
