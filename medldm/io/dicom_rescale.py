"""From stored values to values in a unit: slope, intercept, and the unit that the header names."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medldm.errors import PixelError
from medldm.io.dicom_header import Header

RESCALE_KEYWORDS = ("RescaleSlope", "RescaleIntercept", "RescaleType", "MultienergyCTAcquisition", "Units")
# Defined terms of RescaleType (DICOM PS3.3 C.11.1.1.2), besides HU and US (unspecified)
_CT_UNITS = ("HU_MOD", "MGML", "Z_EFF", "ED", "EDW", "PCT", "OD")


@dataclass(frozen=True)
class Rescale:
    """``value = stored * slope + intercept``, in the unit of the scan."""

    slope: float
    intercept: float
    unit: str


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
    return Rescale(m, b, _unit(header, modality))


def _unit(header: Header, modality: str) -> str:
    """What RescaleType says in CT, Units in PET; "arbitrary" for others, and where it says no term of the standard.

    A CT need not say so if its values are HU, but for one of several energies (PS3.3 C.8.2.1).
    """
    if modality == "PT":
        return header.text("Units") or "arbitrary"
    if modality != "CT":
        return "arbitrary"
    term = header.text("RescaleType").strip().upper()
    if not term and header.text("MultienergyCTAcquisition").strip().upper() == "YES":
        raise PixelError(header.name, "a CT of several energies without RescaleType", "one: its unit is unknown")
    return "HU" if term in ("", "HU") else term if term in _CT_UNITS else "arbitrary"
