"""One series may hold several volumes: orientations, echoes, times, b-values. They are told apart here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medldm.errors import AmbiguousInput, InputError
from medldm.io.dicom.geometry import COSINE, GRID_KEYWORDS, orientation, pixel_spacing, same_places, sort_slices
from medldm.io.dicom.header import Header

STACK = "Stack"
_LISTED = 12
# Attributes that may differ between images at one place, the most telling first
_TELL_APART = (
    "EchoTime",
    "DiffusionBValue",
    "DiffusionGradientOrientation",
    "TemporalPositionIdentifier",
    "TemporalPositionIndex",
    "TriggerTime",
    "InversionTime",
    "FlipAngle",
    "ComplexImageComponent",
    "ImageType",
    "AcquisitionNumber",
    "FrameReferenceTime",
    "RescaleType",
)


@dataclass(frozen=True)
class Stack:
    """Images of one volume; `select` is what tells them from the other images of their series."""

    headers: tuple[Header, ...]
    select: dict[str, str]

    def describe(self) -> str:
        texts = [f"{key}={value}" for key, value in self.select.items()]
        first = self.headers[0]
        normal = np.abs(np.cross(*orientation(first)))
        plane = ("sagittal", "coronal", "axial")[int(np.argmax(normal))]
        size = f"{first.number('Columns', 0)}x{first.number('Rows', 0)}"
        return f"{' '.join(texts) or 'all'} ({len(self.headers)} {plane} images, {size})"


def split_stacks(headers: Sequence[Header]) -> list[Stack]:
    """The volumes among the images of a series, in an order that does not depend on that of the files.

    Raises GeometryError where an image does not say where it lies.
    """
    grids = _by_grid(headers)
    stacks = [stack for grid in grids for stack in _by_value(Stack(tuple(grid), {}), _TELL_APART)]
    if len(stacks) > 1 and len(grids) > 1:
        stacks = [
            Stack(stack.headers, {STACK: str(number), **stack.select})
            for number, stack in enumerate(stacks, start=1)
        ]
    return stacks


def filter_images(headers: Sequence[Header], select: Mapping[str, str]) -> list[Header]:
    """The images that have every value of `select`, the number of the stack aside."""
    wanted = {key: value for key, value in select.items() if key != STACK}
    return [h for h in headers if all(_same(h.text(key), value) for key, value in wanted.items())]


def select_stack(headers: Sequence[Header], select: Mapping[str, str]) -> list[Header]:
    """The images of the one volume of a series, or of the one that has the values of `select`.

    Raises AmbiguousInput for several, listing them; InputError where none has the values.
    """
    where = f"series of {len(headers)} images"
    found = filter_images(headers, select)
    if not found:
        asked = ", ".join(f"{key}={value}" for key, value in select.items() if key != STACK)
        raise InputError(where, f"no image with {asked}", f"one of {_listing(split_stacks(headers))}")
    stacks = split_stacks(found)
    if STACK in select:
        every = split_stacks(headers)
        numbers = [s for n, s in enumerate(every, start=1) if str(n) == select[STACK]]
        inside = {id(h) for h in found}
        stacks = [s for s in numbers if all(id(h) in inside for h in s.headers)]
        if not stacks:
            got = f"no {STACK}={select[STACK]}"
            raise InputError(where, got, f"one of {_listing(every, numbered=True)}")
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


def _by_grid(headers: Sequence[Header]) -> list[list[Header]]:
    """Images of equal size, spacing, orientation and kind."""
    grids: list[tuple[tuple[Any, ...], Any, list[Header]]] = []
    known: dict[tuple[Any, ...], list[Header]] = {}
    for header in headers:
        raw = header.raws(("SOPClassUID", *GRID_KEYWORDS))
        if raw in known:
            known[raw].append(header)
            continue
        fixed = (header.number("Rows", 0), header.number("Columns", 0), header.sop_class)
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
    return [members for _, _, members in grids]


def _by_value(stack: Stack, keywords: Sequence[str]) -> list[Stack]:
    """Split by the first attribute that differs between images at one place, then by the next."""
    if len(stack.headers) < 2:
        return [stack]
    headers, positions = sort_slices(stack.headers)
    pairs = same_places(positions)
    for index, keyword in enumerate(keywords):
        if not any(headers[a].text(keyword) != headers[b].text(keyword) for a, b in pairs):
            continue
        groups: dict[str, list[Header]] = {}
        for header in stack.headers:
            groups.setdefault(header.text(keyword), []).append(header)
        if len(groups) == len(headers) > len(pairs) + 1:
            continue  # a number of its own for every image tells no volumes apart
        parts = [Stack(tuple(g), stack.select | {keyword: value}) for value, g in sorted(groups.items(), key=_order)]
        return [part for stack in parts for part in _by_value(stack, keywords[index + 1 :])]
    return [stack]


def _order(item: tuple[str, Any]) -> tuple[int, float, str]:
    """Numbers by their value, then texts."""
    try:
        return 0, float(item[0]), ""
    except ValueError:
        return 1, 0.0, item[0]
