"""What synthesis can be asked for: the typed tables of a pack's conditions, and values checked against them.

Values come from a manifest's columns, the command line or Python; they are checked here, alike, before anything runs.
Nothing here needs torch.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from medldm.errors import InputError
from medldm.tables import Table, wrong

Words = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)]


class ClassCondition(Table):
    """One of several values, such as a finding."""

    kind: Literal["class"]
    values: Words


class NumberCondition(Table):
    """A number from `low` to `high`, such as an age."""

    kind: Literal["number"]
    low: float
    high: float

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if not self.low < self.high:
            raise wrong(("low",), self.low, f"less than high, {self.high:g}")
        return self


class TokensCondition(Table):
    """Up to `length` words of a vocabulary in their order, such as the terms of a report; attended to."""

    kind: Literal["tokens"]
    vocabulary: Words
    length: int = Field(ge=1)


class ImageCondition(Table):
    """A scan on the same grid, such as another contrast, in the model's range: concatenated."""

    kind: Literal["image"]


class LabelMapCondition(Table):
    """A label map on the same grid. labels : which values in the files make up each tissue; 0 is the background."""

    kind: Literal["label_map"]
    labels: dict[str, tuple[Annotated[int, Field(ge=0)], ...]] = Field(min_length=1)

    @model_validator(mode="after")
    def _each_value_once(self) -> Self:
        values = [value for group in self.labels.values() for value in group]
        if len(set(values)) < len(values):
            raise wrong(("labels",), "a value twice", "each value in one label")
        return self


ConditionTable = Annotated[
    ClassCondition | NumberCondition | TokensCondition | ImageCondition | LabelMapCondition,
    Field(discriminator="kind"),
]
Tables = Mapping[str, Any]  # of ConditionTable, by name
ALL = "*"  # every value of a condition, scan by scan
GOLDEN = 0.6180339887498949  # multiples of it, less whole numbers, are spread most evenly (Weyl 1916)
MAPS = (ImageCondition, LabelMapCondition)  # conditions that are scans themselves


def in_turn(tables: Tables, given: Mapping[str, object], index: int) -> dict[str, object]:
    """The values for scan `index`, where "*" asks for all: classes in turn, each as often as any other; several, in all
    combinations; numbers spread evenly over their range. Raises InputError for a condition of another kind."""
    found = dict(given)
    for name, value in given.items():
        table = tables.get(name)
        if value != ALL or table is None:
            continue
        if isinstance(table, ClassCondition):
            index, number = divmod(index, len(table.values))
            found[name] = table.values[number]
        elif isinstance(table, NumberCondition):
            share = (0.5 + index * GOLDEN) % 1  # neighbours far apart, and any number of them even
            number_of = float(f"{table.low + share * (table.high - table.low):.4g}")
            found[name] = min(max(number_of, table.low), table.high)
        else:
            raise InputError(name, repr(ALL), in_words(table))
    return found


def check_conditions(tables: Tables, given: Mapping[str, object], where: str) -> dict[str, object]:
    """The values as the networks take them: class, its number; number, a float; tokens, their numbers from 1.

    Maps are left as they are; a condition that is None or empty was not given. Raises InputError for an unknown
    condition or value, naming those there are.
    """
    checked: dict[str, object] = {}
    for name, value in given.items():
        if name not in tables:
            known = ", ".join(tables) or "none"
            raise InputError(f"{where}, condition", repr(name), f"one of: {known}", _nearest(name, list(tables)))
        if value is None or (isinstance(value, str) and not value.strip()):
            continue
        table, at = tables[name], f"{where}, {name}"
        checked[name] = value if isinstance(table, MAPS) else _checked(table, value, at)
    return checked


def _checked(table: ClassCondition | NumberCondition | TokensCondition, value: object, where: str) -> object:
    if isinstance(table, ClassCondition):
        return _number_of(str(value).strip(), table.values, where)
    if isinstance(table, NumberCondition):
        return _within(table, value, where)
    words = value.split() if isinstance(value, str) else value
    if not isinstance(words, Sequence) or not all(isinstance(word, str) for word in words):
        raise InputError(where, repr(value)[:60], "words")
    if len(words) > table.length:
        raise InputError(where, f"{len(words)} words", f"{table.length} at most")
    return [1 + _number_of(word, table.vocabulary, where) for word in words]


def _within(table: NumberCondition, value: object, where: str) -> float:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = math.nan
    if not table.low <= number <= table.high:  # not a number, too
        got = repr(value)[:60]
        raise InputError(where, got, f"a number from {table.low:g} to {table.high:g}, as the model was trained on")
    return number


def _number_of(value: str, values: Sequence[str], where: str) -> int:
    if value not in values:
        known = ", ".join(values[:20]) + (", ..." if len(values) > 20 else "")
        raise InputError(where, repr(value)[:60], f"one of: {known}", _nearest(value, values))
    return list(values).index(value)


def _nearest(value: str, values: Sequence[str]) -> str:
    near = difflib.get_close_matches(value, values, n=1)
    return f"did you mean {near[0]!r}?" if near else ""


def in_words(table: ConditionTable) -> str:
    """What a condition takes, for messages and help."""
    if isinstance(table, ClassCondition):
        return f"one of {', '.join(table.values)}"
    if isinstance(table, NumberCondition):
        return f"a number from {table.low:g} to {table.high:g}"
    if isinstance(table, TokensCondition):
        return f"up to {table.length} of {len(table.vocabulary)} words"
    return "a scan" if isinstance(table, ImageCondition) else f"a label map of {', '.join(table.labels)}"


def label_lookup(table: LabelMapCondition) -> dict[int, int]:
    """Value in a file -> number of its label, from 1; of the background 0."""
    listed = {value: number for number, values in enumerate(table.labels.values(), start=1) for value in values}
    return {0: 0} | listed
