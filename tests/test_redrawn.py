"""A finer level is shown coarse images as the level before draws them again; and a distillation of such a cascade."""

import copy
import json

import numpy as np
import pytest
import torch
from PIL import Image

import medldm
from medldm.diffusion.generator import coarsened
from medldm.errors import RecipeError
from medldm.networks import Networks
from medldm.recipe import parse_recipe
from medldm.space import centred
from medldm.stage_tables import GeneratorStage
from medldm.training.batches import Batches
from medldm.training.data import load_scans
from medldm.training.redrawn import Redrawn, redraw
from medldm.training.whole_images import whole_batch
from tests.toys import COLUMN, ROW, SIZE, UNET, recipe_of

CASCADE = {"cascade": [{"coarsen": 2, "unet": UNET, "steps": 8, "last_sigma": 0.15}, {"coarsen": 1, "unet": UNET}]}


def _recipe(steps: tuple[int, int] = (1, 1), **finer: object) -> dict:
    """Discs of any radius; the second level is trained on parts."""
    table = recipe_of("discs", CASCADE, {}, {"steps": steps[0]})
    table["stage"].append(copy.deepcopy(table["stage"][1]) | {"level": 1, "steps": steps[1], "crop": [16, 16], **finer})
    return table


@pytest.fixture(scope="module")
def discs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("discs")
    rng = np.random.default_rng(0)
    for number in range(24):
        disc = np.hypot(ROW - 15.5, COLUMN - 15.5) <= rng.uniform(5, 13)
        Image.fromarray((40 + 160 * disc).astype(np.uint8)).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def trained(discs, tmp_path_factory):
    """The first level knows discs; the folder has what the second was shown."""
    out = tmp_path_factory.mktemp("redrawn") / "out"
    medldm.train(_recipe((150, 4), redraws=3), data=discs, out=out, despite_gate=True)
    return out


def _batches(recipe, scans, rank: int = 0, world: int = 1) -> Batches:
    return Batches(scans, recipe, recipe.stages[-1], {}, salt=200, all_flips=False, rank=rank, world=world)


def test_what_is_redrawn_is_the_image_but_for_what_its_noise_hid(trained, discs):
    recipe = parse_recipe(_recipe(redraws=3))
    scans = load_scans(recipe, discs)
    versions = [np.load(trained / "redrawn-2" / f"{n:03d}.npy").astype(np.float32) for n in range(3)]
    real = torch.stack([coarsened(centred(s.image, [SIZE, SIZE])[None, None], 2)[0, 0] for s in scans]).numpy()
    apart = [np.sqrt(np.mean((version - real) ** 2)) for version in versions]
    assert all(version.shape == real.shape for version in versions)
    assert len({round(float(a), 5) for a in apart}) == 3, "each from its own noise"
    others = np.sqrt(np.mean((real - np.roll(real, 1, axis=0)) ** 2))
    assert min(apart) > 0 and max(apart) < 0.6 * others, "still the image that it was, not another one"


def test_processes_share_the_drawing_and_a_resumed_one_goes_on(trained, discs, tmp_path):
    recipe = parse_recipe(_recipe(redraws=3))
    scans, networks = load_scans(recipe, discs), medldm.load_model(trained).networks
    redraw(networks, 1, 3, _batches(recipe, scans), tmp_path / "one")
    for rank in (1, 0):
        redraw(networks, 1, 3, _batches(recipe, scans, rank, 2), tmp_path / "two")
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert files == ["000.npy", "001.npy", "002.npy"]
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    kept, gone = (tmp_path / "two" / name for name in files[:2])
    stamp = kept.stat().st_mtime_ns
    gone.unlink()
    redraw(networks, 1, 3, _batches(recipe, scans), tmp_path / "two")
    assert kept.stat().st_mtime_ns == stamp and gone.read_bytes() == (tmp_path / "one" / files[1]).read_bytes()


