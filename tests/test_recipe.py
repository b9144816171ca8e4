"""Recipes are checked in full before any work, and an error names the key that is to be changed."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import medldm
from medldm.errors import InputError, ModelError, RecipeError
from medldm.geometry import Geometry
from medldm.installed import read_tables
from medldm.recipe import parse_recipe
from medldm.training.start import resolve
from medldm.volume import Volume
from tests.test_gate import toml_of
from tests.tiny import tiny_model, tiny_table, with_mask_head

ABSENT = object()


def changed(table, path, value):
    """A copy in which the key at `path`, parts joined by dots, is another one (ABSENT: is none)."""
    table = json.loads(json.dumps(table))  # no part of it stands in two places
    *outer, last = (int(part) if part.isdigit() else part for part in path.split("."))
    here = table
    for part in outer:
        here = here[part]
    if value is ABSENT:
        del here[last]
    else:
        here[last] = value
    return table


WRONG = [
    ("pack.name", "", "at least 1 character"),
    ("pack.modality", [], "one or several"),
    ("pack.modality", ["MR", "MR"], "different"),
    ("pack.modality.0", "MRI", "such as MR"),
    ("pack.modality.0", "PET", "such as PT"),
    ("pack.modality.0", "mr", "such as MR"),
    ("pack.spacing.1", -1.0, "greater than 0"),
    ("pack.spacing.0", float("nan"), "finite"),
    ("pack.spacing_range", [3.0, 0.5], "smaller one first"),
    ("pack.spacing_range.0", 0.0, "greater than 0"),
    ("pack.axcodes", "RAR", "one letter each"),
    ("pack.axcodes", "RA", "one letter each"),
    ("pack.axcodes", "XYZ", "one letter each"),
    ("pack.intensity.low", 99.95, "less than high, 99.9"),
    ("pack.intensity.high", 101.0, "a percentile"),
    ("pack.intensity.low", -1.0, "a percentile"),
    ("pack.autoencoder.factor", [4, 4], "one number, or 3"),
    ("pack.autoencoder.factor", 0, "greater than or equal to 1"),
    ("pack.autoencoder.factor", [4, -4, 4], "greater than or equal to 1", "pack.autoencoder.factor.1"),
    ("pack.autoencoder.channels", 65, "at most 64"),
    ("pack.autoencoder.width", -8, "greater than or equal to 1"),
    ("pack.autoencoder.encoder_depth", -1, "greater than or equal to 0"),
    ("pack.autoencoder.kind", "pac", "'pca', 'monai', 'imported'"),
    ("pack.unet.channels.0", 24, "a multiple of 16"),
    ("pack.unet.channels.1", 48, "a multiple of 32"),
    ("pack.unet.channels.0", 0, "greater than or equal to 1"),
    ("pack.unet.attention_levels", [True], "one a level, 2"),
    ("pack.unet.num_res_blocks", 0, "greater than or equal to 1"),
    ("pack.heads.main.channels.0", 0, "greater than or equal to 1"),
    ("pack.heads.main.depth", -1, "greater than or equal to 1"),
    ("pack.problems.denoise.noise_std", [0.25, 0.005], "smaller one first"),
    ("pack.problems.denoise.noise_std.0", -0.005, "greater than 0"),
    ("pack.problems.denoise.head", "tail", "one of main"),
    ("pack.problems.super_resolve.factors.0", 1, "greater than or equal to 2"),
    ("pack.problems.super_resolve.factors", [], "at least 1 item"),
    ("pack.problems.super_resolve.factor_weights", [1.0], "as many numbers as factors, 2"),
    ("pack.problems.inpaint.radius", [9.0, 3.0], "smaller one first"),
    ("pack.process", {"sigma_min": 40.0}, "less than sigma_max, 40", "pack.process.sigma_min"),
    ("pack.process", {"sigma_data": [1.0, 1.0]}, "one number, or 4", "pack.process.sigma_data"),
    ("pack.measurement", {"noise_std": [0.3, 0.3]}, "two levels", "pack.measurement.noise_std"),
    ("pack.synthesis.shape.2", 0, "greater than or equal to 1"),
    ("pack.synthesis.scale", -255.0, "greater than 0"),
    ("source", [], "at least 1 item"),
    ("source.0.weight", 0.0, "greater than 0"),
    ("source.0.coarsen", [0], "greater than or equal to 1", "source.0.coarsen.0"),
    ("source.0.coarsen", [2], "volumes are not coarsened"),
    ("source.0.file", "{file", "columns in braces"),
    ("stage.0.crop", [24, 24], "3 sizes"),
    ("stage.0.crop", [24, 24, 22], "multiples of 4"),
    ("stage.1.crop", [24, 24, 20], "multiples of 8"),
    ("stage.2.crop", [24, 24, -8], "greater than or equal to 1", "stage.2.crop.2"),
    ("stage.1.steps", -1, "greater than or equal to 0"),
    ("stage.0.lr", float("inf"), "finite"),
    ("stage.2.batch_size", 0, "greater than or equal to 1"),
    ("stage.1.problems", {"sharpen": 1.0}, "problems of the pack"),
    ("stage.2.head", "tail", "one of pack.heads"),
    ("stage.1.train", "denoise", "'autoencoder', 'denoiser', 'head'"),
    ("seed", -1, "greater than or equal to 0"),
]


@pytest.mark.parametrize(("path", "value", "expected", "key"), [w if len(w) == 4 else (*w, w[0]) for w in WRONG])
def test_what_is_wrong_is_said_of_its_key(path, value, expected, key):
    with pytest.raises(RecipeError) as refused:
        resolve(changed(with_mask_head(tiny_table(3)), path, value))
    text = str(refused.value)
    assert f"got {key}: " in text and expected in text
    assert "\n" not in text and len(text) < 220 and "{'" not in text


def test_two_sources_alike_and_two_stages_alike_are_refused():
    table = tiny_table(2)
    with pytest.raises(RecipeError, match=r"source.1.folder: .; expected another than source.0"):
        parse_recipe(table | {"source": table["source"] * 2})
    with pytest.raises(RecipeError, match=r"stage.3: head-main; expected another stage than stage.2"):
        parse_recipe(table | {"stage": [*table["stage"], table["stage"][2]]})
    with pytest.raises(RecipeError, match=r"stage.0.train: denoiser; expected the autoencoder first"):
        parse_recipe(table | {"stage": table["stage"][1:]})


def test_a_crop_that_a_factor_does_not_divide_is_refused_before_it_is_drawn():
    table = changed(tiny_table(2), "pack.problems.super_resolve.factors", [2, 5])
    with pytest.raises(RecipeError, match=r"stage.1.crop: \[24, 24\]; expected multiples of 10, for super_resolve"):
        resolve(table)


def test_a_problem_or_key_of_a_problem_that_is_unknown_is_named():
    table = changed(tiny_table(2), "pack.problems.denoize", {"head": "main", "noise_std": [0.1, 0.2]})
    with pytest.raises(RecipeError, match=r"pack.problems.denoize: no such name; .*did you mean 'denoise'"):
        resolve(table)
    table = changed(tiny_table(2), "pack.problems.denoise.radius", [3.0, 9.0])
    with pytest.raises(RecipeError, match=r"pack.problems.denoise.radius"):
        resolve(table)


def test_a_key_of_another_table_is_not_taken_for_a_slip_of_the_pen():
    with pytest.raises(RecipeError, match="unknown key 'steps'; .*belongs into another table"):
        parse_recipe(tiny_table(2) | {"steps": 3})


def test_an_unknown_or_missing_key_is_named_with_its_path_in_the_file():
    with pytest.raises(RecipeError, match=r"unknown key 'stage.2.stepz'; .*did you mean 'steps'"):
        parse_recipe(changed(tiny_table(2), "stage.2.stepz", 1))
    with pytest.raises(RecipeError, match=r"no key 'pack.autoencoder.factor'"):
        parse_recipe(changed(tiny_table(2), "pack.autoencoder.factor", ABSENT))
    with pytest.raises(RecipeError, match=r"no key 'stage.2.head'"):
        parse_recipe(changed(tiny_table(2), "stage.2.head", ABSENT))


def _numbers(table, at=()):
    for key, value in table.items() if isinstance(table, dict) else enumerate(table):
        if isinstance(value, dict | list):
            yield from _numbers(value, (*at, key))
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield ".".join(map(str, (*at, key)))


@given(st.sampled_from(sorted(_numbers(with_mask_head(tiny_table(3))))), st.sampled_from([-1, -0.5, float("nan")]))
def test_no_number_of_a_recipe_may_be_negative(path, value):
    with pytest.raises(RecipeError) as refused:
        resolve(changed(with_mask_head(tiny_table(3)), path, value))
    assert path.removesuffix(".0").removesuffix(".1").removesuffix(".2") in str(refused.value)


def test_the_command_line_refuses_before_the_data_are_looked_at(tmp_path):
    from typer.testing import CliRunner

    from medldm.cli import app

    recipe = tmp_path / "recipe.toml"
    recipe.write_text(toml_of(changed(tiny_table(2), "pack.problems.super_resolve.factors", [1])))
    done = CliRunner().invoke(app, ["train", str(recipe), "--data", str(tmp_path / "none"), "--out", str(tmp_path)])
    assert done.exit_code == 2 and "pack.problems.super_resolve.factors.0: 1" in done.output
    assert not (tmp_path / "checkpoint.pt").exists()


def test_a_damaged_pack_is_told_of_by_its_key(tmp_path):
    tiny_model(tmp_path, 2)
    file = tmp_path / "tiny-2d" / "pack.json"
    file.write_text(json.dumps(changed(json.loads(file.read_text()), "autoencoder.width", 0)))
    with pytest.raises(ModelError, match=r"wrong in autoencoder.width \(0; expected greater than or equal to 1\)"):
        read_tables(str(tmp_path / "tiny-2d"))


def test_a_broken_file_of_a_folder_without_a_table_points_to_check(tmp_path):
    volume = Volume(np.random.default_rng(0).random((24, 24, 20)), Geometry.from_spacing((24, 24, 20), (1, 1, 1)))
    medldm.write(volume, tmp_path / "good.nii.gz")
    (tmp_path / "broken.nii.gz").write_bytes((tmp_path / "good.nii.gz").read_bytes()[:400])
    with pytest.raises(InputError, match=r"broken.nii.gz: .*medldm check") as refused:
        medldm.train(tiny_table(3), data=tmp_path, out=tmp_path / "out")
    assert "\n" not in str(refused.value) and not (tmp_path / "out" / "checkpoint.pt").exists()
