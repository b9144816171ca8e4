"""medldm: latent diffusion for medical images, from the scan to a restoration that can be trusted and back.

Reading order: geometry, volume, io, intensity; operators, nets, diffusion, space, model; restoration/restore.py, top
to bottom; training. Names below are resolved on first use, so that importing medldm is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.2.0"

_HOMES = {
    "medldm.api": (
        "calibrate",
        "denoise",
        "distill",
        "estimate_noise",
        "estimate_training",
        "evaluate_synthetic",
        "find_kinds",
        "inpaint",
        "load_model",
        "plan",
        "restore",
        "super_resolve",
        "synthesize",
        "train",
        "write_report",
    ),
    "medldm.errors": (
        "AmbiguousInput",
        "Cancelled",
        "EmptyInput",
        "GeometryError",
        "InputError",
        "LimitError",
        "MedldmError",
        "ModelError",
        "NotImage",
        "OutputError",
        "PixelError",
        "RecipeError",
        "RunError",
        "UnsafeInput",
        "UnsupportedInput",
    ),
    "medldm.folder": ("restore_each",),
    "medldm.geometry": ("Geometry",),
    "medldm.inputs": ("as_volume",),
    "medldm.installed": ("installed_models",),
    "medldm.io": ("can_read", "read", "write"),
    "medldm.io.choice": ("Choice",),
    "medldm.io.dicom.reader": ("read_each",),
    "medldm.io.lazy": ("LazyScan", "open_lazily"),
    "medldm.model": ("Model",),
    "medldm.restoration.result": ("Restoration",),
    "medldm.restoration.settings": ("RestoreOptions",),
    "medldm.volume": ("Volume",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}
__all__ = ["__version__", *_HOME_OF]

if TYPE_CHECKING:  # the same for type checkers and editors
    from medldm.api import calibrate as calibrate
    from medldm.api import denoise as denoise
    from medldm.api import distill as distill
    from medldm.api import estimate_noise as estimate_noise
    from medldm.api import estimate_training as estimate_training
    from medldm.api import evaluate_synthetic as evaluate_synthetic
    from medldm.api import find_kinds as find_kinds
    from medldm.api import inpaint as inpaint
    from medldm.api import load_model as load_model
    from medldm.api import plan as plan
    from medldm.api import restore as restore
    from medldm.api import super_resolve as super_resolve
    from medldm.api import synthesize as synthesize
    from medldm.api import train as train
    from medldm.api import write_report as write_report
    from medldm.errors import AmbiguousInput as AmbiguousInput
    from medldm.errors import Cancelled as Cancelled
    from medldm.errors import EmptyInput as EmptyInput
    from medldm.errors import GeometryError as GeometryError
    from medldm.errors import InputError as InputError
    from medldm.errors import LimitError as LimitError
    from medldm.errors import MedldmError as MedldmError
    from medldm.errors import ModelError as ModelError
    from medldm.errors import NotImage as NotImage
    from medldm.errors import OutputError as OutputError
    from medldm.errors import PixelError as PixelError
    from medldm.errors import RecipeError as RecipeError
    from medldm.errors import RunError as RunError
    from medldm.errors import UnsafeInput as UnsafeInput
    from medldm.errors import UnsupportedInput as UnsupportedInput
    from medldm.folder import restore_each as restore_each
    from medldm.geometry import Geometry as Geometry
    from medldm.inputs import as_volume as as_volume
    from medldm.installed import installed_models as installed_models
    from medldm.io import can_read as can_read
    from medldm.io import read as read
    from medldm.io import write as write
    from medldm.io.choice import Choice as Choice
    from medldm.io.dicom.reader import read_each as read_each
    from medldm.io.lazy import LazyScan as LazyScan
    from medldm.io.lazy import open_lazily as open_lazily
    from medldm.model import Model as Model
    from medldm.restoration.result import Restoration as Restoration
    from medldm.restoration.settings import RestoreOptions as RestoreOptions
    from medldm.volume import Volume as Volume


def __dir__() -> list[str]:
    return sorted(__all__)


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'medldm' has no attribute {name!r}")
    value: object = getattr(importlib.import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value
