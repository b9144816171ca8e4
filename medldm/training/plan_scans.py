"""What a planned recipe says of the scans themselves, with the reason above each key: their grid and their values."""

from __future__ import annotations

import math

import numpy as np

from medldm.errors import InputError
from medldm.training.fingerprint import Kind
from medldm.training.plan_grid import Grid
from medldm.training.recipe_page import Page


def write_grid(page: Page, kind: Kind, grid: Grid) -> None:
    """Voxel size, axes and noise."""
    low, high = kind.spacing_range
    if grid.assumed:
        page.key(
            "spacing", (1.0, 1.0, 1.0), "mm; the scans do not say the size of their pixels: write it if you know it."
        )
        page.key("spacing_range", (0.05, 10.0))
    else:
        page.key("spacing", (*grid.spacing, 1.0, 1.0)[:3], "The median voxel, mm.")
        near = (math.floor(low * 970) / 1000, math.ceil(high * 1030) / 1000)
        page.key("spacing_range", near, f"{low:.4g} to {high:.4g} mm are there; what is far off is refused.")
    if kind.dims == 3:
        share = "all" if grid.agreeing == 1 else f"{100 * grid.agreeing:.0f} %"
        page.key("axcodes", grid.axcodes, f"As {share} of those read lie; the others are turned.")
    rician = kind.modality[0] == "MR" and _floored(kind)
    why = "Magnitudes: noise is Rician." if rician else "Noise that adds up."
    page.key("noise", "rician" if rician else "gaussian", why)


def write_intensity(page: Page, kind: Kind) -> tuple[str, float, float]:
    """The table; returns unit, scale and offset of synthetic scans. Raises InputError where all are blank."""
    units = [look.unit for look in kind.looked]
    unit = max(dict.fromkeys(units), key=units.count)
    page.table("pack.intensity")
    if kind.modality[0] == "CT" and unit in ("HU", "arbitrary"):
        top = float(np.percentile([look.top for look in kind.looked], 90))
        high = float(min(max(100 * math.ceil(top / 100), 200), 3000))
        page.key("kind", "window", "Hounsfield units mean the same in every scan.")
        page.key("low", -1024.0, "Air; and what all but 0.1 % of the voxels stay below, in most scans.")
        page.key("high", high)
        return "HU", high + 1024.0, -1024.0
    floored = _floored(kind)
    fits = [fit for look in kind.looked if (fit := look.floor if floored else look.bulk) is not None]
    if not fits:
        raise InputError(kind.name, "scans without any contrast", "scans")
    scale, offset = (float(np.median([getattr(fit, key) for fit in fits])) for key in ("scale", "offset"))
    grey = unit in ("grey8", "grey16")
    why = "Grey values are taken as they are, others by percentiles of each scan." if grey else ""
    page.key("kind", "percentile", why or "The unit is the scanner's own: each scan by its percentiles.")
    page.key("low", 0.0 if floored else 0.1)
    page.key("high", 99.5 if floored else 99.9)
    page.key("zero_floor", floored, "0 is where there is no signal." if floored else "")
    return unit, float(f"{scale:.3g}"), 0.0 if floored else float(f"{offset:.3g}")


def _floored(kind: Kind) -> bool:
    """Whether 0 is where there is no signal."""
    return all(look.floor is not None for look in kind.looked)
