"""A distilled model draws in a few steps what its teacher, guided, draws in many."""

import copy

import numpy as np
import pytest
import torch

import medldm
from medldm.space import centred_geometry
from medldm.training.trajectories import between
from medldm.volume import Volume
from tests.toys import SIZE, ellipses_recipe, place, write_ellipses

GUIDE = {"unet": {"channels": [16, 32], "attention_levels": [False, False]}, "scale": 2.5, "lowest_sigma": 0.0}


def test_a_teachers_levels_hold_the_students():
    sigmas = torch.tensor([80.0, 4.0, 0.5, 0.0], dtype=torch.float64)
    levels, ends = between(sigmas, 3, 0.1)
    assert ends == [2, 5, 8]
    torch.testing.assert_close(levels[[0, 3, 6, 9]], sigmas)
    ratios = levels[1:9] / levels[:8]
    torch.testing.assert_close(ratios[:3], ratios[:1].expand(3))
    assert levels[8] == pytest.approx(0.1) and (levels.diff() < 0).all()
    once, ends = between(sigmas, 1, 0.1)
    torch.testing.assert_close(once, sigmas)
    assert ends == [0, 1, 2]
    low, ends = between(sigmas, 3, 1.0)  # the teacher stops above the student's last level
    torch.testing.assert_close(low[[0, 3, 6, 7]], sigmas)
    assert ends == [2, 5, 6]


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    folder = tmp_path_factory.mktemp("taught")
    write_ellipses(folder / "data", 96)
    recipe = ellipses_recipe(220)
    recipe["pack"]["synthesis"]["cascade"][0] |= {"guide": GUIDE, "last_sigma": 0.15}
    recipe["stage"].insert(1, copy.deepcopy(recipe["stage"][1]) | {"guide": True, "steps": 60})
    medldm.train(recipe, data=folder / "data", out=folder / "model", despite_gate=True)
    medldm.distill(
        folder / "model", data=folder / "data", out=folder / "fast", trajectories=256, steps=400, lr=1e-3, evaluations=3
    )
    return folder


def _drawn(model, steps: int | None, **asked: object) -> np.ndarray:
    scans = medldm.synthesize(model=model, n=16, batch=16, seed=5, steps=steps, conditions=asked)
    return np.stack([scan.array for scan in scans])


def _error(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sqrt(np.mean((a - b) ** 2)))


@pytest.mark.parametrize("said, share", [(True, 0.4), (False, 0.75)], ids=["conditions", "none"])
def test_a_distilled_model_arrives_where_its_guided_teacher_does(taught, said, share):
    teacher = medldm.load_model(taught / "model")
    where = Volume(place(18).T[..., None].astype(np.float32), centred_geometry(teacher.pack, (SIZE, SIZE, 1)))
    asked = {"shape": "tall", "radius": 5, "place": where} if said else {}
    many, few = _drawn(teacher, 20, **asked), _drawn(teacher, 3, **asked)
    level = teacher.networks.generator(0)
    level.table = level.table.model_copy(update={"guide": level.table.guide.model_copy(update={"scale": 1.0})})
    unguided = _drawn(teacher, 20, **asked)
    drawn = _drawn(taught / "fast", None, **asked)
    assert _error(drawn, many) < share * _error(few, many)
    assert _error(drawn, many) < 0.85 * _error(drawn, unguided)
