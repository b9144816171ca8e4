"""Weights divided among processes come back whole: three real processes, sizes that do not divide by three."""

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from medldm.training import parallel
from tests.processes import side_by_side

SIZES = [(1,), (2, 5), (3, 1, 2), (4,), (7, 3), (64, 2), (5, 0)]


def divided_and_gathered(rank, meeting):
    """How many tensors came back as they were."""
    parallel.BUCKET_BYTES = 200  # several buckets
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=3)
    mesh = init_device_mesh("cpu", (3,))
    generator = torch.Generator().manual_seed(0)
    kinds = (torch.float32, torch.float64)
    whole = [torch.randn(*size, generator=generator).to(kind) for kind in kinds for size in SIZES]
    parts = [distribute_tensor(part, mesh, [Shard(0)]) for part in whole]
    back = parallel.gathered({"a": parts, "b": {"count": 3, "plain": torch.ones(2)}})
    assert back["b"]["count"] == 3 and torch.equal(back["b"]["plain"], torch.ones(2))
    assert all(type(part) is torch.Tensor for part in back["a"])
    return sum(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(back["a"], whole, strict=True))


def module_made_whole(rank, meeting):
    """Whether a module whose weights were divided has those of before; they are the first process's."""
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=3)
    mesh = init_device_mesh("cpu", (3,))
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Linear(5, 1))
    before = [parameter.detach().clone() for parameter in module.parameters()]
    for layer in module:
        for name, parameter in list(layer.named_parameters()):
            layer.register_parameter(name, torch.nn.Parameter(distribute_tensor(parameter.detach(), mesh, [Shard(0)])))
    assert parallel.is_divided(module)
    parallel.make_whole(module)
    assert not parallel.is_divided(module)
    return all(torch.equal(a.detach(), b) for a, b in zip(module.parameters(), before, strict=True))


def test_divided_tensors_come_back_as_they_were(tmp_path):
    assert side_by_side(3, divided_and_gathered, tmp_path / "meeting") == [2 * len(SIZES)] * 3


def test_a_divided_module_is_made_whole(tmp_path):
    assert side_by_side(3, module_made_whole, tmp_path / "meeting") == [True] * 3
