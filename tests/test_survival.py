"""Trainings of several processes, and killed ones, on the real command line (all of it: benchmarks/survival.py)."""

import sys

import pytest

from benchmarks import survival

STEPS = 20  # of each stage


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return survival.make_data(tmp_path_factory.mktemp("survival") / "data")


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_learn_what_one_learns(strategy, data, tmp_path):
    assert survival.two_processes(tmp_path, data, strategy, steps=STEPS) <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_have_one_adversary(strategy, data, tmp_path):
    """Its weight is measured on the gradients of both; where each takes its own, the curves are 1e-2 apart.

    A game of two makes more of rounding than a fit does, hence not 1e-5.
    """
    table = "[stage.reconstruction.adversary]\nweight = 0.5\nstart = 0.25\nwidth = 4\n"
    assert survival.two_processes(tmp_path, data, strategy, table, STEPS) <= 1e-4


@pytest.mark.slow
def test_a_training_killed_in_mid_epoch_ends_with_the_same_weights(data, tmp_path):
    assert survival.killed_between(tmp_path, data, 1, 1)


LEFT_OVER = """
import atexit
import sys
from pathlib import Path

def say():
    names = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
    print("threads of a process group:", sum("gloo" in name for name in names))

atexit.register(say)  # the first to be registered is the last to be called
from medldm.cli import main

for out in ("first", "second"):  # two trainings of one script: the second has the group of the first
    words = list(sys.argv)
    sys.argv[sys.argv.index("--out") + 1] += out
    try:
        main()
    except SystemExit as end:
        assert end.code == 0
    sys.argv = words
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the names of threads are read from /proc")
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_no_thread_of_a_process_group_outlives_the_training(strategy, data, tmp_path):
    """One that lets go of a tensor while the interpreter ends takes a finished training down with it."""
    script = tmp_path / "script.py"
    script.write_text(LEFT_OVER)
    recipe = survival.make_recipe(tmp_path / "recipe.toml", seconds=1e9, steps=2)
    words = survival.command(recipe, data, tmp_path / "out", "--strategy", strategy)[1:]
    done = survival.run(survival.in_processes(2, [str(script), *words]))
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("threads of a process group: 0") == 2
    assert done.stdout.count("trained survivor") == done.stderr.count("denoiser: 2 steps") == 2  # one speaks for both
