"""What a pack knows of scans like its training's, and of its own errors: kept beside the weights, read without torch.

`calibration.safetensors` holds the arrays of each reference, and plain data in its header. A pack without the file
works as ever, and says nothing of what it holds.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from medldm.alteration import Alteration
from medldm.appearance import appearance_of, count_values, has_tissue, is_flat, is_noise
from medldm.conformal import Intervals
from medldm.errors import ModelError
from medldm.familiarity import Reference, doubt
from medldm.installed import folder_of, read_tables
from medldm.io.atomic import write_whole
from medldm.io.lazy import LazyScan
from medldm.pack import AutoencoderPack
from medldm.volume import Volume

CALIBRATION = "calibration.safetensors"
CUT = "cut"  # the step of a part that was cut out of a scan
INTERVALS = "intervals"
ALTERATION = "alteration"
# Without intervals, with, by absolute values, with a network; a file has the first that can hold it.
FORMATS = ("1", "2", "3", "4")


@dataclass(frozen=True, eq=False)
class Calibration:
    """Made by `medldm.training.calibrate` of the scans of a training.

    references : scans "whole" and "part", as they are and spoiled
    cell : mm, of the pictures of volumes
    patients : how many the references are of
    intervals : what its errors are multiples of; None: not known
    absolute : whether the references know values as they are, of a pack whose window is in HU
    alteration : tells pictures that were turned or put together; None: nothing of the kind was learned
    """

    references: Mapping[str, Reference]
    cell: float
    patients: int
    intervals: Intervals | None = None
    absolute: bool = False
    alteration: Alteration | None = None
    _said: WeakKeyDictionary[Volume, str] = field(default_factory=WeakKeyDictionary, repr=False)

    def doubts(self, scan: Volume, pack: AutoencoderPack) -> list[str]:
        """Why a scan is not like those of the training, in words (none: an empty list).

        What was cut out of a scan to be restored by itself is not judged by its looks.
        """
        said = self._judged(scan, pack)
        return [said] if said else []

    def refuses(self, scan: Volume) -> bool:
        """Whether a scan is noise and nothing else."""
        return not _is_cut(scan) and is_noise(scan.array)

    def _judged(self, scan: Volume, pack: AutoencoderPack) -> str:
        """Once for each scan: a window asks at every change of an option."""
        if _is_cut(scan) or not self.references:
            return ""
        if scan not in self._said:
            self._said[scan] = self._judge(scan, pack)
        return self._said[scan]

    def _judge(self, scan: Volume, pack: AutoencoderPack) -> str:
        if pack.dims == 2 and scan.geometry.shape[2] != 1:
            scan = _middle(scan, pack.slice_axis(scan))
        if is_noise(scan.array):
            return "it is noise alone, or next to it; nothing is there to restore"
        few = count_values(scan.array)
        if few:
            return f"it has {few} values in all: a mask, a drawing or a map of labels?"
        if is_flat(scan.array, in_hu=pack.in_hu):
            return "most neighbours in it are of one value: a map of labels, or enlarged by repeating voxels?"
        if pack.in_hu and not has_tissue(scan.array):
            return "next to nothing in it has the HU of fat or soft tissue: no patient, or values that are no HU?"
        order, flips = pack.orientation(scan.geometry)
        turned = scan.permute(order).flip(flips)
        levels = (pack.intensity.low, pack.intensity.high) if self.absolute else None
        found = appearance_of(turned.array, turned.geometry.spacing, pack.dims, self.cell, levels)
        return doubt(found, list(self.references.values()), self.alteration)

    def save(self, folder: Path) -> None:
        """Into a pack's folder, whole or not at all. Raises OutputError."""
        arrays: dict[str, NDArray[Any]] = {
            f"{name}.{key}": a for name, r in self.references.items() for key, a in r.to_arrays().items()
        }
        facts = {"format": FORMATS[0], "cell": json.dumps(self.cell), "patients": json.dumps(self.patients)}
        if self.intervals is not None:
            arrays |= {f"{INTERVALS}.{key}": a for key, a in self.intervals.to_arrays().items()}
            facts |= {"format": FORMATS[1], INTERVALS: self.intervals.to_facts()}
        if self.absolute:
            facts |= {"format": FORMATS[2], "absolute": "true"}
        if self.alteration is not None:
            arrays |= {f"{ALTERATION}.{key}": a for key, a in self.alteration.to_arrays().items()}
            facts["format"] = FORMATS[3]
        content = save(arrays, facts)
        write_whole(folder / CALIBRATION, lambda path: path.write_bytes(content))


def _middle(scan: Volume, across: int) -> Volume:
    """The slice in the middle of a volume, which a model of single images takes slice by slice."""
    i, j = (axis for axis in range(3) if axis != across)
    stack, k = scan.permute((i, j, across)), scan.geometry.shape[across] // 2
    return stack.crop((0, 0, k), (*stack.geometry.shape[:2], k + 1))


def _is_cut(scan: Volume) -> bool:
    return any(step.get("step") == CUT for step in scan.history)


def load_calibration(folder: Path, where: str) -> Calibration | None:
    """That of a pack's folder, None where there is none; `where` names the pack. Raises ModelError if it is damaged."""
    path = folder / CALIBRATION
    try:
        stat = path.stat()
    except OSError:
        return None
    return _loaded(path, where, stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=8)
def _loaded(path: Path, where: str, changed: int, size: int) -> Calibration:
    do = "calibrate it again: medldm calibrate"
    try:
        with safe_open(path, framework="numpy") as file:
            facts = file.metadata() or {}
            if facts.get("format") not in FORMATS:
                raise ModelError(where, f"a calibration of format {facts.get('format')}", f"one of {FORMATS}", do)
            tables: dict[str, dict[str, NDArray[np.generic]]] = {}
            for key in file.keys():  # noqa: SIM118
                name, part = key.split(".")
                tables.setdefault(name, {})[part] = file.get_tensor(key)
        known, altered = tables.pop(INTERVALS, None), tables.pop(ALTERATION, None)
        intervals = None if known is None else Intervals.from_arrays(known, facts[INTERVALS])
        references = {name: Reference.from_arrays(table) for name, table in tables.items()}
        cell, patients = float(json.loads(facts["cell"])), int(json.loads(facts["patients"]))
        alteration = None if altered is None else Alteration.from_arrays(altered)
        return Calibration(references, cell, patients, intervals, "absolute" in facts, alteration)
    except (OSError, SafetensorError, KeyError, ValueError, TypeError) as failure:
        raise ModelError(where, f"a damaged {CALIBRATION} ({type(failure).__name__})", "a whole one", do) from None


def doubts_of(name: str, scan: Volume | LazyScan, factor: tuple[float, float, float] = (1, 1, 1)) -> list[str]:
    """`Model.fits` without the weights: of a model by name or folder. A scan that is not in memory is not looked at.

    Raises ModelError.
    """
    pack = read_tables(name)
    found = load_calibration(folder_of(name), f"model {pack.name}") if isinstance(scan, Volume) else None
    unlike = found.doubts(scan, pack) if found is not None and isinstance(scan, Volume) else []
    return [*pack.doubts(scan, factor), *unlike]
