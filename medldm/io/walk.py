"""The files below a path. Links are followed, each file and folder is met once; what is left out is counted by reason.

Data sets of git-annex and datalad consist of links, some of which lead to files that were not fetched.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from medldm.errors import EmptyInput

# Reasons for leaving something out, as the history of a scan has them, and in words
HIDDEN, DANGLING, REPEATED, SPECIAL, CLOSED = "hidden", "dangling_link", "repeated", "special", "unreadable_folder"
_WORDS = {
    HIDDEN: "hidden (a dot in front of the name)",
    DANGLING: "links to nothing (data that was not fetched?)",
    REPEATED: "links to what is here already",
    SPECIAL: "pipes or devices",
    CLOSED: "folders that cannot be opened",
}
_Place = tuple[int, int]  # device and inode


def in_words(skipped: Counter[str] | dict[str, int]) -> str:
    """What a walk left out: "3 links to nothing, 1 hidden"; "" for nothing."""
    return ", ".join(f"{skipped[reason]} {words}" for reason, words in _WORDS.items() if skipped.get(reason))


def check_exists(path: Path) -> None:
    """Raise EmptyInput for a path that leads nowhere."""
    if path.is_symlink() and not path.exists():
        raise EmptyInput(str(path), "a link to nothing", "the file that it leads to", "fetch it (e.g. datalad get)")
    if not path.exists():
        raise EmptyInput(str(path), "no such file or folder", "a scan", "check the path")


def list_files(path: Path, skipped: Counter[str], dangling: list[Path] | None = None) -> list[Path]:
    """Regular files below `path`, or the file itself; see `walk_files`."""
    return [path] if path.is_file() else list(walk_files(path, skipped, dangling))


def walk_files(folder: Path, skipped: Counter[str], dangling: list[Path] | None = None) -> Iterator[Path]:
    """Files below a folder by name, its own before those of the folders in it; what links lead to comes last.

    skipped : counts what is left out, by reason
    dangling : is given the links that lead to nothing
    """
    walk = _Walk(folder, skipped, dangling if dangling is not None else [])
    yield from walk.below(folder)
    while walk.links:
        yield from walk.through(walk.links.pop(0))


class _Walk:
    """One walk: what was met, and the links that are still to be followed."""

    def __init__(self, folder: Path, skipped: Counter[str], dangling: list[Path]) -> None:
        self.skipped, self.dangling = skipped, dangling
        self.links: list[Path] = []
        self.files: set[_Place] = set()
        self.folders: set[_Place] = set()
        self.linked = False  # whether links are being followed; before, a file of several names counts as several
        self.above = {place for parent in folder.absolute().resolve().parents if (place := _place(parent))}

    def below(self, folder: Path) -> Iterator[Path]:
        place = _place(folder)
        if place is None or place in self.folders or place in self.above:
            self.skipped[CLOSED if place is None else REPEATED] += 1
            return
        self.folders.add(place)
        try:
            with os.scandir(folder) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError:
            self.skipped[CLOSED] += 1
            return
        folders = []
        for entry in entries:
            if entry.name.startswith("."):
                self.skipped[HIDDEN] += 1
            elif entry.is_symlink():
                self.links.append(folder / entry.name)
            elif entry.is_dir():
                folders.append(folder / entry.name)
            elif not entry.is_file():
                self.skipped[SPECIAL] += 1
            elif self._is_new(place[0], entry):
                yield folder / entry.name
        for inner in folders:
            yield from self.below(inner)

    def _is_new(self, device: int, entry: os.DirEntry[str]) -> bool:
        place = device, entry.inode()
        if self.linked and place in self.files:
            self.skipped[REPEATED] += 1
            return False
        self.files.add(place)
        return True

    def through(self, link: Path) -> Iterator[Path]:
        self.linked = True
        place = _place(link)
        if place is None:
            self.skipped[DANGLING] += 1
            self.dangling.append(link)
        elif link.is_dir():
            yield from self.below(link)
        elif not link.is_file():
            self.skipped[SPECIAL] += 1
        elif place in self.files:
            self.skipped[REPEATED] += 1
        else:
            self.files.add(place)
            yield link


def _place(path: Path) -> _Place | None:
    """Where a file or folder is, whatever it is called; None where it leads nowhere, or may not be looked at."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
