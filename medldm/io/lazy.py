"""A scan whose slices are read when they are looked at, for scans too large to be held only to be seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medldm import registry
from medldm.errors import InputError
from medldm.geometry import Geometry
from medldm.io.choice import Choice
from medldm.volume import Volume, WithHistory


@dataclass(frozen=True, eq=False)
class LazyScan(WithHistory):
    """What is known of a scan from its headers.

    geometry, unit, modality : as of a `Volume`
    plane : slice k as (I, J), float32, in the scan's unit; raises InputError for a damaged one
    load : the whole scan, as `medldm.read` gives it, with all of its checks
    history : as far as it is known without the voxels
    """

    geometry: Geometry
    unit: str
    modality: str
    history: tuple[dict[str, Any], ...]
    plane: Callable[[int], NDArray[np.float32]]
    load: Callable[[], Volume]

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.geometry.shape

    @property
    def dtype(self) -> np.dtype[np.float32]:
        return np.dtype(np.float32)

    @property
    def ndim(self) -> int:
        return 3

    def __getitem__(self, key: tuple[slice, slice, slice]) -> NDArray[np.float32]:
        """Voxels of a block, so that it can be taken for an array (dask.array.from_array)."""
        i, j, k = key
        planes = [self.plane(number)[i, j] for number in range(self.shape[2])[k]]
        return np.stack(planes, axis=2)


def open_lazily(path: str | Path, choice: Choice | None = None) -> LazyScan | None:
    """The scan at `path` without its voxels; None where its format can only be read whole.

    path : of the file, or of the folder of a DICOM series
    choice : which scan, and what may be assumed; default None: there is but one, nothing is assumed
    Slice by slice are read: DICOM series, and NIfTI that is not compressed; a reader plugin may offer `lazily(path,
    choice)`, too. Raises InputError and its children as `medldm.read` does.

    >>> medldm.open_lazily("dicom").plane(0).shape
    (10, 12)
    """
    path, choice = Path(path), choice or Choice()
    for name in registry.names("readers"):
        try:
            reader = registry.find("readers", name)
        except InputError:
            continue  # as in read
        if reader.can_read(path):
            lazily = getattr(reader, "lazily", None)
            found: LazyScan | None = None if lazily is None else lazily(path, choice)
            return found
    return None
