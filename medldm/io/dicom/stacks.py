"""One series may hold several volumes: orientations, echoes, times, b-values. They are told apart here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medldm.errors import AmbiguousInput, InputError
from medldm.io.dicom.geometry import COSINE, GRID_KEYWORDS, orientation, pixel_spacing
from medldm.io.dicom.header import Header
from medldm.io.dicom.kinds import lies_nowhere
from medldm.io.dicom.partition import Part, partition
from medldm.io.dicom.tiles import TILE_KEYWORDS, is_tiled

STACK = "Stack"
_LISTED = 12


@dataclass(frozen=True)
class Stack:
    """Images of one volume; `select` is what tells them from the other images of their series, with a note on it."""

    headers: tuple[Header, ...]
    select: dict[str, str]
    note: str = ""

    def describe(self) -> str:
        texts = [f"{key}={value}" for key, value in self.select.items()]
        texts += [f"({self.note})"] if self.note else []
        first = self.headers[0]
        size = f"{first.number('Columns', 0)}x{first.number('Rows', 0)}"
        if lies_nowhere(first):
            return f"{' '.join(texts) or 'all'} ({len(self.headers)} flat images, {size})"
        normal = np.abs(np.cross(*orientation(first)))
        plane = ("sagittal", "coronal", "axial")[int(np.argmax(normal))]
        kind = "mosaics" if is_tiled(first) else "images"
        return f"{' '.join(texts) or 'all'} ({len(self.headers)} {plane} {kind}, {size})"


def split_stacks(headers: Sequence[Header]) -> list[Stack]:
    """The volumes among the images of a series, in an order that does not depend on that of the files.

    Raises GeometryError where an image does not say where it lies.
    """
    grids = _by_grid(headers)
    parts = [part for grid, whole in grids for part in partition(Part(tuple(grid)), whole=whole)]
    numbered = len(parts) > 1 and (len(grids) > 1 or any(part.note for part in parts))
    return [
        Stack(part.headers, {STACK: str(number), **part.select} if numbered else part.select, part.note)
        for number, part in enumerate(parts, start=1)
    ]


def filter_images(headers: Sequence[Header], select: Mapping[str, str]) -> list[Header]:
    """The images that have every value of `select`, the number of the stack aside."""
    found = list(headers)
    for key, value in select.items():
        if key != STACK:
            texts = [h.text(key) for h in found]
            exact = value in texts  # times may differ by less than numbers are compared to
            found = [h for h, t in zip(found, texts, strict=True) if (t == value if exact else _same(t, value))]
    return found


def select_stack(headers: Sequence[Header], select: Mapping[str, str]) -> list[Header]:
    """The images of the one volume of a series, or of the one that has the values of `select`.

    Raises AmbiguousInput for several, listing them; InputError where none has the values.
    """
    where = f"series of {len(headers)} images"
    found = filter_images(headers, select)
    if not found:
        asked = ", ".join(f"{key}={value}" for key, value in select.items() if key != STACK)
        raise InputError(where, f"no image with {asked}", f"one of {_listing(split_stacks(headers))}")
    stacks = every = split_stacks(headers)
    inside = {id(h) for h in found}
    if STACK in select:
        numbers = [s for n, s in enumerate(every, start=1) if str(n) == select[STACK]]
        stacks = [s for s in numbers if all(id(h) in inside for h in s.headers)]
        if not stacks:
            got = f"no {STACK}={select[STACK]}"
            raise InputError(where, got, f"one of {_listing(every, numbered=True)}")
    elif len(found) < len(headers):
        stacks = [s for s in every if all(id(h) in inside for h in s.headers)]
        if sum(len(s.headers) for s in stacks) < len(found):  # the values cut through what was one volume
            stacks = split_stacks(found)
    if len(stacks) > 1:
        do = "choose one by its values (select), or by its number, Stack=1"
        raise AmbiguousInput(where, f"{len(stacks)} volumes: {_listing(stacks)}", "one", do)
    return list(stacks[0].headers)


def _listing(stacks: Sequence[Stack], *, numbered: bool = False) -> str:
    texts = [f"{STACK}={n} {s.describe()}" if numbered else s.describe() for n, s in enumerate(stacks, 1)]
    more = [f"and {len(texts) - _LISTED} more"] if len(texts) > _LISTED else []
    return "; ".join([*texts[:_LISTED], *more])


def _same(text: str, wanted: str) -> bool:
    """Equal as text or, to a millionth, as numbers."""
    if text == wanted:
        return True
    try:
        return bool(np.isclose(float(text), float(wanted), rtol=1e-6, atol=0))
    except ValueError:
        return False


def _by_grid(headers: Sequence[Header]) -> list[tuple[list[Header], bool]]:
    """Images of equal size, spacing, orientation and kind, and whether each of them is a volume by itself."""
    grids: list[tuple[tuple[Any, ...], Any, list[Header]]] = []
    known: dict[tuple[Any, ...], list[Header]] = {}
    for header in headers:
        raw = header.raws((*TILE_KEYWORDS, *GRID_KEYWORDS)) + (lies_nowhere(header),)
        if raw in known:
            known[raw].append(header)
            continue
        whole = lies_nowhere(header) or is_tiled(header)
        fixed = (header.number("Rows", 0), header.number("Columns", 0), header.sop_class, whole)
        measured = np.zeros(8)
        if not lies_nowhere(header):
            measured = np.concatenate([orientation(header).ravel(), pixel_spacing(header)])
        for other, values, members in grids:
            if other == fixed and np.abs(values - measured).max() <= COSINE:
                members.append(header)
                break
        else:
            members = [header]
            grids.append((fixed, measured, members))
        known[raw] = members
    grids.sort(key=lambda grid: (grid[0], grid[1].round(2).tolist()))
    return [(members, fixed[3]) for fixed, _, members in grids]
