"""What is said of an imported autoencoder: a card for its pack, and an HTML report with its worst cases."""

from __future__ import annotations

import math

from medldm.metrics.code_quality import CodeQuality, reconstructed
from medldm.report.page import Picture, Section, Table, render
from medldm.report.pictures import Window, montage
from medldm.training.adopt import Adopted
from medldm.volume import Volume

WORST = 3
HARDLY = 1e-3  # a latent's deviation, as a share of the largest channel's, below which it says nothing


def doubts(adopted: Adopted, quality: CodeQuality) -> list[str]:
    """Reasons not to train on these latents; none: an empty list."""
    found = []
    if quality.linear_psnr is not None and quality.psnr < quality.linear_psnr:
        found.append(
            f"a linear code of the same size reaches {quality.linear_psnr:.2f} dB on these scans, this autoencoder "
            f"{quality.psnr:.2f} dB: it was made for other scans, or the range of its input is another (--input-range, "
            "--intensity, --config)"
        )
    silent = [n for n, std in enumerate(adopted.raw_std) if std < HARDLY * max(adopted.raw_std)]
    if silent:
        found.append(f"latent channels {', '.join(map(str, silent))} hardly vary over these scans")
    return found


def _figures(adopted: Adopted, quality: CodeQuality) -> list[Table]:
    def row(label: str, psnr: float, ssim: float) -> tuple[str, str, str]:
        return label, f"{psnr:.2f}", "" if math.isnan(ssim) else f"{ssim:.4f}"

    rows = [row(f"all {len(quality.scans)}, mean", quality.psnr, quality.ssim)]
    rows += [row(f"worst: {(s := quality.scans[n]).name}", s.psnr, s.ssim) for n in quality.worst(WORST)]
    if quality.linear_psnr is not None:
        rows.append(row("linear code of the same size, mean", quality.linear_psnr, math.nan))
    note = "PSNR over the range [0, 1] of the autoencoder; the linear code is a block PCA fitted to these very scans."
    channels = tuple(
        (str(n), f"{mean:.4g}", f"{std:.4g}", f"{kurtosis:.2f}")
        for n, (mean, std, kurtosis) in enumerate(
            zip(adopted.raw_mean, adopted.raw_std, quality.kurtosis, strict=True)
        )
    )
    return [
        Table("Reconstruction", ("scans", "PSNR (dB)", "SSIM"), tuple(rows), note=note),
        Table("Latents", ("channel", "mean", "standard deviation", "excess kurtosis"), channels),
    ]


def _facts(adopted: Adopted) -> dict[str, str]:
    recipe, code = adopted.recipe, adopted.autoencoder
    config = recipe.autoencoder.model_dump()["config"]
    intensity = recipe.intensity
    return {
        "family": recipe.autoencoder.model_dump()["family"],
        "weights": f"{adopted.source_name}, sha256 {adopted.source_sha256[:12]}",
        "dimensions": f"{recipe.dims}",
        "downsampling": " x ".join(map(str, code.factor)),
        "latent channels": str(code.channels),
        "range of its input": " to ".join(f"{v:g}" for v in config.get("input_range", (0, 1))),
        "its 0 and 1": f"{intensity.kind} {intensity.low:g} to {intensity.high:g}",
        "modality": ", ".join(recipe.modality),
        "spacing (mm)": " x ".join(f"{s:.3g}" for s in recipe.spacing[: recipe.dims]),
        "scans": str(len(adopted.scans)),
    }


def code_card(adopted: Adopted, quality: CodeQuality) -> str:
    """Markdown for the pack's card."""
    lines = [f"# {adopted.recipe.name}", "", adopted.recipe.description, ""]
    lines += ["Research use only; not a medical device. The weights have the licence of whoever made them.", ""]
    lines += [f"- {key}: {value}" for key, value in _facts(adopted).items()]
    lines += ["", *(f"Warning: {doubt}." for doubt in doubts(adopted, quality))]
    for table in _figures(adopted, quality):
        lines += ["", f"## {table.title}", "", f"| {' | '.join(table.columns)} |", "|---" * len(table.columns) + "|"]
        lines += [f"| {' | '.join(row)} |" for row in table.rows]
        lines += ["", table.note] if table.note else []
    return "\n".join(lines) + "\n"


def code_report(adopted: Adopted, quality: CodeQuality) -> str:
    """One HTML page: figures, latents, the worst reconstructions."""
    head = Section(
        adopted.recipe.name,
        tables=tuple(_figures(adopted, quality)),
        warnings=tuple(doubts(adopted, quality)),
        facts=_facts(adopted),
    )
    worst = [_case(adopted, quality, number) for number in quality.worst(WORST)]
    return render([head, *worst], title="Imported autoencoder", text=adopted.recipe.description)


def _case(adopted: Adopted, quality: CodeQuality, number: int) -> Section:
    image, geometry = adopted.scans[number].image, adopted.geometries[number]
    again = reconstructed(adopted.autoencoder, image)
    shown = [Volume(t.numpy().reshape(geometry.shape), geometry) for t in (image, again, again - image)]
    grey, signed = Window.of(shown[0]), Window.signed(shown[2])
    windows = [("Scan", grey), ("Reconstruction", grey), ("Reconstruction minus scan", signed)]
    pictures = tuple(
        Picture(caption, montage(volume, window), window)
        for volume, (caption, window) in zip(shown, windows, strict=True)
        if sum(n > 1 for n in geometry.shape) > 1
    )
    figures = quality.scans[number]
    return Section(f"Among the worst: {figures.name}", text=f"PSNR {figures.psnr:.2f} dB", pictures=pictures)
