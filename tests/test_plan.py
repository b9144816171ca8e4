"""From a folder to a model by the words of the README: check, plan, train, synthesize; no recipe edited."""

import csv
import os
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from typer.testing import CliRunner

import medldm
from medldm.cli import app
from medldm.errors import EmptyInput, InputError
from medldm.recipe import parse_recipe
from medldm.training.fingerprint import MOST_READ, Kind, kinds_of
from medldm.training.labels import conditions_of
from medldm.training.plan import make_plan
from medldm.training.plan_grid import SIZES

PROGRAM = Path(sys.executable).with_name("medldm")


def call(*words, cwd, expect=0):
    known = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([str(PROGRAM), *map(str, words)], capture_output=True, text=True, cwd=cwd, env=known)
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout + done.stderr


def here(*words, expect=0):
    """The same in this process."""
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == expect, done.output
    return done.output


def loaded(path):
    return parse_recipe(tomllib.loads(path.read_text()))


def radiographs(folder, count=12, size=(48, 64)):
    """Two dark lungs in a grey chest."""
    folder.mkdir(parents=True, exist_ok=True)
    rows, columns = np.mgrid[: size[0], : size[1]] / np.array(size)[:, None, None]
    for number in range(count):
        rng = np.random.default_rng(number)
        image = 160 + 20 * rng.normal(size=size)
        for middle in (0.3, 0.7):
            image -= 110 * np.exp(-(((columns - middle) / 0.12) ** 2 + ((rows - 0.5) / 0.25) ** 2))
        smooth = ndimage.gaussian_filter(image, 0.7).clip(0, 255).astype(np.uint8)
        Image.fromarray(smooth).save(folder / f"chest{number:02d}.png")


