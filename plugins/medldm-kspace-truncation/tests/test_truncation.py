"""A task from a plugin: proven as an operator, trained for by a recipe, asked for in Python and on the command line."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from medldm_kspace_truncation import SharpenTruncated, Truncation

import medldm
from medldm import registry
from medldm.errors import InputError, ModelError
from medldm.operators.operator import check_operator

RECIPE = Path(__file__).parents[1] / "recipe.toml"
KEPT = 0.5


def picture(seed):
    """(48, 48) of overlapping discs with sharp edges, 0..255: much of it lies in high frequencies."""
    rng = np.random.default_rng(seed)
    i, j = np.ogrid[:48, :48]
    discs = [((i - a) ** 2 + (j - b) ** 2 < r * r) * v for a, b, r, v in rng.uniform(4, 44, (8, 4))]
    return np.clip(20 + np.sum(discs, axis=0), 0, 255).astype(np.float32)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Trained by the recipe as a person would: the command line, in a process of its own."""
    folder = tmp_path_factory.mktemp("truncation")
    (folder / "data").mkdir()
    for seed in range(20):
        grid = medldm.Geometry(np.diag([-1, -1, 1, 1]), (48, 48, 1))
        medldm.write(medldm.Volume(picture(seed).T[..., None], grid, "grey8"), folder / "data" / f"{seed}.png")
    words = ["train", str(RECIPE), "--data", str(folder / "data"), "--out", str(folder / "pack"), "--quiet"]
    done = medldm_process(*words)
    assert done.returncode == 0, done.stderr
    return folder


def medldm_process(*words):
    program = Path(sys.executable).with_name("medldm")
    return subprocess.run([str(program), *words], capture_output=True, text=True)


def truncated(truth):
    x = torch.from_numpy(truth)[None, None, ..., None]
    return Truncation(KEPT).forward(x)[0, 0, ..., 0].numpy()


def test_the_operator_is_proven_by_the_shared_check():
    assert registry.find("problems", "truncation") is SharpenTruncated
    check_operator(Truncation.example(), (9, 8, 3))


def test_the_plugin_has_under_sixty_lines():
    import medldm_kspace_truncation

    assert len(Path(medldm_kspace_truncation.__file__).read_text().splitlines()) < 60


def test_a_trained_model_restores_better_than_zero_filling(trained):
    model = medldm.load_model(trained / "pack")
    gains = []
    for seed in range(100, 106):
        truth = picture(seed)
        y = truncated(truth)
        settings = {"model": model, "noise_std": 0.0, "value_range": (0, 255)}
        result = medldm.restore(y, "truncation", problem={"kept": KEPT}, **settings)
        gains.append(10 * np.log10(np.mean((y - truth) ** 2) / np.mean((result.array - truth) ** 2)))
        assert result.report["task"] == "truncation" and result.residual.array.shape == (48, 48, 1)
        assert np.abs(result.residual.array).max() < 0.5  # what was measured stays: noise is 0
    assert np.mean(gains) > 0.5, gains


def test_the_command_line_restores_the_same(trained, tmp_path):
    y = truncated(picture(200))
    grid = medldm.Geometry(np.diag([-1, -1, 1, 1]), (48, 48, 1))
    medldm.write(medldm.Volume(y.T[..., None], grid, "arbitrary"), tmp_path / "in.nii.gz")
    words = ["-i", str(tmp_path / "in.nii.gz"), "-o", str(tmp_path / "out.nii.gz"), "--model", str(trained / "pack")]
    done = medldm_process("restore", "--task", "truncation", "--set", f"kept={KEPT}", *words)
    assert done.returncode == 0, done.stderr
    direct = medldm.restore(tmp_path / "in.nii.gz", "truncation", model=trained / "pack", problem={"kept": KEPT})
    np.testing.assert_allclose(medldm.read(tmp_path / "out.nii.gz").array, direct.array, atol=1e-3)
    refused = medldm_process("restore", "--task", "truncation", "--set", "kept=1.5", *words, "--overwrite")
    assert refused.returncode == 2 and "kept" in refused.stderr and len(refused.stderr.splitlines()) == 1


def test_wrong_options_and_other_tasks_are_refused(trained):
    model = medldm.load_model(trained / "pack")
    with pytest.raises(InputError, match="kept"):
        medldm.restore(picture(0), "truncation", model=model, problem={})
    with pytest.raises(ModelError, match=r"no training for denoise.*this one: truncation"):
        medldm.denoise(picture(0), model=model)
    with pytest.raises(ModelError, match="no training for synthesis"):
        medldm.synthesize(model=model, n=1)
