"""What a training starts from: the weights of a whole model, or those of an autoencoder alone; and its recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medldm import registry
from medldm.errors import InputError, ModelError, RecipeError
from medldm.installed import read_tables
from medldm.model import LoadedAutoencoder, load_autoencoder, load_model
from medldm.net_tables import AutoencoderTable, ImportedTable
from medldm.nets.head import MeasurementHead
from medldm.networks import Networks
from medldm.operators.problem import problem_of
from medldm.pack import AutoencoderPack, ModelPack
from medldm.recipe import Recipe, parse_recipe, read_table

START = {"kind": "start"}


def resolve(recipe: str | Path | dict[str, Any] | Recipe, start: str | Path | None = None) -> tuple[Recipe, bool]:
    """The recipe (TOML file or table), checked in full, and whether it takes the autoencoder of `start` alone.

    ``[pack.autoencoder] kind = "start"`` stands for the table in the other pack, which takes its place.
    Raises RecipeError; ModelError for a pack that is unknown, damaged, or of other dimensions.
    """
    if isinstance(recipe, Recipe):
        return _known_here(recipe, "recipe"), False
    given: object = recipe
    if not isinstance(given, str | Path | dict):
        raise RecipeError("recipe", f"a {type(given).__name__}", "a TOML file or a table")
    where, table = ("recipe", recipe) if isinstance(recipe, dict) else (str(recipe), read_table(recipe))
    own = table.get("pack")
    wanted = own.get("autoencoder") if isinstance(own, dict) else None
    if not isinstance(own, dict) or not isinstance(wanted, dict) or wanted.get("kind") != START["kind"]:
        return _known_here(parse_recipe(table, where=where), where), False
    if wanted != START:
        extra = sorted(set(wanted) - set(START))[0]
        raise RecipeError(where, f"pack.autoencoder.{extra} beside kind = 'start'", "the kind alone", "remove it")
    if start is None:
        raise RecipeError(where, "pack.autoencoder.kind 'start'", "a model that is started from", "give --start PACK")
    other = read_tables(str(start))
    if other.dims != own.get("dims"):
        got = f"{other.dims} dimensions"
        raise ModelError(f"autoencoder of {Path(start).name}", got, f"the recipe's {own.get('dims')} dimensions")
    taken = own | {"autoencoder": other.autoencoder.model_dump(mode="json")}
    return _known_here(parse_recipe(table | {"pack": taken}, where=where), where), True


def _known_here(recipe: Recipe, where: str) -> Recipe:
    """The recipe, whose problems are installed, right in themselves, and take the crops. Raises RecipeError."""
    pack = recipe.pack
    if isinstance(pack.autoencoder, ImportedTable):
        registry.find("autoencoders", pack.autoencoder.family)
    for name, table in pack.problems.items():
        try:
            problem = problem_of(name, table, "pack")
        except ModelError as failure:
            raise RecipeError(where, f"{failure.where.replace(': ', '.')}: {failure.got}", failure.expected) from None
        except InputError as failure:
            got = f"pack.problems.{name}: {failure.got}"
            raise RecipeError(where, got, failure.expected, failure.do) from None
        for number, stage in enumerate(recipe.stages):
            if name in getattr(stage, "problems", {}) and any(size % problem.multiple for size in stage.crop):
                expected = f"multiples of {problem.multiple}, for {name}"
                raise RecipeError(where, f"stage.{number}.crop: {list(stage.crop)}", expected)
    return recipe


def is_whole(name_or_folder: str | Path | None, *, autoencoder_alone: bool) -> bool:
    """Whether a training starts from all of a model's networks. Raises ModelError."""
    if name_or_folder is None or autoencoder_alone:
        return False
    return isinstance(read_tables(str(name_or_folder)), ModelPack)


