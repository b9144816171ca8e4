"""The command line on tiny random models: results, exit codes, one-line errors, nothing half-written."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import medldm
from medldm.cli import app
from medldm.io.picture import HISTORY
from tests.tiny import mask_model

AFFINE = np.array([[0, 0, 1.0, -9], [-1.0, 0, 0, 8], [0, 2.0, 0, -7], [0, 0, 0, 1]])


@pytest.fixture
def head(tmp_path):
    path = tmp_path / "head.nii.gz"
    array = 500 * np.random.default_rng(0).random((16, 12, 14)).astype(np.float32)
    array[:4] = 0
    nib.save(nib.Nifti1Image(array, AFFINE), path)
    return path


def call(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def one_line_error(done, code=2):
    assert done.exit_code == code, done.output
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    return done.stderr


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_denoise_writes_what_the_api_gives(packs, picture, tmp_path):
    out = tmp_path / "out.nii.gz"
    done = call("denoise", "-i", picture, "-o", out, "--model", packs / "tiny-2d", "--noise-std", 8, "--seed", 3)
    assert done.exit_code == 0, done.output
    direct = medldm.denoise(picture, model=packs / "tiny-2d", noise_std=8, seed=3)
    written = medldm.read(out)
    np.testing.assert_allclose(written.array, direct.volume.array, atol=1e-4)
    assert written.geometry.isclose(direct.volume.geometry)
    assert "wrote" in done.stdout and "20 x 24 x 1" in done.stdout


def test_denoise_writes_residual_uncertainty_and_report(packs, picture, tmp_path):
    done = call(
        "denoise", "-i", picture, "-o", tmp_path / "out.png", "--model", packs / "tiny-2d",
        "--mode", "perceptual", "--samples", 2, "--steps", 3, "--residual", tmp_path / "r.nii.gz",
        "--uncertainty", tmp_path / "u.nii.gz", "--report", tmp_path / "report.html", "--quiet",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert done.stdout == ""
    assert (medldm.read(tmp_path / "u.nii.gz").array >= 0).all()
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Denoised" in text and "in.png" not in text


def test_json_is_the_report(packs, picture, tmp_path):
    done = call(
        "denoise",
        "-i",
        picture,
        "-o",
        tmp_path / "o.png",
        "--model",
        packs / "tiny-2d",
        "--json",
        "--seed",
        5,
    )
    report = json.loads(done.stdout)
    assert report["seed"] == 5 and report["task"] == "denoise" and report["noise_std_estimated"] is True


@pytest.mark.parametrize("option", [("--scale", "1x2x1"), ("--spacing", "1x1x1"), ("--scale", "2")])
def test_superres_refines_the_thick_axis(packs, head, tmp_path, option):
    out = tmp_path / "out.nii.gz"
    done = call("superres", "-i", head, "-o", out, "--model", packs / "tiny-3d", *option)
    assert done.exit_code == 0, done.output
    scan, fine = medldm.read(head), medldm.read(out)
    assert fine.array.shape == (16, 24, 14)
    assert fine.geometry.isclose(scan.geometry.zoom((1, 2, 1)))


def test_superres_wants_exactly_one_of_scale_and_spacing(packs, head, tmp_path):
    for options in ((), ("--scale", "2", "--spacing", "1")):
        done = call("superres", "-i", head, "-o", tmp_path / "o.nii.gz", "--model", packs / "tiny-3d", *options)
        assert done.exit_code == 2 and "--spacing" in done.stderr


def test_synthesize_names_files_by_seed_and_number(packs, tmp_path):
    out = tmp_path / "new"
    words = ("synthesize", "-o", out, "--model", packs / "tiny-2d", "-n", 2, "--seed", 4, "--steps", 3)
    assert call(*words).exit_code == 0
    assert names(out) == ["tiny-2d-seed4-0000.png", "tiny-2d-seed4-0001.png"]
    told = json.loads(Image.open(out / "tiny-2d-seed4-0001.png").getexif()[HISTORY])[-1]
    assert (told["seed"], told["index"], told["synthetic"]) == (4, 1, True) and len(told["weights_sha256"]) == 64
    before = (out / "tiny-2d-seed4-0000.png").read_bytes()
    assert "existing file" in one_line_error(call(*words))
    done = call(*words, "--overwrite", "--json")
    assert len(json.loads(done.stdout)["files"]) == 2
    assert (out / "tiny-2d-seed4-0000.png").read_bytes() == before


def test_synthetic_heads_are_nifti_unless_told_otherwise(packs, tmp_path):
    done = call("synthesize", "-o", tmp_path / "new", "--model", packs / "tiny-3d", "--steps", 3)
    assert done.exit_code == 0, done.output
    assert "tiny-3d-seed0-0000.nii.gz" in names(tmp_path / "new")
    assert "nonsense" in one_line_error(
        call("synthesize", "-o", tmp_path / "n", "--model", packs / "tiny-3d", "--format", "nonsense")
    )


def test_what_a_picture_cannot_hold_is_drawn_as_nifti(packs, tmp_path):
    ct = shutil.copytree(packs / "tiny-2d", tmp_path / "ct")
    told = json.loads((ct / "pack.json").read_text())
    told["synthesis"] |= {"unit": "HU", "scale": 2000.0, "offset": -1000.0}
    (ct / "pack.json").write_text(json.dumps(told))
    words = ("synthesize", "-o", tmp_path / "new", "--model", ct, "--steps", 2)
    assert "values in HU" in one_line_error(call(*words, "--format", "picture"))
    assert not (tmp_path / "new").exists()
    assert call(*words).exit_code == 0
    assert "ct-seed0-0000.nii.gz" in names(tmp_path / "new")
    assert medldm.read(tmp_path / "new" / "ct-seed0-0000.nii.gz").array.min() >= -1000


def test_what_may_be_assumed_reaches_the_reader(packs, head, tmp_path):
    image = nib.load(head)
    holes = image.get_fdata(dtype=np.float32)
    holes[5, 5, 5] = np.nan
    nib.save(nib.Nifti1Image(holes, AFFINE), tmp_path / "holes.nii")
    words = ("-i", tmp_path / "holes.nii", "-o", tmp_path / "o.nii", "--model", packs / "tiny-3d")
    for command in (("denoise", "--noise-std", 5), ("superres", "--scale", 2)):
        assert "1 voxels that are not finite" in one_line_error(call(*command, *words, "--overwrite"))
        assert "selection" in one_line_error(call(*command, *words, "--select", "EchoTime=5", "--overwrite"))
        assert "GiB" in one_line_error(call(*command, *words, "--max-bytes", 9, "--overwrite"))
        done = call(*command, *words, "--nan", "fill", "--overwrite")
        assert done.exit_code == 0, done.output
        assert json.loads((tmp_path / "o.json").read_text())["medldm"]["history"][0]["nan_filled"] == 1


def test_inspect_shows_the_grid(head):
    facts = json.loads(call("inspect", head, "--json").stdout)
    assert facts["shape"] == [16, 12, 14] and facts["spacing_mm"] == [1, 2, 1] and facts["axcodes"] == "PSR"
    assert facts["source"] == "nifti" and facts["range"][0] == 0
    np.testing.assert_allclose(facts["affine"], AFFINE)
    assert "16 x 12 x 14" in call("inspect", head).stdout


def test_models_and_doctor_name_what_is_there():
    listed = {pack["name"] for pack in json.loads(call("models", "--json").stdout)}
    assert {"brain-t1-2mm", "chest-xray-256"} <= listed
    done = call("doctor", "--json")
    facts = json.loads(done.stdout)
    assert "denoise" in facts["plugins"]["problems"] and facts["versions"]["medldm"] == medldm.__version__
    assert done.exit_code == (1 if facts["problems"] else 0)


def test_a_damaged_pack_is_listed_as_unusable(packs, tmp_path, picture):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "pack.json").write_text("{}", encoding="utf-8")
    error = one_line_error(call("denoise", "-i", picture, "-o", tmp_path / "o.png", "--model", tmp_path / "broken"))
    assert "weights.safetensors" in error


@pytest.mark.parametrize("json_text", ["{}", "not json", "[1, 2]"])
def test_a_pack_that_cannot_be_read_is_a_problem_not_a_crash(tmp_path, json_text):
    from medldm.installed import describe

    (tmp_path / "pack.json").write_text(json_text, encoding="utf-8")
    (tmp_path / "weights.safetensors").write_bytes(b"")
    assert any(said in describe(str(tmp_path)).problem for said in ("pack.json", "format None"))


def test_the_demonstration_refuses_a_folder_with_files(packs, tmp_path):
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    models = ("--brain-model", packs / "tiny-3d", "--chest-model", packs / "tiny-2d", "--ct-model", packs / "tiny-2d")
    assert "a folder with files" in one_line_error(call("demo", "--out", tmp_path, *models))
    assert names(tmp_path) == ["mine.txt"]


@pytest.mark.slow
def test_the_demonstration_leaves_a_report_with_every_part(packs, picture, tmp_path):
    pytest.importorskip("nilearn")
    out = tmp_path / "demo"
    models = ("--brain-model", packs / "tiny-3d", "--chest-model", packs / "tiny-2d", "--ct-model", packs / "tiny-2d")
    done = call("demo", "--out", out, "--scan", picture, *models)
    assert done.exit_code == 0, done.output
    found = json.loads((out / "demo.json").read_text(encoding="utf-8"))
    assert found["left_out"] == []
    assert set(found["figures"]) == {
        "head, noise 10 %", "head, slices x2", "radiograph, noise 10 %", "radiograph, pixels x4",
        "CT slice, noise of 40 HU",
    }  # fmt: skip
    text = (out / "report.html").read_text(encoding="utf-8")
    for title in ("Your scan", "Head: Rician", "A DICOM slice", "Synthetic heads", "Synthetic radiographs"):
        assert title in text
    assert len(list((out / "head-denoised-dicom").iterdir())) > 10


def test_inpaint_fills_the_mask_and_nothing_else(head, tmp_path):
    mask_model(tmp_path, 3)
    scan, gap = medldm.read(head), np.zeros((16, 12, 14), np.float32)
    gap[6:10, 4:8, 5:9] = 1
    medldm.write(scan.with_array(gap), tmp_path / "mask.nii.gz")
    words = ("inpaint", "-i", head, "--mask", tmp_path / "mask.nii.gz", "--model", tmp_path / "masks-3d")
    done = call(*words, "-o", tmp_path / "out.nii.gz", "--report", tmp_path / "report.html")
    assert done.exit_code == 0, done.output
    filled = medldm.read(tmp_path / "out.nii.gz")
    np.testing.assert_array_equal(filled.array[gap == 0], scan.array[gap == 0])
    assert (filled.array[gap == 1] != scan.array[gap == 1]).any() and filled.ai_processed
    assert "Filled" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "no such" in one_line_error(call(*words[:4], tmp_path / "none.nii", *words[5:], "-o", tmp_path / "o.nii.gz"))
