"""Tables of packs and recipes: unknown keys are errors, and what is wrong is said of its key alone."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

IMAGES = (
    "BDUS BI BMD CR CT DG DMS DX ES GM IO IVOCT IVUS LS M3D MG MR NM OAM OCT OP OPM OPT OPTBSV OPTENF OSS OT PA PT PX "
    "RF RG RTDOSE RTIMAGE SC SM SRF STAIN TG US XA XC"
)  # modalities that hold pixels (DICOM PS3.3, C.7.3.1.1.1), and SC, as pictures are called


class Table(BaseModel):
    """A table of a pack or a recipe; an unknown key is an error, as is a number that is not finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def wrong(key: tuple[str | int, ...], value: object, expected: str) -> ValidationError:
    """What a validator of a table raises where several keys do not go together: the one to be changed.

    key : from the table on
    """
    error = PydanticCustomError("wrong", "{expected}", {"expected": expected})
    return ValidationError.from_exception_data("table", [InitErrorDetails(type=error, loc=key, input=value)])


def _ordered(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise ValueError("the smaller one first")
    return pair


def _modality(code: str) -> str:
    known = IMAGES.split()
    if code not in known:
        near = difflib.get_close_matches(code.upper(), known, n=1, cutoff=0.5)
        raise ValueError("a modality of DICOM that has pixels" + (f", such as {near[0]}" if near else ", such as MR"))
    return code


def _axcodes(codes: str) -> str:
    if len(codes) != 3 or sorted("LR PA IS".find(code) // 3 for code in codes if code in "LRPAIS") != [0, 1, 2]:
        raise ValueError("one letter each of L/R, P/A and I/S, such as RAS")
    return codes


Size = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
PositiveRange = Annotated[tuple[Positive, Positive], AfterValidator(_ordered)]
Modality = Annotated[str, AfterValidator(_modality)]
Axcodes = Annotated[str, AfterValidator(_axcodes)]


UNTAGGED = ("pca", "own")  # alternatives that need no kind


class Wrong(NamedTuple):
    """The first thing that is wrong with a table: its key from the outermost table on, what it is, what it should be.

    kind : of the error, as pydantic calls it
    """

    key: tuple[str | int, ...]
    got: str
    expected: str
    kind: str

    @property
    def path(self) -> str:
        return ".".join(map(str, self.key))


def first_wrong(failure: ValidationError, table: Mapping[str, Any]) -> Wrong:
    """What to say of a table that was refused: an unknown key before all else; of alternatives, what got deepest."""
    errors = failure.errors()
    first = next((error for error in errors if error["type"] == "extra_forbidden"), errors[0])
    key = _in_table(first["loc"], table)
    for error in errors:
        deeper = _in_table(error["loc"], table)
        if first["type"] != "extra_forbidden" and deeper[: len(key)] == key and len(deeper) > len(key):
            first, key = error, deeper
    if first["type"].startswith("union_tag"):  # the key that chooses among tables is missing, or chooses none
        said = first["ctx"]
        name = str(said["discriminator"]).strip("'_()")
        tag, known = (str(said.get(what, "nothing"))[:60] for what in ("tag", "expected_tags"))
        return Wrong((*key, name), tag, known if "expected_tags" in said else "one", first["type"])
    value = first.get("input")
    got = "a table" if isinstance(value, Mapping | BaseModel) else str(value)[:60] or "nothing"
    expected = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    return Wrong(key, got, expected, first["type"])


def _in_table(place: Sequence[str | int], table: object) -> tuple[str | int, ...]:
    """A place as its writer knows it: without the names of alternatives, which pydantic puts in between."""
    found: list[str | int] = []
    here, entered = table, True  # whether `here` was reached by the last part, not by an alternative's name
    for number, part in enumerate(place):
        if isinstance(here, Mapping):
            last, chosen = number + 1 == len(place), here.get("train") or here.get("kind")
            is_name = part == chosen if part in here and not last else part in (chosen, *UNTAGGED) and part not in here
            if entered and is_name:  # a stage's key may be called as its kind: head
                entered = False
                continue
            here = here.get(part)
        elif isinstance(here, list | tuple) and isinstance(part, int):
            here = here[part] if part < len(here) else None
        else:
            continue
        found.append(part)
        entered = True
    return tuple(found)
