"""Fixtures for everyone: the folder of real data, small models, scans and series."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.dicom_maker import make_series
from tests.mixed_set import make_mixed_set
from tests.tiny import tiny_model

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of the real data: MEDLDM_DATA, else ../shared/data beside the repository."""
    folder = Path(os.environ.get("MEDLDM_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip("no real data: MEDLDM_DATA is not set to a folder")
    return folder


@pytest.fixture
def dicom_series(tmp_path: Path) -> Callable[..., Path]:
    """`dicom_series(name="series", **options)`: a folder with a series of `tests.dicom_maker.make_series`."""

    def make(name: str = "series", **options: Any) -> Path:
        return make_series(tmp_path / name, **options)

    return make


@pytest.fixture(scope="module")
def packs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the packs tiny-2d and tiny-3d."""
    folder = tmp_path_factory.mktemp("packs")
    for dims in (2, 3):
        tiny_model(folder, dims)
    return folder


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A PNG file of 20 x 24 grey values."""
    path = tmp_path / "in.png"
    pixels = np.add.outer(np.arange(24), 2 * np.arange(20)).astype(np.uint8) * 3
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def mixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of scans of many kinds, some of which cannot be used; the working folder."""
    root = make_mixed_set(tmp_path / "set")
    monkeypatch.chdir(root)
    return root
