"""A training by a recipe that comes along, killed on the command line, goes on and finishes."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import medldm
from medldm.geometry import Geometry
from medldm.recipe import named_recipes
from medldm.volume import Volume


@pytest.mark.parametrize("dims", [2, 3])
def test_a_killed_training_resumes_and_finishes(dims, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    rng = np.random.default_rng(0)
    shape = (48, 40, 1) if dims == 2 else (40, 36, 33)
    for index in range(4):
        array = (
            np.add.outer(np.add.outer(np.arange(shape[0]), np.arange(shape[1])), np.arange(shape[2]))
            + rng.random(shape)
        ) * 2
        volume = Volume(
            array.astype(np.float32), Geometry.from_spacing(shape, (1, 1, 1)), "grey8" if dims == 2 else "arbitrary"
        )
        medldm.write(volume, data / (f"{index}.png" if dims == 2 else f"{index}.nii.gz"))
    recipe = named_recipes()[f"quick-{dims}d"].read_text()
    quicker = tmp_path / "recipe.toml"  # the shipped recipe, checkpointing often
    quicker.write_text(
        recipe.replace("checkpoint_seconds = 5.0", "checkpoint_seconds = 0.5").replace("steps = 60", "steps = 12")
    )
    command = [
        str(Path(sys.executable).with_name("medldm")),
        "train",
        str(quicker),
        "--data",
        str(data),
        "--out",
        str(tmp_path / "out"),
        "--quiet",
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    checkpoint = tmp_path / "out" / "checkpoint.pt"
    until = time.monotonic() + 120
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    assert process.poll() is None, "it ended before it could be killed"
    assert checkpoint.exists()
    process.kill()
    process.wait()
    assert not (tmp_path / "out" / "weights.safetensors").exists()
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert finished.returncode == 0, finished.stderr
    model = medldm.load_model(tmp_path / "out")
    assert model.name == f"quick-{dims}d"
