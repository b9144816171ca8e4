"""Run tutorials as a reader does: the blocks of a page from top to bottom, in one folder. `make tutorials` runs all.

    python docs/tutorials/run.py [FOLDER]

Pictures that the pages show are brought to docs/images; without FOLDER everything else is thrown away.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parents[1]
PAGES = ("restore.md", "train.md", "synthesize.md")
BLOCK = re.compile(r"^```(python|sh)\n(.*?)^```", re.MULTILINE | re.DOTALL)
PICTURE = re.compile(r"!\[[^\]]*\]\(\.\./images/([^)]+)\)")


def run_page(text: str, folder: Path) -> dict[str, Any]:
    """Run the blocks of a page in `folder`: those in Python in this process, the others by a shell.

    Returns what the lines in Python have made, by name. Whatever a block raises is raised; a command that fails, too.
    """
    import matplotlib

    matplotlib.use("Agg")  # pictures are files
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    known: dict[str, Any] = {"__name__": "tutorial"}
    with contextlib.chdir(folder):
        for language, block in BLOCK.findall(text):
            if language == "sh":
                subprocess.run(["sh", "-ec", block], env=os.environ | {"PATH": programs}, check=True)
            else:
                exec(compile(block, "tutorial", "exec"), known)
    return known


def pictures_of(text: str) -> list[str]:
    """Names of the pictures that a page shows, in its order."""
    return PICTURE.findall(text)


def seconds() -> float:
    """Computing time of this process and of those that it has waited for."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def main(folder: Path) -> None:
    for name in PAGES:
        text, before = (DOCS / "tutorials" / name).read_text(encoding="utf-8"), seconds()
        run_page(text, folder)
        for picture in pictures_of(text):
            shutil.copy(folder / picture, DOCS / "images" / picture)
        print(f"{name}: {seconds() - before:.0f} s of computing time", flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        Path(sys.argv[1]).mkdir(parents=True, exist_ok=True)
        main(Path(sys.argv[1]).resolve())
    else:
        with tempfile.TemporaryDirectory() as scratch:
            main(Path(scratch))
