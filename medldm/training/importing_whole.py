"""Turn a whole latent diffusion model of another library into a model that synthesizes, as it is: nothing is measured,
nothing is trained."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from medldm import registry
from medldm.conditions import ClassCondition, ConditionTable, LabelMapCondition, in_words
from medldm.errors import InputError, ModelError
from medldm.model import Model
from medldm.net_tables import ImportedNetTable, IntensityTable
from medldm.nets.imported.unet import REGIONS
from medldm.nets.imported.weights import Reading
from medldm.nets.imported.whole import Whole, open_whole
from medldm.networks import Networks
from medldm.pack import PROMPT, ModelPack
from medldm.training.importing import HU_WINDOW, MAGNITUDE, OTHER, build_imported, recognised

NET, AUTOENCODER = "generators.0.denoiser.net.", "autoencoder."  # as a model names these weights
REGION_NAMES = ("top_region", "bottom_region")
NO_WORDS = "null"  # name among the prompts


@dataclass(frozen=True)
class WholeWishes:
    """What the files do not say of the scans that the model draws.

    shape : voxels an axis; spacing : mm; conditions : by names, in the order in which the network takes them
    null : what the network takes for a condition that is not said, such as MONAI's -1; None: it was trained with all
    prompts : words that an external text encoder embedded, (length, width) each by name; "null" is that of no words
    """

    shape: tuple[int, ...] | None = None
    modality: tuple[str, ...] = ("OT",)
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    axcodes: str | None = None
    intensity: IntensityTable | None = None
    conditions: Mapping[str, ConditionTable] = field(default_factory=dict)
    null: float | None = None
    prompts: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises InputError for prompts that do not go together."""
        shapes = {tuple(value.shape) for value in self.prompts.values()}
        if len(shapes) > 1 or any(len(shape) != 2 for shape in shapes) or set(self.prompts) == {NO_WORDS}:
            got = ", ".join(map(str, sorted(shapes))) or "nothing"
            raise InputError("--prompts", f"tensors {got}"[:100], "one (length, width) a prompt, all alike")


