"""A training by a recipe that comes along, killed on the command line, goes on and finishes.

In 2D, and to the very same weights: tests/test_survival.py.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from typer.testing import CliRunner

import medldm
from medldm.cli import app
from medldm.geometry import Geometry
from medldm.recipe import named_recipes
from medldm.volume import Volume


def test_a_killed_training_resumes_and_finishes(tmp_path):
    data, out, shape = tmp_path / "data", tmp_path / "out", (40, 36, 33)
    data.mkdir()
    rng = np.random.default_rng(0)
    for index in range(4):
        array = 2 * (np.indices(shape).sum(0) + rng.random(shape))
        medldm.write(
            Volume(array.astype(np.float32), Geometry.from_spacing(shape, (1, 1, 1))), data / f"{index}.nii.gz"
        )
    recipe = named_recipes()["quick-3d"].read_text(encoding="utf-8")
    quicker = tmp_path / "recipe.toml"  # the shipped recipe, checkpointing often
    quicker.write_text(
        recipe.replace("checkpoint_seconds = 5.0", "checkpoint_seconds = 0.5").replace("steps = 60", "steps = 12")
    )
    words = ["train", str(quicker), "--data", str(data), "--out", str(out), "--quiet"]
    process = subprocess.Popen(
        [str(Path(sys.executable).with_name("medldm")), *words],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    checkpoint = out / "checkpoint.pt"
    until = time.monotonic() + 120
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    assert process.poll() is None, "it ended before it could be killed"
    assert checkpoint.exists()
    process.kill()
    process.wait()
    assert not (out / "weights.safetensors").exists()
    finished = CliRunner().invoke(app, words)
    assert finished.exit_code == 0, finished.output
    assert medldm.load_model(out).name == "quick-3d"
