"""A generator of toy images draws what it is told: each attribute, all of them, by guidance, on the command line."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import medldm
from medldm.cli import app
from medldm.diffusion.cascade import Guidance, sample_level
from medldm.diffusion.noise import FieldNoise
from medldm.diffusion.samplers import dpmpp_2m
from medldm.errors import InputError, RecipeError
from medldm.geometry import Geometry
from medldm.io.array_cache import ArrayCache
from medldm.nets.conditioner import Conditions
from medldm.recipe import parse_recipe
from medldm.space import centred_geometry
from medldm.training.data import load_scans
from medldm.volume import Volume
from tests.toys import SIZE, ellipse, ellipses_recipe, place, write_ellipses


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes")
    write_ellipses(folder / "data", 96)
    return medldm.train(ellipses_recipe(220), data=folder / "data", out=folder / "out", despite_gate=True)


def _measured(scans) -> tuple[float, float, float]:
    """Medians of radius, height over width, and column of what is bright."""
    found = []
    for scan in scans:
        column, row = np.where(scan.array[..., 0] > 120)  # a volume's first axis leads along a picture's rows
        height, width = (np.ptp(x) + 1 if len(x) else 1 for x in (row, column))
        found.append((np.sqrt(len(row) / np.pi), height / width, column.mean() if len(row) else 16))
    radius, ratio, column = np.median(found, axis=0)
    return float(radius), float(ratio), float(column)


def _map(model, column: int) -> Volume:
    return Volume(place(column).T[..., None].astype(np.float32), centred_geometry(model.pack, (SIZE, SIZE, 1)))


def _drawn(model, guidance: float | dict[str, float] = 1.0, **conditions: object) -> tuple[float, float, float]:
    scans = medldm.synthesize(model=model, n=8, batch=8, seed=1, steps=10, conditions=conditions, guidance=guidance)
    return _measured(scans)


@pytest.mark.parametrize("guidance", [1.0, 1.5, 3.0])
def test_each_condition_alone_moves_its_attribute(shapes, guidance):
    assert _drawn(shapes, guidance, shape="tall")[1] > 1.3 * _drawn(shapes, guidance, shape="wide")[1]
    assert _drawn(shapes, guidance, radius=6.5)[0] > 1.5 + _drawn(shapes, guidance, radius=4)[0]
    assert _drawn(shapes, guidance, place=_map(shapes, 20))[2] > 4 + _drawn(shapes, guidance, place=_map(shapes, 12))[2]


@pytest.mark.parametrize("guidance", [1.0, 1.5, 3.0])
def test_all_conditions_together_move_theirs(shapes, guidance):
    one = _drawn(shapes, guidance, shape="tall", radius=6.5, place=_map(shapes, 12))
    other = _drawn(shapes, guidance, shape="wide", radius=4, place=_map(shapes, 20))
    assert one[1] > 1.3 * other[1]
    assert one[0] > 1.5 + other[0]
    assert other[2] > 4 + one[2]


def test_guidance_of_one_condition_moves_that_one(shapes):
    """The size grows with the guidance of the size, and moves less with that of the place, by chance."""
    said = {"radius": 6.5, "place": _map(shapes, 12)}
    plain, by_size, by_place = (
        _drawn(shapes, guidance, **said)[0] for guidance in (1.0, {"radius": 3.0}, {"place": 3.0})
    )
    assert by_size > plain + 0.4
    assert abs(by_place - plain) < by_size - plain - 0.2


def test_a_sample_depends_on_its_seed_alone(shapes):
    """Not on the batch, nor on where in it, nor on the order."""
    said = [{"shape": "tall"}, {"radius": 5}, {}, {"shape": "wide", "radius": 4}]
    alone = [
        next(medldm.synthesize(model=shapes, n=1, first=i, seed=2, steps=6, conditions=[c])) for i, c in enumerate(said)
    ]
    for batch in (3, 4):
        together = list(medldm.synthesize(model=shapes, n=4, seed=2, steps=6, batch=batch, conditions=said))
        for one, other in zip(alone, together, strict=True):
            assert np.abs(one.array - other.array).max() <= 255 * 1e-5
    assert alone[3].history[-1]["conditions"] == {"shape": "wide", "radius": 4}


def test_wrong_conditions_are_refused_before_anything_is_drawn(shapes):
    with pytest.raises(InputError, match="model shapes, shape: got 'round'; expected one of: tall, wide"):
        medldm.synthesize(model=shapes, n=1, conditions={"shape": "round"})
    small = Volume(np.zeros((8, 8, 1), np.float32), centred_geometry(shapes.pack, (8, 8, 1)))
    with pytest.raises(InputError, match=r"place: got 8 x 8 x 1 voxels .*; expected 32 x 32 x 1"):
        medldm.synthesize(model=shapes, n=1, conditions={"place": small})
    foreign = _map(shapes, 12)
    with pytest.raises(InputError, match="place: got the value 3; expected 0, or a value of here: 1; map it"):
        medldm.synthesize(model=shapes, n=1, conditions={"place": foreign.with_array(foreign.array * 3)})
    with pytest.raises(InputError, match="guidance, condition: got 'shap'; .* did you mean 'shape'"):
        medldm.synthesize(model=shapes, n=1, guidance={"shap": 2.0})


def test_a_recipe_names_a_condition_that_the_pack_has_not():
    recipe = ellipses_recipe(1)
    recipe["source"][0]["conditions"]["colour"] = "{colour}"
    with pytest.raises(
        RecipeError, match=r"source.0.conditions.colour: .*expected a condition of pack.synthesis: shape, radius, place"
    ):
        parse_recipe(recipe)


def test_a_manifest_with_a_wrong_value_is_refused_before_training(tmp_path):
    write_ellipses(tmp_path / "data", 4)
    table = tmp_path / "data" / "shapes.csv"
    table.write_text(table.read_text().replace("wide", "broad"))
    with pytest.raises(InputError, match=r"1.png, shape: got 'broad'; expected one of: tall, wide"):
        medldm.train(ellipses_recipe(1), data=tmp_path / "data", out=tmp_path / "out")


def test_scans_from_a_cache_have_their_conditions(tmp_path):
    write_ellipses(tmp_path / "data", 6)
    recipe = parse_recipe(ellipses_recipe(1))
    plain = load_scans(recipe, tmp_path / "data")
    for _ in range(2):
        cached = load_scans(recipe, tmp_path / "data", cache=ArrayCache(tmp_path / "cache"))
        for one, other in zip(plain, cached, strict=True):
            assert {k: v for k, v in one.conditions.items() if k != "place"} == {
                k: v for k, v in other.conditions.items() if k != "place"
            }
            assert torch.equal(one.conditions["place"], other.conditions["place"])


def test_the_command_line_asks_for_conditions(shapes, tmp_path):
    """Of one process, of two that share the scans, and killed in between."""
    folder = tmp_path / "pack"
    shapes.save(folder)
    Image.fromarray(place(12)).save(tmp_path / "place.png")
    words = ["--model", folder, "-n", 4, "--seed", 1, "--steps", 5, "--label-map", tmp_path / "place.png"]
    words += ["--condition", "shape=tall", "--condition", "radius=5"]
    _here("synthesize", "-o", tmp_path / "whole", *words)
    for rank in range(2):
        _call("synthesize", "-o", tmp_path / "shared", *words, RANK=str(rank), WORLD_SIZE="2")
    names = sorted(p.name for p in (tmp_path / "whole").iterdir())
    assert names == [f"pack-seed1-{i:04d}.png" for i in range(4)]
    (tmp_path / "shared" / names[2]).unlink()
    _killed_while_writing(tmp_path / "shared" / names[2])
    _killed_while_writing(tmp_path / "shared" / "another.png")
    _here("synthesize", "-o", tmp_path / "shared", *words, "--resume")
    left = [p.name for p in (tmp_path / "shared").iterdir() if p.name not in names]
    assert len(left) == 2 and all("another.png" in name for name in left), "parts of its own scans alone are removed"
    for name in names:
        assert (tmp_path / "shared" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    wrong = _here("synthesize", "-o", tmp_path / "no", *words, "--condition", "shape=round", expect=2)
    assert "expected one of: tall, wide" in wrong and not (tmp_path / "no").exists()


def _killed_while_writing(path: Path) -> None:
    """By a process that writes it as a file, and by one that writes it as a folder."""
    for way in ("write_whole", "write_folder_whole"):
        text = f"""
