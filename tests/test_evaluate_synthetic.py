"""`medldm evaluate` on made patients, pictures and volumes: copies are found, other patients are not, it is said."""

import csv
import json
import re
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter
from typer.testing import CliRunner

import medldm
from medldm.cli import app
from medldm.errors import EmptyInput, InputError, OutputError
from medldm.evaluate.listing import Table, list_scans
from medldm.io.manifest import load_manifest
from medldm.synthesis.membership import denoising_losses
from tests.dicom_maker import CANARY
from tests.test_evaluate_measures import patients_image
from tests.tiny import tiny_model

pytestmark = pytest.mark.filterwarnings("ignore:.*no unit of length")
TRAINING, HELD_OUT, OTHERS = range(24), range(100, 116), range(200, 212)


def picture(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((255 * np.clip(image, 0, 1)).round().astype(np.uint8)).save(path)


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """real/ with index.csv beside images/; others/: patients of neither split; copies/: of the training, noisy."""
    root = tmp_path_factory.mktemp("scene")
    rows = []
    for split, numbers in (("train", TRAINING), ("test", HELD_OUT)):
        for n in numbers:
            picture(root / "real" / "images" / f"{n:03d}.png", patients_image(n, 96))
            rows.append({"file": f"{n:03d}.png", "patient": f"p{n}", "split": split})
    with (root / "real" / "index.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["file", "patient", "split"])
        writer.writeheader()
        writer.writerows(rows)
    rng = np.random.default_rng(0)
    for n in OTHERS:
        picture(root / "others" / f"{n:03d}.png", patients_image(n, 96))
    for n in TRAINING[:8]:
        image = np.roll(patients_image(n, 96), (1, -1), (0, 1))
        picture(root / "copies" / f"copy{n:03d}.png", image + 0.02 * rng.standard_normal(image.shape))
    for n in OTHERS[:4]:
        shutil.copy(root / "others" / f"{n:03d}.png", root / "copies")
    (root / "copies" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    (root / "copies" / "notes.txt").write_text("no scan")
    return root


@pytest.fixture(scope="module")
def copied(scene):
    found = medldm.evaluate_synthetic(scene / "copies", scene / "real")
    found.write(scene / "copies-out")
    return found


def here(*words):
    """A command, in this process."""
    return CliRunner().invoke(app, [str(word) for word in words])


# --- what is found ---


def test_other_patients_are_as_good_as_the_floor_and_no_copies(scene):
    table = medldm.evaluate_synthetic(scene / "others", scene / "real").table
    quality, privacy = table["quality"], table["privacy"]
    assert quality["kid"]["synthetic"]["image"]["low"] < 0 < quality["kid"]["synthetic"]["image"]["high"]
    for key in ("precision", "recall", "coverage"):
        own, floor = quality[key]["synthetic"], quality[key]["floor"]
        assert own["low"] <= floor["high"] and own["mean"] > 0.5, key
    assert privacy["copies"] == 0 and privacy["held_out_flagged_share"] <= 0.05
    for own in privacy["auc"].values():
        assert own["closer_to_training"]["low"] < 0.5 < own["closer_to_training"]["high"]
        assert abs(own["closer_to_training"]["mean"] - 0.5) < 0.2
    assert all(scan["kept"] for scan in table["scans"])
    assert {f["level"] for f in table["verdict"]} <= {"good", "fair"}
    assert any("not to be trusted below 50" in note for note in table["warnings"])


def test_copies_are_found_by_name_and_other_patients_among_them_are_not(copied):
    scans = {scan["file"]: scan for scan in copied.table["scans"]}
    for n in TRAINING[:8]:
        scan = scans[f"copy{n:03d}.png"]
        assert scan["copy"] and not scan["kept"] and scan["nearest"] == f"images/{n:03d}.png"
        assert scan["similarity"] > copied.table["privacy"]["copy_similarity"]
    assert not any(scans[f"{n:03d}.png"]["copy"] for n in OTHERS[:4])
    assert copied.table["privacy"]["copies"] == 8
    assert any(f.level == "bad" and "8 of 12 are copies" in f.text for f in copied.findings)


def test_equal_sets_are_at_the_limits_and_held_out_copies_are_told(scene, tmp_path):
    for n in HELD_OUT:
        (tmp_path / "same").mkdir(exist_ok=True)
        shutil.copy(scene / "real" / "images" / f"{n:03d}.png", tmp_path / "same")
    table = medldm.evaluate_synthetic(tmp_path / "same", scene / "real").table
    for key in ("precision", "recall", "coverage"):
        assert table["quality"][key]["synthetic"]["mean"] == 1
    assert table["quality"]["kid"]["synthetic"]["image"]["mean"] < 0.5
    assert table["quality"]["intensity"]["synthetic"]["distance"] == pytest.approx(0, abs=1e-12)
    assert table["quality"]["spectrum"]["synthetic"]["rms_db"] == pytest.approx(0, abs=1e-9)
    assert table["privacy"]["copies_of_held_out"] == len(HELD_OUT)
    assert any("equal held-out scans" in f["text"] for f in table["verdict"])
    for own in table["privacy"]["auc"].values():  # they speak for themselves, not for the training
        assert own["closer_to_training"]["mean"] == pytest.approx(0.5, abs=0.05)


def test_blur_lowers_precision_and_is_said(scene, tmp_path):
    for n in OTHERS:
        picture(tmp_path / "soft" / f"{n}.png", gaussian_filter(patients_image(n, 96), 3))
    found = medldm.evaluate_synthetic(tmp_path / "soft", scene / "real")
    quality = found.table["quality"]
    assert quality["kid"]["synthetic"]["image"]["low"] > quality["kid"]["floor"]["image"]["high"]
    assert quality["precision"]["synthetic"]["high"] < quality["precision"]["floor"]["low"]
    assert quality["spectrum"]["synthetic"]["high_db"] < -3
    assert any("blurred" in finding.text for finding in found.findings)


def test_without_held_out_scans_it_says_so_and_still_finds_copies(scene, tmp_path):
    shutil.copytree(scene / "real" / "images", tmp_path / "images")
    found = medldm.evaluate_synthetic(scene / "copies", tmp_path / "images")
    assert found.table["reference"]["set"] == "half of the real patients" and "held-out" not in found.table["counts"]
    assert found.table["privacy"]["copies"] == 8
    assert any("no held-out real scans" in note for note in found.table["warnings"])


def test_a_folder_of_held_out_scans_and_a_window_of_ones_own(scene, tmp_path):
    for name, numbers in (("train", TRAINING), ("held", HELD_OUT)):
        for n in numbers:
            picture(tmp_path / name / f"{n % 100}.png", patients_image(n, 96))  # names recur
    found = medldm.evaluate_synthetic(scene / "others", tmp_path / "train", held_out=tmp_path / "held", window=(0, 200))
    assert found.table["counts"]["held-out"]["patients"] == len(HELD_OUT)
    assert found.table["range"].startswith("0 to 200")
    assert found.table["privacy"]["copies"] == 0


# --- what is written ---


def test_the_files_are_whole_and_need_nothing_else(copied, scene):
    out = scene / "copies-out"
    assert sorted(path.name for path in out.iterdir()) == ["evaluation.html", "evaluation.json", "kept.csv"]
    table = json.loads((out / "evaluation.json").read_text())
    assert table["schema"] == "medldm.evaluation/1" and table == copied.table
    page = (out / "evaluation.html").read_text()
    assert not re.search(r"(?:src|href)=\"(?!data:)", page) and "<script" not in page and "://" not in page
    assert page.count("<svg") == 3 and page.count("data:image/png") == 12 + 16 + 12
    assert str(scene) not in page and str(scene) not in json.dumps(table)
    assert "copy000.png" in page and "8 of 12 are copies" in page


def test_kept_csv_is_a_table_to_train_on(scene):
    rows = load_manifest(scene / "copies-out" / "kept.csv", root=scene / "copies")
    assert [row.path.name for row in rows] == [f"{n:03d}.png" for n in OTHERS[:4]]
    assert {row.split for row in rows} == {"train"} and len({row.patient_hash for row in rows}) == 4


def test_what_cannot_be_read_is_counted_with_its_reason(copied):
    (left_out,) = copied.table["counts"]["synthetic"]["left_out"]
    assert left_out["file"] == "broken.png" and "broken.png" in left_out["why"] and "\n" not in left_out["why"]
    assert copied.table["counts"]["synthetic"]["scans"] == 12


def test_what_is_there_is_not_replaced_unasked(copied, scene):
    before = (scene / "copies-out" / "evaluation.json").read_bytes()
    with pytest.raises(OutputError, match="an existing file"):
        copied.write(scene / "copies-out")
    assert (scene / "copies-out" / "evaluation.json").read_bytes() == before


# --- the command line ---


def test_the_command_prints_figures_and_a_verdict(scene, tmp_path, monkeypatch):
    """By the manifest.csv of the working folder, where `medldm check` leaves it."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(scene / "real" / "index.csv", "manifest.csv")
    done = here("evaluate", scene / "copies", "--real", scene / "real" / "images", "-o", tmp_path / "out")
    assert done.exit_code == 0, done.stderr
    assert "by manifest.csv" in done.stderr and "no held-out real scans" not in done.stdout
    for text in ("KID x 1000", "precision", "8 of 12", "bad   8 of 12 are copies of training scans",
                 "1 synthetic files left out, first broken.png", "evaluation.html"):  # fmt: skip
        assert text in done.stdout, text
    assert (tmp_path / "out" / "evaluation.html").is_file()
    again = here("evaluate", scene / "copies", "--real", scene / "real", "-o", tmp_path / "out")
    assert again.exit_code == 2 and again.stderr.count("\n") == 1 and "--overwrite" in again.stderr


def test_max_similarity_drops_and_moves_nothing_and_a_model_is_asked(scene, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_model(tmp_path, 2)
    before = sorted(path.name for path in (scene / "copies").iterdir())
    words = ("evaluate", scene / "copies", "--real", scene / "real", "--json", "--max-similarity", 0.2)
    words = (*words, "--model", tmp_path / "tiny-2d")
    done = here(*words)
    assert done.exit_code == 0, done.stderr
    table = json.loads(done.stdout)
    assert table["max_similarity"] == 0.2
    kept = [scan["file"] for scan in table["scans"] if scan["kept"]]
    assert kept == [scan["file"] for scan in table["scans"] if scan["similarity"] <= 0.2]
    assert len(kept) < 4 and table["privacy"]["copies"] == 8
    assert (tmp_path / "evaluation" / "kept.csv").is_file()
    assert sorted(path.name for path in (scene / "copies").iterdir()) == before
    membership = table["privacy"]["membership"]
    assert (membership["training"], membership["held_out"]) == (len(TRAINING), len(HELD_OUT))
    for value in membership["auc"].values():  # random weights remember nobody
        assert value["low"] < 0.5 < value["high"]


def test_help_and_refusals_are_one_line(scene, tmp_path):
    text = here("evaluate", "--help").stdout
    for option in ("--real", "--held-out", "--index", "--max-similarity", "--model", "--window"):
        assert option in text
    real = ("--real", scene / "real", "-o", tmp_path / "out")
    for words, said in [
        ((scene / "none", *real), "no such file"),
        ((scene / "others", *real, "--window", "3:1"), "--window"),
        ((scene / "others", "--real", scene / "others" / "notes", "-o", tmp_path / "out"), "no such file"),
        ((scene / "others", *real, "--model", "nobody"), "nobody"),
        ((scene / "others", *real, "--patient", "who"), "who"),
    ]:
        done = here("evaluate", *words)
        assert done.exit_code == 2 and said in done.stderr and done.stderr.count("\n") == 1, done.stderr
        assert not (tmp_path / "out").exists()


# --- where scans are ---


def test_a_table_tells_splits_patients_and_label_maps(tmp_path):
    for n in range(3):
        picture(tmp_path / "t1" / f"s{n}.png", patients_image(n, 32))
        picture(tmp_path / "maps" / f"s{n}.png", patients_image(n, 32) > 0.5)
    (tmp_path / "participants.csv").write_text("participant,split\ns0,train\ns1,validation\ns2,test\n")
    table = Table(Path("participants.csv"), "t1/{participant}.png", "participant", "maps/{participant}.png")
    found = list_scans(tmp_path, table)
    assert [entry.split for entry in found.entries] == ["train", "validation", "test"]
    assert [entry.name for entry in found.entries] == [f"t1/s{n}.png" for n in range(3)]
    assert [entry.labels.name for entry in found.entries if entry.labels] == ["s0.png", "s1.png", "s2.png"]
    assert "s0" not in {entry.patient for entry in found.entries}


def test_files_named_as_labels_are_no_scans(tmp_path):
    for name in ("sub-1_T1w", "sub-1_dseg", "labels/sub-1", "label-free"):
        picture(tmp_path / f"{name}.png", patients_image(1, 32))
    found = list_scans(tmp_path)
    assert [entry.name for entry in found.entries] == ["sub-1_T1w.png"]
    assert len(found.labels) == 3
    with pytest.raises(EmptyInput, match="no scan that can be read"):
        picture(tmp_path / "alone" / "x_dseg.png", patients_image(1, 32))
        list_scans(tmp_path / "alone")


def test_dicom_is_read_series_by_series_and_names_no_patient(dicom_series):
    for n in range(3):
        root = dicom_series(
            f"set/d{n}", series=f"1.2.{n}", change=lambda ds, k, n=n: setattr(ds, "PatientID", f"{CANARY}{n}")
        )
    found = list_scans(root.parent)
    assert [entry.name for entry in found.entries] == ["d0", "d1", "d2"]
    assert len({entry.patient for entry in found.entries}) == 3 and CANARY not in repr(found)
    assert all(entry.read().modality == "MR" for entry in found.entries)


def test_a_patient_on_both_sides_is_refused(scene, tmp_path):
    table = tmp_path / "index.csv"
    table.write_text("file,patient,split\n000.png,a,train\n001.png,a,test\n")
    with pytest.raises(InputError, match="a patient in two splits"):
        medldm.evaluate_synthetic(scene / "others", scene / "real", index=table, file="images/{file}")


# --- volumes ---


def head(number, size=32):
    """A made head with two regions, and its label map: the ventricle's size is the patient's."""
    rng = np.random.default_rng(number)
    axes = np.meshgrid(*(np.linspace(-1, 1, size),) * 3, indexing="ij")
    skull = sum((a / rng.uniform(0.75, 0.9)) ** 2 for a in axes) < 1
    at = rng.uniform(-0.15, 0.15, 3)
    ventricle = sum(((a - c) / rng.uniform(0.2, 0.4)) ** 2 for a, c in zip(axes, at, strict=True)) < 1
    folds = gaussian_filter(rng.standard_normal((size,) * 3), size / 16)
    image = 600 * skull - 400 * ventricle + 1500 * folds * skull
    return np.clip(image, 0, None).astype(np.float32), skull.astype(np.uint8) + ventricle


def test_heads_are_compared_plane_by_plane_with_their_label_maps(tmp_path):
    def save(folder, numbers, noise=0.0):
        for n in numbers:
            image, labels = head(n)
            image = image + noise * np.random.default_rng(n).standard_normal(image.shape).astype(np.float32)
            for name, values in ((f"sub-{n:02d}_T1w", image), (f"sub-{n:02d}_dseg", labels)):
                (tmp_path / folder).mkdir(exist_ok=True)
                nib.save(nib.Nifti1Image(values, np.diag([2.0, 2, 2, 1])), tmp_path / folder / f"{name}.nii.gz")

    save("train", range(4))
    save("held", (20, 21))
    save("synthetic", (0, 50), noise=10)
    found = medldm.evaluate_synthetic(tmp_path / "synthetic", tmp_path / "train", held_out=tmp_path / "held")
    table = found.table
    assert table["dims"] == 3 and set(table["quality"]["kid"]["synthetic"]) == {"axial", "coronal", "mean", "sagittal"}
    assert [scan["copy"] for scan in table["scans"]] == [True, False]
    assert table["scans"][0]["nearest"] == "sub-00_T1w.nii.gz"
    rows = {row["label"]: row for row in table["regions"]["labels"]}
    assert table["regions"]["unit"] == "ml" and set(rows) == {1, 2}
    sizes = [0.008 * int((head(n)[1] == 2).sum()) for n in (0, 50)]
    assert rows[2]["synthetic"]["mean"] == pytest.approx(np.mean(sizes)) and rows[2]["real"]["n"] == 2
    found.write(tmp_path / "out")
    page = (tmp_path / "out" / "evaluation.html").read_text()
    assert "Labelled regions" in page and page.count("data:image/png") == 2 + 2 + 2


# --- membership ---


def test_losses_belong_to_the_scan_and_the_model(tmp_path):
    model = tiny_model(tmp_path, 2)
    scans = [medldm.read(_saved(tmp_path / f"{n}.png", n)) for n in range(3)]
    found = denoising_losses(model, scans)
    assert len(found) == 3 and all(losses.shape == (3,) and (losses > 0).all() for losses in found.values())
    backwards = denoising_losses(model, scans[::-1])
    for name, losses in found.items():
        assert backwards[name][::-1] == pytest.approx(losses)
        assert len(set(losses)) == 3


def _saved(path, number):
    picture(path, patients_image(number, 24))
    return path
