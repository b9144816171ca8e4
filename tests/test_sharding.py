"""Weights divided among processes come back whole: three real processes, sizes that do not divide by three."""

import pytest

from benchmarks import survival

SCRIPT = """
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
from medldm.training import parallel as sharding

sharding.BUCKET_BYTES = 200  # several buckets
dist.init_process_group("gloo")
mesh = init_device_mesh("cpu", (3,))
generator = torch.Generator().manual_seed(0)
sizes = [(1,), (2, 5), (3, 1, 2), (4,), (7, 3), (64, 2), (5, 0)]
whole = [torch.randn(*size, generator=generator).to(kind) for kind in (torch.float32, torch.float64) for size in sizes]
tree = {"a": [distribute_tensor(part, mesh, [Shard(0)]) for part in whole], "b": {"count": 3, "plain": torch.ones(2)}}
back = sharding.gathered(tree)
assert all(type(part) is torch.Tensor for part in back["a"])
assert all(torch.equal(part, like) and part.dtype == like.dtype for part, like in zip(back["a"], whole, strict=True))
assert back["b"]["count"] == 3 and torch.equal(back["b"]["plain"], torch.ones(2))
module = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Linear(5, 1))
before = [parameter.detach().clone() for parameter in module.parameters()]
for layer in module:
    for name, parameter in list(layer.named_parameters()):
        layer.register_parameter(name, torch.nn.Parameter(distribute_tensor(parameter.detach(), mesh, [Shard(0)])))
assert sharding.is_divided(module)
sharding.make_whole(module)
assert not sharding.is_divided(module)
mine = [parameter.detach() for parameter in module.parameters()]
dist.broadcast_object_list(first := [before], 0)
assert all(torch.equal(a, b) for a, b in zip(mine, first[0], strict=True))
print("whole again")
"""


@pytest.mark.slow
def test_divided_tensors_come_back_as_they_were(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = survival.run(survival.in_processes(3, [str(script)]))
    assert done.stdout.count("whole again") == 3, done.stderr[-2000:]
