"""What a call of every restoring command says, spelled out as options by `restoring`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from medldm import registry
from medldm.cli import options as o
from medldm.installed import folder_of
from medldm.io.choice import MAX_BYTES, Choice

if TYPE_CHECKING:
    from medldm.model import Model
    from medldm.restoration.result import Restoration
    from medldm.volume import Volume

DICOM = ".dcm"
# (scan, model, keyword arguments that all restoring functions of the API share)
Restore = Callable[["Volume", "Model", dict[str, Any]], "Restoration"]


@dataclass(frozen=True)
class Call:
    """The options that restoring commands share, in the order of their help."""

    input: o.Input
    output: o.Output
    model: o.ModelName
    mode: o.Mode = "fidelity"
    samples: o.Samples = 1
    steps: o.Steps = 20
    seed: o.Seed = 0
    sampler: o.Sampler = "dpmpp_2m"
    plane: o.Plane = None
    series: o.Series = None
    select: o.Select = None
    resample_nonuniform: o.ResampleNonuniform = False
    xform: o.Xform = None
    assume_affine: o.AssumeAffine = False
    nan: o.Nan = "refuse"
    max_bytes: o.MaxBytes = MAX_BYTES
    device: o.Device = None
    format: o.Format = None
    residual: o.Residual = None
    uncertainty: o.Uncertainty = None
    interval: o.Bounds = None
    level: o.Level = 0.9
    report: o.Report = None
    overwrite: o.Overwrite = False
    force: o.Force = False
    quiet: o.Quiet = False
    json: o.Json = False

    def settings(self) -> dict[str, Any]:
        """Keyword arguments that the restoring functions of the API share. Raises InputError."""
        names = ("samples", "steps", "sampler", "seed", "force", *(("plane",) if self.plane else ()))
        return {"mode": o.parse_mode(self.mode), **{name: getattr(self, name) for name in names}}

    def check_names(self) -> None:
        """Raises ModelError for a model, InputError for a sampler that is not installed."""
        folder_of(self.model)
        if self.sampler not in registry.names("samplers"):
            registry.find("samplers", self.sampler)  # says which there are

    def choice(self) -> Choice:
        """What the reader is told. Raises InputError."""
        return o.choice_of(
            self.series,
            self.select,
            self.resample_nonuniform,
            self.xform,
            self.assume_affine,
            self.nan,
            self.max_bytes,
        )

    def paths(self) -> list[Path]:
        """Everything that is left behind."""
        every = (self.output, self.residual, self.uncertainty, *self.bounds(), self.report)
        return [path for path in every if path is not None]

    def bounds(self) -> list[Path]:
        """The files of an interval, lower and upper; none where it is not asked for."""
        if self.interval is None:
            return []
        stem, *endings = self.interval.name.split(".")
        return [self.interval.with_name(".".join((f"{stem}-{side}", *endings))) for side in ("lower", "upper")]

    def formats(self) -> list[tuple[Path, str | None]]:
        """Files that hold a scan, with the name of their writer where the file's name is not enough."""
        maps = [path for path in (self.residual, self.uncertainty, *self.bounds()) if path is not None]
        return [(self.output, self.format), *((path, self.map_format(path)) for path in maps)]

    def map_format(self, path: Path) -> str | None:
        """A map in one DICOM file is a parametric map: no image has room for its values."""
        return "parametric_map" if path.name.lower().endswith(DICOM) else None


def restoring(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose first parameter is a `Call`, as typer takes it: each field is an option of its own."""
    shared, own = get_type_hints(Call, include_extras=True), get_type_hints(command, include_extras=True)
    first, *others = inspect.signature(command).parameters.values()
    kind = inspect.Parameter.KEYWORD_ONLY
    spelled = [
        inspect.Parameter(
            field.name,
            kind,
            default=inspect.Parameter.empty if field.default is MISSING else field.default,
            annotation=shared[field.name],
        )
        for field in fields(Call)
    ]
    spelled[3:3] = [parameter.replace(kind=kind, annotation=own[parameter.name]) for parameter in others]

    def called(**values: Any) -> None:
        call = Call(**{field.name: values.pop(field.name) for field in fields(Call)})
        command(call, **values)

    called.__name__, called.__doc__ = command.__name__, command.__doc__
    called.__signature__ = inspect.Signature(spelled)  # type: ignore[attr-defined]
    called.__annotations__ = {parameter.name: parameter.annotation for parameter in spelled}
    return called