@pytest.mark.parametrize("moved", [{}, {"flip": 0.5, "shift": 0.2}])
def test_parts_are_shown_the_same_part_redrawn(discs, tmp_path, moved):
    """Redrawn images that are the real ones and a constant: what is shown is coarser than the part, and brighter."""
    recipe = parse_recipe(_recipe(redraws=2, **moved))
    scans = load_scans(recipe, discs)
    table = recipe.stages[-1]
    assert isinstance(table, GeneratorStage)
    real = torch.stack([coarsened(scan.image[None, None], 2)[0, 0] for scan in scans]).numpy()
    for version in range(2):
        np.save(tmp_path / f"{version:03d}.npy", (real + 0.25 * (version + 1)).astype(np.float16))
    batches = _batches(recipe, scans)
    batches.redrawn = Redrawn(2, tmp_path)
    batch = whole_batch(batches, 0, table)
    brighter = (batch.coarse - coarsened(batch.x, 2)).flatten(1)
    if not moved:  # else whole voxels of the part lie between two of the coarser image
        assert brighter.std(1).max() < 1e-3
    assert {round(float(b) * 4) for b in brighter.mean(1)} == {1, 2}
    assert (brighter.mean(1) * 4 - (brighter.mean(1) * 4).round()).abs().max() < 0.1


def test_a_training_with_redrawn_images_is_resumed_and_distilled(trained, discs):
    told = json.loads((trained / "training.json").read_text())
    assert [stage.get("redraws") for stage in told["stage"]] == [None, 0, 3]
    again = medldm.train(_recipe((150, 4), redraws=3), data=discs, out=trained, despite_gate=True)
    assert isinstance(again.networks, Networks)
    fast = trained.parent / "fast"
    medldm.distill(trained, data=discs, out=fast, trajectories=8, steps=2, batch_size=4, evaluations=[3, 2])
    stages = json.loads((fast / "training.json").read_text())["stage"]
    assert [(stage["level"], stage["redraws"]) for stage in stages[1:]] == [(1, 3), (0, 0)]
    [scan] = medldm.synthesize(model=fast, n=1)
    assert scan.history[-1]["steps"] == [3, 2]


def test_nothing_is_drawn_before_the_first_level():
    table = _recipe()
    table["stage"][1]["redraws"] = 2
    with pytest.raises(RecipeError, match=r"stage.1.redraws: 2; expected 0: nothing is drawn before the first level"):
        parse_recipe(table)


def test_what_nobody_taught_is_not_drawn_again(discs, tmp_path):
    """A training of a finer level alone, on what random weights draw, would run to its end and be of no use."""
    with pytest.raises(RecipeError, match="level 0 is untrained"):
        medldm.train(_recipe((0, 1), redraws=2), data=discs, out=tmp_path / "out", despite_gate=True)
    guide = copy.deepcopy(_recipe((0, 1), redraws=2))
    guide["pack"]["synthesis"]["cascade"][0]["guide"] = {"unet": UNET}
    guide["stage"].insert(1, guide["stage"][1] | {"guide": True, "steps": 1})
    with pytest.raises(RecipeError, match="level 0 is untrained"):
        medldm.train(guide, data=discs, out=tmp_path / "guide", despite_gate=True)


def test_a_model_that_is_started_from_brings_its_levels(trained, discs, tmp_path):
    alone = _recipe((0, 1), redraws=2)
    out = tmp_path / "whole"
    medldm.train(alone, data=discs, out=out, start=trained, despite_gate=True)
    own, before = (medldm.load_model(folder).networks.generator(0).state_dict() for folder in (out, trained))
    assert all(torch.equal(own[key], before[key]) for key in before)
    again = medldm.train(alone, data=discs, out=out, resume=True, despite_gate=True)  # without the model
    assert isinstance(again.networks, Networks)
    alone["pack"]["autoencoder"] = {"kind": "start"}  # takes the autoencoder, and no level
    with pytest.raises(RecipeError, match="kind = "):
        medldm.train(alone, data=discs, out=tmp_path / "alone", start=trained, despite_gate=True)
