"""Trainings of several processes, and killed ones, on the real command line (all of it: benchmarks/survival.py).

Most of the time goes into starting processes: each pair trains twice, with an adversary and without.
"""

import sys

import numpy as np
import pytest

from benchmarks import survival

STEPS = 20  # of each stage
ADVERSARY = "[stage.reconstruction.adversary]\nweight = 0.5\nstart = 0.25\nwidth = 4\n"
# What a training of one process and of two may differ by. A game of two makes more of rounding than a fit does; where
# each takes the adversary's weight from its own gradients, the curves are 1e-2 apart.
APART = {"game": 1e-4, "fit": 1e-5}

SCRIPT = """
import atexit
import sys
from pathlib import Path

def say():
    names = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
    found = sum("gloo" in name for name in names)
    sys.stdout.write(f"threads of a process group: {found}\\n")  # whole, whatever another process writes

if sys.platform == "linux":
    atexit.register(say)  # the first to be registered is the last to be called
from medldm.cli import main

for name in ("game", "fit"):  # two trainings of one script: the second has the group of the first
    words = list(sys.argv)
    sys.argv[2] = words[2].replace("NAME", name)
    sys.argv[words.index("--out") + 1] += name
    try:
        main()
    except SystemExit as end:
        assert end.code == 0
    sys.argv = words
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return survival.make_data(tmp_path_factory.mktemp("survival") / "data")


@pytest.fixture(scope="module")
def of_one(data, tmp_path_factory):
    """The loss curves of one process."""
    folder = tmp_path_factory.mktemp("one")
    assert survival.run(pair(folder, data, folder / "one-", seconds=1e9)).returncode == 0
    return {name: np.array(survival.losses(folder / f"one-{name}")) for name in APART}


def pair(folder, data, out, *more, seconds):
    """The command of both trainings in one process, one after the other."""
    for name in APART:
        table = ADVERSARY if name == "game" else ""
        survival.make_recipe(folder / f"{name}.toml", seconds=seconds, steps=STEPS, more=table)
    (folder / "script.py").write_text(SCRIPT)
    words = survival.command(folder / "NAME.toml", data, out, *more)[1:]
    return [sys.executable, str(folder / "script.py"), *words]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_learn_what_one_learns(strategy, data, of_one, tmp_path):
    """Divided weights with either training killed after its first checkpoint. Whatever they do, each process ends well:
    a thread of its group that lets go of a tensor while the interpreter ends takes a finished training down with it."""
    out = tmp_path / "two-"
    command = pair(tmp_path, data, out, "--strategy", strategy, seconds=0.3 if strategy == "fsdp" else 1e9)
    both = survival.in_processes(2, command[1:])
    if strategy == "fsdp":
        for name in APART:
            assert survival.start_and_kill(both, tmp_path / f"two-{name}", 0.1)
    done = survival.run(both)
    assert done.returncode == 0, done.stderr[-2000:]
    for name, most in APART.items():
        two = np.array(survival.losses(tmp_path / f"two-{name}"))
        assert len(two) == len(of_one[name]) and np.max(np.abs(two / of_one[name] - 1)) <= most, name
    said = done.stderr.count(f"denoiser: {STEPS} steps")
    assert done.stdout.count("trained survivor") == said == 2  # one speaks for both
    picture = str(tmp_path / "two-fit" / "pictures" / "head-main.png")
    assert "head-main: done, loss " in done.stderr
    assert (picture in done.stderr) == (strategy == "ddp")  # which takes all of the weights
    if sys.platform == "linux":
        assert done.stdout.count("threads of a process group: 0") == 2


@pytest.mark.slow
def test_a_training_killed_in_mid_epoch_ends_with_the_same_weights(data, tmp_path):
    assert survival.killed_between(tmp_path, data, 1, 1)
