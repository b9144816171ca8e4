"""Slices of volumes are images of their own for a 2D model, turned alike, with one range a volume."""

import numpy as np
import pytest
import torch

import medldm
from medldm.errors import InputError, RecipeError
from medldm.geometry import Geometry
from medldm.io.array_cache import ArrayCache
from medldm.recipe import parse_recipe
from medldm.training.data import load_scans
from medldm.volume import Volume
from tests.tiny import tiny_table, with_pack

SHAPE = (24, 20, 9)


def torso(seed):
    """In HU, axes L, P, S; its first and last slice are blank."""
    array = np.random.default_rng(seed).integers(-1000, 1000, SHAPE).astype(np.float32)
    array[..., [0, -1]] = -1024
    return Volume(array, Geometry.from_spacing(SHAPE, (1, 1, 3)).flip((0, 1)), "HU", "CT").reorient("LPS")


@pytest.fixture
def data(tmp_path):
    """Two volumes of one patient, one of them stored with other axes, and a single slice of another."""
    folder = tmp_path / "data"
    folder.mkdir()
    medldm.write(torso(0), folder / "a.nii.gz")
    medldm.write(torso(1).reorient("ASL"), folder / "b.nii.gz")
    medldm.write(torso(2).crop((0, 0, 4), (24, 20, 5)).reorient("RAS"), folder / "c.nii.gz")
    (folder / "index.csv").write_text("file,patient,split\na.nii.gz,x,train\nb.nii.gz,x,train\nc.nii.gz,y,train\n")
    return folder


def recipe(dims=2, **source):
    window = {"kind": "window", "low": -1000.0, "high": 1000.0}
    table = with_pack(tiny_table(dims), modality=["CT"], intensity=window, spacing_range=[0.5, 2.0])
    return table | {"validation_fraction": 0.0, "source": [{"folder": ".", "index": "index.csv", **source}]}


@pytest.mark.parametrize("cached", [False, True])
def test_each_slice_is_an_image_in_the_models_axes(data, tmp_path, cached):
    cache = (lambda: ArrayCache(tmp_path / "cache")) if cached else (lambda: None)
    scans = list(load_scans(parse_recipe(recipe(slices=2)), data, cache=cache()))
    kept = [2, 4, 6]  # 0 and 8 are blank
    expected = [torso(seed).array[..., k] for seed in (0, 1) for k in kept] + [torso(2).array[..., 4]]
    assert len(scans) == len(expected)
    for scan, array in zip(scans, expected, strict=True):
        torch.testing.assert_close(scan.image, torch.from_numpy((array + 1000) / 2000))
    assert len({scan.patient for scan in scans}) == 2 and len({scan.name for scan in scans}) == 7
    assert {scan.facts.spacing for scan in scans} == {(1.0, 1.0, 3.0)}
    again = load_scans(parse_recipe(recipe(slices=2)), data, cache=cache())  # a cache gives what was put there
    assert all(torch.equal(a.image, b.image) and a.name == b.name for a, b in zip(scans, again, strict=True))
    every = load_scans(parse_recipe(recipe(slices=1)), data, cache=cache())
    assert len(every) == 7 + 7 + 1


def test_one_range_for_all_slices_of_a_volume(data):
    table = with_pack(recipe(slices=1), intensity={"kind": "percentile", "low": 0.0, "high": 100.0})
    scans = load_scans(parse_recipe(table), data)
    raw = [torso(0).array[..., k] for k in range(1, 8)]
    lines = [np.polyfit(one.ravel(), scan.image.numpy().ravel(), 1) for one, scan in zip(raw, scans, strict=False)]
    np.testing.assert_allclose(lines, [lines[0]] * 7, rtol=1e-4)
    assert lines[0][0] > 0


def test_volumes_are_refused_where_slices_were_not_asked_for(data):
    with pytest.raises(InputError, match=r"a.nii.gz: got 9 slices; .*write slices = 1 in its source"):
        load_scans(parse_recipe(recipe()), data)
    with pytest.raises(RecipeError, match=r"source.0.slices: 2; expected none: a model of volumes"):
        parse_recipe(recipe(3, slices=2))
    with pytest.raises(RecipeError, match=r"source.0.slices: 0; expected .*greater than or equal to 1"):
        parse_recipe(recipe(slices=0))


def test_slices_are_of_the_plane_that_the_axes_say(data):
    scans = load_scans(parse_recipe(with_pack(recipe(slices=7), axcodes="PSL", spacing_range=[0.5, 4.0])), data)
    found = torso(0).reorient("PSL").array[..., 7]
    torch.testing.assert_close(scans[1].image, torch.from_numpy((found + 1000) / 2000).clamp(scans[1].image.min()))
