"""Does a model know its own kind of scan, whatever is to be restored of it, and tell every other?"""

import dataclasses

import numpy as np
import pytest
from scipy import ndimage
from typer.testing import CliRunner

import medldm
from medldm import Geometry, InputError, ModelError, Volume
from medldm.appearance import appearance_of, count_values, has_tissue, is_flat, is_noise, turned, turns
from medldm.calibration import CALIBRATION, CUT, doubts_of, load_calibration
from medldm.cli import app
from medldm.familiarity import ALPHA, fit_reference
from medldm.pack import AnatomyTable
from medldm.recipe import parse_recipe
from medldm.training.calibrate import calibrate
from medldm.training.scan import Facts, Scan
from tests.tiny import tiny_model, tiny_table

FILM = (64, 56)


def film(seed, *, noise=0.0, shape=FILM):
    """Two dark lungs, a heart to one side, a bright belly; everyone's are a little different. (columns, rows)"""
    rng = np.random.default_rng(seed)
    x, y = np.meshgrid(np.linspace(0, 1, shape[0]), np.linspace(0, 1, shape[1]), indexing="ij")
    x, y = x + rng.normal(0, 0.02), y + rng.normal(0, 0.02)
    image = 0.6 + 0.3 * y
    for centre in (0.3, 0.72):
        image -= (0.45 + rng.normal(0, 0.03)) * np.exp(-((((x - centre) / 0.13) ** 2 + ((y - 0.45) / 0.25) ** 2) ** 2))
    image += (0.3 + rng.normal(0, 0.03)) * np.exp(-(((x - 0.6) / 0.12) ** 2 + ((y - 0.62) / 0.12) ** 2))
    image += 0.04 * np.sin(2 * np.pi * (x * rng.uniform(3, 5) + y * rng.uniform(8, 10)))
    return image + noise * rng.standard_normal(shape)


def volume_of(image, history=()):
    array = image[..., None].astype(np.float32)
    return Volume(array, Geometry(np.diag([-1.0, -1, 1, 1]), array.shape), "arbitrary", "DX", history)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    import torch

    folder = tmp_path_factory.mktemp("packs")
    made, source = tiny_model(folder, 2), parse_recipe(tiny_table(2)).sources[0]
    scans = [
        Scan(torch.from_numpy(film(n).astype(np.float32)), None, source, f"scan {n}", f"patient {n}", Facts("DX"))
        for n in range(60)
    ]
    found = calibrate([scans[:50], scans[50:]], made.pack, thorough=False)
    assert found is not None and found.patients == 60
    where = dataclasses.replace(made, calibration=found).save(folder / "calibrated")
    return medldm.load_model(where)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda x: x,
        lambda x: 1000 * x - 300,
        lambda x: x + 0.1 * np.random.default_rng(5).standard_normal(x.shape),
        lambda x: x.reshape(32, 2, 28, 2).mean((1, 3)),
        lambda x: x[3:-3, 3:-3],
    ],
    ids=["as it is", "other unit", "noisy", "coarse", "cut"],
)
def test_new_patients_are_not_doubted_whatever_is_to_be_restored(model, spoil):
    warned = [bool(model.fits(volume_of(spoil(film(seed))))) for seed in range(1000, 1040)]
    assert np.mean(warned) <= 0.1  # 40 patients at a rate of 0.02


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x: x[:, ::-1], "top to bottom"),
        (lambda x: x[::-1, ::-1], "upside down"),
        (lambda x: x.T, "quarter"),
        (lambda x: 1 - x, "inverted"),
        (lambda x: (x > np.median(x)) * 1.0, "2 values"),
        (lambda x: np.hypot(*np.gradient(x)), ""),
        (lambda x: np.pad(x, 40), ""),
        (lambda x: x[20:34, 20:34], ""),
        (lambda x: x.cumsum(0), ""),
        (lambda x: np.random.default_rng(1).standard_normal((120, 120)), "noise alone"),
    ],
)
def test_what_is_none_of_its_scans_is_told_with_the_reason(model, change, said):
    doubts = [model.fits(volume_of(np.ascontiguousarray(change(film(seed))))) for seed in range(2000, 2005)]
    assert all(doubts)
    assert all(said in " ".join(each) for each in doubts)


def in_hu(image):
    """Of a film whose darkest is air and whose brightest is 400 HU."""
    array = (1400 * image - 1000)[..., None].astype(np.float32)
    return Volume(array, Geometry(np.diag([-1.0, -1, 1, 1]), array.shape), "HU", "CT")


@pytest.fixture(scope="module")
def ct_model(model, tmp_path_factory):
    import torch

    source = parse_recipe(tiny_table(2)).sources[0]
    window = model.pack.intensity.model_copy(update={"kind": "window", "low": -1000.0, "high": 400.0})
    pack = model.pack.model_copy(update={"intensity": window, "modality": ("CT",)})
    scans = [
        Scan(torch.from_numpy(film(n).astype(np.float32)), None, source, f"scan {n}", f"patient {n}", Facts("CT"))
        for n in range(60)
    ]
    found = calibrate([scans, []], pack, thorough=False)
    folder = tmp_path_factory.mktemp("ct")
    return medldm.load_model(dataclasses.replace(model, pack=pack, calibration=found).save(folder))


