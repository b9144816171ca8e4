"""Conditions: checked values, embeddings that are dropped one by one, and a model of shapes that obeys them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import TypeAdapter

from medldm.conditions import ConditionTable, LabelMapCondition, check_conditions
from medldm.diffusion.noise import FieldNoise
from medldm.errors import InputError
from medldm.geometry import Geometry
from medldm.nets.conditioner import Conditioner, Conditions
from medldm.recipe import parse_recipe
from medldm.space import map_condition
from medldm.training.whole_images import _origin, _resampled
from medldm.volume import Volume
from tests.tiny import tiny_table

TABLES = {
    name: TypeAdapter(ConditionTable).validate_python(table)
    for name, table in {
        "shape": {"kind": "class", "values": ["disc", "square"]},
        "type": {"kind": "number", "low": 0.0, "high": 10.0},
        "report": {"kind": "tokens", "vocabulary": ["small", "large", "left"], "length": 3},
        "prior": {"kind": "image"},
        "tissue": {"kind": "label_map", "labels": {"fat": [1, 2], "bone": [7]}},
    }.items()
}


def test_values_are_checked_and_numbered():
    found = check_conditions(TABLES, {"shape": "square", "type": "2.5", "report": "large left"}, "model m")
    assert found == {"shape": 1, "type": 2.5, "report": [2, 3]}
    assert check_conditions(TABLES, {"shape": "", "type": None}, "model m") == {}


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"shapes": "disc"}, r"one of: shape, type, report, prior, tissue; did you mean 'shape'\?"),
        ({"shape": "disk"}, r"got 'disk'; expected one of: disc, square; did you mean 'disc'\?"),
        ({"type": 11}, "a number from 0 to 10, as the model was trained on"),
        ({"type": "nan"}, "a number from 0 to 10"),
        ({"type": "old"}, "a number from 0 to 10"),
        ({"report": "small small small small"}, "got 4 words; expected 3 at most"),
        ({"report": "tiny"}, "one of: small, large, left"),
    ],
)
def test_wrong_conditions_name_what_is_known(said, message):
    with pytest.raises(InputError, match=message):
        check_conditions(TABLES, said, "model m")


def _asked(size: tuple[int, ...], **said: object) -> Conditions:
    return Conditions.of(TABLES, check_conditions(TABLES, said, "m"), size)


@pytest.mark.parametrize("dims", [2, 3])
def test_what_is_not_said_does_not_count_and_each_null_is_learned(dims):
    """A dropped condition gives what none gives, whatever its value; each null gets a gradient."""
    torch.manual_seed(0)
    size, block = (16,) * dims, (4,) * dims
    conditioner = Conditioner(TABLES, dims, [16, 32], 1, block)
    for parameter in conditioner.parameters():
        torch.nn.init.normal_(parameter)
    maps = {"prior": torch.rand(size), "tissue": torch.randint(0, 3, size)}
    said = _asked(size, shape="disc", type=3, report="small left", **maps)
    other = _asked(size, shape="square", type=9, report="large", prior=1 - maps["prior"], tissue=2 - maps["tissue"])
    told, differs = conditioner(said), conditioner(other)
    for part, another in zip(_tensors(told), _tensors(differs), strict=True):
        assert not torch.allclose(part, another)
    nothing, nothing_else = conditioner(said.without()), conditioner(other.without())
    for part, another in zip(_tensors(nothing), _tensors(nothing_else), strict=True):
        assert torch.equal(part, another)
    for name in TABLES:
        alone = conditioner(said.without(name))
        changed = [not torch.allclose(a, b) for a, b in zip(_tensors(alone), _tensors(told), strict=True)]
        assert any(changed), name
    sum(part.square().sum() for part in _tensors(nothing)).backward()
    assert conditioner.nulls["of_type"].grad.abs().sum() > 0
    assert conditioner.embeddings["of_shape"].weight.grad[-1].abs().sum() > 0
    assert conditioner.embeddings["of_shape"].weight.grad[:-1].abs().sum() == 0


def _tensors(condition) -> list[torch.Tensor]:
    return [part for part in (*condition[:3], *condition.control) if part is not None]


def test_conditions_are_dropped_sample_by_sample():
    batch = Conditions.together([_asked((8, 8), shape="disc", type=3), _asked((8, 8), shape="disc", type=3)])
    dropped = batch.dropped({"shape": torch.tensor([True, False])})
    assert dropped.present["shape"].tolist() == [True, False] and dropped.present["type"].tolist() == [True, True]


def test_noise_belongs_to_its_cell():
    """A part of a field sees what the whole sees, and a sample what it sees alone."""
    whole = FieldNoise([(1, 0), (1, 1)], torch.device("cpu"))
    field = whole.draw(3, 4, [slice(0, 40), slice(0, 24)])
    assert field.shape == (2, 4, 40, 24) and abs(float(field.std()) - 1) < 0.02
    part = FieldNoise([(1, 1)], torch.device("cpu")).draw(3, 4, [slice(5, 30), slice(11, 24)])
    assert torch.equal(part[0], field[1, :, 5:30, 11:24])
    assert not torch.equal(field[0], field[1])
    assert not torch.equal(whole.draw(4, 4, [slice(0, 40), slice(0, 24)]), field)


def test_a_value_that_no_label_has_is_told_those_that_there_are():
    table = LabelMapCondition(kind="label_map", labels={"grey": (3, 4, 5, 9), "white": (41,)})
    pack = parse_recipe(tiny_table(2)).pack
    labels = Volume(np.full((4, 4, 1), 7.0), Geometry.from_spacing((4, 4, 1), (1, 1, 1)))
    with pytest.raises(
        InputError, match="tissue: got the value 7; expected 0, or a value of grey: 3 to 5, 9; white: 41; map"
    ):
        map_condition(table, labels, pack, "tissue")


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(("cell", "part"), [(4, 1), (8, 2), (2, 1)])
def test_shares_of_labels_are_means_over_the_parts_of_a_cell(dims, cell, part):
    tables = {"tissue": LabelMapCondition(kind="label_map", labels={"a": (1,), "b": (2,), "c": (3,)})}
    conditioner = Conditioner(tables, dims, (16, 32), 1, (cell,) * dims)
    labels = torch.randint(0, 4, (3, 1, *(16, 8, 24)[:dims]), generator=torch.Generator().manual_seed(0))
    shares = conditioner._shares(labels, torch.tensor([True, False, True]), 3)
    pool = (F.avg_pool2d, F.avg_pool3d)[dims - 2]
    expected = torch.cat(
        [pool((labels == k).float(), part) for k in (1, 2, 3)] + [pool((labels >= 0).float(), part)], 1
    )
    expected[1] = 0  # not said
    assert torch.equal(shares, expected)


@pytest.mark.parametrize("ratio", [1, 2])
@pytest.mark.parametrize("zoom", [[0.8, 0.8, 0.8], [1.03, 0.9, 1.2], [1.0, 1.0, 1.0]])
def test_zooming_is_linear_for_images_and_nearest_for_labels(zoom, ratio):
    shift, shape = [0.02, -0.05, 0.03], (14, 12, 10)
    image, labels = torch.rand(shape, generator=torch.Generator().manual_seed(0)), torch.arange(1680).view(shape)
    theta = torch.cat([torch.diag(1 / torch.tensor(zoom[::-1])), -2 * torch.tensor(shift[::-1])[:, None]], dim=1)[None]
    grid = F.affine_grid(theta, [1, 1, *shape], align_corners=False)
    origins = [_origin(n, along, by * n) for n, along, by in zip(shape, zoom, shift, strict=True)]
    for field, mode, means in ((image, "bilinear", ratio), (labels, "nearest", 1)):
        expected = F.grid_sample(field[None, None].float(), grid, mode=mode, padding_mode="border", align_corners=False)
        expected = F.avg_pool3d(expected, means)[0, 0].to(field.dtype)
        torch.testing.assert_close(_resampled(field, origins, means), expected, rtol=0, atol=1e-5)
