"""Fixtures for everyone: the folder of real data, and a maker of small DICOM series."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.dicom_maker import make_series

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
