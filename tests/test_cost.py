"""Estimates of a training's memory, against what a small stage is known to keep."""

import numpy as np
import pytest
import torch

import medldm
from medldm.training.batches import Batch
from medldm.training.cost import _activation_bytes
from medldm.training.stages import Stage
from tests.tiny import tiny_table, with_stages


class Known(Stage):
    """Two products: backward needs the input of each, and nothing else."""

    def __init__(self):
        super().__init__(torch.nn.Sequential(torch.nn.Linear(8, 16, bias=False), torch.nn.Linear(16, 4, bias=False)))

    def batch(self, batches, step):
        raise NotImplementedError

    def forward(self, batch):
        return {"loss": self.trained(batch.x).sum()}


@pytest.mark.parametrize("count", [1, 32])
def test_what_backward_keeps_is_counted_once(count):
    batch = Batch(torch.rand(count, 8), None, "", (0,) * count, (0,) * count)
    assert _activation_bytes(Known(), batch) == 4 * count * (8 + 16)


def test_each_stage_with_steps_is_estimated_and_nothing_is_written(tmp_path):
    for index in range(3):
        medldm.write(
            medldm.Volume(
                np.random.default_rng(index).random((40, 36, 1), dtype=np.float32) * 200,
                medldm.Geometry.from_spacing((40, 36, 1), (1, 1, 1)),
                "grey8",
            ),
            tmp_path / f"{index}.png",
        )
    from medldm.recipe import parse_recipe

    table = tiny_table(2)
    recipe = parse_recipe(with_stages(table, denoiser={"steps": 0}))
    before = sorted(tmp_path.iterdir())
    costs = medldm.estimate_training(recipe, data=tmp_path)
    assert [cost.name for cost in costs] == ["autoencoder", "head-main"]
    larger = parse_recipe(with_stages(table, head={"batch_size": 8}))
    head = medldm.estimate_training(larger, data=tmp_path)[-1]
    fixed = 2 * costs[-1].memory_bytes - head.memory_bytes / 2  # weights do not grow with the batch, the rest does
    assert costs[-1].memory_bytes < head.memory_bytes < 4 * costs[-1].memory_bytes
    assert fixed > 0
    assert all(cost.seconds > 0 for cost in costs)
    assert sorted(tmp_path.iterdir()) == before