def adopt_whole(
    folder: Path,
    *,
    name: str,
    family: str | None = None,
    config: dict[str, Any] | None = None,
    wishes: WholeWishes | None = None,
) -> Model:
    """The model in a pipeline's folder of diffusers, or in a bundle of MONAI; nothing in them is executed.

    family : of the autoencoder; found from its weights if None
    config : what the folder does not say (`medldm.nets.imported.whole.open_whole`)
    Raises UnsafeInput for weights that need code, ModelError for damaged weights or an unknown network, InputError for
    conditions or a shape that the network does not take.
    """
    wishes, whole = wishes or WholeWishes(), open_whole(folder, config or {})
    chosen = family or recognised(whole.autoencoder)
    reading: Reading = registry.find("autoencoders", chosen).read(whole.autoencoder)
    small, autoencoder = build_imported(whole.autoencoder, chosen, reading, name)
    if whole.config["out_channels"] != autoencoder.channels:
        got = f"a network of {whole.config['out_channels']} channels"
        raise ModelError(folder.name, got, f"the autoencoder's {autoencoder.channels}")
    shape = _shape(whole, reading.dims, autoencoder.factor, wishes)
    intensity, unit = _values(reading.dims, wishes)
    schedule = whole.schedule
    if whole.flow_base is not None:
        cells = math.prod(-(-n // f) for n, f in zip(shape, autoencoder.factor, strict=False))
        schedule = schedule | {"shift": (cells / whole.flow_base) ** (1 / reading.dims)}
    level = {"unet": _network(whole, wishes).model_dump(), "process": schedule}
    conditions = dict(wishes.conditions)
    if wishes.prompts:
        conditions[PROMPT] = ClassCondition(kind="class", values=tuple(n for n in wishes.prompts if n != NO_WORDS))
    synthesis = {"shape": shape, **unit, "conditions": conditions, "cascade": [level]}
    about = {
        "description": f"A latent diffusion model imported from {folder.name}.",
        "modality": wishes.modality,
        "spacing": wishes.spacing,
        "spacing_range": (min(wishes.spacing[: reading.dims]), max(wishes.spacing[: reading.dims])),
        "axcodes": wishes.axcodes or ("RAS" if reading.dims == 3 else None),
        "intensity": intensity,
        "noise": "gaussian",
        "synthesis": synthesis,
    }
    try:
        pack = ModelPack.model_validate(small.model_dump() | about)
    except ValidationError as failure:
        first = failure.errors()[0]
        raise ModelError(f"{folder.name}: {first['loc'][-1]}", str(first.get("input"))[:60], first["msg"]) from None
    networks = Networks(pack)
    _load(networks, whole, reading, folder.name)
    if wishes.prompts:
        named = [value for name, value in wishes.prompts.items() if name != NO_WORDS]
        networks.generator(0).conditioner.prompts = torch.stack([*named, wishes.prompts.get(NO_WORDS, 0 * named[0])])
    scale = torch.full((autoencoder.channels,), whole.scale)
    networks.autoencoder.set_latent_statistics(torch.full_like(scale, whole.shift), 1 / scale)
    return Model(name, networks.eval().requires_grad_(False), pack, _card(pack, whole), "")


def _load(networks: Networks, whole: Whole, reading: Reading, where: str) -> None:
    """Raises ModelError where weights and networks do not go together."""
    state = {f"{NET}unet.{name}": value for name, value in whole.unet.items()}
    state |= {f"{NET}control.{name}": value for name, value in (whole.control or {}).items()}
    state |= {AUTOENCODER + name: value for name, value in reading.state.items()}
    own = {name for name, _ in networks.named_parameters()}
    odd = sorted(own ^ set(state))
    if odd:
        kind = "missing" if odd[0] in own else "unknown"
        got = f"{len(odd)} tensors that do not fit, first {odd[0].removeprefix(NET)} ({kind})"
        raise ModelError(
            where, got, "those of the network that its configuration says", "is the configuration its own?"
        )
    try:
        networks.load_state_dict(state, strict=False)
    except RuntimeError as failure:
        reason = str(failure).splitlines()[-1].strip().removeprefix(f"size mismatch for {NET}")[:120]
        raise ModelError(where, reason, "the shapes that its configuration says") from None


def _shape(whole: Whole, dims: int, factor: tuple[int, ...], wishes: WholeWishes) -> tuple[int, ...]:
    """Voxels of what is drawn, three numbers. Raises InputError."""
    shape = wishes.shape
    if shape is None and whole.size is not None:
        shape = tuple(whole.size * f for f in factor)
    if shape is None or len(shape) != dims:
        got = "nothing that says it" if shape is None else " x ".join(map(str, shape))
        raise InputError("--shape", got, f"{dims} numbers, voxels of the scans that the model was trained on")
    return (*shape, *(1,) * (3 - dims))


def _values(dims: int, wishes: WholeWishes) -> tuple[IntensityTable, dict[str, Any]]:
    """What the model's 0 and 1 are in scans, and in what is drawn."""
    table = wishes.intensity
    if table is None:
        table = HU_WINDOW if "CT" in wishes.modality else MAGNITUDE if "MR" in wishes.modality else OTHER
    if table.kind == "window":
        unit = "HU" if "CT" in wishes.modality else "arbitrary"
        return table, {"unit": unit, "scale": table.high - table.low, "offset": table.low}
    return table, {"unit": "grey8", "scale": 255.0} if dims == 2 else {"unit": "arbitrary", "scale": 1000.0}


def _network(whole: Whole, wishes: WholeWishes) -> ImportedNetTable:
    """The table of the diffusion network with its conditions. Raises InputError where those are not what it takes."""
    config, tables = whole.config, dict(wishes.conditions)
    classes, label = config.get("num_class_embeds"), None
    if classes:
        label = next((name for name, table in tables.items() if isinstance(table, ClassCondition)), None)
        table = None if label is None else tables.pop(label)
        if not isinstance(table, ClassCondition) or len(table.values) > classes:
            got = "no class" if table is None else in_words(table)
            raise InputError("--condition", got, f"a class of at most {classes} values, in the network's order")
    maps = [name for name, table in tables.items() if isinstance(table, LabelMapCondition)]
    if len(maps) != (whole.control is not None):
        expected = "one label map, as NAME=map:FIRST-LAST" if whole.control is not None else "no label map"
        raise InputError("--condition", ", ".join(maps) or "no label map", expected, "for the ControlNet's weights")
    regions = REGION_NAMES if config.get("include_top_region_index_input") else ()
    for name in (*maps, *regions):
        table = tables.pop(name, None)
        if name in regions and not (isinstance(table, ClassCondition) and len(table.values) == REGIONS):
            got = "no class" if table is None else in_words(table)
            raise InputError(f"--condition {name}", got, f"{REGIONS} words, from head to pelvis")
    beside = config["in_channels"] - config["out_channels"]
    context = config["cross_attention_dim"] if config["with_conditioning"] else 0
    if wishes.prompts and {value.shape[1] for value in wishes.prompts.values()} != {context}:
        got = f"prompts of width {next(iter(wishes.prompts.values())).shape[1]}"
        raise InputError("--prompts", got, f"{context}, as the network attends to" if context else "none")
    wanted = beside or (0 if wishes.prompts else context)
    if len(tables) != wanted:
        do = "words of a text encoder are given by --prompts, embedded" if wanted > 64 else ""
        got = f"{len(tables)} numbers ({', '.join(tables)})"
        raise InputError("--condition", got, f"{wanted}, in the network's order, as NAME=LOW:HIGH", do)
    if beside and context and not wishes.prompts and context != beside:
        raise ModelError("the diffusion network", f"{beside} channels beside and another context", "the same numbers")
    return ImportedNetTable(
        kind="imported",
        family="maisi" if whole.family == "maisi" else "monai",
        config=config,
        control=whole.control_config,
        multiple=2 ** (len(config["channels"]) - 1),
        numbers=tuple(tables),
        label=label,
        regions=regions,
        prompts=next((len(value) for value in wishes.prompts.values()), 0),
        null=0.0 if wishes.null is None and NO_WORDS in wishes.prompts else wishes.null,
        rows_first=whole.rows_first,
    )


def _card(pack: ModelPack, whole: Whole) -> str:
    """Markdown."""
    assert pack.synthesis is not None
    count = sum(value.numel() for value in whole.unet.values()) / 1e6
    said = [f"{name}: {in_words(table)}" for name, table in pack.synthesis.conditions.items()]
    facts = {
        "autoencoder": f"{whole.autoencoder.file.name}, family {pack.autoencoder.model_dump()['family']}",
        "diffusion network": f"{count:.1f} million weights",
        "schedule": ", ".join(f"{key} {value}" for key, value in whole.schedule.items()),
        "conditions": "; ".join(said) or "none",
    }
    lines = [f"# {pack.name}", "", pack.description, ""]
    lines += ["Research use only; not a medical device. The weights have the licence of whoever made them.", ""]
    return "\n".join([*lines, *(f"- {key}: {value}" for key, value in facts.items())]) + "\n"