import os, pathlib
from medldm.io.atomic import {way}
def fill(part):
    (part / "slice" if part.is_dir() else part).write_bytes(b"half")
    os.kill(os.getpid(), 9)
{way}(pathlib.Path({str(path)!r}), fill)
"""
        assert subprocess.run([sys.executable, "-c", text]).returncode == -9


def _call(*words: object, expect: int = 0, **environment: str) -> str:
    done = subprocess.run(
        [str(Path(sys.executable).with_name("medldm")), *map(str, words)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )
    assert done.returncode == expect, done.stderr
    return done.stderr


def _here(*words: object, expect: int = 0) -> str:
    """The same in this process."""
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == expect, done.stderr
    return done.stderr


@pytest.mark.parametrize("task", ["denoise", "super_resolve", "inpaint"])
def test_a_model_of_images_alone_solves_any_problem(shapes, task):
    """Nothing was trained for it: what it knows of ellipses brings a scan nearer to the truth than it came."""
    rng = np.random.default_rng(5)
    truth = (40 + 160 * ellipse("wide", 5.5, 17)).astype(np.float32).T[..., None]
    grid = centred_geometry(shapes.pack, truth.shape)
    if task == "denoise":
        came = truth + 40 * rng.standard_normal(truth.shape).astype(np.float32)
        scan, before, options = Volume(came, grid, "grey8"), came, {"noise_std": 40.0}
    elif task == "super_resolve":
        coarse = truth.reshape(8, 4, 8, 4).mean((1, 3))[..., None]
        scan = Volume(coarse, Geometry.from_spacing((8, 8, 1), (4.0, 4.0, 1.0)), "grey8")
        before, options = np.repeat(np.repeat(coarse, 4, 0), 4, 1), {"problem": {"scale": 4}, "noise_std": 0.0}
    else:
        mask = np.zeros(truth.shape, bool)
        mask[12:17, 10:22] = True
        before = np.where(mask, 40, truth)
        scan, options = Volume(before, grid, "grey8"), {"noise_std": 2.0}
        options["problem"] = {"mask": mask}
    found = medldm.restore(
        scan, task, model=shapes, method="posterior", samples=4, steps=20, sampler="edm_stochastic", **options
    )
    rms = [float(np.sqrt(np.square(x - truth).mean())) for x in (before, found.volume.array)]
    assert rms[1] < 0.85 * rms[0], rms
    assert found.uncertainty is not None and found.report["method"] == "posterior"


def test_a_field_larger_than_its_tiles_is_one_field(shapes):
    """With any layout of tiles, and a crop of the field is the field: the network here sees no further than a halo."""

    class Local(torch.nn.Module):
        def forward(self, x, level, condition):
            return torch.nn.functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)

    generator = copy.deepcopy(shapes.networks.generator(0))
    generator.denoiser.net = Local()
    asked = Conditions.of(shapes.pack.synthesis.conditions, {}, (SIZE, SIZE))
    found = []
    for tile in (None, (16, 16), (20, 12)):
        generator.table = generator.table.model_copy(update={"tile": tile})
        noise = FieldNoise([(7, 0)], torch.device("cpu"))
        x_T = generator.denoiser.process.sigma_max * noise.next(torch.empty(1, 8, 32, 24))
        found.append(sample_level(generator, asked, None, x_T, steps=6, sampler=dpmpp_2m, guidance=Guidance()))
    for other in found[1:]:
        assert float((other - found[0]).abs().max()) < 1e-3 * float(np.ptp(found[0].numpy()))
