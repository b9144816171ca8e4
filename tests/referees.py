"""Programs of others that judge our DICOM files: dicom3tools and dcm2niix."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from medldm.geometry import Geometry
from medldm.volume import Volume


def tool(name: str) -> Path:
    """A program of the virtual environment; skips the test where it is not installed."""
    path = Path(sys.executable).parent / name
    if not path.exists():
        pytest.skip(f"{name} is not installed")
    return path


def _errors(command: list[str | Path]) -> set[str]:
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    return {line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")}


def validator_errors(path: Path) -> set[str]:
    """What dciodvfy reports as errors in one file."""
    return _errors([tool("dciodvfy"), "-new", path])


def entity_errors(files: Iterable[Path]) -> set[str]:
    """What dcentvfy reports as errors between files: patients, studies and series that contradict each other.

    File names are left out, so that the errors of a source can be told from new ones.
    """
    return {re.sub(r" for file .*", "", line) for line in _errors([tool("dcentvfy"), *files])}


def converted(folder: Path, out: Path) -> Volume:
    """The one image that dcm2niix makes of a folder."""
    import nibabel as nib

    out.mkdir()
    command = [tool("dcm2niix"), "-b", "n", "-z", "n", "-p", "n", "-f", "%s", "-o", out, folder]
    subprocess.run(command, check=True, capture_output=True)
    (path,) = [p for p in out.glob("*.nii") if not p.stem.endswith(("_Tilt_1", "_Eq_1"))]
    image = nib.load(path)
    return Volume(image.get_fdata(), Geometry(image.affine, image.shape))
