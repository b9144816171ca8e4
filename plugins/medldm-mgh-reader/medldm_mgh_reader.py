"""FreeSurfer's .mgh and .mgz in: a reader in a package of its own (one file, one entry point)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medldm.errors import AmbiguousInput, GeometryError, InputError, PixelError
from medldm.geometry import Geometry
from medldm.io.choice import Choice, check_size
from medldm.volume import Volume

SUFFIXES = (".mgz", ".mgh", ".mgh.gz")


def can_read(path: Path) -> bool:
    return path.is_file() and path.name.lower().endswith(SUFFIXES)


def read(path: Path, choice: Choice | None = None) -> Volume:
    """One image, in file order. Raises InputError and its children (`medldm.errors`)."""
    import nibabel as nib  # here, since every scan of another kind is offered to this reader first

    choice = choice or Choice()
    choice.refuse_selection(path.name)
    try:
        image = nib.MGHImage.from_filename(path)  # the header; voxels follow below
        check_size(path.name, image.shape, image.header.get_data_dtype().itemsize, max_bytes=choice.max_bytes)
        if len(image.shape) > 3:
            raise AmbiguousInput(path.name, f"{image.shape[3]} frames", "one", "extract one of them")
        with nib.openers.ImageOpener(path) as file:
            placed = file.read(30)[28:] == b"\0\1"  # goodRASFlag as stored: nibabel makes up a place without it
        if not placed:
            raise GeometryError(path.name, "a header that does not say where the voxels lie", "goodRASFlag 1")
        array, geometry = np.asarray(image.dataobj, dtype=np.float32), Geometry(image.affine, image.shape)
    except InputError:
        raise
    except Exception as failure:  # a damaged file makes nibabel raise nearly anything
        raise PixelError(path.name, f"a damaged file ({type(failure).__name__})", "a whole file") from None
    if not np.isfinite(array).all():
        raise PixelError(path.name, "voxels that are not finite", "finite values")
    return Volume(array, geometry, history=({"step": "read", "format": "mgh", "nibabel": nib.__version__},))
