"""Small lesions in training crops: local, of a known contrast, in images and volumes, and only where a recipe asks."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from medldm.operators.problem import problems_of
from medldm.recipe import parse_recipe
from medldm.training.batches import Batches
from medldm.training.lesions import APART, CONTRAST, DIAMETER, with_lesions
from medldm.training.scan import Scan
from tests.tiny import tiny_table, with_stages


@pytest.mark.parametrize("shape", [(96, 96), (48, 40, 44)])
def test_lesions_are_small_and_faint_to_plain(shape):
    rng, crop = np.random.default_rng(0), torch.full(shape, 0.6)
    highest, largest, none = [], [], 0
    for _ in range(40):
        change = (with_lesions(crop, rng) - crop).numpy()
        parts, count = ndimage.label(np.abs(change) > CONTRAST[0] / 4)
        assert count <= 1 + crop.numel() // APART ** len(shape)
        none += count == 0  # they may all be fainter than a voxel tells
        highest.append(np.abs(change).max())
        largest += [max(axis.stop - axis.start for axis in box) for box in ndimage.find_objects(parts)]
    assert none < 5
    assert max(highest) <= 3 * CONTRAST[1]  # some lie upon each other
    assert np.median(highest) > CONTRAST[0]
    assert np.median(largest) < DIAMETER[1] + 4


def test_they_are_as_wide_as_they_are_said_to_be(monkeypatch):
    monkeypatch.setattr("medldm.training.lesions.APART", 1000)  # one alone
    monkeypatch.setattr("medldm.training.lesions.DIAMETER", (8.0, 8.0))
    monkeypatch.setattr("medldm.training.lesions.CONTRAST", (0.2, 0.2))
    rng, crop = np.random.default_rng(0), torch.full((400, 400), 0.5)
    areas = [abs(float((with_lesions(crop, rng) - crop).sum())) / 0.2 for _ in range(60)]
    # those that the edge cuts are smaller; a disc of 8 is as large as the ellipses that are made of it
    assert np.median(areas) == pytest.approx(np.pi * 16, rel=0.05)


def test_nothing_falls_below_air():
    rng = np.random.default_rng(1)
    assert min(float(with_lesions(torch.full((32, 32), 0.01), rng).min()) for _ in range(20)) == 0
    assert float(with_lesions(torch.full((32, 32), -0.25), rng).min()) >= -0.25


def test_batches_have_them_where_the_recipe_says():
    def images(**share):
        recipe = parse_recipe(with_stages(tiny_table(2), head=share))
        size = torch.Generator().manual_seed(0)
        scans = [Scan(torch.rand(40, 36, generator=size), None, recipe.sources[0], f"scan {n}") for n in range(3)]
        head = next(stage for stage in recipe.stages if stage.train == "head")
        batches = Batches(scans, recipe, head, problems_of(recipe.pack), salt=1, all_flips=True)
        return batches.restoration(3).x

    assert torch.equal(images(lesions=0.0), images())
    assert not torch.equal(images(lesions=1.0), images())
