"""What a scan says of itself beside its voxels and their place, in a form that other programs' images can carry."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

AI_PROCESSED = "ai_processed"  # key of a step of the history: a model had a hand in it
SYNTHETIC = "synthetic"  # key of a step of the history: nobody was scanned
DRAWN = "yes"  # its value where it was read; a synthesis itself has True
RESEARCH_USE = "research use only"
QUANTITY = "quantity"  # key of a step of the history: what a map is that was made beside a result
BOUNDS = ("lower bound", "upper bound")  # of an interval
MAPS = ("residual", "uncertainty", *BOUNDS)  # what it may be
_OURS = "medldm"  # how a description in a NIfTI header begins
_UNIT, _MODALITY = re.compile(r"[^\s;=]{1,16}"), re.compile(r"[A-Z]{2,4}")


@dataclass(frozen=True)
class Marks:
    """Unit and modality as of a `Volume`; whether a model had a hand in it, or drew it; which map beside a result
    it is, if any."""

    unit: str = "arbitrary"
    modality: str = ""
    ai_processed: bool = False
    quantity: str = ""
    synthetic: bool = False

    @classmethod
    def of(cls, table: Mapping[str, object]) -> Marks:
        """From metadata that may hold anything: what is not of the expected form is not taken over."""
        unit, modality, quantity = (table.get(key) for key in ("unit", "modality", QUANTITY))
        return cls(
            unit if isinstance(unit, str) and _UNIT.fullmatch(unit) else "arbitrary",
            modality if isinstance(modality, str) and _MODALITY.fullmatch(modality) else "",
            AI_PROCESSED in table,
            quantity if isinstance(quantity, str) and quantity in MAPS else "",
            table.get(SYNTHETIC) in (True, DRAWN),
        )

    def to_dict(self) -> dict[str, str]:
        return {"unit": self.unit, "modality": self.modality, **self.step()}

    def step(self) -> dict[str, str]:
        """What a step of a history holds of them."""
        marked = {AI_PROCESSED: RESEARCH_USE} if self.ai_processed else {}
        marked |= {SYNTHETIC: DRAWN} if self.synthetic else {}
        return marked | ({QUANTITY: self.quantity} if self.quantity else {})

    @classmethod
    def of_header(cls, header: Any) -> Marks:
        """From the description that `into_header` leaves in a NIfTI header; no other text of it is looked at."""
        text = _text(header, "descrip")
        if not text.startswith(_OURS + "; "):
            return cls()
        fields = dict(part.split("=", 1) for part in text.split("; ") if "=" in part)
        drawn = fields.get(AI_PROCESSED, "").startswith(SYNTHETIC)
        return cls.of({**fields, SYNTHETIC: drawn, QUANTITY: _text(header, "intent_name")})

    def into_header(self, header: Any) -> None:
        """Describe it in a nibabel NIfTI header."""
        drawn = f"{SYNTHETIC}, " if self.synthetic else ""
        mark = f"; {AI_PROCESSED}={drawn}{RESEARCH_USE}" if self.ai_processed else ""
        described = f"{_OURS}{mark}; unit={self.unit}; modality={self.modality}"
        if self.quantity:
            header.set_intent("estimate", name=self.quantity)
        header["descrip"] = described.encode("ascii", "replace")[:79]


def _text(header: Any, field: str) -> str:
    content: bytes = header[field].tobytes()
    return content.split(b"\0")[0].decode("ascii", "replace")
