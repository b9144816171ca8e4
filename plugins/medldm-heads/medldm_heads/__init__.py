"""Model pack `heads`: draws T1-weighted heads by a map of tissues, or without. Data: IXI (CC BY-SA 3.0)."""

from pathlib import Path


def folder() -> Path:
    """The pack: weights.safetensors, pack.json, training.json, card.md."""
    return Path(__file__).parent / "pack"
