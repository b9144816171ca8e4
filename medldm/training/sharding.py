"""Weights divided among processes (FSDP): divided for a stage, whole in checkpoints and between stages."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from medldm.training.layout import rows_last

BUCKET_BYTES = 64 * 2**20  # gathered at once: few messages, and no second model on the device


def shard(module: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Divide the weights of a stage over the data-parallel processes; they are gathered for each forward."""
    rows_last(module)
    fully_shard(module, mesh=mesh["data_parallel"])
    return module


def is_divided(module: nn.Module) -> bool:
    return any(isinstance(parameter, DTensor) for parameter in module.parameters())


def _share(tensor: DTensor) -> Tensor:
    """This process's rows of a divided tensor, flat, filled up to the number that the first process has."""
    world = tensor.device_mesh.size()
    if tensor.placements != (Shard(0),):
        raise NotImplementedError(f"weights divided as {tensor.placements}")
    local = tensor.to_local().flatten()
    rows = -(-tensor.shape[0] // world)
    return nn.functional.pad(local, (0, rows * math.prod(tensor.shape[1:]) - len(local)))


@torch.no_grad()
def _gather(tensors: list[DTensor]) -> list[Tensor]:
    """The whole of tensors of one type and mesh, in one message. All processes must call it."""
    mesh = tensors[0].device_mesh
    shares = [_share(tensor) for tensor in tensors]
    mine = torch.cat(shares)
    all_of = mine.new_empty(mesh.size() * len(mine))
    dist.all_gather_into_tensor(all_of, mine, mesh.get_group())
    parts = all_of.view(mesh.size(), -1).split([len(share) for share in shares], dim=1)
    # only the last rows are filled up: the shares one after the other begin with the tensor
    return [part.reshape(-1)[: tensor.numel()].view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


def _buckets(tensors: list[DTensor]) -> Iterator[list[DTensor]]:
    """Tensors of one type each, in their order, of BUCKET_BYTES at most (or a single one)."""
    bucket: list[DTensor] = []
    for tensor in tensors:
        size = sum(t.numel() * t.element_size() for t in [*bucket, tensor])
        if bucket and (size > BUCKET_BYTES or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket


def gathered(tree: Any) -> Any:
    """The same nest of dicts and lists with every divided tensor whole, on the CPU. All processes must call it.

    Many tensors travel in one message: one each is slow, and gloo, sent tens of thousands of small ones by a
    training that saved at every step, now and then brought the process down with a damaged heap.
    """
    divided: list[DTensor] = []

    def find(part: Any) -> None:
        if isinstance(part, DTensor):
            divided.append(part)
        elif isinstance(part, dict | list):
            for value in part.values() if isinstance(part, dict) else part:
                find(value)

    def replace(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: replace(value) for key, value in part.items()}
        if isinstance(part, list):
            return [replace(value) for value in part]
        return next(whole) if isinstance(part, DTensor) else part

    find(tree)
    whole = iter([tensor.to("cpu", copy=True) for bucket in _buckets(divided) for tensor in _gather(bucket)])
    return replace(tree)


def scattered(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, the same in all processes, divided as `like` is: each takes its share, nothing is sent."""
    if isinstance(like, DTensor) and not isinstance(value, DTensor):
        return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
    return value


def scatter_optimizer_state(optimizer: torch.optim.Optimizer) -> None:
    """Divide the loaded state of an optimizer as its parameters are."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                state[name] = scattered(value, parameter)


def make_whole(module: nn.Module) -> None:
    """Give a module its whole weights back. All processes must call it."""
    places = [
        (part, name, parameter)
        for part in module.modules()
        for name, parameter in part.named_parameters(recurse=False)
        if isinstance(parameter, DTensor)
    ]
    divided: list[DTensor] = [parameter for *_, parameter in places]
    weights = [whole.clone() for bucket in _buckets(divided) for whole in _gather(bucket)]
    for (part, name, parameter), whole in zip(places, weights, strict=True):
        part.register_parameter(name, nn.Parameter(whole, requires_grad=parameter.requires_grad))
