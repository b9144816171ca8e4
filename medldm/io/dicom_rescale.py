"""From stored values to values in a unit: slope, intercept, and the unit that the header names."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medldm.errors import PixelError
from medldm.io.dicom_header import Header

RESCALE_KEYWORDS = (
    "RescaleSlope",
    "RescaleIntercept",
    "RescaleType",
    "MultienergyCTAcquisition",
    "ImageType",
    "Units",
)
# Defined terms of RescaleType (DICOM PS3.3 C.11.1.1.2), besides HU and US (unspecified)
_CT_UNITS = ("HU_MOD", "MGML", "Z_EFF", "ED", "EDW", "PCT", "OD")


@dataclass(frozen=True)
class Rescale:
    """``value = stored * slope + intercept``, in the unit of the scan.

    implied : whether the unit follows from the kind of image, though RescaleType says "unspecified"
    """

    slope: float
    intercept: float
    unit: str
    implied: bool = False


def rescale_of(header: Header, modality: str) -> Rescale:
    """RescaleSlope (1 where absent), RescaleIntercept (0 where absent, but in CT) and unit; raises PixelError."""
    slope, intercept = header.dataset.get("RescaleSlope"), header.dataset.get("RescaleIntercept")
    if modality == "CT" and intercept is None:
        raise PixelError(header.name, "a CT without RescaleIntercept", "one: HU are unknown otherwise")
    try:
        m, b = float(1 if slope is None else slope), float(0 if intercept is None else intercept)
    except (TypeError, ValueError):
        raise PixelError(header.name, "an unreadable rescale", "two numbers") from None
    if not (np.isfinite(m) and np.isfinite(b)) or m == 0:
        got = f"RescaleSlope {m:g}, RescaleIntercept {b:g}"
        raise PixelError(header.name, got, "finite numbers, slope not 0")
    unit, implied = _ct_unit(header) if modality == "CT" else ("arbitrary", False)
    return Rescale(m, b, header.text("Units") or unit if modality == "PT" else unit, implied)


def _ct_unit(header: Header) -> tuple[str, bool]:
    """What RescaleType says, "arbitrary" where that is no term of the standard, and whether it is implied.

    A CT of one energy need not say it if its values are HU, and those of an original slice are HU by the standard
    (PS3.3 C.8.2.1), even where they are called unspecified.
    """
    term = header.text("RescaleType").strip().upper()
    several = header.text("MultienergyCTAcquisition").strip().upper() == "YES"
    if not term and several:
        raise PixelError(header.name, "a CT of several energies without RescaleType", "one: its unit is unknown")
    if term in ("", "HU"):
        return "HU", False
    kind = header.text("ImageType").upper().split("\\")
    original = kind[0] == "ORIGINAL" and "LOCALIZER" not in kind and not several
    if term == "US" and original:
        return "HU", True
    return (term if term in _CT_UNITS else "arbitrary"), False
