"""Whether an autoencoder is worth diffusing in: go or no-go by rules, each with its reason in one line.

A stop is for what a diffusion stage cannot mend and would take hours to show. Everything else that is odd is a doubt,
which is said and stops nothing: on the radiographs of the shipped pack the latents have an excess kurtosis of up to 460
and a deviation of 0.72, and yet it restores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from medldm.evaluate.autoencoder import OUTLIER, AutoencoderQuality

# Against the block PCA of the same size. A decibel is a quarter more squared error; a training for looks (an adversary,
# perceptual terms) may give as much away, and then show it in HaarPSI. 6 dB is twice the error: no looks make up for
# it, and a wrong range of the input, to which HaarPSI is nearly blind, costs more.
WORSE_DB, FAR_WORSE_DB = 1.0, 6.0
# From here on it does not matter who is better: the error is that of the least noise that a recipe trains with (0.005).
PLENTY_DB = 46.0
# Deviation of a white latent, which should be 1. Twentyfold less is the same number for every scan.
DEAD_STD = 0.05
# The encoder's own noise, in the same unit: from 1 on a latent is more noise than scan (a collapsed posterior), and
# diffusion would learn that noise.
DROWNED_NOISE = 1.0
# A denoiser is scaled for mean 0 and deviation 1 (Karras et al. 2022). At four times the deviation each noise level is
# as a quarter of it; a mean of three is where hardly any latent lay that the autoencoder was made white on.
STOP_MEAN, STOP_STD = 3.0, 4.0
DOUBT_MEAN, DOUBT_STD = 1.0, 2.0
# An excess kurtosis of k: about one latent in k carries the whole variance, and all the others are nearly constant.
STOP_KURTOSIS, DOUBT_KURTOSIS = 10_000.0, 1_000.0
# As a share of the largest channel's deviation, in the network's own units: it is made white all the same.
QUIET = 1e-3
# Two channels that say the same: wasteful, not harmful.
DOUBT_CORRELATION = 0.95
# One voxel in ten thousand that leaves its scan's range by half the model's is a visible fault of every scan; a voxel
# five ranges off is one of the network, however rare. The shipped packs leave it by 0.28 at most.
STOP_OUTLIERS, STOP_BEYOND = 1e-4, 5.0
MOST_NAMED = 6


@dataclass(frozen=True)
class Verdict:
    """Why not to diffuse in these latents (none: go), and what else is odd."""

    reasons: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()

    @property
    def go(self) -> bool:
        return not self.reasons

    def to_dict(self) -> dict[str, Any]:
        return {"go": self.go, "reasons": list(self.reasons), "doubts": list(self.doubts)}


def judge(quality: AutoencoderQuality) -> Verdict:
    """Every rule, in this order: finite, better than the block PCA, alive, white, within the range."""
    found = [rule(quality) for rule in RULES]
    return Verdict(tuple(r for v in found for r in v.reasons), tuple(d for v in found for d in v.doubts))


def _finite(quality: AutoencoderQuality) -> Verdict:
    voxels, latents = sum(scan.nonfinite for scan in quality.scans), quality.latents.nonfinite
    where = [f"{n} {name}" for n, name in ((voxels, "voxels of the reconstructions"), (latents, "latents")) if n]
    return Verdict((f"{' and '.join(where)} are not finite",)) if where else Verdict()


def _better_than_pca(quality: AutoencoderQuality) -> Verdict:
    linear = quality.linear_psnr
    if linear is None or not quality.psnr < linear:  # nan is not less, and not finite: another rule's
        return Verdict()
    text = f"a block PCA of the same size reaches {linear:.2f} dB on these scans"
    text += f", this autoencoder {quality.psnr:.2f} dB"
    looks = quality.linear_haarpsi
    if looks is not None:
        text += f" (HaarPSI {looks:.3f} and {quality.haarpsi:.3f})"
    text += ": trained too little, or made for other scans or another range of values"
    lost = linear - quality.psnr
    looks_worse = looks is None or quality.haarpsi < looks
    stops = quality.psnr < PLENTY_DB and (lost > FAR_WORSE_DB or (lost > WORSE_DB and looks_worse))
    return Verdict((text,)) if stops else Verdict((), (text,))


def _alive(quality: AutoencoderQuality) -> Verdict:
    latents, reasons, doubts = quality.latents, [], []
    dead = [n for n, std in enumerate(latents.std) if std < DEAD_STD]
    if dead:
        reasons.append(f"latent {_channels(dead)} constant on these scans (deviation below {DEAD_STD:g} of 1)")
    drowned = [n for n, noise in enumerate(latents.noise) if noise > DROWNED_NOISE and n not in dead]
    if drowned:
        reasons.append(f"latent {_channels(drowned)} more noise of the encoder's than scan (a collapsed posterior)")
    quiet = [n for n, std in enumerate(quality.raw_std) if std < QUIET * max(quality.raw_std) and n not in dead]
    if quiet:
        doubts.append(f"latent {_channels(quiet)} quiet: beside the largest they hardly vary")
    same = [(a, b) for a, row in enumerate(latents.correlation) for b in range(a) if abs(row[b]) > DOUBT_CORRELATION]
    if same:
        doubts.append(f"latent {_channels(sorted({n for pair in same for n in pair}))} copies of each other")
    return Verdict(tuple(reasons), tuple(doubts))


def _white(quality: AutoencoderQuality) -> Verdict:
    latents = quality.latents
    every = enumerate(zip(latents.mean, latents.std, latents.kurtosis, strict=True))
    rows = [(n, row) for n, row in every if row[1] >= DEAD_STD]
    far = [n for n, (mean, std, _) in rows if abs(mean) > STOP_MEAN or std > STOP_STD]
    near = [(n, row) for n, row in rows if n not in far]
    off = [n for n, (mean, std, _) in near if abs(mean) > DOUBT_MEAN or not 1 / DOUBT_STD <= std <= DOUBT_STD]
    tailed = [n for n, (_, _, kurtosis) in rows if kurtosis > STOP_KURTOSIS]
    heavy = [n for n, (_, _, kurtosis) in rows if DOUBT_KURTOSIS < kurtosis <= STOP_KURTOSIS]
    reasons, doubts = [], []
    if far:
        text = f"latent {_channels(far)} far from white (mean beyond {STOP_MEAN:g} or deviation above {STOP_STD:g}): "
        reasons.append(text + "their statistics are of other scans")
    if off:
        text = f"latent {_channels(off)} not quite white (mean beyond {DOUBT_MEAN:g}, or deviation outside "
        doubts.append(text + f"{1 / DOUBT_STD:g} to {DOUBT_STD:g})")
    if tailed:
        reasons.append(f"latent {_channels(tailed)} nearly constant but for rare extremes (kurtosis)")
    if heavy:
        doubts.append(f"latent {_channels(heavy)} of heavy tails (kurtosis above {DOUBT_KURTOSIS:g})")
    return Verdict(tuple(reasons), tuple(doubts))


def _within_range(quality: AutoencoderQuality) -> Verdict:
    beyond = max((scan.beyond for scan in quality.scans), default=0.0)
    outliers = max((scan.outliers for scan in quality.scans), default=0.0)
    if not outliers:
        return Verdict()
    text = f"reconstructions leave their scan's range by up to {beyond:.3g} times the model's, by more than "
    text += f"{OUTLIER:g} in up to {100 * outliers:.2g} % of a scan's voxels"
    stops = outliers > STOP_OUTLIERS or beyond > STOP_BEYOND
    return Verdict((text,)) if stops else Verdict((), (text,))


def _channels(numbers: Sequence[int]) -> str:
    named = ", ".join(map(str, numbers[:MOST_NAMED])) + (", ..." if len(numbers) > MOST_NAMED else "")
    return f"channel {named} is" if len(numbers) == 1 else f"channels {named} ({len(numbers)}) are"


Rule = Callable[[AutoencoderQuality], Verdict]
RULES: tuple[Rule, ...] = (_finite, _better_than_pca, _alive, _white, _within_range)
