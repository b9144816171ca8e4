"""What a residual says of a result, in a sentence and a colour."""

from __future__ import annotations

from typing import Any, NamedTuple

# Beyond these, far more than noise was taken away: white noise has a ratio of 1 and no correlation, and
# `medldm.restoration.checks` begins to doubt at 1.3 and 0.3.
RATIO, CORRELATION = 2.0, 0.6
FAINT = 0.5  # of the noise: too little was taken away to have been anatomy

GREEN, ORANGE, RED = "#2e9e4f", "#f0a030", "#d64545"


class Verdict(NamedTuple):
    """In a few words and in a sentence, and the colour of how good that is."""

    colour: str
    short: str
    text: str


def verdict(report: dict[str, Any]) -> Verdict | None:
    """By the report of a restoration; None where the residual was not looked at (a filled region has none)."""
    checks = report.get("checks", {})
    structure = checks.get("residual_has_structure")
    if structure is None:
        return None
    if not structure:
        return Verdict(GREEN, "looks like noise", "The residual looks like noise")
    ratio = checks.get("residual_std_over_noise_std", 0.0)
    correlation = abs(checks.get("residual_neighbour_correlation", 0.0))
    if ratio > RATIO or (ratio > FAINT and correlation > CORRELATION):
        return Verdict(RED, "do not trust", "The residual holds structure: do not trust the result")
    return Verdict(ORANGE, "look at it", "The residual holds structure: look at it")
