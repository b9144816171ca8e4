"""Typed errors, each one line: where, got, expected, do. Never a patient's name or id in any of them."""

from __future__ import annotations


def _one_line(text: str) -> str:
    return " ".join(str(text).split())


class MedldmError(Exception):
    """Base of every error that medldm raises on purpose.

    Parameters
    ----------
    where : str
        File name, argument or step.
    got : str
        What was found.
    expected : str
        What would have been right.
    do : str
        What the user can do about it.

    Attributes
    ----------
    exit_code : int
        Exit status of the command line.
    """

    exit_code = 1

    def __init__(self, where: str, got: str, expected: str = "", do: str = "") -> None:
        super().__init__(where, got, expected, do)  # all four in args, so that the error can be pickled
        self.where, self.got, self.expected, self.do = map(_one_line, (where, got, expected, do))

    def __str__(self) -> str:
        head = ": ".join(part for part in (self.where, f"got {self.got}" if self.got else "") if part)
        tail = [f"expected {self.expected}"] if self.expected else []
        return "; ".join(part for part in (head, *tail, self.do) if part)


class InputError(MedldmError, ValueError):
    """The call or the input is at fault."""

    exit_code = 2


class EmptyInput(InputError):
    """Nothing there to read."""


class NotImage(InputError):
    """A file that holds no image."""


class AmbiguousInput(InputError):
    """More than one image; the user has to choose."""


class GeometryError(InputError):
    """Where the voxels lie is unknown, impossible or uneven."""


class PixelError(InputError):
    """Voxel values are missing, damaged or of unknown meaning."""


class LimitError(InputError):
    """Larger than the limit set."""


class UnsafeInput(InputError):
    """Reading it could harm the machine."""


class UnsupportedInput(InputError):
    """A valid image of a kind that medldm does not read."""


class RecipeError(InputError):
    """A recipe with an unknown key or a wrong value."""


class ModelError(MedldmError):
    """A model that is unknown, damaged or does not fit the scan."""

    exit_code = 2


class OutputError(MedldmError):
    """The result cannot be written where or as asked."""

    exit_code = 2


class RunError(MedldmError):
    """The computation failed."""


class Cancelled(MedldmError):
    """The user stopped it."""

    exit_code = 130
