"""medldm's docstrings for the site: `name : what it is` becomes a list, and `>>>` a block of code."""

from __future__ import annotations

import re
from typing import Any

import griffe

_ITEM = re.compile(r"(\w+(?:, \w+)*) : (.+)")
_RULE = re.compile(r"^-{3,}$", re.MULTILINE)  # numpydoc's own sections


class PlainDocstrings(griffe.Extension):
    """Rewrites each docstring as Markdown when its object has been read."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is None:
            return
        if _RULE.search(obj.docstring.value):
            obj.docstring.parser = griffe.Parser.numpy
        else:
            obj.docstring.value = markdown(obj.docstring.value)


def markdown(text: str) -> str:
    """The same docstring with lists of parameters and fenced examples.

    An item goes on as long as its lines are indented; an example begins at a line with `>>>` and ends at an empty one.
    """
    found: list[str] = []
    inside = ""  # "item", "example" or nothing
    for line in text.splitlines():
        item = _ITEM.fullmatch(line)
        if inside == "example":
            if line.strip():
                found.append(line)
                continue
            found += ["```", ""]
            inside = ""
        elif line.startswith(">>> "):
            found += ["", "```pycon", line]
            inside = "example"
        elif item:
            names = ", ".join(f"`{name}`" for name in item[1].split(", "))
            found += [*([] if inside == "item" else [""]), f"- {names}: {item[2]}"]
            inside = "item"
        elif inside == "item" and line.startswith("    "):
            found.append(line)
        else:
            found += [*([""] if inside == "item" else []), line]
            inside = ""
    return "\n".join([*found, *(["```"] if inside == "example" else [])])
