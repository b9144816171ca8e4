"""What a training starts from: the weights of a whole model, or those of an autoencoder alone."""

from __future__ import annotations

from pathlib import Path

from medldm.code_pack import CodePack, load_code
from medldm.errors import ModelError
from medldm.model import Networks, load_model
from medldm.packs import holds_code_alone, table_of
from medldm.recipe import AutoencoderTable, CodeRecipe, ImportedCodeTable, Recipe


def start_from(networks: Networks, recipe: Recipe, name_or_folder: str | Path, *, code_alone: bool) -> str:
    """Take over the weights of a model, or of its autoencoder; returns which, in words for a card.

    code_alone : the autoencoder of a whole model is taken, and nothing else of it; a pack that holds an autoencoder
        alone has nothing else
    A further head that a whole model lacks begins anew. Raises ModelError where networks or scans are others.
    """
    if code_alone or holds_code_alone(table_of(str(name_or_folder))):
        pack = load_code(name_or_folder)
        check_fits(recipe, pack)
        try:
            networks.autoencoder.load_state_dict(pack.autoencoder.state_dict())
        except RuntimeError:
            got, do = "a network of other sizes than the recipe's", _advice("autoencoder", pack.recipe)
            raise ModelError(f"autoencoder of {pack.name}", got, "the same", do) from None
        return f"the autoencoder of {pack.name}, weights sha256 {pack.weights_sha256[:12]}"
    return _whole_model(networks, name_or_folder)


def _whole_model(networks: Networks, name_or_folder: str | Path) -> str:
    model = load_model(name_or_folder, "cpu")
    weights = model.networks.state_dict()
    for name in ("super_head", "gap_head"):
        wanted, has = getattr(networks, name), getattr(model.networks, name)
        if wanted is not None and has is None:
            weights |= {f"{name}.{key}": value for key, value in wanted.state_dict().items()}
    try:
        networks.load_state_dict(weights)
    except RuntimeError:
        got = "networks of other sizes than the recipe's"
        raise ModelError(f"model {model.name}", got, "the same autoencoder, unet and head tables") from None
    return f"{model.name}, weights sha256 {model.weights_sha256[:12]}"


def check_fits(recipe: Recipe, pack: CodePack) -> None:
    """Raises ModelError, naming the first thing in which recipe and autoencoder differ."""
    own, where = pack.recipe, f"autoencoder of {pack.name}"
    pairs = [
        ("dims", own.dims, recipe.dims),
        ("factor", own.latent_factor, recipe.latent_factor),
        ("channels", own.autoencoder.channels, recipe.autoencoder.channels),
        ("autoencoder", _network(own.autoencoder), _network(recipe.autoencoder)),
        ("axcodes", own.axcodes, recipe.axcodes),
        ("intensity", own.intensity, recipe.intensity),
    ]
    for key, has, wanted in pairs:
        if has != wanted:
            raise ModelError(where, f"{key} {_short(has)}", f"the recipe's {_short(wanted)}", _advice(key, own))
    (low, high), (least, most) = own.spacing_range, recipe.spacing_range
    if high < least or most < low:
        got, expected = f"voxels of {low:g} to {high:g} mm", f"the recipe's {least:g} to {most:g}"
        raise ModelError(where, got, expected, "import it with scans such as these, or change spacing_range")


def _network(table: AutoencoderTable) -> object:
    """What must be alike: the kind, and of another library's network everything (TOML has no None)."""
    if not isinstance(table, ImportedCodeTable):
        return table.kind
    return table.family, {key: value for key, value in table.config.items() if value is not None}


def _short(value: object) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 100 else text[:97] + "..."


def _advice(key: str, own: CodeRecipe) -> str:
    if key in ("factor", "channels", "autoencoder"):
        return 'write [autoencoder] kind = "start" to take the pack\'s'
    return f"write {key} in the recipe as it is in the pack's recipe.json"
