import pickle

import pytest

from medldm import errors
from medldm.errors import Cancelled, GeometryError, InputError, MedldmError, ModelError, OutputError, RunError


def test_message_is_one_line_of_four_parts():
    error = GeometryError("series", "a gap", "even slices", "find it")
    assert str(error) == "series: got a gap; expected even slices; find it"


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        (("file", "nothing"), "file: got nothing"),
        (("file", "nothing", "", "do this"), "file: got nothing; do this"),
        (("file", "a\nb\t c"), "file: got a b c"),
    ],
)
def test_empty_parts_and_line_breaks_are_left_out(parts, text):
    assert str(MedldmError(*parts)) == text


def test_exit_codes():
    codes = {InputError: 2, ModelError: 2, OutputError: 2, RunError: 1, Cancelled: 130, MedldmError: 1}
    assert {kind: kind.exit_code for kind in codes} == codes


def test_input_errors_are_value_errors_with_exit_code_2():
    kinds = [k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, InputError)]
    assert len(kinds) == 10
    assert all(issubclass(k, ValueError) and k.exit_code == 2 for k in kinds)


def test_errors_survive_pickling():  # between worker processes
    again = pickle.loads(pickle.dumps(GeometryError("a", "b", "c", "d")))
    assert type(again) is GeometryError and str(again) == "a: got b; expected c; d"
