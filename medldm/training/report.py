"""What is said of a training: of its autoencoder a page with verdict and worst cases, and the model's card.

The page is that of an imported autoencoder, too. Measured results are added to a card by hand.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from medldm.evaluate.autoencoder import AutoencoderQuality, reconstructed
from medldm.geometry import Geometry
from medldm.nets.autoencoder import Autoencoder
from medldm.pack import AutoencoderPack
from medldm.recipe import Recipe
from medldm.report.page import Picture, Section, Table, render
from medldm.report.pictures import Window, montage
from medldm.training.verdict import Verdict
from medldm.volume import Volume

WORST = 3


@dataclass(frozen=True, eq=False)
class MeasuredAutoencoder:
    """An autoencoder, what was measured of it, and the scans that it was measured on, for the pictures.

    images, geometries : one each a scan, in the autoencoder's range
    """

    pack: AutoencoderPack
    autoencoder: Autoencoder
    quality: AutoencoderQuality
    verdict: Verdict
    images: Sequence[Tensor]
    geometries: Sequence[Geometry]

    def facts(self) -> dict[str, str]:
        """What it is, in words."""
        pack, autoencoder = self.pack, self.autoencoder
        intensity = pack.intensity
        return {
            "dimensions": f"{pack.dims}",
            "downsampling": " x ".join(map(str, autoencoder.factor)),
            "latent channels": str(autoencoder.channels),
            "its 0 and 1": f"{intensity.kind} {intensity.low:g} to {intensity.high:g}",
            "modality": ", ".join(pack.modality),
            "spacing (mm)": " x ".join(f"{s:.3g}" for s in pack.trained_spacing[: pack.dims]),
            "scans": str(len(self.images)),
        }


def one_line(verdict: Verdict) -> str:
    """ "Go.", or "No-go: " and the reasons."""
    return "Go." if verdict.go else f"No-go: {'; '.join(verdict.reasons)}."


def autoencoder_tables(quality: AutoencoderQuality) -> list[Table]:
    """Reconstructions, latents, and which channels go together."""
    return [_reconstruction(quality), _latents(quality)]


def _reconstruction(quality: AutoencoderQuality) -> Table:
    def row(label: str, psnr: float, ssim: float, haarpsi: float) -> tuple[str, str, str, str]:
        shown = zip((psnr, ssim, haarpsi), (".2f", ".4f", ".4f"), strict=True)
        return label, *("" if math.isnan(v) else format(v, form) for v, form in shown)  # type: ignore[return-value]

    rows = [row(f"all {len(quality.scans)}, mean", quality.psnr, quality.ssim, quality.haarpsi)]
    rows += [row(f"worst: {(s := quality.scans[n]).name}", s.psnr, s.ssim, s.haarpsi) for n in quality.worst(WORST)]
    note = "Over the range [0, 1] of the autoencoder. "
    if quality.linear_psnr is None:
        note += "No block PCA of the same size: its blocks are too large, or it would keep everything. "
    else:
        similar = math.nan if quality.linear_haarpsi is None else quality.linear_haarpsi
        rows.append(row("block PCA of the same size, mean", quality.linear_psnr, math.nan, similar))
    if quality.kid is None:
        note += f"KID was not measured: {quality.without_kid}. "
    else:
        note += f"KID of the reconstructions, times 1000: {quality.kid}. "
    beyond = max((scan.beyond for scan in quality.scans), default=0.0)
    note += f"Reconstructions leave the range of their scans by {beyond:.3g} at most."
    return Table("Reconstruction", ("scans", "PSNR (dB)", "SSIM", "HaarPSI"), tuple(rows), note=note)


def _latents(quality: AutoencoderQuality) -> Table:
    latents = quality.latents
    columns = (quality.raw_mean, quality.raw_std, latents.mean, latents.std, latents.noise, latents.kurtosis)
    rows = []
    for n, values in enumerate(zip(*columns, latents.largest, strict=True)):
        others = [(abs(v), m) for m, v in enumerate(latents.correlation[n]) if m != n and not math.isnan(v)]
        nearest = "" if not others else f"{latents.correlation[n][max(others)[1]]:.2f} with {max(others)[1]}"
        rows.append((str(n), *(f"{value:.4g}" for value in values), nearest))
    head = ["channel", "mean", "standard deviation", "mean once white", "deviation once white"]
    head += ["encoder's own noise", "excess kurtosis", "largest", "largest correlation"]
    note = "Latents are made white by the first two, in the network's own units; the rest is of these scans."
    return Table("Latents", tuple(head), tuple(rows), note=note)


def autoencoder_page(shown: MeasuredAutoencoder, *, title: str, text: str, facts: dict[str, str]) -> str:
    """One HTML page: verdict, figures, latents, the worst reconstructions. `facts` stand before the autoencoder's."""
    verdict = shown.verdict
    head = Section(
        shown.pack.name,
        text=one_line(verdict),
        tables=tuple(autoencoder_tables(shown.quality)),
        warnings=(*verdict.reasons, *(f"Doubt: {doubt}" for doubt in verdict.doubts)),
        facts=facts | shown.facts(),
    )
    worst = [_case(shown, number) for number in shown.quality.worst(WORST)]
    return render([head, *worst], title=title, text=text)


def _case(shown: MeasuredAutoencoder, number: int) -> Section:
    image, geometry = shown.images[number], shown.geometries[number]
    again = torch.nan_to_num(reconstructed(shown.autoencoder, image), 0.0, 0.0, 0.0)
    volumes = [Volume(t.numpy().reshape(geometry.shape), geometry) for t in (image, again, again - image)]
    grey, signed = Window.of(volumes[0]), Window.signed(volumes[2])
    windows = [("Scan", grey), ("Reconstruction", grey), ("Reconstruction minus scan", signed)]
    pictures = tuple(
        Picture(caption, montage(volume, window), window)
        for volume, (caption, window) in zip(volumes, windows, strict=True)
        if sum(n > 1 for n in geometry.shape) > 1
    )
    figures = shown.quality.scans[number]
    text = f"PSNR {figures.psnr:.2f} dB"
    if figures.nonfinite:
        text = f"{figures.nonfinite} voxels are not finite; they are shown as 0"
    return Section(f"Among the worst: {figures.name}", text=text, pictures=pictures)


def write_card(recipe: Recipe, pack: AutoencoderPack, done: dict[str, Any], *, command: str) -> str:
    """Markdown: what it is, how it was made, what it cost, what it cannot do.

    pack : the recipe's, with what was seen
    """
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
        *_data(recipe, pack),
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


def _data(recipe: Recipe, pack: AutoencoderPack) -> list[str]:
    """What was trained on: seen, or as the recipe says."""
    seen = pack.seen
    if seen is None:
        return []
    modality = ", ".join(seen.modality) or f"said by no scan (the recipe's: {', '.join(pack.modality)})"
    sizes = "said by no scan (the recipe's: {:g} to {:g} mm)".format(*pack.spacing_range)
    if seen.spacing_range is not None:
        sizes = "{:.4g} to {:.4g} mm".format(*seen.spacing_range)
    folders = ", ".join(source.folder + (" (resampled)" if source.resample else "") for source in recipe.sources)
    return [
        f"- data: {seen.scans} scans of {seen.patients} patients of the train split ({folders})",
        f"- modality: {modality}; voxels: {sizes}. The model vouches for nothing else.",
    ]


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