def test_values_that_mean_something_are_known_as_they_are(ct_model):
    native = [bool(ct_model.fits(in_hu(film(seed)))) for seed in range(1000, 1040)]
    assert np.mean(native) <= 0.1
    for change in (lambda x: x + 1000 / 1400, lambda x: 2 * x, lambda x: 0.72 + 0.18 * x):  # air at 0; bytes as HU
        assert all(ct_model.fits(in_hu(change(film(seed)))) for seed in range(2000, 2005))


def test_a_ct_whose_unit_is_not_known_is_doubted_unless_its_values_are_hu(ct_model):
    """A NIfTI file tells no unit."""

    def doubts(change):
        noise = 15 * np.random.default_rng(0).standard_normal((80, 80, 1))
        array = np.where(np.hypot(*np.mgrid[-1:1:80j, -1:1:80j]) < 0.7, 40, -1000)[..., None] + noise
        scan = Volume(array.astype(np.float32), Geometry(np.diag([-1.0, -1, 1, 1]), array.shape))
        return " ".join(ct_model.fits(scan.with_array(change(scan.array))))

    assert "model's window is in HU" not in doubts(lambda x: x)
    for change in (lambda x: x + 1024, lambda x: x - 1024, lambda x: x / 2, lambda x: x.clip(-160, 240)):
        assert "values in arbitrary; the model's window is in HU" in doubts(change)


def test_what_fills_the_corners_of_a_ct_does_not_count(ct_model):
    def cornered(value):
        image = film(1003)
        x, y = np.ogrid[-1 : 1 : image.shape[0] * 1j, -1 : 1 : image.shape[1] * 1j]
        image[x**2 + y**2 > 1.3] = value
        return in_hu(image)

    assert ct_model.fits(cornered(-2.0)) == ct_model.fits(cornered(0.0))


def test_a_calibrated_pack_comes_back_as_it_was_and_needs_no_weights(model, tmp_path):
    folder = model.save(tmp_path / "copy")
    again = load_calibration(folder, "model copy")
    foreign, own = volume_of(film(3)[:, ::-1].copy()), volume_of(film(3))
    for scan in (foreign, own):
        assert again.doubts(scan, model.pack) == model.calibration.doubts(scan, model.pack)
        assert doubts_of(str(folder), scan) == model.fits(scan)
    (folder / "weights.safetensors").write_bytes(b"")
    assert doubts_of(str(folder), foreign)


def test_a_pack_without_calibration_says_nothing_and_a_damaged_one_is_refused(model, tmp_path):
    folder = dataclasses.replace(model, calibration=None).save(tmp_path / "plain")
    assert not (folder / CALIBRATION).exists() and medldm.load_model(folder).calibration is None
    assert medldm.load_model(folder).fits(volume_of(film(3)[:, ::-1].copy())) == []
    (folder / CALIBRATION).write_bytes(b"nothing of the kind")
    with pytest.raises(ModelError, match="medldm calibrate"):
        medldm.load_model(folder)


def test_saving_without_calibration_leaves_none_of_before(model, tmp_path):
    folder = model.save(tmp_path / "pack")
    dataclasses.replace(model, calibration=None).save(folder)
    assert not (folder / CALIBRATION).exists()


def test_noise_alone_is_refused_unless_forced_and_the_result_says_so(model):
    noise = volume_of(np.random.default_rng(2).standard_normal((120, 120)))
    with pytest.raises(ModelError, match="--force"):
        medldm.denoise(noise, model=model)
    result = medldm.denoise(noise, model=model, force=True)
    assert result.report["forced"] is True and result.volume.history[-1]["forced"] is True
    assert any("noise alone" in warning for warning in result.report["warnings"])
    kept = medldm.denoise(volume_of(film(7)), model=model, noise_std=0.05, force=True)
    assert "forced" not in kept.report and "forced" not in kept.volume.history[-1]


def test_a_part_cut_out_on_purpose_is_not_judged(model):
    part = volume_of(film(4)[10:24, 10:24])
    assert model.fits(part)
    assert model.fits(part.with_step({"step": CUT})) == []


def test_too_few_patients_calibrate_nothing():
    import torch

    recipe = parse_recipe(tiny_table(2))
    scan = Scan(torch.rand(24, 24), None, recipe.sources[0], "scan", "one")
    assert calibrate([[dataclasses.replace(scan, patient=str(n)) for n in range(19)]], recipe.pack) is None


