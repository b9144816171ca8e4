"""`medldm inpaint`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medldm.cli.call import Call, restoring
from medldm.cli.restoring import run

if TYPE_CHECKING:
    from medldm.model import Model
    from medldm.restore.restoration import Restoration
    from medldm.volume import Volume

Mask = Annotated[
    Path, typer.Option("--mask", help="What to fill: a file on the scan's grid; voxels > 0 are not looked at.")
]


@restoring
def inpaint(call: Call, mask: Mask) -> None:
    """Fill a region that was not measured, or not well; outside it nothing changes by a bit. (Fidelity alone.)"""

    def restore(scan: Volume, model: Model, settings: dict[str, Any]) -> Restoration:
        from medldm import api

        return api.inpaint(scan, mask, model=model, **settings)

    run(call, restore)
