"""A stranger's package with a sampler and a writer: installed as any other, used on the command line."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import medldm
from medldm.cli import app
from tests.tiny import tiny_model

PACKAGE = '''
import numpy as np
from pathlib import Path
from medldm.diffusion.samplers import Step

SUFFIXES = (".raw",)


def write(volume, path):
    """Voxels alone."""
    Path(path).write_bytes(np.ascontiguousarray(volume.array, dtype="<f4").tobytes())


def one_jump(predict_x0, x_T, sigmas, *, noise=None):
    """The estimate at the highest level, and there it ends."""
    x_0 = predict_x0(x_T, float(sigmas[0]))
    yield Step(0, 1, float(sigmas[0]), x_0, x_0)
'''
ENTRY_POINTS = "[medldm.samplers]\none_jump = stranger:one_jump\n[medldm.writers]\nraw = stranger\n"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder on the path that holds the package and what `pip install` would leave beside it."""
    site = tmp_path_factory.mktemp("site")
    (site / "stranger.py").write_text(PACKAGE)
    info = site / "stranger-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    return site


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scene")
    tiny_model(folder, 2)
    array = np.random.default_rng(0).uniform(0, 200, (24, 20, 1)).astype(np.float32)
    volume = medldm.Volume(array, medldm.Geometry(np.diag([-1, -1, 1, 1]), array.shape), "grey8")
    medldm.write(volume, folder / "in.png")
    return folder


def call(installed, *words):
    program = Path(sys.executable).with_name("medldm")
    known = os.environ | {"PYTHONPATH": os.pathsep.join([str(installed), os.environ.get("PYTHONPATH", "")])}
    return subprocess.run([str(program), *map(str, words)], capture_output=True, text=True, env=known)


def test_a_strangers_sampler_and_writer_are_used(installed, scene):
    words = ("denoise", "-i", scene / "in.png", "--model", scene / "tiny-2d", "--samples", 2)
    assert "one_jump" in call(installed, "doctor").stdout
    done = call(installed, *words, "-o", scene / "out.raw", "--uncertainty", scene / "u.nii.gz",
                "--sampler", "one_jump", "--json")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert '"sampler": "one_jump"' in done.stdout
    written = np.frombuffer((scene / "out.raw").read_bytes(), "<f4").reshape(24, 20)
    usual = medldm.denoise(scene / "in.png", model=scene / "tiny-2d", samples=2)
    np.testing.assert_allclose(written, usual.array[..., 0], atol=1e-3)
    found = medldm.read(scene / "u.nii.gz").array
    assert np.isfinite(found).all() and not np.allclose(found, usual.uncertainty.array, rtol=1e-3)


def test_without_the_package_both_are_refused_by_name(scene):
    words = ("denoise", "-i", scene / "in.png", "--model", scene / "tiny-2d")
    for more, said in [
        (("-o", scene / "a.png", "--sampler", "one_jump"), "one_jump"),
        (("-o", scene / "a.raw"), "no writer knows"),
    ]:
        refused = CliRunner().invoke(app, [str(word) for word in (*words, *more)])
        assert refused.exit_code == 2 and said in refused.stderr