@pytest.mark.parametrize("dims", [2, 3])
def test_pictures_do_not_depend_on_unit_or_voxel_size(dims):
    rng, shape = np.random.default_rng(3), (48, 40, 1 if dims == 2 else 32)
    coarse = rng.random(tuple(max(1, n // 8) for n in shape))
    scan = np.kron(coarse, np.ones(tuple(min(8, n) for n in shape)))
    fine = appearance_of(scan, (2, 2, 2), dims, 6.0)
    other = appearance_of(7 * np.kron(scan, np.ones((2, 2, 1))) - 3, (1, 1, 2), dims, 6.0)
    np.testing.assert_allclose(other.picture, fine.picture, atol=1e-4)
    np.testing.assert_allclose(other.texture, fine.texture, atol=1e-3)


def test_turns_are_all_the_ways_to_lie():
    assert [len(turns(dims)) for dims in (2, 3)] == [7, 47]
    picture = np.random.default_rng(0).random((1, 4, 4, 4))
    assert len({turned(picture, turn).tobytes() for turn in turns(3)} | {picture.tobytes()}) == 48


@pytest.mark.parametrize("shape", [(200, 200, 1), (60, 70, 50)])
def test_noise_is_told_from_scans(shape):
    rng = np.random.default_rng(1)
    white = rng.standard_normal(shape)
    ramp = np.linspace(0, 1, shape[0])[:, None, None] * np.ones(shape)
    assert is_noise(white) and is_noise(np.hypot(white, rng.standard_normal(shape)))
    assert not is_noise(ramp + 0.5 * white) and not is_noise(ramp) and not is_noise(np.zeros(shape))
    board = (np.indices(shape).sum(0) % 2).astype(float)
    assert not is_noise(board) and count_values(board) == 2 and count_values(white) == 0


def test_a_map_of_many_labels_is_told_from_a_scan_of_whole_numbers(tmp_path):
    rng = np.random.default_rng(0)
    places = rng.uniform(0, 48, (150, 3))  # a Voronoi map: as many labels as an atlas has
    grid = np.stack(np.meshgrid(*[np.arange(48)] * 3, indexing="ij"), -1)
    labels = (1 + np.square(grid[..., None, :] - places).sum(-1).argmin(-1)).astype(np.float32)
    labels[:6], labels[-6:] = 0, 0
    assert is_flat(labels) and count_values(labels) == 0
    smooth = ndimage.gaussian_filter(rng.standard_normal((48, 48, 48)), 3)
    scan = np.round(255 * (smooth - smooth.min()) / np.ptp(smooth))
    assert not is_flat(scan) and not is_flat(labels + 0.1 * rng.standard_normal(labels.shape))
    assert not is_flat(labels[:, :, :1]) and not is_flat(np.zeros((20, 20, 20)))
    clipped = np.clip(scan, 100, 140)  # cut off: what is all alike is the least and the largest
    assert not is_flat(clipped)
    in_between = labels[:, :, :1] * 7.3 - 900.0  # of one slice in HU, no whole numbers
    assert is_flat(in_between, in_hu=True) and not is_flat(scan[:, :, :1] + 0.5, in_hu=True)


def test_hu_without_fat_and_soft_tissue_are_no_patient(ct_model):
    """A faint cloud and few stars, as HU."""
    rng = np.random.default_rng(3)
    stars = ndimage.gaussian_filter((rng.random((96, 96)) < 0.002).astype(float), 1.5)
    sky = 0.3 * np.outer(np.linspace(0, 1, 96), np.linspace(1, 0.2, 96)) + stars / stars.max()
    assert "fat or soft tissue" in " ".join(ct_model.fits(in_hu(sky)))
    assert has_tissue(in_hu(film(1)).array) and not has_tissue(in_hu(sky).array)


def test_p_values_of_new_scans_are_even():
    """Held-out scans of the same kind: a share of at most about alpha lies below alpha."""
    rng = np.random.default_rng(0)
    pictures, textures = rng.standard_normal((600, 6, 6)), rng.standard_normal((600, 8))
    reference = fit_reference(pictures[:300], textures[:300], np.arange(300))
    p = reference.p_values(pictures[300:], textures[300:])
    for alpha in (ALPHA, 0.1, 0.5):
        assert (p <= alpha).mean() <= alpha + 3 * np.sqrt(2 * alpha * (1 - alpha) / 300)
    assert (p <= 0.5).mean() >= 0.3


def test_what_the_header_says_is_held_against_the_training(model):
    pack = model.pack.model_copy(update={"anatomy": AnatomyTable(body_part=("CHEST",), view=("AP", "PA"))})
    for said, doubted in (({"body_part": "HAND"}, True), ({"view": "LL"}, True), ({"view": "PA"}, False), ({}, False)):
        doubts = pack.doubts(volume_of(film(1), ({"step": "read", **said},)))
        assert bool(doubts) == doubted and all(word in " ".join(doubts) for word in said.values() if doubted)


def test_the_command_says_what_is_missing(tmp_path, model):
    folder = model.save(tmp_path / "pack", {"source": [{"folder": "."}], "seed": 1, "validation_fraction": 0.1})
    data = tmp_path / "data"
    data.mkdir()
    from PIL import Image

    for n in range(2):
        Image.fromarray(np.clip(255 * film(n).T, 0, 255).astype(np.uint8)).save(data / f"{n}.png")
    done = CliRunner().invoke(app, ["calibrate", str(folder), "--data", str(data)])
    assert done.exit_code == InputError.exit_code, done.stderr
    assert "2 patients" in done.stderr and "at least 20" in done.stderr
