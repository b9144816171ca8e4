"""What a model was really trained on: brought to its grid or refused, kept in its pack, and vouched for."""

import json

import numpy as np
import pytest
import torch

import medldm
from medldm.errors import InputError, RecipeError
from medldm.geometry import Geometry
from medldm.installed import describe
from medldm.io.array_cache import ArrayCache
from medldm.recipe import parse_recipe
from medldm.training.data import load_scans, seen_of
from medldm.volume import Volume
from tests.tiny import idle_but, tiny_model, tiny_pack, tiny_table, with_generator, with_pack


def field(shape, spacing, detail=0.0):
    """A smooth pattern of the world, sampled on a grid; and an oscillation of 2.4 mm."""
    grid = Geometry.from_spacing(shape, spacing, origin=np.divide(spacing, 2))
    x, y, z = np.moveaxis(grid.to_world(np.moveaxis(np.indices(shape), 0, -1)), -1, 0)
    array = 500 + 200 * np.sin(x / 6) * np.cos(y / 8) + 100 * np.sin(z / 7) + detail * np.sin(2 * np.pi * x / 2.4)
    return Volume(array.astype(np.float32), grid)


@pytest.mark.parametrize("spacing", [(2.0, 2.0, 2.0), (0.5, 0.8, 1.0), (1.0, 1.0, 3.0)])
def test_a_resampled_scan_is_the_scan_of_the_other_grid(spacing):
    scan = field((48, 40, 36), (1, 1, 1))
    moved = scan.resample(spacing)
    assert moved.geometry.spacing == pytest.approx(spacing)
    outer = [geometry.affine[:3, 3] - np.divide(geometry.spacing, 2) for geometry in (scan.geometry, moved.geometry)]
    np.testing.assert_allclose(outer[0], outer[1], atol=1e-9)  # the outer edge of the field of view stays
    truth = field(moved.geometry.shape, spacing).array
    inside = (slice(4, -4),) * 3
    assert np.abs(moved.array - truth)[inside].max() < 12  # of 600: the mean over a thicker voxel
    assert moved.array.min() >= scan.array.min() and moved.array.max() <= scan.array.max()


def test_detail_that_a_coarser_grid_cannot_hold_does_not_fold_back():
    plain, fine = (field((96, 24, 24), (1, 1, 1), detail).resample((3, 1, 1)).array for detail in (0.0, 150.0))
    every = field((96, 24, 24), (1, 1, 1), 150.0).array[1::3] - field((96, 24, 24), (1, 1, 1)).array[1::3]
    assert np.abs(fine - plain)[2:-2].std() < 0.5 * every[2:-2].std()


def test_a_mask_stays_a_mask():
    mask = field((24, 24, 24), (1, 1, 1))
    mask = mask.with_array((mask.array > 520).astype(np.float32))
    moved = mask.resample((1.7, 0.6, 1.0), nearest=True)
    assert set(np.unique(moved.array)) == {0, 1}
    assert moved.array.mean() == pytest.approx(mask.array.mean(), abs=0.03)


@pytest.fixture
def data(tmp_path):
    """Four heads, of 1, 1, 0.7 and 0.9 mm, with masks: of three patients."""
    folder = tmp_path / "data"
    folder.mkdir()
    lines = ["file,mask,patient,split"]
    for number, (patient, size) in enumerate([("a", 1.0), ("b", 1.0), ("c", 0.7), ("c", 0.9)]):
        shape = tuple(round(28 / size) for _ in range(3))
        scan = field(shape, (size, size, size))
        medldm.write(scan, folder / f"{number}.nii.gz")
        medldm.write(scan.with_array((scan.array > 400).astype(np.float32)), folder / f"{number}_mask.nii.gz")
        lines.append(f"{number}.nii.gz,{number}_mask.nii.gz,{patient},train")
    (folder / "index.csv").write_text("\n".join(lines))
    return folder


def table(**source):
    tells = {"folder": ".", "index": "index.csv", "mask": "{mask}", **source}
    return with_pack(tiny_table(3), spacing_range=[0.8, 1.2]) | {"validation_fraction": 0.0, "source": [tells]}


@pytest.mark.parametrize("cached", [False, True])
def test_scans_are_brought_to_the_recipes_grid_or_refused(data, tmp_path, cached):
    def scans_of(recipe):
        return load_scans(parse_recipe(recipe), data, cache=ArrayCache(tmp_path / "cache") if cached else None)

    with pytest.raises(InputError, match=r"2.nii.gz: got voxels of 0.7 .*resample = true"):
        scans_of(table())
    moved = scans_of(table(resample=True))
    assert [scan.facts.spacing for scan in moved] == [pytest.approx((1, 1, 1))] * 4
    assert {tuple(scan.image.shape) for scan in moved} == {(28, 28, 28)}
    assert torch.equal((moved[2].organ > 0) & (moved[2].image > 0), moved[2].organ > 0)
    wide = with_pack(table(), spacing_range=[0.6, 1.2])
    seen = seen_of(scans_of(wide), parse_recipe(wide))
    assert (seen.scans, seen.patients, seen.modality) == (4, 3, ())
    assert seen.spacing_range == pytest.approx((0.7 / 1.5, 1.0), abs=1e-6)  # crops are made larger, too
    assert seen.spacing == pytest.approx((0.95,) * 3)
    again = seen_of(scans_of(wide), parse_recipe(wide))
    assert again == seen  # a cache says the same when it is read


