"""A recipe as it is written for people: TOML with the reason above the key."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence

WIDTH = 118


class Page:
    """TOML in the making."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def text(self) -> str:
        return "\n".join(self._lines).strip() + "\n"

    def blank(self) -> None:
        self._lines.append("")

    def comment(self, text: str) -> None:
        one = " ".join("".join(c if c.isprintable() else " " for c in text).split())
        self._lines += textwrap.wrap(one, WIDTH, initial_indent="# ", subsequent_indent="# ")

    def table(self, name: str) -> None:
        self._lines += ["", f"[{name}]"]

    def array(self, name: str) -> None:
        """A table of several."""
        self._lines += ["", f"[[{name}]]"]

    def key(self, name: str, value: object, why: str = "") -> None:
        if why:
            self.comment(why)
        self._lines.append(f"{name} = {_value(value)}")


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        inside = ", ".join(f"{key} = {_value(part)}" for key, part in value.items())
        return f"{{ {inside} }}"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, Sequence):
        return f"[{', '.join(map(_value, value))}]"
    return repr(value)
