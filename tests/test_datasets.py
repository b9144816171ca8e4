"""The ways from public originals to what the recipes read, on small synthetic input; and the manifests' facts."""

import csv
import hashlib
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

DATASETS = Path(__file__).parents[1] / "datasets"
AFFINE = np.array([[0, 0, 2.0, -98], [-2.0, 0, 0, 117], [0, 2.0, 0, -117], [0, 0, 0, 1]])


def run(script, *options):
    command = [sys.executable, str(DATASETS / script), *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def table(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_table(path, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def digest(array):
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


@pytest.fixture
def radiographs(tmp_path):
    """Two originals with their manifests; the second original is stored as RGBA, as some of the NIH's are."""
    source = tmp_path / "public" / "images_001"
    source.mkdir(parents=True)
    rows, crops = [], []
    for number, name in enumerate(("00000001_000", "00000002_003")):
        pixels = (np.multiply.outer(np.arange(1024), np.arange(1024)) // 700 + 13 * number).astype(np.uint8)
        image = Image.fromarray(pixels)
        (image.convert("RGBA") if number else image).save(source / f"{name}.png")
        # a second way to the mean over blocks: sums of the 16 pixels, halves to even
        total = sum(pixels[a::4, b::4].astype(np.int64) for a in range(4) for b in range(4))
        small = (total // 16 + ((total % 16 > 8) | ((total % 16 == 8) & (total // 16 % 2 == 1)))).astype(np.uint8)
        row = {
            "file": f"{name}.webp",
            "patient": name[:8],
            "finding": "no_finding",
            "split": "train",
            "sha256": "",
        }
        rows.append({**row, "pixels_sha256": digest(small)})
        cut = pixels[10 + number : 394 + number, 20:404]
        crops.append({**row, "left": 20, "top": 10 + number, "pixels_sha256": digest(cut)})
    write_table(tmp_path / "manifest.csv", rows)
    write_table(tmp_path / "crops.csv", crops)
    return tmp_path


def test_radiographs_are_prepared_as_the_manifest_says(radiographs):
    out = radiographs / "data"
    done = run(
        "chest-xray-256/prepare.py",
        "--source",
        radiographs / "public",
        "--out",
        out,
        "--manifests",
        radiographs,
    )
    assert done.returncode == 0, done.stderr
    for name, manifest in (("chest-xray-256", "manifest.csv"), ("chest-xray-native-crops", "crops.csv")):
        expected = {row["file"]: row["pixels_sha256"] for row in table(radiographs / manifest)}
        index = table(out / name / "index.csv")
        assert [row["file"] for row in index] == list(expected) and "sha256" not in index[0]
        for file, pixels in expected.items():
            with Image.open(out / name / "images" / file) as image:
                assert digest(np.asarray(image.convert("L"))) == pixels


def test_a_radiograph_that_differs_leaves_nothing_behind(radiographs):
    png = radiographs / "public" / "images_001" / "00000002_003.png"
    Image.fromarray(np.zeros((1024, 1024), dtype=np.uint8)).save(png)
    out = radiographs / "data"
    done = run(
        "chest-xray-256/prepare.py",
        "--source",
        radiographs / "public",
        "--out",
        out,
        "--manifests",
        radiographs,
    )
    assert done.returncode == 2
    assert "00000002_003.webp: got pixels that differ" in done.stderr and done.stderr.count("\n") == 1
    assert list(out.iterdir()) == []


def test_missing_radiographs_are_counted(radiographs):
    (radiographs / "public" / "images_001" / "00000001_000.png").unlink()
    done = run(
        "chest-xray-256/prepare.py", "--source", radiographs / "public", "--out", radiographs / "data",
        "--manifests", radiographs,
    )  # fmt: skip
    assert done.returncode == 2 and "1 of 2 PNGs missing, first 00000001_000.png" in done.stderr


@pytest.fixture
def head(tmp_path):
    """One head with labels and a manifest."""
    values = np.random.default_rng(0).integers(0, 1000, (120, 120, 90)).astype(np.float32)
    labels = (values > 500).astype(np.uint8) * 7
    for kind, array in (("t1", values), ("labels", labels)):
        (tmp_path / kind).mkdir()
        nib.save(nib.Nifti1Image(array, AFFINE), tmp_path / kind / f"IXI999-HH-0001_{kind}.nii.gz")
    stored = np.floor(values.astype(np.float64) * 255 / values.max() + 0.5).astype(np.uint8)
    row = {"participant": "IXI999-HH-0001", "age": "40.5", "sex": "F", "split": "test"}
    row |= {"t1_voxels_sha256": digest(stored), "labels_voxels_sha256": digest(labels)}
    write_table(tmp_path / "manifest.csv", [row])
    return tmp_path, values, labels


def prepare_head(folder, out):
    return run(
        "brain-t1-2mm/prepare.py", "--t1", folder / "t1", "--labels", folder / "labels", "--out", out,
        "--manifest", folder / "manifest.csv",
    )  # fmt: skip


def test_a_head_keeps_its_grid_and_its_values_to_half_a_step(head):
    folder, values, labels = head
    done = prepare_head(folder, folder / "out")
    assert done.returncode == 0, done.stderr
    t1 = nib.load(folder / "out" / "t1" / "IXI999-HH-0001.nii.gz")
    assert t1.get_data_dtype() == np.uint8
    np.testing.assert_allclose(t1.affine, AFFINE, atol=1e-4)
    np.testing.assert_allclose(t1.get_fdata(), values, atol=0.5 * values.max() / 255 + 1e-3)
    written = nib.load(folder / "out" / "labels" / "IXI999-HH-0001.nii.gz")
    np.testing.assert_array_equal(np.asarray(written.dataobj), labels)
    assert table(folder / "out" / "participants.csv") == [
        {"participant": "IXI999-HH-0001", "age": "40.5", "sex": "F", "split": "test"}
    ]


def test_a_head_on_another_grid_is_refused_and_leaves_nothing(head):
    folder, values, _ = head
    nib.save(nib.Nifti1Image(values, np.diag([1.0, 1.0, 1.0, 1.0])), folder / "t1" / "IXI999-HH-0001_t1.nii.gz")
    done = prepare_head(folder, folder / "out")
    assert done.returncode == 2 and "of 2.0 mm" in done.stderr
    assert not (folder / "out").exists()


@pytest.mark.parametrize(
    ("manifest", "patient", "counts"),
    [
        ("chest-xray-256/manifest.csv", "patient", {"train": (713, 500), "test": (141, 80)}),
        ("chest-xray-256/crops.csv", "patient", {"train": (220, 220), "test": (60, 60)}),
        ("chest-xray-children-256/manifest.csv", "patient", {"train": (780, 670), "test": (120, 100)}),
        ("brain-t1-2mm/manifest.csv", "participant", {"train": (27, 27), "test": (5, 5)}),
        ("ct-torso-256/manifest.csv", "patient", {"train": (77, 44), "test": (22, 13)}),
    ],
)
def test_splits_are_by_patient_and_as_the_readme_says(manifest, patient, counts):
    rows = table(DATASETS / manifest)
    patients = {split: {row[patient] for row in rows if row["split"] == split} for split in counts}
    assert {split: (sum(r["split"] == split for r in rows), len(p)) for split, p in patients.items()} == counts
    assert not patients["train"] & patients["test"]


def test_crops_never_change_a_patients_split():
    split = {row["patient"]: row["split"] for row in table(DATASETS / "chest-xray-256" / "manifest.csv")}
    assert all(split[row["patient"]] == row["split"] for row in table(DATASETS / "chest-xray-256" / "crops.csv"))


@pytest.mark.parametrize("name", ["chest-xray-256", "chest-xray-native-crops", "chest-xray-children-256"])
def test_the_data_at_hand_is_what_the_manifest_lists(data_dir, name):
    folder = "chest-xray-256" if "crops" in name else name
    rows = table(DATASETS / folder / ("crops.csv" if "crops" in name else "manifest.csv"))
    columns = ("file", "patient", "finding", "split")
    index = [tuple(row[c] for c in columns) for row in table(data_dir / name / "index.csv")]
    assert index == [tuple(row[c] for c in columns) for row in rows]
    for row in rows[:: len(rows) // 10]:
        with Image.open(data_dir / name / "images" / row["file"]) as image:
            assert digest(np.asarray(image.convert("L"))) == row["pixels_sha256"]


def test_the_ct_at_hand_is_what_the_manifest_lists(data_dir):
    rows, folder = table(DATASETS / "ct-torso-256" / "manifest.csv"), data_dir / "ct-torso-256"
    assert table(folder / "index.csv") == [{k: v for k, v in row.items() if k != "voxels_sha256"} for row in rows]
    for row in rows[:: len(rows) // 6]:
        scan = nib.load(folder / row["file"])
        assert scan.shape == (256, 256, int(row["slices"]))
        assert digest(scan.dataobj.get_unscaled()) == row["voxels_sha256"]
