"""docs/reading.md says what is so: its options exist, its reader passes the check."""

import re
import types
from pathlib import Path

import numpy as np
import pytest
import typer

from medldm.cli import app
from medldm.io.check_reader import check_reader
from medldm.io.manifest import COLUMNS

TEXT = (Path(__file__).parents[1] / "docs" / "reading.md").read_text(encoding="utf-8")


def options(command):
    found = typer.main.get_command(app).commands[command]
    return {name for parameter in found.params for name in parameter.opts}


def test_every_option_it_names_is_one():
    named = set(re.findall(r"--[a-z][a-z-]+", TEXT))
    known = options("inspect") | options("check") | options("train") | options("denoise")
    assert named and named <= known


@pytest.mark.parametrize("command", ["inspect", "denoise", "superres"])
def test_the_options_of_reading_are_in_every_command_that_reads(command):
    table = TEXT.split("| Option |")[1].split("\n\n")[0]
    named = set(re.findall(r"`(--[a-z-]+)", table))
    assert len(named) == 7 and named <= options(command)


def test_every_column_is_explained():
    table = TEXT.split("| Column |")[1].split("\n\n")[0]
    assert set(re.findall(r"`([a-z]+)`", " ".join(row.split("|")[1] for row in table.splitlines()[2:]))) == set(COLUMNS)


def test_the_reader_it_shows_is_a_proper_one(tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    module = types.ModuleType("slab")
    exec(code, module.__dict__)
    with (tmp_path / "a.slab").open("wb") as file:
        np.save(file, np.arange(24, dtype=np.float32).reshape(2, 3, 4))
    check_reader(module, tmp_path / "a.slab")
