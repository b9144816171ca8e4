"""Model pack `chest-xray-256`: frontal chest radiographs, 256 x 256. Data: NIH Clinical Center, ChestX-ray14."""

from pathlib import Path


def folder() -> Path:
    """The pack: weights.safetensors, pack.json, training.json, card.md."""
    return Path(__file__).parent / "pack"
