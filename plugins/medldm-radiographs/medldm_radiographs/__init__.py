"""Model pack `radiographs`: draws radiographs. Data: NIH ChestX-ray14, and Kermany et al. 2018 (CC BY 4.0)."""

from pathlib import Path


def folder() -> Path:
    """The pack: weights.safetensors, pack.json, training.json, card.md."""
    return Path(__file__).parent / "pack"
