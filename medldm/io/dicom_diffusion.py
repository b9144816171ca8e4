"""b-value and gradient direction, from the standard's attributes or where vendors keep them.

Private attributes by their vendors' conformance statements: GE (0043,1039) and (0019,10BB) to (0019,10BD),
Siemens (0019,100C) and (0019,100E), Philips (2001,1003) and (2005,10B0) to (2005,10B2).
"""

from __future__ import annotations

from typing import Any

DIFFUSION = ("DiffusionBValue", "DiffusionGradientOrientation")
_GE_OFFSET = 1e9  # added by GE where the b-value is not the nominal one
_B_VALUE = (
    (0x0043, "GEMS_PARM_01", 0x39),
    (0x0019, "SIEMENS MR HEADER", 0x0C),
    (0x2001, "Philips Imaging DD 001", 0x03),
)
_DIRECTION = (
    (0x0019, "GEMS_ACQU_01", (0xBB, 0xBC, 0xBD)),
    (0x0019, "SIEMENS MR HEADER", (0x0E,)),
    (0x2005, "Philips MR Imaging DD 001", (0xB0, 0xB1, 0xB2)),
)


def diffusion(dataset: Any, keyword: str) -> Any:
    """Value of "DiffusionBValue" (s/mm^2) or "DiffusionGradientOrientation" (a list), None where unknown."""
    value = dataset.get(keyword)
    if value is not None:
        return value
    if keyword == "DiffusionBValue":
        for group, creator, offset in _B_VALUE:
            numbers = _private(dataset, group, creator, offset)
            if numbers:
                return numbers[0] % _GE_OFFSET
        return None
    nested = dataset.get("DiffusionGradientDirectionSequence")
    if nested:
        return nested[0].get(keyword)
    for group, creator, offsets in _DIRECTION:
        parts = [n for offset in offsets for n in _private(dataset, group, creator, offset)]
        if len(parts) == 3:
            return parts
    return None


def _private(dataset: Any, group: int, creator: str, offset: int) -> list[float]:
    """Numbers of a private attribute, [] where absent or unreadable."""
    try:
        element = dataset.private_block(group, creator)[offset]
    except KeyError:  # de-identified: the block is kept, the name of its creator is not
        vendor = creator.split()[0].split("_")[0].removesuffix("MS")  # GE, SIEMENS, Philips
        known = vendor.upper() in str(dataset.get("Manufacturer", "")).upper()
        element = dataset.get((group, 0x1000 + offset)) if known else None
    value: Any = None if element is None else element.value
    try:
        several = hasattr(value, "__len__") and not isinstance(value, str | bytes)
        return [float(v) for v in (value if several else [value])]
    except (TypeError, ValueError):
        return []
