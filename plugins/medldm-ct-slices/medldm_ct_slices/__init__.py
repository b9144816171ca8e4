"""Model pack `ct-slices`: draws CT slices of the chest. Data: The Cancer Imaging Archive (CC BY 3.0 and 4.0)."""

from pathlib import Path


def folder() -> Path:
    """The pack: weights.safetensors, pack.json, training.json, card.md."""
    return Path(__file__).parent / "pack"