def test_interpolation_makes_no_detail_so_thick_slices_are_refused(tmp_path):
    medldm.write(field((28, 28, 6), (1, 1, 5)), tmp_path / "thick.nii.gz")
    for resample in (False, True):
        recipe = table() | {"source": [{"folder": ".", "resample": resample}]}
        with pytest.raises(InputError, match=r"1 x 1 x 5 mm; .*0.8 to 1.2 mm; .*widen pack.spacing_range"):
            load_scans(parse_recipe(recipe), tmp_path)


def test_a_grid_to_resample_to_lies_in_the_range():
    with pytest.raises(RecipeError, match=r"pack.spacing: .*expected within spacing_range, 2 to 3"):
        parse_recipe(with_pack(table(resample=True), spacing_range=[2.0, 3.0]))
    with pytest.raises(RecipeError, match=r"pack.seen: a table; expected none"):
        parse_recipe(with_pack(table(), seen={"scans": 9, "patients": 9}))


def test_a_model_vouches_for_what_it_saw_and_synthesizes_on_that_grid(tmp_path, dicom_series):
    folder = dicom_series("scans/one", rows=24, columns=24, n=16).parent
    scan = medldm.read(folder / "one")
    other = next(code for code in ("PT", "CT", "MR") if code != scan.modality)
    small = tiny_pack(3)["synthesis"] | {"shape": [16, 16, 12]}
    few = with_pack(tiny_table(3), modality=[other, scan.modality], spacing_range=[0.1, 9.0], synthesis=small)
    model = medldm.train(idle_but(few), data=folder, out=tmp_path / "pack", despite_gate=True)
    seen = json.loads((tmp_path / "pack" / "pack.json").read_text())["seen"]
    assert (seen["scans"], seen["patients"], seen["modality"]) == (1, 1, [scan.modality])
    turned = sorted(scan.geometry.spacing)
    assert seen["spacing_range"] == pytest.approx([turned[0] / few["augment_zoom"], turned[-1]])
    assert "1 scans of 1 patients" in model.card and f"modality: {scan.modality}; voxels" in model.card
    assert model.fits(scan) == []
    wide = Geometry.from_spacing((24, 24, 16), [3 * s for s in scan.geometry.spacing])
    doubts = model.fits(Volume(np.zeros(wide.shape), wide, modality=other))
    assert any(f"modality {other}" in text for text in doubts) and any("voxels of" in text for text in doubts)
    synthetic = next(medldm.synthesize(model=model, n=1, steps=2))
    assert sorted(synthetic.geometry.spacing) == pytest.approx(turned, abs=1e-4)
    assert synthetic.modality == scan.modality == describe(str(tmp_path / "pack")).modality


def test_what_no_scan_says_is_the_recipes_word(tmp_path):
    from PIL import Image

    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 255, (32, 32), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    recipe = with_pack(tiny_table(2), modality=["DX", "CR", "SC", "OT"]) | {
        "source": [{"folder": ".", "coarsen": [1, 2]}]
    }
    scans = load_scans(parse_recipe(recipe), tmp_path)
    seen = seen_of(scans, parse_recipe(recipe))
    assert seen.scans == len(scans) and seen.spacing_range is None and seen.spacing is None
    told = parse_recipe(recipe).pack.model_copy(update={"seen": seen})
    assert told.trained_range == (0.5, 3.0) and told.trained_spacing == (1, 1, 1)


def test_scans_smaller_than_what_is_to_be_synthesized_are_refused_before_any_work(data, tmp_path):
    """Those that are a little smaller are set in the middle of nothing."""
    large = with_generator(
        with_pack(table(resample=True), synthesis=tiny_pack(3)["synthesis"] | {"shape": [28, 28, 64]})
    )
    with pytest.raises(InputError, match=r"got 28 x 28 x 28 voxels; .*28 x 28 x 64 voxels; .*synthesis = false"):
        medldm.train(large, data=data, out=tmp_path / "out")
    assert not (tmp_path / "out" / "checkpoint.pt").exists()


def test_a_pack_of_before_is_read_as_it_was(tmp_path):
    model = tiny_model(tmp_path, 3)
    file = tmp_path / "tiny-3d" / "pack.json"
    old = json.loads(file.read_text())
    assert old.pop("seen") is None
    file.write_text(json.dumps(old))
    assert medldm.load_model(tmp_path / "tiny-3d").pack == model.pack
    assert model.pack.trained_range == (0.5, 3.0) and model.pack.trained_modality == ("MR",)
