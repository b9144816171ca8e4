"""A network that tells pictures which were turned or put together, learned with torch and asked without it."""

import dataclasses

import numpy as np
import pytest
import torch

import medldm
from medldm.alteration import CLASSES, MIDDLE, SCALE
from medldm.appearance import turned, turns
from medldm.calibration import load_calibration
from medldm.recipe import parse_recipe
from medldm.training import alteration
from medldm.training.calibrate import calibrate
from medldm.training.scan import Facts, Scan
from tests.test_familiarity import film, volume_of
from tests.tiny import tiny_model, tiny_table


def test_it_is_asked_as_it_was_learned():
    torch.manual_seed(0)
    network = alteration._network()
    pictures = np.random.default_rng(0).random((40, 32, 32))
    given = torch.from_numpy((pictures - MIDDLE) * SCALE).float()[:, None]
    for _ in range(5):
        network(given)  # the norms' statistics are no longer those of the start
    learned = alteration._without_norms(network.eval())
    with torch.no_grad():
        expected = network(given).log_softmax(1).double().numpy()
    np.testing.assert_allclose(learned.classes(pictures), expected, atol=1e-4)
    odds = np.log(1 - np.exp(expected[:, 0])) - expected[:, 0]
    np.testing.assert_allclose(learned.odds(pictures), odds, atol=1e-3)
    assert learned.likeliest(pictures[3]) == 1 + expected[3, 1:].argmax()
    kept = alteration.Alteration.from_arrays(learned.to_arrays())
    np.testing.assert_allclose(kept.odds(pictures), learned.odds(pictures), atol=0.02)  # 16 bits


@pytest.mark.parametrize("parts", [False, True])
def test_what_it_is_shown_is_what_it_is_told(parts):
    pictures = torch.rand(256, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    shown, asked = alteration._altered(pictures, np.random.default_rng(1), parts)
    assert not asked[:128].any() and torch.equal(shown[:128], pictures[:128])
    assert set(asked[128:].tolist()) == set(range(1, CLASSES))
    for n, way in enumerate(turns(2), start=1):
        rows = asked == n
        expected = turned(pictures[rows, 0].numpy(), way)
        np.testing.assert_array_equal(shown[rows, 0].numpy(), expected)
    assert torch.isfinite(shown).all()


def test_it_does_not_depend_on_what_was_drawn_before(monkeypatch):
    monkeypatch.setattr(alteration, "STEPS", 3)
    pictures, patients = np.random.default_rng(0).random((24, 32, 32)), np.arange(24)
    first = alteration._learned(pictures, patients, parts=True)
    torch.rand(7)
    before = torch.get_rng_state()
    again = alteration._learned(pictures, patients, parts=True)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(np.array_equal(a, b) for a, b in zip(first.weights, again.weights, strict=True))


def test_what_distances_miss_is_told_and_nobody_else_is_doubted(tmp_path, monkeypatch):
    monkeypatch.setattr(alteration, "STEPS", 150)
    monkeypatch.setattr(alteration, "FOLDS", 2)
    made, source = tiny_model(tmp_path, 2), parse_recipe(tiny_table(2)).sources[0]
    scans = [
        Scan(torch.from_numpy(film(n).astype(np.float32)), None, source, f"scan {n}", f"patient {n}", Facts("DX"))
        for n in range(60)
    ]
    without, found = (calibrate([scans, []], made.pack, thorough=thorough) for thorough in (False, True))
    assert without.alteration is None and found.alteration is not None
    folder = dataclasses.replace(made, calibration=found).save(tmp_path / "calibrated")
    model = medldm.load_model(folder)

    def said(change, seeds):
        return [" ".join(model.fits(volume_of(np.ascontiguousarray(change(film(seed)))))) for seed in seeds]

    native = said(lambda x: x, range(1000, 1040))
    assert np.mean([bool(text) for text in native]) <= 0.1
    mirrored = said(lambda x: x[::-1], range(2000, 2020))
    assert np.mean(["left to right" in text for text in mirrored]) >= 0.8
    two = said(lambda x: np.concatenate([x[::2], x[::2]]), range(2000, 2010))
    assert all(two)
    again = load_calibration(folder, "model calibrated")
    scan = volume_of(film(2001)[::-1].copy())
    assert again.doubts(scan, model.pack) == model.fits(scan)
