"""The gate's rules on made-up figures: each fires alone, and a good autoencoder passes them all."""

import dataclasses
import math
import re

import pytest
import torch
from scipy.stats import kurtosis

from medldm.evaluate.autoencoder import AutoencoderQuality, Quality
from medldm.evaluate.latent_statistics import LatentMoments, LatentStatistics
from medldm.training.verdict import RULES, judge

CHANNELS = 4
WHITE = LatentStatistics(
    mean=(0.1, -0.2, 0.0, 0.3),
    std=(0.9, 1.1, 0.8, 1.0),
    kurtosis=(0.5, 30.0, 460.0, -0.6),
    largest=(4.0, 15.0, 45.0, 3.0),
    noise=(0.01,) * CHANNELS,
    correlation=tuple(tuple(float(a == b) for b in range(CHANNELS)) for a in range(CHANNELS)),
)
GOOD = AutoencoderQuality(
    scans=(Quality("case 1", 41.0, 0.98, 0.97), Quality("case 2", 39.0, 0.97, 0.96, beyond=0.28)),
    latents=WHITE,
    raw_mean=(0.0,) * CHANNELS,
    raw_std=(1.0, 2.0, 0.5, 1.0),
    linear_psnr=38.0,
    linear_haarpsi=0.95,
)


def with_scan(**more):
    return dataclasses.replace(GOOD, scans=(GOOD.scans[0], dataclasses.replace(GOOD.scans[1], **more)))


def with_latents(**more):
    def changed(name, value):
        old = getattr(WHITE, name)
        return value if name in ("nonfinite", "correlation") else (*old[:2], value, old[3])

    latents = {name: changed(name, value) for name, value in more.items()}
    return dataclasses.replace(GOOD, latents=dataclasses.replace(WHITE, **latents))


def fired(quality):
    """Numbers of the rules that stop, and of those that doubt."""
    found = [rule(quality) for rule in RULES]
    return [n for n, v in enumerate(found) if v.reasons], [n for n, v in enumerate(found) if v.doubts]


COPIES = tuple(tuple(1.0 if a == b or {a, b} == {1, 2} else 0.0 for b in range(CHANNELS)) for a in range(CHANNELS))


def test_a_good_autoencoder_passes_without_a_doubt():
    verdict = judge(GOOD)
    assert verdict.go
    assert verdict.to_dict() == {"go": True, "reasons": [], "doubts": []}


@pytest.mark.parametrize(
    ("rule", "quality", "says"),
    [
        (0, with_scan(psnr=math.nan, ssim=math.nan, haarpsi=math.nan, nonfinite=7), "7 voxels"),
        (0, with_latents(nonfinite=3), "3 latents"),
        (1, dataclasses.replace(GOOD, linear_psnr=41.1, linear_haarpsi=0.99), "41.10 dB .* 40.00 dB"),
        (1, dataclasses.replace(GOOD, linear_psnr=46.1, linear_haarpsi=0.5), "46.10 dB"),
        (1, dataclasses.replace(GOOD, linear_psnr=41.1, linear_haarpsi=None), "41.10 dB"),
        (2, with_latents(std=0.04, kurtosis=math.nan), "channel 2 is constant"),
        (2, with_latents(noise=1.1), "channel 2 is more noise"),
        (3, with_latents(mean=-3.1), "channel 2 is far from white"),
        (3, with_latents(std=4.1), "channel 2 is far from white"),
        (3, with_latents(kurtosis=10_001.0), "channel 2 is nearly constant but for rare extremes"),
        (4, with_scan(outliers=2e-4, beyond=0.6), "leave their scan's range"),
        (4, with_scan(outliers=1e-6, beyond=5.1), "up to 5.1 times"),
    ],
)
def test_each_fault_is_a_stop_by_its_own_rule_alone(rule, quality, says):
    assert fired(quality) == ([rule], [])
    verdict = judge(quality)
    assert not verdict.go
    (reason,) = verdict.reasons
    assert "\n" not in reason
    assert re.search(says, reason)


@pytest.mark.parametrize(
    ("rule", "quality", "says"),
    [
        (1, dataclasses.replace(GOOD, linear_psnr=40.5, linear_haarpsi=0.99), "40.50 dB"),
        (1, dataclasses.replace(GOOD, linear_psnr=43.0, linear_haarpsi=0.5), "43.00 dB"),
        (1, dataclasses.replace(GOOD, scans=(Quality("case 1", 46.5, 0.99, 0.9),), linear_psnr=60.0), "60.00 dB"),
        (2, dataclasses.replace(GOOD, raw_std=(1.0, 2.0, 1e-3, 1.0)), "channel 2 is quiet"),
        (2, with_latents(correlation=COPIES), "channels 1, 2 .2. are copies"),
        (3, with_latents(mean=1.1), "channel 2 is not quite white"),
        (3, with_latents(std=0.4), "channel 2 is not quite white"),
        (3, with_latents(std=2.1), "channel 2 is not quite white"),
        (3, with_latents(kurtosis=1_001.0), "channel 2 is of heavy tails"),
        (4, with_scan(outliers=1e-5, beyond=0.6), "by up to 0.6"),
    ],
)
def test_what_diffusion_can_bear_is_a_doubt_and_no_stop(rule, quality, says):
    assert fired(quality) == ([], [rule])
    verdict = judge(quality)
    assert verdict.go
    assert re.search(says, verdict.doubts[0])


def test_without_a_block_pca_nothing_is_said_of_it():
    assert judge(dataclasses.replace(GOOD, linear_psnr=None, linear_haarpsi=None)).go


def test_every_fault_is_named():
    quality = dataclasses.replace(with_scan(outliers=0.1, beyond=9.0), linear_psnr=60.0, latents=WHITE)
    assert len(judge(quality).reasons) == 2


def test_moments_over_parts_are_those_of_the_whole():
    z = torch.randn(3, 2, 8, 6, generator=torch.Generator().manual_seed(0)).pow(3) + torch.tensor([[[5.0]], [[0.0]]])
    z[:, 1] += z[:, 0]
    noise = torch.full((1, 1, 1, 1), 0.3)
    moments = LatentMoments(2)
    for part in z.split(2):
        moments.add(part, noise)
    found, over = moments.statistics(), z.movedim(1, 0).flatten(1).double()
    torch.testing.assert_close(torch.tensor(found.mean).double(), over.mean(1))
    torch.testing.assert_close(torch.tensor(found.std).double(), over.std(1, correction=0))
    torch.testing.assert_close(torch.tensor(found.correlation).double(), torch.corrcoef(over))
    assert found.kurtosis == pytest.approx(kurtosis(over.numpy(), axis=1))
    assert found.largest == pytest.approx(over.abs().amax(1).tolist())
    assert found.noise == pytest.approx((0.3, 0.3))


def test_moments_leave_out_what_is_not_finite_and_know_a_constant():
    z = torch.randn(1, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    z[:, 1] = 0.1
    z[0, 0, 3, 4] = math.nan
    moments = LatentMoments(2)
    moments.add(z, torch.ones(()).expand(1, 1, 1, 1))
    found = moments.statistics()
    assert found.nonfinite == 1
    assert found.std[0] == pytest.approx(float(z[0, 0].flatten()[~z[0, 0].flatten().isnan()].std(correction=0)))
    assert found.std[1] == 0
    assert math.isnan(found.kurtosis[1])
    assert found.to_dict()["correlation"][1] == [None, None]
