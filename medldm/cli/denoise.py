"""`medldm denoise`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medldm.cli import options as o
from medldm.cli.call import Call, restoring
from medldm.cli.restoring import run, run_each

if TYPE_CHECKING:
    from medldm.model import Model
    from medldm.restore.restoration import Restoration
    from medldm.volume import Volume


@restoring
def denoise(call: Call, noise_std: o.NoiseStd = None, each: o.Each = False) -> None:
    """Remove the noise of a scan; grid, unit and metadata are kept."""

    def restore(scan: Volume, model: Model, settings: dict[str, Any]) -> Restoration:
        from medldm import api

        return api.denoise(scan, model=model, noise_std=noise_std, **settings)

    if each:
        run_each(call, restore, {"task": "denoise", "noise_std": noise_std})
    else:
        run(call, restore)
