"""MONAI's networks without the rest of MONAI.

`import monai` runs every module of it, and pandas, matplotlib and scikit-learn with them: more than half of the
time of a short command. So the few files that a network is made of are loaded here a second time, under names of
our own (`medldm.nets.monai_files.networks.nets...`): the `__init__` of their packages is not run, and what they
import from `monai`, they get from here. `monai` itself is neither loaded nor changed, and whoever imports it gets
all of it, before or after. Its classes are then not those from here; weights go from one to the other.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

__path__: list[str] = []  # a package, whose modules `_Finder` finds


def load(name: str) -> Any:
    """A class of MONAI by its full name, `monai.networks.nets.autoencoderkl.AutoencoderKL`.

    From MONAI as a whole where its files do not let themselves be loaded alone.
    """
    module, _, own = name.rpartition(".")
    try:
        return getattr(importlib.import_module(_here(module)), own)
    except (ImportError, AttributeError):
        return getattr(importlib.import_module(module), own)


def _here(name: str) -> str:
    return __name__ + name.removeprefix("monai")


def _import(
    name: str,
    globals: Mapping[str, object] | None = None,
    locals: Mapping[str, object] | None = None,
    fromlist: Sequence[str] | None = (),
    level: int = 0,
) -> ModuleType:
    """`import` as the files from here are given it."""
    if level or name.partition(".")[0] != "monai":
        return builtins.__import__(name, globals, locals, fromlist or (), level)
    if fromlist:
        return builtins.__import__(_here(name), globals, locals, fromlist)
    importlib.import_module(_here(name))
    return sys.modules[__name__]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.import_module(f"{__name__}._version").get_versions()["version"]
    return _below(__name__, name)


def _below(package: str, name: str) -> ModuleType:
    """A module as an attribute of its package, though nobody has loaded it yet: MONAI's `__init__` would have."""
    if importlib.util.find_spec(f"{package}.{name}") is None:
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    return importlib.import_module(f"{package}.{name}")


class _Loader(SourceFileLoader):
    """Runs a file with our `import`; of a package's `__init__` it runs nothing, and looks names up when asked."""

    def exec_module(self, module: ModuleType) -> None:
        vars(module)["__builtins__"] = {**vars(builtins), "__import__": _import}
        if not self.is_package(module.__name__):
            super().exec_module(module)
            return

        @cache
        def places() -> dict[str, tuple[str, str]]:
            return {
                alias.asname or alias.name: (f"{module.__name__}.{node.module}", alias.name)
                for node in ast.parse(self.get_data(self.path)).body
                if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module
                for alias in node.names
            }

        def attribute(name: str) -> Any:
            if name not in places():
                return _below(module.__name__, name)
            where, own = places()[name]
            return getattr(importlib.import_module(where), own)

        vars(module)["__getattr__"] = attribute


class _Finder:
    """Finds the files of MONAI under their names from here."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        monai = importlib.util.find_spec("monai") if name.startswith(f"{__name__}.") else None
        if monai is None or monai.origin is None:
            return None
        stem = Path(monai.origin).parent.joinpath(*name.removeprefix(f"{__name__}.").split("."))
        for file in (stem / "__init__.py", stem.with_suffix(".py")):
            if file.is_file():
                spec = importlib.util.spec_from_file_location(name, file, loader=_Loader(name, str(file)))
                if spec is not None and spec.submodule_search_locations is not None:
                    spec.submodule_search_locations = []  # so that nobody but us finds what is below
                return spec
        return None


sys.meta_path.append(_Finder)