def heads(folder, count=12):
    """Balls of tissue in air, of several sizes, some of them turned."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        rng = np.random.default_rng(number)
        spacing = (2.0, 2.0, 2.0) if number % 3 else (2.2, 2.0, 2.4)
        shape = (32, 36 - 2 * (number % 2), 28)
        grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij"))
        ball = np.clip(1.2 - np.sqrt((grid**2).sum(0)) * (1 + 0.1 * rng.random()), 0, 0.6)
        values = 900 * ball * (1 + 0.3 * ndimage.gaussian_filter(rng.normal(size=shape), 2))
        image = nib.Nifti1Image(np.abs(values + 5 * rng.normal(size=shape)).astype(np.float32), np.diag([*spacing, 1]))
        if number in (4, 7):
            image = image.as_reoriented(nib.orientations.axcodes2ornt("PSR"))
        nib.save(image, folder / f"head{number:02d}.nii.gz")


def test_radiographs_with_a_table_of_labels(tmp_path, monkeypatch):
    """To train is the command itself, in a process of its own."""
    monkeypatch.chdir(tmp_path)
    radiographs(tmp_path / "set")
    lines = [f"chest{n:02d}.png;{'ill' if n % 2 else 'well'};{40 + 1.5 * n};p{n // 2}" for n in range(12)]
    (tmp_path / "labels.csv").write_text("file;finding;age;patient\n" + "\n".join(lines))
    here("check", "set", "--labels", "labels.csv")
    said = here("plan", "set", "-o", "chest.toml", "--minutes", 0.02, "--modality", "DX")
    recipe = loaded(tmp_path / "chest.toml")
    assert recipe.pack.synthesis.cascade[0].coordinates and recipe.stages[-1].flip == 0.5  # of twelve patients
    assert recipe.pack.modality == ("DX",) and recipe.pack.synthesis.shape == (64, 48, 1)
    assert recipe.pack.synthesis.conditions["finding"].values == ("ill", "well")
    age = recipe.pack.synthesis.conditions["age"]
    rows = list(csv.DictReader((tmp_path / "chest.csv").open()))
    known = [float(row["age"]) for row in rows if row["split"] != "test"]
    assert (age.low, age.high) == (min(known), max(known)) and "finding (class), age (number)" in said
    assert len(rows) == 12 > len(known)
    call("train", "chest.toml", "--data", "set", "--out", "model", "--quiet", cwd=tmp_path)
    asked = ("--condition", "finding=ill", "--condition", "age=45", "--steps", 3)
    here("synthesize", "-o", "new", "--model", "model", "-n", 2, *asked)
    made = sorted((tmp_path / "new").iterdir())
    assert len(made) == 2 and all(Image.open(path).size == (64, 48) for path in made)


def test_heads_of_mixed_grids_with_broken_ones_between(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    heads(tmp_path / "set")
    (tmp_path / "set" / "head03b.nii.gz").write_bytes(b"no scan")
    for name, values in (("blank", np.zeros((32, 36, 28))), ("scrap", np.random.default_rng(0).random((32, 36, 2)))):
        nib.save(nib.Nifti1Image(values.astype(np.float32), np.diag([2.0, 2, 2, 1])), tmp_path / "set" / f"{name}.nii")
    tiny = np.random.default_rng(1).random((8, 8, 8)).astype(np.float32)
    nib.save(nib.Nifti1Image(tiny, np.diag([0.5, 0.5, 0.5, 1])), tmp_path / "set" / "finger.nii")
    here("plan", "set", "-o", "heads.toml", "--minutes", 0.02)
    text, recipe = (tmp_path / "heads.toml").read_text(), loaded(tmp_path / "heads.toml")
    assert recipe.pack.modality == ("MR",) and recipe.pack.axcodes == "RAS" and recipe.pack.noise == "rician"
    assert recipe.pack.intensity.zero_floor and recipe.pack.problems["super_resolve"].model_extra["through_plane"]
    low, high = recipe.pack.spacing_range
    assert low < 2.0 and 2.4 < high < 2.6
    assert "voxels below half the median's" in text and "one value alone" in text and "along an axis" in text
    assert not {"blank.nii", "scrap.nii", "finger.nii", "head03b.nii.gz"} & {
        row["file"] for row in csv.DictReader((tmp_path / "heads.csv").open())
    }
    here("train", "heads.toml", "--data", "set", "--out", "model", "--quiet")
    here("synthesize", "-o", "new", "--model", "model", "-n", 1, "--steps", 2)
    (made,) = (tmp_path / "new").glob("*.nii.gz")
    scan = medldm.read(made)
    assert scan.array.shape == recipe.pack.synthesis.shape
    assert np.allclose(scan.geometry.spacing, recipe.pack.spacing, atol=1e-4)


def test_several_kinds_in_a_folder_become_several_plans(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    radiographs(tmp_path / "set" / "a", 4)
    heads(tmp_path / "set" / "b", 4)
    words = ("plan", "set", "--minutes", 0.02, "--for", "restore")
    refused = here(*words, "-o", "one.toml", expect=2)
    assert refused.count("\n") == 1 and "--only" in refused
    assert all(kind in refused for kind in ("mr-3d (4 scans)", "sc-2d (4 scans)"))
    assert not (tmp_path / "one.toml").exists() and not (tmp_path / "one.csv").exists()
    here(*words, "-o", "plans", "--quiet")
    assert sorted(p.name for p in (tmp_path / "plans").iterdir()) == [
        "mr-3d.csv",
        "mr-3d.toml",
        "sc-2d.csv",
        "sc-2d.toml",
    ]
    assert {loaded(tmp_path / "plans" / f"{k}.toml").pack.dims for k in ("mr-3d", "sc-2d")} == {2, 3}
    assert all(loaded(tmp_path / "plans" / f"{k}.toml").pack.synthesis is None for k in ("mr-3d", "sc-2d"))
    existing = here(*words, "-o", "plans", expect=2)
    assert "--overwrite" in existing
    wrong = here(*words, "-o", "two.toml", "--only", "ct-3d", expect=2)
    assert "one of" in wrong


def rows(count, **further):
    base = {"patient": "", "modality": "", "spacing": "1x1x1", "shape": "64x48x1", "doubts": "", "split": "train"}
    return [base | {"file": f"chest{n % 12:02d}.png", "patient": f"p{n}"} | further for n in range(count)]


def test_of_thirty_thousand_some_hundred_are_read(tmp_path):
    radiographs(tmp_path)
    (kind,) = kinds_of(rows(30_000), tmp_path)
    assert len(kind.records) == 30_000 and len(kind.looked) == MOST_READ[2]
    plan = make_plan(kind, tmp_path, minutes=0.02, purpose="synthesize")
    recipe = parse_recipe(tomllib.loads(plan.recipe("many", "many.csv")))
    assert recipe.pack.unet is None and not recipe.pack.problems
    assert [stage.train for stage in recipe.stages] == ["autoencoder", "generator"]
    assert not recipe.pack.synthesis.cascade[0].coordinates


def test_what_a_short_training_draws_is_moved_farther_away_from_its_guide(tmp_path):
    radiographs(tmp_path)
    (kind,) = kinds_of(rows(200), tmp_path)
    small = make_plan(kind, tmp_path, minutes=0.02, purpose="synthesize")
    found = {}
    for steps in (2000, 20_000):
        levels = dict.fromkeys(small.levels, len(SIZES) - 1)
        plan = replace(small, levels=levels, steps=small.steps | {"generator-0": steps})
        found[steps] = parse_recipe(tomllib.loads(plan.recipe("few", "few.csv"))).pack.synthesis.cascade[0]
    assert (found[2000].guide.scale, found[20_000].guide.scale) == (2.5, 1.75)
    assert (found[2000].last_sigma, found[20_000].last_sigma) == (0.4, 0.15)


def test_ct_is_told_by_its_values_and_scaled_by_a_window(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(6):
        values = np.where(rng.random((32, 32, 12)) < 0.5, -1000, 40 + 30 * rng.normal(size=(32, 32, 12)))
        nib.save(nib.Nifti1Image(values.astype(np.float32), np.diag([1.0, 1, 5, 1])), tmp_path / f"ct{number}.nii.gz")
    (kind,) = medldm.find_kinds(tmp_path)
    assert kind.name == "ct-3d"
    pack = parse_recipe(tomllib.loads(make_plan(kind, tmp_path, minutes=0.02).recipe("ct", "ct.csv"))).pack
    assert pack.intensity.kind == "window" and pack.intensity.low == -1024 and pack.noise == "gaussian"
    assert pack.synthesis.unit == "HU" and pack.synthesis.offset == -1024
    assert pack.autoencoder.factor == (4, 4, 1)  # slices five times as thick


def test_single_slices_of_ct_are_ct_beside_pictures(tmp_path):
    radiographs(tmp_path, 4)
    values = np.random.default_rng(0).normal(-700, 100, (32, 32, 1)).astype(np.float32)
    for number in range(4):
        nib.save(nib.Nifti1Image(values, np.diag([1.5, 1.5, 1, 1])), tmp_path / f"slice{number}.nii.gz")
    slices = [
        row | {"file": f"slice{n}.nii.gz", "spacing": "1.5x1.5x1"} for n, row in enumerate(rows(4, shape="32x32x1"))
    ]
    assert [kind.name for kind in kinds_of(rows(4) + slices, tmp_path)] == ["ct-2d", "sc-2d"]


def test_ct_and_mr_that_do_not_say_so_are_told_apart(tmp_path):
    heads(tmp_path, 6)
    values = np.random.default_rng(0).normal(-900, 50, (32, 36, 28)).astype(np.float32)
    for number in range(4):
        nib.save(nib.Nifti1Image(values, np.diag([2.0, 2, 2, 1])), tmp_path / f"ct{number}.nii.gz")
    mr, ct = medldm.find_kinds(tmp_path)
    assert (mr.name, len(mr.records), ct.name, len(ct.records)) == ("mr-3d", 6, "ct-3d", 4)
    assert all(record["file"].startswith("ct") for record in ct.records)
    for number in range(1, 4):
        (tmp_path / f"ct{number}.nii.gz").unlink()
    (mr,) = medldm.find_kinds(tmp_path)
    assert mr.left_out == {"too few for a plan of their own (ct-3d)": 1}


def test_a_folder_of_one_scan_has_no_plan(tmp_path):
    radiographs(tmp_path, 1)
    with pytest.raises(EmptyInput, match="at least 2"):
        medldm.find_kinds(tmp_path)


def kind_of(**columns):
    """Ten scans with further columns."""
    return Kind(2, ("DX",), "", tuple(row | {k: v[n] for k, v in columns.items()} for n, row in enumerate(rows(10))))


def test_columns_become_conditions_by_what_they_hold(tmp_path):
    kind = kind_of(
        sex=["F", "M"] * 5,
        grade=["0", "1", "2", "1", "0"] * 2,
        age=[str(30 + 2.5 * n) for n in range(10)],
        site=["here"] * 10,
        note=[f"text {n}" for n in range(10)],
        rare=["x", "y", *[""] * 8],
    )
    tables, said = conditions_of(kind, tmp_path)
    assert tables == {
        "sex": {"kind": "class", "values": ["F", "M"]},
        "grade": {"kind": "class", "values": ["0", "1", "2"]},
        "age": {"kind": "number", "low": 30.0, "high": 52.5},
    }
    apart = Kind(2, ("DX",), "", tuple(r | {"split": "test"} if r["grade"] == "2" else r for r in kind.records))
    assert conditions_of(apart, tmp_path)[0]["grade"]["values"] == ["0", "1"]  # none that was never trained on
    assert "one value" in said["site"] and "different words" in said["note"] and "2 of 10" in said["rare"]
    assert list(conditions_of(kind, tmp_path, ["age"])[0]) == ["age"]
    with pytest.raises(InputError, match="'colour'; expected a further column of the manifest: sex"):
        conditions_of(kind, tmp_path, ["colour"])
    with pytest.raises(InputError, match="one value throughout"):
        conditions_of(kind, tmp_path, ["site"])


def test_label_maps_list_every_value_that_any_of_them_holds(tmp_path):
    for n in range(10):
        Image.fromarray(np.full((8, 8), n % 4, dtype=np.uint8)).save(tmp_path / f"m{n}.png")
    kind = kind_of(label_map=[f"m{n}.png" for n in range(10)], other=[f"m{n}.png" for n in range(10)])
    tables, said = conditions_of(kind, tmp_path)
    assert tables == {"label_map": {"kind": "label_map", "labels": {f"label_{v}": [v] for v in (1, 2, 3)}}}
    assert "--condition other" in said["other"]
    assert list(conditions_of(kind, tmp_path, ["other"])[0]) == ["other"]
