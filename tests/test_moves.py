"""How images are moved in the training of a generator: told to the network, which then draws them as they are."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import medldm
from medldm.diffusion.cascade import _cut
from medldm.diffusion.generator import Coarse
from medldm.nets.conditioner import Conditions
from medldm.networks import Networks
from medldm.recipe import parse_recipe
from medldm.stage_tables import GeneratorStage
from medldm.training import whole_images
from medldm.training.batches import Batches
from medldm.training.scan import Scan
from medldm.training.whole_images import whole_batch
from tests.toys import COLUMN, ROW, SIZE, UNET, recipe_of

FARTHEST = 0.25  # a quarter of the image, where all lie in the middle


def _recipe(steps: int = 1, coarsen: tuple[int, ...] = (1,), **moved: object) -> dict:
    levels = [{"coordinates": True, "coarsen": n, "unet": UNET} for n in coarsen]
    return recipe_of("discs", {"cascade": levels}, {}, {"steps": steps, **moved})


def _disc(radius: float) -> np.ndarray:
    return np.hypot(ROW - 15.5, COLUMN - 15.5) <= radius


def _batch(image: np.ndarray, **moved: object):
    recipe = parse_recipe(_recipe(**moved))
    scan = Scan(torch.from_numpy(image.astype(np.float32)), None, recipe.sources[0], "scan 1")
    batches = Batches([scan], recipe, recipe.stages[-1], {}, salt=1, all_flips=False)
    table = recipe.stages[-1]
    assert isinstance(table, GeneratorStage)
    return whole_batch(batches, 0, table)


@pytest.mark.parametrize("coarsen", [(1,), (2, 1)])
def test_what_the_network_is_told_is_where_each_cell_lay(coarsen):
    ramp = np.stack([ROW, COLUMN]) - 15.5
    for axis in (0, 1):  # of an image that says its coordinate: its cells' means are what is told
        batch = _batch(ramp[axis], coarsen=coarsen, shift=0.2, zoom=0.1, stretch=0.1, flip=0.5)
        means = F.avg_pool2d(batch.x, 4)[:, 0] / (SIZE / 2)
        inside = batch.where.abs().amax(1) < 0.7  # beyond its edge the image is repeated
        assert inside.any(2).any(1).all()
        torch.testing.assert_close(means[inside], batch.where[:, axis][inside], atol=1e-5, rtol=0)
        assert len(torch.unique(batch.where[:, axis].flatten(1)[:, 0])) > 6


def test_parts_of_images_lie_where_they_lie():
    batch = _batch(ROW - 15.5, shift=FARTHEST, flip=0.5, crop=[16, 16])
    means, inside = F.avg_pool2d(batch.x, 4)[:, 0] / (SIZE / 2), batch.where.abs().amax(1) < 0.8
    assert batch.where.shape == (16, 2, 4, 4)
    torch.testing.assert_close(means[inside], batch.where[:, 0][inside], atol=1e-5, rtol=0)


def test_what_is_not_moved_lies_where_sampling_says():
    networks = Networks(parse_recipe(_recipe()).pack)
    batch = _batch(ROW)
    assert torch.equal(batch.where, networks.generator(0).where([8, 8]).expand(16, 2, 8, 8))
    wider = networks.generator(0).where([16, 8])  # a larger field goes on in the same units
    assert torch.equal(wider[:, :, 4:12], networks.generator(0).where([8, 8]))


def test_tiles_are_told_where_they_lie():
    generator = Networks(parse_recipe(_recipe(coarsen=(2, 1))).pack).generator(1)
    cells = [16, 8]
    coarse = Coarse(torch.rand(3, 1, 32, 16), torch.full((3,), 0.01))
    told = generator.condition(Conditions({}, {}), coarse, generator.where(cells))
    tile = _cut(told, (slice(4, 12), slice(2, 6)), cells)
    assert torch.equal(tile.concat[1, :2], generator.where(cells)[0, :, 4:12, 2:6])


def test_a_bend_is_not_told_and_goes_no_further_than_asked():
    bend, ramp = 0.06, np.stack([ROW, COLUMN]) - 15.5
    for axis in (0, 1):
        batch = _batch(ramp[axis], coarsen=(2, 1), bend=bend)
        assert torch.equal(batch.where, _batch(ramp[axis], coarsen=(2, 1)).where)
        apart = F.avg_pool2d(batch.x, 4)[:, 0] / (SIZE / 2) - batch.where[:, axis]
        assert apart.abs().max() <= 2 * bend + 1e-5
        assert (apart.abs().flatten(1).max(1).values > 0.2 * bend).all()
        assert len(torch.unique(apart[:, 0, 0])) > 10  # nobody twice
    still = _batch(ramp[0], coarsen=(1,), bend=bend)  # what is not coarsened is not blurred
    assert torch.equal(still.x, _batch(ramp[0]).x)


def test_labels_are_bent_with_their_image():
    field = torch.arange(64.0).repeat_interleave(64).view(64, 64)
    places = whole_images._bend([64, 64], 0.08, np.random.default_rng(2))
    image, labels = whole_images._bent(field, places), whole_images._bent(field.long(), places)
    assert labels.dtype == torch.int64 and (image - labels).abs().max() <= 0.51
    assert (labels != field.long()).float().mean() > 0.5


@pytest.mark.slow
def test_moved_images_are_not_drawn(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "data").mkdir()
    for number in range(48):
        grey = 40 + 160 * _disc(rng.uniform(4, 7)) + rng.integers(0, 10, (SIZE, SIZE))
        Image.fromarray(grey.astype(np.uint8)).save(tmp_path / "data" / f"{number}.png")
    table = _recipe(300, shift=FARTHEST)
    model = medldm.train(copy.deepcopy(table), data=tmp_path / "data", out=tmp_path / "out", despite_gate=True)
    centres = []
    for scan in medldm.synthesize(model=model, n=16, steps=10):
        first, second = np.where(scan.array[..., 0] > 120)
        centres.append((first.mean(), second.mean()))
    away = np.abs(np.array(centres) - 15.5).max(1)
    assert np.median(away) < 1.5  # of up to 8, and 4 in the mean, where the network draws what it was shown
