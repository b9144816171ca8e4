"""Turn the weights of another library into an autoencoder of ours, its latents measured on the user's own scans."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError

from medldm import registry
from medldm.errors import EmptyInput, InputError, ModelError
from medldm.evaluate.autoencoder import AutoencoderQuality
from medldm.geometry import Geometry
from medldm.io import read
from medldm.io.manifest import Row, load_manifest, rows_of_folder
from medldm.net_tables import ImportedTable, IntensityTable
from medldm.nets.autoencoder import Autoencoder
from medldm.nets.build import build_autoencoder
from medldm.nets.imported.weights import Reading, Weights, open_weights
from medldm.pack import AutoencoderPack
from medldm.recipe import Source
from medldm.space import ModelSpace
from medldm.tables import first_wrong
from medldm.training.latents import measure_latents
from medldm.training.report import MeasuredAutoencoder, autoencoder_page, autoencoder_tables
from medldm.training.scan import Scan
from medldm.training.verdict import Verdict, judge
from medldm.volume import Volume

Progress = Callable[[str, int, int], None]
STATISTICS = {"latent_mean", "latent_std"}
HU_WINDOW = IntensityTable(kind="window", low=-1000, high=1000)
MAGNITUDE = IntensityTable(kind="percentile", low=0, high=99.5, zero_floor=True)
OTHER = IntensityTable(kind="percentile", low=0.1, high=99.9)


@dataclass(frozen=True)
class Wishes:
    """What the user says of the scans that the autoencoder is for; None: as the scans are.

    crop : voxels an axis of the scan that are taken from its middle, for scans larger than the network can take
    """

    modality: tuple[str, ...] | None = None
    spacing: tuple[float, float, float] | None = None
    axcodes: str | None = None
    intensity: IntensityTable | None = None
    crop: tuple[int, ...] | None = None


@dataclass(frozen=True, eq=False)
class Adopted:
    """An autoencoder with white latents, its pack, and the scans that it was measured on.

    scans, geometries : one each a scan, in the autoencoder's range and orientation
    source_sha256 : hash of the file of weights
    """

    autoencoder: Autoencoder
    pack: AutoencoderPack
    scans: tuple[Scan, ...]
    geometries: tuple[Geometry, ...]
    source_name: str
    source_sha256: str


def adopt(
    weights: Path,
    *,
    name: str,
    data: Path,
    index: str | None = None,
    family: str | None = None,
    config: dict[str, Any] | None = None,
    wishes: Wishes | None = None,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> Adopted:
    """The autoencoder of a foreign library's weights; nothing is downloaded, nothing in them executed.

    data, index : folder of scans, and a CSV table in it where there is one (rows of the split "test" are left out)
    family : name of the entry point; found from the weights if None
    config : arguments of the network that the weights do not say
    Raises UnsafeInput for weights that need code, ModelError for weights that are damaged or of no known family,
    InputError for scans that cannot be used.
    """
    found = open_weights(weights, config)
    chosen = family or recognised(found)
    reading: Reading = registry.find("autoencoders", chosen).read(found)
    rows = _rows(data, index)
    pack, autoencoder = build_imported(found, chosen, reading, name)
    scans, geometries, pack = _load(rows, pack, wishes or Wishes(), data, progress)
    autoencoder = autoencoder.to(device).eval().requires_grad_(False)
    with fitting_scans(name):
        measure_latents(autoencoder, scans)
    mean, std = (values.double().cpu().tolist() for values in (autoencoder.latent_mean, autoencoder.latent_std))
    if not all(map(math.isfinite, (*mean, *std))):
        raise ModelError(found.where, "latents that are not finite", "finite ones", "is this the right family?")
    with found.file.open("rb") as handle:
        digest = hashlib.file_digest(handle, "sha256").hexdigest()
    return Adopted(autoencoder, pack, tuple(scans), tuple(geometries), found.file.name, digest)


@contextlib.contextmanager
def fitting_scans(name: str) -> Iterator[None]:
    """Turns what torch says of scans that a network cannot take, or memory cannot hold, into a ModelError."""
    try:
        yield
    except RuntimeError as failure:  # torch.OutOfMemoryError among them
        reason = str(failure).splitlines()[0][:100]
        raise ModelError(f"autoencoder {name}", f"a failure on these scans ({reason})", "", "try --crop") from None


def recognised(weights: Weights) -> str:
    """The family that weights are of. Raises ModelError where it is none, or not one."""
    names, found = registry.names("autoencoders"), []
    for name in names:
        with contextlib.suppress(InputError):  # a broken plugin harms nobody else; medldm doctor names it
            found += [name] if registry.find("autoencoders", name).recognise(weights) else []
    if len(found) != 1:
        got = f"tensors as of {', '.join(found) or 'no known family'}"
        raise ModelError(weights.where, got, f"one of {', '.join(names)}", "say --family")
    return found[0]


def build_imported(weights: Weights, family: str, reading: Reading, name: str) -> tuple[AutoencoderPack, Autoencoder]:
    """A pack that as yet knows the network alone, and the network with its weights. Raises ModelError."""
    made: Autoencoder = registry.find("autoencoders", family).build(reading.dims, reading.config)
    pack = AutoencoderPack(
        name=name,
        description=f"An autoencoder of the family {family}, imported from {weights.file.name}.",
        dims=3 if reading.dims == 3 else 2,
        modality=(),
        spacing=(1, 1, 1),
        spacing_range=(1, 1),
        intensity=OTHER,
        autoencoder=ImportedTable(
            kind="imported", family=family, factor=made.factor, channels=made.channels, config=reading.config
        ),
    )
    autoencoder = build_autoencoder(pack)  # by the way that a pack will be built
    expected, got = set(autoencoder.state_dict()) - STATISTICS, set(reading.state)
    odd = sorted(expected ^ got)
    if odd:
        text = f"{len(odd)} tensors that do not fit, first {odd[0]} ({'missing' if odd[0] in expected else 'unknown'})"
        raise ModelError(weights.where, text, f"the tensors of {family}")
    try:
        autoencoder.load_state_dict(reading.state, strict=False)
    except RuntimeError as failure:
        reason = str(failure).splitlines()[-1].strip()[:120]
        raise ModelError(weights.where, reason, f"the shapes of {family}") from None
    return pack, autoencoder


def _rows(data: Path, index: str | None) -> list[Row]:
    if index is None:
        return rows_of_folder(data, dataset="import")
    rows = [row for row in load_manifest(data / index, root=data, dataset="import") if row.split != "test"]
    if not rows:
        raise EmptyInput(index, "rows of the split 'test' alone", "scans to measure the latents on")
    return rows


def _intensity(volume: Volume, modality: Sequence[str]) -> IntensityTable:
    if volume.unit == "HU":
        return HU_WINDOW
    return MAGNITUDE if "MR" in (volume.modality, *modality) else OTHER


def _load(
    rows: Sequence[Row], pack: AutoencoderPack, wishes: Wishes, data: Path, progress: Progress | None
) -> tuple[list[Scan], list[Geometry], AutoencoderPack]:
    """The scans in the model's range, and the pack with what they say. Raises InputError."""
    source, scans, geometries = Source(folder=".", weight=1.0), [], []
    axcodes = wishes.axcodes or ("RAS" if pack.dims == 3 else None)
    wanted = {"axcodes": axcodes, "modality": wishes.modality or (), "spacing": wishes.spacing or pack.spacing}
    pack = _with(pack, wanted)
    spacings: list[tuple[float, ...]] = []
    units: set[str] = set()
    modalities: set[str] = set()
    for number, row in enumerate(rows, start=1):
        volume = read(row.path, row.series or None, select=row.select)
        if pack.dims == 2 and volume.array.shape[2] != 1:
            got = f"a scan of {volume.array.shape[2]} slices"
            raise InputError("--data", got, "single images: this autoencoder is 2D")
        space = ModelSpace.of(pack, volume)
        volume = _cut(space.turned(volume), wishes.crop)
        if number == 1:
            intensity = wishes.intensity or _intensity(volume, wishes.modality or ())
            pack = pack.model_copy(update={"intensity": intensity})
        units.add(volume.unit)
        if len(units) > 1 and "HU" in units:
            raise InputError(data.name, f"scans in {' and '.join(sorted(units))}", "scans of one unit")
        name = f"scan {number} (patient {row.patient_hash})"
        space = dataclasses.replace(space, pack=pack).fitted(volume)
        scans.append(Scan(space.image(volume), None, source, name))
        geometries.append(volume.geometry)
        spacings.append(tuple(volume.geometry.spacing))
        modalities |= {volume.modality} - {""}
        if progress is not None:
            progress("read", number, len(rows))
    steps = np.array(spacings)
    within = steps[:, : pack.dims]
    update = {
        "modality": wishes.modality or tuple(sorted(modalities)) or ("OT",),
        "spacing": wishes.spacing or tuple(np.median(steps, axis=0).round(4).tolist()),
        "spacing_range": (math.floor(1e6 * within.min()) / 1e6, math.ceil(1e6 * within.max()) / 1e6),
    }
    return scans, geometries, _with(pack, update)


