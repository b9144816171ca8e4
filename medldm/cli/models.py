"""`medldm models`."""

from __future__ import annotations

import json as json_

from medldm.cli import options as o
from medldm.pack import installed_models


def models(json: o.Json = False) -> None:
    """List the installed models: modality, voxel size, file size, what each can do."""
    packs = installed_models()
    if json:
        print(json_.dumps([pack.to_dict() for pack in packs], indent=2))
        return
    if not packs:
        print("no model is installed; install a model pack, or train one (medldm train)")
    for pack in packs:
        print(pack.name)
        if pack.problem:
            print(f"  not usable: {pack.problem}")
        else:
            print(f"  {pack.modality}, {pack.dims}D, {pack.spacing} mm, {pack.megabytes:g} MB: {pack.tasks}")
