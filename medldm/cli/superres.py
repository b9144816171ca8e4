"""`medldm superres`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from medldm.cli import options as o
from medldm.cli.call import Call, restoring
from medldm.cli.restoring import run, run_each
from medldm.errors import InputError

if TYPE_CHECKING:
    from medldm.model import Model
    from medldm.restore.restoration import Restoration
    from medldm.volume import Volume

Scale = Annotated[
    str | None, typer.Option("--scale", help="Factor, e.g. 2, or one an axis of the file: 1x1x2.")
]
Spacing = Annotated[
    str | None, typer.Option("--spacing", help="Voxel size to reach in mm instead, e.g. 1 or 0.8x0.8x1.")
]


@restoring
def superres(
    call: Call, scale: Scale = None, spacing: Spacing = None, noise_std: o.NoiseStd = None, each: o.Each = False
) -> None:
    """Refine a scan's grid by whole factors; the field of view stays where it is."""
    factor, target = o.parse_scale(scale), o.parse_spacing(spacing)
    if (factor is None) == (target is None):
        raise InputError("superres", "both or neither of --scale and --spacing", "one of them")

    def restore(scan: Volume, model: Model, settings: dict[str, Any]) -> Restoration:
        from medldm import api

        return api.super_resolve(scan, model=model, scale=factor, spacing=target, noise_std=noise_std, **settings)

    if each:
        run_each(call, restore, {"task": "super_resolve", "scale": scale, "spacing": spacing, "noise_std": noise_std})
    else:
        run(call, restore)
