"""Model pack `ct-torso`: slices of CT of the chest and abdomen, in HU. Data: The Cancer Imaging Archive."""

from pathlib import Path


def folder() -> Path:
    """The pack: weights.safetensors, pack.json, training.json, card.md."""
    return Path(__file__).parent / "pack"