def start_from(networks: Networks, pack: ModelPack, name_or_folder: str | Path, *, autoencoder_alone: bool) -> str:
    """Take over the weights of a model, or of its autoencoder; returns which, in words for a card.

    autoencoder_alone : the autoencoder of a whole model is taken, and nothing else of it; a pack that holds an
        autoencoder alone has nothing else
    A further head that a whole model lacks begins anew, one that the recipe lacks is left; one with more levels than
    the model's takes over those, and answers as they do until it has learned more. Raises ModelError where networks or
    scans are others.
    """
    if not is_whole(name_or_folder, autoencoder_alone=autoencoder_alone):
        other = load_autoencoder(name_or_folder)
        check_fits(pack, other)
        try:
            networks.autoencoder.load_state_dict(other.autoencoder.state_dict())
        except RuntimeError:
            got, do = "a network of other sizes than the recipe's", _advice("autoencoder", other.pack)
            raise ModelError(f"autoencoder of {other.name}", got, "the same", do) from None
        return f"the autoencoder of {other.name}, weights sha256 {other.weights_sha256[:12]}"
    return _whole_model(networks, pack, name_or_folder)


def _whole_model(networks: Networks, pack: ModelPack, name_or_folder: str | Path) -> str:
    model = load_model(name_or_folder, "cpu")
    left = tuple(f"heads.{name}." for name in model.networks.heads if name not in networks.heads)
    weights = {key: value for key, value in model.networks.state_dict().items() if not key.startswith(left)}
    for name, head in networks.heads.items():
        if name not in model.networks.heads:
            weights |= {f"heads.{name}.{key}": value for key, value in head.state_dict().items()}
            continue
        before, wanted = (one.heads[name].channels for one in (model.pack, pack))
        if len(before) < len(wanted) and before == wanted[: len(before)]:
            assert isinstance(head, MeasurementHead)
            head.silence(len(before))
            weights = {f"heads.{name}.{key}": value for key, value in head.state_dict().items()} | weights
    try:
        networks.load_state_dict(weights)
    except RuntimeError:
        got = "networks of other sizes than the recipe's"
        raise ModelError(f"model {model.name}", got, "the same autoencoder, unet and heads") from None
    return f"{model.name}, weights sha256 {model.weights_sha256[:12]}"


def check_fits(pack: ModelPack, other: LoadedAutoencoder) -> None:
    """Raises ModelError, naming the first thing in which the recipe's pack and the autoencoder's differ."""
    own, where = other.pack, f"autoencoder of {other.name}"
    pairs = [
        ("dims", own.dims, pack.dims),
        ("factor", own.latent_factor, pack.latent_factor),
        ("channels", own.autoencoder.channels, pack.autoencoder.channels),
        ("autoencoder", _network(own.autoencoder), _network(pack.autoencoder)),
        ("axcodes", own.axcodes, pack.axcodes),
        ("intensity", own.intensity, pack.intensity),
    ]
    for key, has, wanted in pairs:
        if has != wanted:
            raise ModelError(where, f"{key} {_short(has)}", f"the recipe's {_short(wanted)}", _advice(key, own))
    (low, high), (least, most) = own.trained_range, pack.spacing_range
    if high < least or most < low:
        got, expected = f"voxels of {low:.3g} to {high:.3g} mm", f"the recipe's {least:g} to {most:g}"
        raise ModelError(where, got, expected, "import it with scans such as these, or change spacing_range")


def _network(table: AutoencoderTable) -> object:
    """What must be alike: the kind, and of another library's network everything (TOML has no None)."""
    if not isinstance(table, ImportedTable):
        return table.kind
    return table.family, {key: value for key, value in table.config.items() if value is not None}


def _short(value: object) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 100 else text[:97] + "..."


def _advice(key: str, own: AutoencoderPack) -> str:
    if key in ("factor", "channels", "autoencoder"):
        return 'write [pack.autoencoder] kind = "start" to take the pack\'s'
    return f"write {key} in the recipe as it is in the other pack's pack.json"
