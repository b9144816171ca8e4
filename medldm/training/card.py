"""The model card that a training writes; measured results are added by hand."""

from __future__ import annotations

from typing import Any

import torch

from medldm.recipe import Recipe


def write_card(recipe: Recipe, done: dict[str, Any], *, scans: int, command: str) -> str:
    """Markdown: what it is, how it was made, what it cost, what it cannot do."""
    lines = [
        f"# {recipe.pack.name}",
        "",
        recipe.pack.description or "A latent diffusion model trained with medldm.",
        "",
        "Research use only; not a medical device.",
        "",
        "## Training",
        "",
        f"- command: `{command or 'medldm.train'}`",
        f"- data: {scans} scans of the train split ({', '.join(s.folder for s in recipe.sources)})",
        f"- seed: {recipe.seed}; torch {torch.__version__.split('+')[0]}",
        *_beginning(done),
        *_gate(done),
        "",
        "| stage | seconds | losses over the last tenth |",
        "|---|---|---|",
    ]
    for name, losses in done["losses"].items():
        text = ", ".join(f"{key} {value:.4g}" for key, value in losses.items())
        lines.append(f"| {name} | {done['seconds'].get(name, 0):.0f} | {text} |")
    lines += ["", *(f"- {note}" for note in done.get("notes", ()))]
    lines += ["", "What the model is stands in `pack.json`, how it was trained in `training.json`.", ""]
    return "\n".join(lines)


def _beginning(done: dict[str, Any]) -> list[str]:
    """What the weights began with; nothing to say of random ones."""
    if "start" in done:
        return [f"- started from {done['start']}"]
    kept = done.get("linear_variance")
    return [] if kept is None else [f"- variance kept by the block PCA: {100 * kept:.2f} %"]


def _gate(done: dict[str, Any]) -> list[str]:
    """What the reconstruction gate said; nothing where there was none yet."""
    gate = done.get("gate")
    if gate is None:
        return []
    scans = f"{gate['cases']} {'held-out' if gate['held_out'] else 'training'} scans (PSNR {gate['psnr']} dB)"
    lines = [f"- reconstruction gate, {scans}: {gate['line']}"]
    if gate.get("despite"):
        lines += ["- **Warning: trained although the autoencoder did not pass the gate** (`--despite-gate`)."]
    return lines + [f"- doubt: {doubt}." for doubt in gate["doubts"]]
