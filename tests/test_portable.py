"""Nothing keeps medldm to one system: recipes come along, no module and no start of a process needs Linux."""

import subprocess
import sys
import types
from pathlib import Path

import pytest

import medldm
from medldm.errors import RecipeError
from medldm.recipe import load_recipe, named_recipes
from tests.test_cli import call
from tests.test_plan import radiographs
from tests.tiny import idle_but, tiny_table, with_stages

ROOT = Path(__file__).parents[1]
WITHOUT = """
import importlib, os, pkgutil, sys
import highdicom, lightning_fabric, monai, nibabel, pydicom, rich.console, scipy.ndimage, skimage, torch, typer
for name in ("fcntl", "resource", "grp", "pwd", "termios", "pty", "curses"):
    sys.modules[name] = None
for name in ("fork", "forkpty", "nice", "sysconf", "getuid", "geteuid", "mkfifo", "sched_getaffinity", "killpg"):
    if hasattr(os, name):
        delattr(os, name)
import medldm
names = [module.name for module in pkgutil.walk_packages(medldm.__path__, "medldm.")]
for name in names:
    importlib.import_module(name)
print(len(names))
"""


@pytest.mark.slow
def test_every_module_is_imported_where_unix_is_missing():
    done = subprocess.run([sys.executable, "-c", WITHOUT], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout.split()[-1]) > 150


@pytest.mark.slow
def test_batches_are_drawn_by_processes_that_are_not_forked(tmp_path, monkeypatch):
    radiographs(tmp_path / "pictures", 4, (32, 40))
    table = with_stages(idle_but(tiny_table(2), "autoencoder"), autoencoder={"steps": 2})
    here = medldm.train(table, data=tmp_path / "pictures", out=tmp_path / "here", despite_gate=True)
    monkeypatch.setattr("medldm.training.batches.sys", types.SimpleNamespace(platform="win32"))
    there = medldm.train(table, data=tmp_path / "pictures", out=tmp_path / "there", workers=1, despite_gate=True)
    assert here.weights_sha256 == there.weights_sha256


def test_the_recipes_that_come_along_are_those_of_the_repository_and_whole():
    shown = {path.stem for path in (ROOT / "configs").glob("*.toml")}
    assert set(named_recipes()) == shown and {"quick-2d", "quick-3d"} <= shown
    for name, path in named_recipes().items():
        if 'kind = "start"' not in path.read_text(encoding="utf-8"):
            assert load_recipe(name) == load_recipe(path)


def test_a_recipe_is_known_by_its_name_in_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    radiographs(tmp_path / "pictures", 8, (64, 80))
    costs = medldm.estimate_training("quick-2d", data="pictures")
    assert {"autoencoder", "denoiser"} <= {cost.name for cost in costs}
    with pytest.raises(RecipeError, match="recipe quick-4d: got no such name or file; expected .*quick-2d"):
        medldm.train("quick-4d", data="pictures", out="mine")
    told = call("train", "quick-4d", "--data", "pictures", "--out", "mine")
    assert told.exit_code == 2 and "quick-3d" in told.stderr
    (tmp_path / "quick-2d").write_text("[pack")  # a file of that name goes first
    with pytest.raises(RecipeError, match="not TOML"):
        load_recipe("quick-2d")
