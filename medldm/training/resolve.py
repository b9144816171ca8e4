"""A recipe whose autoencoder is that of the model that the training starts from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medldm.errors import ModelError, RecipeError
from medldm.packs import table_of
from medldm.recipe import Recipe, parse_recipe, read_table

START = {"kind": "start"}


def resolve(recipe: str | Path | dict[str, Any] | Recipe, start: str | Path | None = None) -> tuple[Recipe, bool]:
    """The recipe (TOML file or table), checked, and whether it takes the autoencoder of `start` and nothing else of it.

    ``[autoencoder] kind = "start"`` stands for the table in the pack's own recipe, which takes its place.
    Raises RecipeError; ModelError for a pack that is unknown, damaged, or of other dimensions.
    """
    if isinstance(recipe, Recipe):
        return recipe, False
    where, table = ("recipe", recipe) if isinstance(recipe, dict) else (str(recipe), read_table(recipe))
    code = table.get("autoencoder")
    if not isinstance(code, dict) or code.get("kind") != START["kind"]:
        return parse_recipe(table, where=where), False
    if code != START:
        extra = sorted(set(code) - set(START))[0]
        raise RecipeError(where, f"autoencoder.{extra} beside kind = 'start'", "the kind alone", "remove it")
    if start is None:
        raise RecipeError(where, "autoencoder.kind 'start'", "a model that is started from", "give --start PACK")
    pack = table_of(str(start))
    if "autoencoder" not in pack or pack.get("dims") != table.get("dims"):
        got, wanted = (f"{t.get('dims')} dimensions" for t in (pack, table))
        raise ModelError(f"autoencoder of {Path(start).name}", got, f"the recipe's {wanted}")
    return parse_recipe(table | {"autoencoder": pack["autoencoder"]}, where=where), True
