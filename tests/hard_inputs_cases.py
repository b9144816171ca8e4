"""What all hard inputs share: the table of cases, small builders, and what is asserted of a reading."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.data import get_testdata_file

import medldm
from medldm.errors import (
    InputError,
)
from tests.dicom_maker import affine_ras, stored_values

Case = Callable[[Path, Path], None]
FOUND: dict[str, Case] = {}
VALUES = np.stack([stored_values(12, 10, k).T for k in range(6)], axis=-1).astype(np.float64)


def case(function: Case) -> Case:
    FOUND[function.__name__.split("_")[0].upper()] = function
    return function


def refused(path: Path, error: type[InputError], reason: str = "", **choice: Any) -> None:
    """Assert that reading raises just this kind of error, in one line, with the reason in it."""
    try:
        medldm.read(path, **choice)
    except InputError as failure:
        assert type(failure) is error, f"{type(failure).__name__}: {failure}"
        assert re.search(reason, str(failure)), str(failure)
        assert "\n" not in str(failure)
        return
    raise AssertionError(f"{path.name} was read")


def equal(path: Path, affine: Any = None, values: Any = VALUES, **choice: Any) -> medldm.Volume:
    """Assert that a series reads to these values at this place (1e-3 mm)."""
    volume = medldm.read(path, **choice)
    np.testing.assert_allclose(volume.geometry.affine, affine_ras() if affine is None else affine, atol=1e-3)
    np.testing.assert_allclose(volume.array, values, rtol=1e-6, atol=1e-4)
    return volume


def setting(**attributes: Any) -> Callable[[Any, int], None]:
    """Set attributes of each slice; None deletes one, a function gets the slice's number."""

    def change(ds: Any, k: int) -> None:
        for keyword, value in attributes.items():
            new = value(k) if callable(value) else value
            if new is not None:
                setattr(ds, keyword, new)
            elif keyword in ds:
                delattr(ds, keyword)

    return change


def one(k: int, **attributes: Any) -> Callable[[Any, int], None]:
    """The same for slice k alone."""
    change = setting(**attributes)
    return lambda ds, number: change(ds, number) if number == k else None


def example(name: str) -> Path:
    return Path(get_testdata_file(name, download=False))


def with_file(tmp: Path, name: str, content: bytes) -> Path:
    tmp.mkdir(parents=True, exist_ok=True)
    (tmp / name).write_bytes(content)
    return tmp / name


def at(z: float) -> list[str]:
    return ["-30", "20", f"{z:.6g}"]


def with_text(folder: Path, old: bytes, new: bytes) -> Path:
    """Overwrite a value in each file by another of the same length, as no library would write it."""
    for file in folder.iterdir():
        content = file.read_bytes()
        assert old in content
        file.write_bytes(content.replace(old, new))
    return folder
