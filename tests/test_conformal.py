"""Intervals: exact where the quantile is known, by groups, kept in the pack, and the same through every door."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import norm
from typer.testing import CliRunner

import medldm
from medldm import InputError, ModelError
from medldm.calibration import CALIBRATION, Calibration, load_calibration
from medldm.cli import app
from medldm.conformal import (
    DECILES,
    LEAST_PATIENTS,
    LEVELS,
    MULTIPLES,
    REGIONS,
    Case,
    Intervals,
    Seen,
    fit_row,
    gradient_of,
    multiple,
    regions_of,
)
from medldm.recipe import parse_recipe
from medldm.restoration.calibrate import calibrate_intervals, cases_of, observe
from medldm.training.data import Facts, Scan
from tests.tiny import mask_model, tiny_intervals, tiny_model, tiny_table

STEP = MULTIPLES[1] / MULTIPLES[0]
AT = LEVELS.index(0.9)
CASE = Case("denoise", 1.0, 0.1)


def patient(seed, ratio=1.0, n=6000, bright=1.0):
    """Normal errors of `ratio` times the claimed deviation, `bright` times that where values are above 0.6."""
    rng = np.random.default_rng(seed)
    std = np.exp(rng.uniform(-4, -2, n)).astype(np.float32)
    value = rng.uniform(0.1, 0.9, n).astype(np.float32)
    actual = std * ratio * np.where(value > 0.6, bright, 1)
    score = np.abs(rng.standard_normal(n) * actual) / std
    return Seen(score.astype(np.float32), np.log(std), value, rng.random(n).astype(np.float32) / 100)


@pytest.mark.parametrize("ratio", [0.5, 1.0, 2.5])
def test_the_multiple_of_normal_errors_is_their_quantile(ratio):
    row = fit_row(CASE, [patient(n, ratio) for n in range(60)])
    for index, level in enumerate(LEVELS):
        allowed = 1 - level
        exact = ratio * norm.ppf(1 - allowed / 2)
        corrected = ratio * norm.ppf(1 - (61 * allowed - min(1, 2 * allowed)) / 60 / 2)
        assert exact * 0.985 < np.median(row.multiples[index]) < corrected * STEP * 1.015


def test_the_correction_for_few_patients_is_exact():
    """Scores of every patient are 0.01, 0.02, ... 1: of 19 patients 9.47 % may be missed, so 9 of 100 are."""
    scores = np.sort(np.arange(1, 101) / 100)
    missed = np.tile(1 - np.searchsorted(scores, MULTIPLES, side="right") / 100, (19, 1)).astype(np.float32)
    assert 0.91 <= multiple(missed, 0.9) <= 0.91 * STEP
    assert 0.92 <= multiple(missed[:9], 0.9) <= 0.92 * STEP  # (10 * 0.1 - 0.2) / 9 = 8.9 %
    assert np.isnan(multiple(missed[: LEAST_PATIENTS - 1], 0.9))


def test_a_further_patient_is_covered_on_average():
    """Patients whose errors differ by a factor: the share that is missed of a new one is at most what was asked for."""
    rng = np.random.default_rng(3)
    missed = []
    for _ in range(200):
        scores = np.abs(rng.standard_normal((13, 200))) * np.exp(0.4 * rng.standard_normal((13, 1)))
        inside = np.stack([np.searchsorted(np.sort(each), MULTIPLES, side="right") for each in scores]) / 200
        found = multiple((1 - inside[:-1]).astype(np.float32), 0.9)
        missed.append(min((scores[-1] > found).mean(), 0.2))
    assert np.mean(missed) < 0.1 + 2 * np.std(missed) / np.sqrt(200)
    assert np.mean(missed) > 0.06  # and not by being as wide as can be


def test_groups_are_each_covered_where_one_multiple_would_not_do():
    row = fit_row(CASE, [patient(n, bright=3.0) for n in range(40)])
    new = patient(1000, bright=3.0, n=60_000)
    region = regions_of(new.value, new.gradient, row.borders)
    decile = np.searchsorted(row.deciles, new.log_std)
    inside = new.score <= row.multiples[AT][decile, region]
    groups = [inside[region == r] for r in range(1, len(REGIONS))] + [inside[decile == d] for d in range(DECILES)]
    assert all(0.87 < group.mean() < 0.94 for group in groups)
    alone = np.quantile(new.score, 0.9)
    assert (new.score[new.value > 0.6] <= alone).mean() < 0.8 < 0.97 < (new.score[new.value < 0.6] <= alone).mean()


def test_a_group_of_few_voxels_takes_the_multiple_of_the_wider_one():
    row = fit_row(CASE, [patient(n) for n in range(20)])
    assert (row.multiples[:, :, REGIONS.index("air")] > 0).all()  # no value is below 0.1
    air = row.multiples[AT, :, REGIONS.index("air")]
    np.testing.assert_allclose(air, norm.ppf(0.95), rtol=0.1)


def test_regions_are_told_by_value_and_gradient():
    image = np.zeros((8, 8, 3), np.float32)
    image[4:] = 0.8
    found = regions_of(image, gradient_of(image), np.array([0.3, 0.6, 0.2], np.float32))
    assert (found[:4] == REGIONS.index("air")).all() and (found[4] == REGIONS.index("edge")).all()
    assert (found[5:] == REGIONS.index("bright")).all()
    across = np.zeros((8, 8, 3), np.float32) + np.arange(3, dtype=np.float32)
    assert gradient_of(across, flat=2).max() == 0 < gradient_of(across).max()


def test_between_cases_the_multiple_lies_between():
    image, std = np.full((2, 2, 2), 0.5, np.float32), np.full((2, 2, 2), 0.1, np.float32)

    def wide(task, factor, noise, level=0.9):
        return float(tiny_intervals().half_width(image, std, Case(task, factor, noise), level)[0, 0, 0]) / 0.1

    assert wide("denoise", 1, 0.02) == pytest.approx(0.9) == wide("denoise", 1, 0.001)
    assert wide("denoise", 1, np.sqrt(0.02 * 0.2)) == pytest.approx(2 * 0.9, rel=1e-4)
    assert wide("super_resolve", 2, 0) == pytest.approx(2 * 0.9)
    assert wide("super_resolve", np.sqrt(8), 0) == pytest.approx(3 * 0.9, rel=1e-4)
    assert wide("denoise", 1, 0.02, 0.8) < wide("denoise", 1, 0.02, 0.85) < wide("denoise", 1, 0.02, 0.9)
    for task, factor, noise, said in (
        ("denoise", 1, 0.5, "noise of 0.5"),
        ("super_resolve", 2, 0.05, "noise of 0.05"),
        ("super_resolve", 8, 0, "factor of 8"),
        ("inpaint", 1, 0.02, "denoise, super_resolve"),
    ):
        with pytest.raises(ModelError, match=said):
            wide(task, factor, noise)
    for level in (0.4, 0.99, "0.9", float("nan")):
        with pytest.raises(InputError, match=r"0\.5 to 0\.98"):
            wide("denoise", 1, 0.02, level)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """tiny-2d, whose intervals are made up."""
    made = tiny_model(tmp_path_factory.mktemp("packs"), 2)
    return with_intervals(made, tmp_path_factory.mktemp("packs") / "pack", tiny_intervals(made.weights_sha256))


def with_intervals(made, folder, found):
    return medldm.load_model(dataclasses.replace(made, calibration=Calibration({}, 1.0, 0, found)).save(folder))


def film(seed=0, shape=(24, 20, 1), scale=1000.0):
    x, y = np.meshgrid(np.linspace(0, 1, shape[0]), np.linspace(0, 1, shape[1]), indexing="ij")
    image = 0.4 + 0.3 * np.sin(5 * x + seed) * np.cos(4 * y)
    image += 0.02 * np.random.default_rng(seed).standard_normal(x.shape)
    array = np.repeat((scale * image)[..., None], shape[2], axis=2).astype(np.float32)
    return medldm.Volume(array, medldm.Geometry(np.diag([-1.0, -1, 3, 1]), array.shape), "arbitrary", "DX")


def test_an_interval_is_the_result_give_or_take_a_multiple_of_its_uncertainty(model):
    result = medldm.denoise(film(), model=model, noise_std=20.0, value_range=(0.0, 1000.0))
    lower, upper = result.interval(0.9)
    assert result.has_interval and lower.geometry.isclose(result.volume.geometry) and lower.unit == "arbitrary"
    np.testing.assert_allclose(upper.array - result.volume.array, 0.9 * result.uncertainty.array, rtol=1e-3)
    np.testing.assert_allclose(result.volume.array - lower.array, 0.9 * result.uncertainty.array, rtol=1e-3)
    assert (lower.quantity, upper.quantity) == ("lower bound", "upper bound") and upper.history[-1]["level"] == 0.9
    with pytest.raises(InputError, match="the upper bound of a result"):
        medldm.denoise(upper, model=model)
    narrow = result.interval(0.5)
    assert (narrow[0].array >= lower.array).all() and (narrow[1].array <= upper.array).all()


def test_units_do_not_matter(model):
    widths = []
    for scale in (1.0, 1000.0):
        settings = {"model": model, "noise_std": 0.05 * scale, "value_range": (0.0, scale)}
        result = medldm.denoise(film(scale=scale), **settings)
        widths.append((result.interval()[1].array - result.volume.array) / scale)
    np.testing.assert_allclose(*widths, rtol=2e-3, atol=1e-5)


def test_slices_of_a_volume_have_the_intervals_that_they_have_alone(model):
    scan = film(shape=(24, 20, 3))
    settings = {"model": model, "noise_std": 60.0, "value_range": (0.0, 1000.0)}
    whole = medldm.denoise(scan, **settings).interval()[0]
    alone = medldm.denoise(scan.crop((0, 0, 1), (24, 20, 2)), **settings).interval()[0]
    np.testing.assert_allclose(whole.array[..., 1:2], alone.array, rtol=1e-4, atol=1e-2)


def test_values_that_cannot_be_negative_have_no_negative_bound(tmp_path):
    made = tiny_model(tmp_path, 3)
    known = with_intervals(made, tmp_path / "pack", tiny_intervals(made.weights_sha256, floor=True))
    array = np.abs(np.random.default_rng(0).normal(0, 1, (16, 16, 12))).astype(np.float32)
    array[4:12] += 40
    scan = medldm.Volume(array, medldm.Geometry(np.diag([2.0, 2, 2, 1]), array.shape), "arbitrary", "MR")
    lower, upper = medldm.denoise(scan, model=known, noise_std=6.0).interval()
    assert lower.array.min() >= 0 and (upper.array > lower.array).all()
    finer = medldm.super_resolve(scan, model=known, scale=(1, 1, 2), noise_std=0.0)
    assert finer.interval()[0].array.shape == (16, 16, 24)


def test_a_pack_that_was_not_calibrated_says_how_to(tmp_path, model):
    plain = tiny_model(tmp_path, 2)
    result = medldm.denoise(film(), model=plain, noise_std=20.0)
    with pytest.raises(ModelError, match="medldm calibrate MODEL --data DATA --intervals"):
        result.interval()
    assert not result.has_interval
    other = dataclasses.replace(model, weights_sha256="of other weights")
    assert other.intervals is None and model.intervals is not None
    for mode in ({"mode": "perceptual"}, {"samples": 2}):
        drawn = medldm.denoise(film(), model=model, noise_std=20.0, steps=2, **mode)
        with pytest.raises(InputError, match="fidelity and one sample"):
            drawn.interval()
    masks = mask_model(tmp_path, 2)
    known = with_intervals(masks, tmp_path / "pack", tiny_intervals(masks.weights_sha256))
    filled = medldm.inpaint(film(), film().array > 600, model=known, noise_std=20.0)
    with pytest.raises(ModelError, match="inpaint"):
        filled.interval()


def test_a_table_comes_back_from_a_pack_as_it_was(tmp_path):
    row = fit_row(CASE, [patient(n) for n in range(LEAST_PATIENTS)])
    found = Intervals((row, *tiny_intervals().rows), "abc", True)
    Calibration({}, 1.5, 0, found).save(tmp_path)
    again = load_calibration(tmp_path, "model x")
    assert again.cell == 1.5 and (again.intervals.weights_sha256, again.intervals.floor) == ("abc", True)
    for one, other in zip(found.rows, again.intervals.rows, strict=True):
        assert one.case == other.case and one.patients == other.patients
        for name in ("deciles", "borders", "multiples"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    whole = (tmp_path / CALIBRATION).read_bytes()
    (tmp_path / CALIBRATION).write_bytes(whole.replace(b'"format":"2"', b'"format":"9"'))
    with pytest.raises(ModelError, match="format 9.*medldm calibrate"):
        load_calibration(tmp_path, "model x")
    (tmp_path / CALIBRATION).write_bytes(whole.replace(b"multiples", b"multiplex"))
    with pytest.raises(ModelError, match="damaged"):
        load_calibration(tmp_path, "model x")


def scans(model, count, source):
    images = [torch.from_numpy(film(n, scale=1.0).array[..., 0]) for n in range(count)]
    return [Scan(image, None, source, f"scan {n}", f"patient {n}", Facts("DX")) for n, image in enumerate(images)]


def test_calibration_restores_scans_in_every_case_of_the_pack(model):
    source = parse_recipe(tiny_table(2)).sources[0]
    assert [case.task for case in cases_of(model.pack)] == ["denoise"] * 4 + ["super_resolve"] * 2
    found = calibrate_intervals(model, scans(model, LEAST_PATIENTS, source), None)
    assert [row.case for row in found.rows] == cases_of(model.pack) and found.weights_sha256 == model.weights_sha256
    assert all(row.patients == LEAST_PATIENTS and (np.diff(row.multiples, axis=0) >= 0).all() for row in found.rows)
    one = scans(model, 1, source)[0]
    with pytest.raises(InputError, match="1 patients .* at least 8"):
        calibrate_intervals(model, [one] * 20, None)
    seen = observe(model, one.image.numpy(), cases_of(model.pack)[-1], np.random.default_rng(0))
    assert len(seen.score) == 24 * 20 and (seen.score >= 0).all()


def call(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def run(*words):
    command = [sys.executable, "-c", "from medldm.cli import main; main()", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_commands_calibrate_and_write_both_bounds(tmp_path):
    training = {"source": [{"folder": "."}], "seed": 1, "validation_fraction": 0.8}
    pack, data = tiny_model(tmp_path, 2).save(tmp_path / "pack", training), tmp_path / "data"
    data.mkdir()
    for n in range(10):
        Image.fromarray(film(n, scale=255).array[..., 0].T.clip(0, 255).astype(np.uint8)).save(data / f"{n}.png")
    asked = ("denoise", "-i", data / "0.png", "-o", tmp_path / "o.nii.gz", "--model", pack, "--noise-std", 8)
    asked += ("--interval", tmp_path / "i.nii.gz", "--report", tmp_path / "r.html")
    refused = call(*asked)
    assert refused.exit_code == ModelError.exit_code and "medldm calibrate" in refused.stderr
    assert not list(tmp_path.glob("*.nii.gz")) and not (tmp_path / "r.html").exists()
    done = call("calibrate", pack, "--data", data, "--intervals")
    assert done.exit_code == 0 and "8 patients" in done.stdout, done.stderr
    done = run(*asked, "--level", 0.95)
    assert done.returncode == 0, done.stderr
    lower, upper = (medldm.read(tmp_path / f"i-{side}.nii.gz") for side in ("lower", "upper"))
    direct = medldm.denoise(data / "0.png", model=pack, noise_std=8).interval(0.95)
    np.testing.assert_allclose(lower.array, direct[0].array, atol=1e-3)
    np.testing.assert_allclose(upper.array, direct[1].array, atol=1e-3)
    assert lower.quantity == "lower bound"
    assert "in 95 of 100 voxels" in (tmp_path / "r.html").read_text(encoding="utf-8")
    wrong = call(*asked, "--overwrite", "--mode", "perceptual")
    assert wrong.exit_code == InputError.exit_code and "fidelity" in wrong.stderr
