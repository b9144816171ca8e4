"""medldm: latent diffusion for medical images, from the scan to a restoration that can be trusted and back.

Reading order: geometry, volume, io, intensity; operators, nets, diffusion, space, model; restoration/restore.py, top
to bottom; training. Names below are resolved on first use, so that importing medldm is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_HOMES = {
    "can_read": "medldm.io",
    "read": "medldm.io",
    "write": "medldm.io",
    "open_lazily": "medldm.io.lazy",
    "LazyScan": "medldm.io.lazy",
    "Geometry": "medldm.geometry",
    "Volume": "medldm.volume",
    "MedldmError": "medldm.errors",
    "AmbiguousInput": "medldm.errors",
    "Cancelled": "medldm.errors",
    "read_each": "medldm.io.dicom.reader",
    "installed_models": "medldm.installed",
    "load_model": "medldm.api",
    "denoise": "medldm.api",
    "distill": "medldm.api",
    "estimate_noise": "medldm.api",
    "estimate_training": "medldm.api",
    "evaluate_synthetic": "medldm.api",
    "find_kinds": "medldm.api",
    "inpaint": "medldm.api",
    "plan": "medldm.api",
    "restore": "medldm.api",
    "super_resolve": "medldm.api",
    "synthesize": "medldm.api",
    "train": "medldm.api",
    "write_report": "medldm.api",
    "restore_each": "medldm.folder",
    "Restoration": "medldm.restoration.result",
    "Model": "medldm.model",
}
__all__ = [*_HOMES, "__version__"]

if TYPE_CHECKING:  # for type checkers and editors
    from medldm.api import (
        denoise,
        distill,
        estimate_noise,
        estimate_training,
        evaluate_synthetic,
        find_kinds,
        inpaint,
        load_model,
        plan,
        restore,
        super_resolve,
        synthesize,
        train,
        write_report,
    )
    from medldm.errors import AmbiguousInput as AmbiguousInput
    from medldm.errors import Cancelled as Cancelled
    from medldm.errors import MedldmError as MedldmError
    from medldm.folder import restore_each as restore_each
    from medldm.geometry import Geometry as Geometry
    from medldm.installed import installed_models as installed_models
    from medldm.io import can_read as can_read
    from medldm.io import read, write
    from medldm.io.dicom.reader import read_each as read_each
    from medldm.io.lazy import LazyScan as LazyScan
    from medldm.io.lazy import open_lazily as open_lazily
    from medldm.model import Model as Model
    from medldm.restoration.result import Restoration as Restoration
    from medldm.volume import Volume as Volume


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'medldm' has no attribute {name!r}")
    value: object = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
