"""Forty bad and hard inputs: read exactly, or refused with the right kind of error and its reason."""

import pytest

from tests.hard_inputs import CASES


def test_all_forty_are_there():
    assert list(CASES) == [f"B{number:02d}" for number in range(1, 41)]


@pytest.mark.parametrize("number", CASES)
def test_hard_input(number, tmp_path, data_dir):
    CASES[number](tmp_path, data_dir)
