"""Model pack `brain-t1-2mm`: T1-weighted heads at 2 mm. Data provided by the IXI project, brain-development.org."""

from pathlib import Path


def folder() -> Path:
    """The pack: weights.safetensors, pack.json, training.json, card.md."""
    return Path(__file__).parent / "pack"