def _with(pack: AutoencoderPack, update: dict[str, Any]) -> AutoencoderPack:
    """The pack with other values, checked. Raises InputError."""
    table = pack.model_dump() | update
    try:
        return AutoencoderPack.model_validate(table)
    except ValidationError as failure:
        first = first_wrong(failure, table)
        raise InputError(f"{pack.name}: {first.path}", first.got, first.expected) from None


def _cut(volume: Volume, crop: tuple[int, ...] | None) -> Volume:
    """The middle of a scan, and never more than there is."""
    if crop is None:
        return volume
    size = [min(c, s) for c, s in zip((*crop, *(1,) * (3 - len(crop))), volume.array.shape, strict=True)]
    start = [(s - c) // 2 for c, s in zip(size, volume.array.shape, strict=True)]
    return volume.crop(start, [a + c for a, c in zip(start, size, strict=True)])


def _measured(adopted: Adopted, quality: AutoencoderQuality) -> MeasuredAutoencoder:
    images = [scan.image for scan in adopted.scans]
    verdict, geometries = judge(quality), list(adopted.geometries)
    return MeasuredAutoencoder(adopted.pack, adopted.autoencoder, quality, verdict, images, geometries)


def _facts(adopted: Adopted) -> dict[str, str]:
    table = adopted.pack.autoencoder.model_dump()
    return {
        "family": table["family"],
        "weights": f"{adopted.source_name}, sha256 {adopted.source_sha256[:12]}",
        "range of its input": " to ".join(f"{v:g}" for v in table["config"].get("input_range", (0, 1))),
    }


def warnings_of(verdict: Verdict) -> list[str]:
    """Reasons not to train on these latents, and doubts; none: an empty list."""
    return [*verdict.reasons, *verdict.doubts]


def import_card(adopted: Adopted, quality: AutoencoderQuality) -> str:
    """Markdown for the pack's card."""
    shown = _measured(adopted, quality)
    lines = [f"# {adopted.pack.name}", "", adopted.pack.description, ""]
    lines += ["Research use only; not a medical device. The weights have the licence of whoever made them.", ""]
    lines += [f"- {key}: {value}" for key, value in (_facts(adopted) | shown.facts()).items()]
    lines += ["", *(f"Warning: {warning}." for warning in warnings_of(shown.verdict))]
    for table in autoencoder_tables(quality):
        lines += ["", f"## {table.title}", "", f"| {' | '.join(table.columns)} |", "|---" * len(table.columns) + "|"]
        lines += [f"| {' | '.join(row)} |" for row in table.rows]
        lines += ["", table.note] if table.note else []
    return "\n".join(lines) + "\n"


def import_report(adopted: Adopted, quality: AutoencoderQuality) -> str:
    """One HTML page: figures, latents, the worst reconstructions."""
    shown = _measured(adopted, quality)
    text = adopted.pack.description
    return autoencoder_page(shown, title="Imported autoencoder", text=text, facts=_facts(adopted))
