"""Images of one grid divided into volumes: by the attribute that differs between images at one place, else by order.

Nothing is resampled or left out here: where no attribute and no order tells the images apart, they stay together, and
are refused later.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medldm.io.dicom.geometry import ON_LINE_MM, is_even, same_places, sort_slices
from medldm.io.dicom.header import Header

# Attributes that may differ between images at one place, the most telling first
_TELL_APART = (
    "EchoTime",
    "DiffusionBValue",
    "DiffusionGradientOrientation",
    "TemporalPositionIdentifier",
    "TemporalPositionIndex",
    "NominalPercentageOfCardiacPhase",
    "TriggerTime",
    "InversionTime",
    "FlipAngle",
    "ComplexImageComponent",
    "ImageType",
    "AcquisitionNumber",
    "FrameReferenceTime",
    "RescaleType",
    "PresentationIntentType",
    "ImageLaterality",
    "Laterality",
    "ViewPosition",
)
# Less telling ones: each value has to stand for a volume of its own
_HINTS = (
    "EchoNumbers",
    "TemporalPositionTimeOffset",
    "NominalCardiacTriggerDelayTime",
    "ConvolutionKernel",
    "FilterType",
    "ScanOptions",
    "KVP",
    "ReconstructionDiameter",
    "SliceThickness",
    "SequenceName",
    "StackID",
    "SeriesNumber",
)
_TIMES = (
    "TriggerTime",
    "AcquisitionDateTime",
    "FrameAcquisitionDateTime",
    "FrameReferenceDateTime",
    "AcquisitionTime",
    "ContentTime",
    "InstanceNumber",
)
# How many images there are at each place
_COUNTS = ("NumberOfTemporalPositions", "CardiacNumberOfImages", "NumberOfTimeSlices")
_DIMENSIONS = "DimensionIndexValues"
_PLAIN_VRS = ("CS", "DS", "DT", "FD", "FL", "IS", "SL", "SS", "TM", "UL", "US")  # no words about a patient
_TEXT_VRS = ("LO", "LT", "SH", "ST")
_PASS = "AcquisitionNumber"
_OF_AN_IMAGE = (
    *("SmallestImagePixelValue", "LargestImagePixelValue", "WindowCenter", "WindowWidth"),
    *("RescaleSlope", "RescaleIntercept", "InstanceCreationTime", "SliceLocation", "ImagePositionPatient"),
)
_DIFFUSION = _TELL_APART[1:3]
_SHORTEST, _MOST_PASSES = 3, 8


@dataclass(frozen=True)
class Part:
    """Images of one volume, what tells them from the others, and a note where that is their order."""

    headers: tuple[Header, ...]
    select: dict[str, str] = field(default_factory=dict)
    note: str = ""


def partition(part: Part, *, whole: bool = False) -> list[Part]:
    """The volumes among images of one grid.

    whole : each image is a volume by itself (a picture of tiled slices, a radiograph without a place)
    """
    if len(part.headers) < 2:
        return [part]
    images = _Images(part, whole)
    if images.pairs:
        ways = [images.by_value(), images.by_dimension(), images.by_any_value(), images.by_order(), images.by_runs()]
    else:
        ways = [images.by_pass()]
    for parts in ways:
        found = list(parts)
        if len(found) > 1:
            return [one for each in found for one in partition(each, whole=whole)]
    return images.one_by_one() if whole else [part]


def what_differs(one: Header, other: Header, most: int = 4) -> str:
    """Attributes of two images that differ, with their values; nothing that could name a patient."""
    keywords = [*_TELL_APART, *_HINTS, *_TIMES, *_keywords(one, _PLAIN_VRS)]
    texts = [(k, one.text(k), other.text(k)) for k in dict.fromkeys(keywords)]
    return ", ".join([f"{k}={a or '(none)'} or {b or '(none)'}" for k, a, b in texts if a != b][:most])


class _Images:
    """The images in the order of their places, and the pairs of neighbours that lie at one place."""

    def __init__(self, part: Part, whole: bool) -> None:
        self.part = part
        if whole:
            self.headers = sorted(part.headers, key=lambda h: (_order(h.text("InstanceNumber")), _uid(h)))
            self.positions = np.zeros((len(self.headers), 3))
        else:
            self.headers, self.positions = sort_slices(part.headers)
        self.pairs = same_places(self.positions)
        again = {b for _, b in self.pairs}
        self.place = np.cumsum([i not in again for i in range(len(self.headers))]) - 1
        self.places = int(self.place[-1]) + 1

    def _differs(self, keyword: str) -> bool:
        """Whether it differs between images at one place; what is equal as it stands need not be decoded."""
        if keyword in _DIFFUSION:  # not where the standard has it alone
            raws: list[Any] = [header.text(keyword) for header in self.headers]
        else:
            raws = [header.raw(keyword) for header in self.headers]
        unlike = ((a, b) for a, b in self.pairs if raws[a] != raws[b])
        return any(self.headers[a].text(keyword) != self.headers[b].text(keyword) for a, b in unlike)

    def _groups(self, keys: Sequence[Any]) -> list[list[int]]:
        """Indices of images with the same key, in the order of the keys."""
        groups: dict[Any, list[int]] = {}
        for index, key in enumerate(keys):
            groups.setdefault(key, []).append(index)
        return [members for _, members in sorted(groups.items(), key=lambda item: item[0])]

    def _parts(self, groups: Sequence[Sequence[int]], keyword: str) -> list[Part]:
        """Parts that a value of `keyword` selects."""
        found = []
        for members in groups:
            value = self.headers[members[0]].text(keyword)
            select = self.part.select | {keyword: value}
            found.append(Part(tuple(self.headers[i] for i in members), select, self.part.note))
        return found

    def _noted(self, groups: Sequence[Sequence[int]], notes: Sequence[str]) -> list[Part]:
        """Parts that no value selects: their numbers do."""
        own = [tuple(self.headers[i] for i in members) for members in groups]
        return [Part(headers, self.part.select, note) for headers, note in zip(own, notes, strict=True)]

    def _numbered(self, groups: Sequence[Sequence[int]], keyword: str, values: NDArray[np.float64]) -> list[Part]:
        """The same, with the range of `keyword`."""
        ranges = [(f"{values[list(m)].min():.10g}", f"{values[list(m)].max():.10g}") for m in groups]
        return self._noted(groups, [f"{keyword} {low}" + f" to {high}" * (high != low) for low, high in ranges])

    def _cover(self, groups: Sequence[Sequence[int]], share: float) -> bool:
        """Whether each group has images at more than this share of all places."""
        return all(len({int(self.place[i]) for i in members}) > share * self.places for members in groups)

    def by_value(self) -> Iterator[Part]:
        """By the first attribute that differs between images at one place."""
        for keyword in (*_TELL_APART, *_HINTS, *_TIMES):
            if not self._differs(keyword):
                continue
            groups = self._groups([_order(header.text(keyword)) for header in self.headers])
            if keyword in _TIMES:
                # slices that were taken together share their time, too: a volume has most of the places
                good = self._cover(groups, 0.5)
            elif keyword in _HINTS:
                good = self.places == 1 or self._cover(groups, 1 / self.places)
            else:
                # a number of its own for every image tells no volumes apart
                good = not len(groups) == len(self.headers) > len(self.pairs) + 1
            if good:
                yield from self._parts(groups, keyword)
                return

    def by_dimension(self) -> Iterator[Part]:
        """By the components of DimensionIndexValues that differ between frames at one place."""
        texts = [header.text(_DIMENSIONS).split("\\") for header in self.headers]
        if len({len(text) for text in texts}) != 1 or not all(number.isdigit() for text in texts for number in text):
            return
        values = np.array(texts, dtype=np.int64)
        first, second = np.array(self.pairs).T
        own = np.nonzero((values[first] != values[second]).any(axis=0))[0]
        groups = self._groups([tuple(row) for row in values[:, own].tolist()])
        if not self._cover(groups, 0.5) or self._repeats(groups):
            return
        for members in groups:
            which = ", ".join(f"{_DIMENSIONS}[{c + 1}]={values[members[0], c]}" for c in own)
            yield from self._noted([members], [which])

    def _repeats(self, groups: Sequence[Sequence[int]]) -> bool:
        return any(len({int(self.place[i]) for i in members}) < len(members) for members in groups)

    def by_any_value(self) -> Iterator[Part]:
        """By any other attribute that has each of its values at every place; of free text, no value is shown."""
        first = [self.headers[i] for i in np.nonzero(self.place == self.place[self.pairs[0][0]])[0]]
        for shown, vrs in ((True, _PLAIN_VRS), (False, _TEXT_VRS)):
            for keyword in _keywords(first[0], vrs):
                if len({header.raw(keyword) for header in first}) < 2 or not self._differs(keyword):
                    continue
                groups = self._groups([_order(header.text(keyword)) for header in self.headers])
                if self._cover(groups, 1 - 0.5 / self.places):
                    notes = [f"{keyword} {number} of {len(groups)}" for number in range(1, len(groups) + 1)]
                    yield from self._parts(groups, keyword) if shown else self._noted(groups, notes)
                    return

    def by_order(self) -> Iterator[Part]:
        """By time or number, where one volume ends before the next begins, or their count is declared."""
        counts = np.bincount(self.place)
        if len(set(counts.tolist())) != 1:
            return
        at = np.arange(len(self.headers)).reshape(self.places, -1)
        for keyword in _TIMES:
            values = self._values(keyword)
            if values is None:
                continue
            ranked = np.take_along_axis(at, np.argsort(values[at], axis=1, kind="stable"), axis=1)
            table = values[ranked]
            if (np.diff(table, axis=1) <= 0).any():
                continue
            apart = bool((table.max(axis=0)[:-1] < table.min(axis=0)[1:]).all())
            steps = np.diff(table, axis=1)
            by_place = keyword == "InstanceNumber" and self._declares(table.shape[1]) and bool((steps == 1).all())
            if apart or by_place:
                yield from self._numbered(ranked.T.tolist(), keyword, values)
                return

    def _values(self, keyword: str) -> NDArray[np.float64] | None:
        """Numbers of all images, None where one has none."""
        try:
            values = np.array([float(header.text(keyword)) for header in self.headers])
        except ValueError:
            return None
        return values if np.isfinite(values).all() else None

    def _declares(self, count: int) -> bool:
        return any(header.text(k) == str(count) for header in self.headers[:1] for k in _COUNTS)

    def by_runs(self) -> Iterator[Part]:
        """By number or time, where the places run on evenly until they start again."""
        for keyword in reversed(_TIMES):
            values = self._values(keyword)
            if values is None or len(set(values.tolist())) < len(values):
                continue
            runs: list[list[int]] = [[]]
            for i in np.argsort(values).tolist():
                back = len(runs[-1]) > 1 and (i - runs[-1][-1]) * (runs[-1][1] - runs[-1][0]) <= 0
                if back or (runs[-1] and self.place[i] == self.place[runs[-1][-1]]):
                    runs.append([])
                runs[-1].append(i)
            # where the direction turns, the image at the turn may be of either run
            one_way = len({run[0] < run[-1] for run in runs}) == 1
            groups = [sorted(run) for run in runs]
            if one_way and self._are_volumes(groups):
                yield from self._numbered(groups, keyword, values)
                return

    def _are_volumes(self, groups: Sequence[Sequence[int]]) -> bool:
        """Whether they are a few passes, each of them even."""
        few = 1 < len(groups) <= _MOST_PASSES
        return few and all(len(m) >= _SHORTEST and is_even(self.positions[list(m)]) for m in groups)

    def by_pass(self) -> Iterator[Part]:
        """Passes that overlap without sharing a place: each of them is even, together they are not.

        Two passes of a CT may lie between each other so that together they are even, too.
        """
        even = is_even(self.positions)
        if even and self.headers[0].text("Modality") != "CT":
            return
        for keyword in (_PASS,) if even else (*_TELL_APART, *_HINTS, *_TIMES):
            if keyword not in _DIFFUSION and len({header.raw(keyword) for header in self.headers}) < 2:
                continue
            groups = self._groups([_order(header.text(keyword)) for header in self.headers])
            apart = keyword == _PASS and len(groups) == 2 and not even and not self._lacks_slices()
            if self._are_volumes(groups) and (_overlap(groups) or apart):
                yield from self._parts(groups, keyword)
                return
        if not even:
            yield from self.by_runs()

    def _lacks_slices(self) -> bool:
        """Whether whole slices are missing from what is even otherwise."""
        steps = np.linalg.norm(np.diff(self.positions, axis=0), axis=1)
        usual = float(np.median(steps))
        return bool(np.abs(steps - np.rint(steps / usual) * usual).max() <= ON_LINE_MM)

    def one_by_one(self) -> list[Part]:
        """Each image, by its number in order."""
        notes = [f"image {number}" for number in range(1, len(self.headers) + 1)]
        return [Part((h,), self.part.select, note) for h, note in zip(self.headers, notes, strict=True)]


def _overlap(groups: Sequence[Sequence[int]]) -> bool:
    """Whether one group starts before another, of those in the order of places, ends."""
    ranges = sorted((min(members), max(members)) for members in groups)
    return any(low < high for (_, high), (low, _) in zip(ranges, ranges[1:], strict=False))


def _keywords(header: Header, vrs: tuple[str, ...]) -> list[str]:
    """Attributes of an image of these kinds that are neither about the patient nor values of its pixels."""
    found = [element.keyword for element in header.dataset if element.VR in vrs and element.tag.group != 0x0010]
    return [k for k in found if k and k not in _OF_AN_IMAGE]


def _uid(header: Header) -> str:
    return header.text("SOPInstanceUID")


def _order(text: str) -> tuple[int, float, str]:
    """Numbers by their value, then texts."""
    try:
        return 0, float(text), ""
    except ValueError:
        return 1, 0.0, text
