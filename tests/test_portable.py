"""Nothing keeps medldm to one system: recipes come along, no module and no start of a process needs Linux."""

import re
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


def test_every_recipe_that_comes_along_is_whole():
    named = named_recipes()
    assert {"chest-xray-256", "brain-t1-2mm", "radiographs", "quick-2d", "quick-3d"} <= set(named)
    for name, path in named.items():
        assert load_recipe(name) == load_recipe(path)


def test_a_checkout_needs_no_links_and_no_names_that_a_system_refuses():
    """On Windows a symbolic link comes out as a file with the name of its target in it."""
    listed = subprocess.run(["git", "ls-files", "--stage", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    entries = [line.split("\t") for line in listed.stdout.decode().split("\0") if line]
    assert {entry[0].split()[0] for entry in entries} == {"100644", "100755"}
    names = [name for _, name in entries]
    assert len({name.lower() for name in names}) == len(names)
    assert not [name for name in names if re.search(r'[<>:"\\|?*]|[ .](/|$)', name)]


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
